"""Calls of `Float`, `Int` and `Choice` that declare nothing, and what to say about each."""

from __future__ import annotations

import ast

from nbcompress.space.arguments import kind_of
from nbcompress.space.cell_text import CellText

_LAW = (
    "{kind}(...) declares a parameter only as 'NAME = {kind}(...)', at the top level or inside if, elif, else or match,"
    " but here it stands {where}."
)

# The blocks in which a declaration would run several times, or perhaps never.
_BLOCKS: dict[type[ast.AST], str] = {
    ast.FunctionDef: "inside a function",
    ast.AsyncFunctionDef: "inside a function",
    ast.Lambda: "inside a lambda",
    ast.ClassDef: "inside a class",
    ast.For: "inside a for loop",
    ast.AsyncFor: "inside a for loop",
    ast.While: "inside a while loop",
    ast.With: "inside a with block",
    ast.AsyncWith: "inside a with block",
    ast.Try: "inside a try block",
    ast.TryStar: "inside a try block",
    ast.ListComp: "inside a comprehension",
    ast.SetComp: "inside a comprehension",
    ast.DictComp: "inside a comprehension",
    ast.GeneratorExp: "inside a comprehension",
}
_EXPRESSIONS: dict[type[ast.AST], str] = {
    ast.Expr: "without a name",
    ast.AugAssign: "in an augmented assignment",
    ast.NamedExpr: "in an assignment expression (:=)",
    ast.Call: "as an argument",
    ast.keyword: "as an argument",
    ast.Starred: "behind a star",
    ast.If: "as a test",
    ast.Match: "as the subject of a match",
    ast.Assert: "in an assert",
    ast.Delete: "in a del",
}


def refuse_calls(node: ast.AST, text: CellText, parents: tuple[ast.AST, ...] = ()) -> None:
    """Refuse every call of a kind in `node`.

    Args:
        node: What to look through.
        text: The text that it is in.
        parents: What it stands in, outermost first; a statement has none.

    Raises:
        SpaceSyntaxError: There is one.
    """
    kind = kind_of(node)
    if kind is not None:
        # Before Python 3.12 the parts of an f-string do not know their place.
        place = next((one for one in parents if isinstance(one, ast.JoinedStr)), node)
        raise text.error(place, _LAW.format(kind=kind, where=_where(node, parents)))
    for child in ast.iter_child_nodes(node):
        refuse_calls(child, text, (*parents, node))


def _where(call: ast.AST, parents: tuple[ast.AST, ...]) -> str:
    for parent in reversed(parents):
        if type(parent) in _BLOCKS:
            return _BLOCKS[type(parent)]
    nearest = parents[-1]
    if isinstance(nearest, (ast.Assign, ast.AnnAssign)) and nearest.value is call:
        return _assigned_where(nearest)
    if isinstance(nearest, ast.AnnAssign):
        return "in an annotation"
    if isinstance(nearest, (ast.Tuple, ast.List)) and len(parents) > 1 and isinstance(parents[-2], ast.Assign):
        targets = parents[-2].targets
        if any(isinstance(target, (ast.Tuple, ast.List)) for target in targets):
            return "in an assignment to several names"
    return _EXPRESSIONS.get(type(nearest), "as part of an expression")


def _assigned_where(statement: ast.Assign | ast.AnnAssign) -> str:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    if len(targets) > 1:
        return "in a chained assignment"
    kinds: dict[type[ast.AST], str] = {
        ast.Tuple: "in an assignment to several names",
        ast.List: "in an assignment to several names",
        ast.Attribute: "in an assignment to an attribute",
        ast.Subscript: "in an assignment to an item",
    }
    return kinds.get(type(targets[0]), "as part of an expression")
