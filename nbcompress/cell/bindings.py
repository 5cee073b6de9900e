"""Where a body binds a metric, so that a constraint is checked as soon as its metric is known."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator

from nbcompress.space.scopes import bindings

# A function or class of that name is no metric.
_DEFINITIONS = frozenset({"a function", "a class"})


def bound_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that `statement` gives a value in the body's own scope, also in the blocks inside it."""
    for one in bindings(ast.Module([statement], [])):
        if not one.deletes and one.how not in _DEFINITIONS:
            yield one.name


def last_binding(body: list[ast.stmt], name: str) -> int | None:
    """Return the index of the last top-level statement that contains a binding of `name`."""
    for index in range(len(body) - 1, -1, -1):
        if name in bound_names(body[index]):
            return index
    return None


def is_read_first(body: list[ast.stmt], name: str) -> bool:
    """Say whether the body reads `name` before, or while, it first binds it (as `+=` does)."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
                return True
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                return True
        if name in bound_names(statement):
            return False
    return False


_READERS = frozenset({"copy", "count", "fromkeys", "get", "index", "items", "keys", "maxlen", "values"})
# Methods that change a list, a dict, a set or a deque in place.
_MUTATORS = frozenset(
    name
    for kind in (list, dict, set, deque)
    for name in vars(kind)
    if not name.startswith("_") and name not in vars(frozenset) and name not in _READERS
)


def written_into(tree: ast.AST) -> frozenset[tuple[str, ...]]:
    """Return where statements write into what a name holds: `log.append(x)` is `("log",)`, `c.n += 1` `("c", "n")`."""
    found = set()
    for node in ast.walk(tree):
        target: ast.expr | None = None
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            target = node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
            target = node.func.value
        if target is not None and (path := _path(target)):
            found.add(path)
    return frozenset(found)


def _path(node: ast.expr) -> tuple[str, ...]:
    """Return the name and the constant keys that lead to what a target names, as far as they are known."""
    keys: list[str | None] = []
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if isinstance(node, ast.Attribute):
            keys.append(node.attr)
        else:
            keys.append(str(node.slice.value) if isinstance(node.slice, ast.Constant) else None)
        node = node.value
    if not isinstance(node, ast.Name):
        return ()
    known = [node.id]
    for key in reversed(keys):
        if key is None:
            break
        known.append(key)
    return tuple(known)
