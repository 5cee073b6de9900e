"""Where a body binds a metric, so that a constraint is checked as soon as its metric is known."""

from __future__ import annotations

import ast
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
