"""Where a body binds a name, so that a constraint is checked as soon as its metric is known."""

from __future__ import annotations

import ast
from collections.abc import Iterator

_OWN_SCOPE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def bound_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that `statement` binds in the body's own scope, also in the blocks inside it.

    The insides of functions, classes and lambdas bind nothing here, nor do the loop variables of comprehensions;
    the names of functions and classes are no metrics, so they do not count.
    """
    yield from _bound(statement)


def _bound(node: ast.AST) -> Iterator[str]:
    if isinstance(node, _OWN_SCOPE):
        return
    if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        # Only a walrus inside a comprehension binds outside it.
        for inner in ast.walk(node):
            if isinstance(inner, ast.NamedExpr):
                yield inner.target.id
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).split(".")[0]
    elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest
    elif isinstance(node, ast.AnnAssign) and node.value is None:
        # `accuracy: float` announces a name and binds nothing.
        return
    for child in ast.iter_child_nodes(node):
        yield from _bound(child)


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
