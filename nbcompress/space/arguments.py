"""The arguments of a declaration: their form, and their values."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator
from typing import Any

from nbcompress.errors import ParameterError, SpaceSyntaxError, did_you_mean
from nbcompress.space.cell_text import CellText
from nbcompress.space.parameters import Choice, Float, Int
from nbcompress.space.scopes import reads
from nbcompress.space.values import shown

KINDS: dict[str, type[Float] | type[Int] | type[Choice]] = {"Float": Float, "Int": Int, "Choice": Choice}
_POSITIONAL = {"Float": ("low", "high", "log", "step"), "Int": ("low", "high", "log", "step"), "Choice": ()}
_KEYWORDS = {name: (*positional, "each") for name, positional in _POSITIONAL.items()}
_KEYWORDS["Choice"] = ("ordered", "each")
_SIGNATURES = {
    "Float": "Float(low, high, log=False, step=None)",
    "Int": "Int(low, high, log=False, step=1)",
    "Choice": "Choice(*options, ordered=None)",
}
_MODULES = ("", "nc.", "nbcompress.", "nc.space.", "nbcompress.space.")
_CALLEES = {f"{module}{kind}": kind for module in _MODULES for kind in KINDS}


def kind_of(node: ast.AST | None) -> str | None:
    """Return `Float`, `Int` or `Choice` if `node` is a call of it, whatever these names are bound to; else None."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, (ast.Name, ast.Attribute)):
        return None
    parts: list[str] = []
    callee: ast.expr = node.func
    while isinstance(callee, ast.Attribute):
        parts.append(callee.attr)
        callee = callee.value
    if not isinstance(callee, ast.Name):
        return None
    return _CALLEES.get(".".join([callee.id, *reversed(parts)]))


def check_form(call: ast.Call, kind: str, text: CellText) -> None:
    """Refuse arguments that do not fit the signature.

    Raises:
        SpaceSyntaxError: They do not.
    """
    signature = f"Write {_SIGNATURES[kind]}."
    for arg in call.args:
        if isinstance(arg, ast.Starred) and kind != "Choice":
            raise text.error(arg, f"{kind} takes its arguments one by one, without a star.", signature)
    most = len(_POSITIONAL[kind])
    extra = call.args[most:]
    if kind != "Choice" and extra:
        raise text.error(
            extra[0],
            f"{kind} takes at most {most} positional arguments, but got {len(call.args)}.",
            signature,
        )
    given = set(_POSITIONAL[kind][: len(call.args)])
    for keyword in call.keywords:
        _check_keyword(keyword, kind, given, text)
    if kind == "Choice" and not call.args:
        raise text.error(call, "A Choice has at least one option.", "Write for example Choice(2, 4, 8).")
    given |= {keyword.arg for keyword in call.keywords if keyword.arg}
    missing = [name for name in _POSITIONAL[kind][:2] if name not in given]
    if missing:
        raise text.error(call, f"{kind} needs {' and '.join(missing)}.", signature)
    for node in ast.walk(call):
        if isinstance(node, (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)):
            what = "assign (:=)" if isinstance(node, ast.NamedExpr) else "wait or yield"
            raise text.error(node, f"The arguments of a declaration may not {what}.", "Do it in a cell before.")


def _check_keyword(keyword: ast.keyword, kind: str, given: set[str], text: CellText) -> None:
    signature = f"Write {_SIGNATURES[kind]}."
    if keyword.arg is None:
        raise text.error(keyword.value, f"{kind} takes its keywords one by one, without **.", signature)
    if keyword.arg == "when":
        raise text.error(keyword, "A cell has no when=.", "Put the declaration inside an if over the Choice.")
    if keyword.arg in given:
        raise text.error(keyword, f"{kind} got {keyword.arg!r} twice.")
    if keyword.arg not in _KEYWORDS[kind]:
        near = did_you_mean(keyword.arg, _KEYWORDS[kind]).strip() or signature
        raise text.error(keyword, f"{kind} has no argument {keyword.arg!r}.", near)


def argument_reads(call: ast.Call) -> Iterator[ast.Name]:
    """Yield the names that the arguments of a declaration read from the notebook."""
    for node in [*call.args, *(keyword.value for keyword in call.keywords)]:
        yield from reads(node)


class Arguments:
    """The values of a declaration's arguments, each with the node it came from.

    Args:
        call: A call of the right form.
        kind: Its kind.
        text: The text that it is in.
        evaluate: Returns the value of an expression in the notebook's namespace.
        known: Names of the notebook, for the hint when one is unknown.

    Raises:
        SpaceSyntaxError: An argument cannot be evaluated.
    """

    def __init__(
        self, call: ast.Call, kind: str, text: CellText, evaluate: Callable[[ast.expr], object], known: Collection[str]
    ) -> None:
        self._call, self._kind, self._text = call, kind, text
        self._evaluate, self._known = evaluate, known
        self._nodes: dict[str, ast.AST] = {}
        self._option_nodes: list[ast.AST] = []
        self._args: list[Any] = []
        for arg in call.args:
            self._args += self._spread(arg) if isinstance(arg, ast.Starred) else [self._value(arg)]
            self._option_nodes += [arg] * (len(self._args) - len(self._option_nodes))
        self._nodes.update(zip(_POSITIONAL[kind], call.args, strict=False))
        self._keywords: dict[str, Any] = {}
        for keyword in call.keywords:
            name = keyword.arg or ""
            self._nodes[name] = keyword.value
            self._keywords[name] = self._value(keyword.value)

    def parameter(self) -> Float | Int | Choice:
        """Return the parameter.

        Raises:
            SpaceSyntaxError: Its constructor refuses an argument; the place is the argument's.
        """
        try:
            return KINDS[self._kind](*self._args, **self._keywords)
        except ParameterError as err:
            node = self._nodes.get(err.argument, self._call)
            if err.index is not None:
                node = self._option_nodes[err.index]
            raise self._text.error(node, str(err)) from err

    def _spread(self, starred: ast.Starred) -> list[Any]:
        value = self._value(starred.value)
        try:
            if not isinstance(value, (str, bytes)):
                return list(value)
        except TypeError as err:
            raise self._not_a_list(starred, value) from err
        raise self._not_a_list(starred, value)

    def _not_a_list(self, starred: ast.Starred, value: object) -> SpaceSyntaxError:
        return self._text.error(starred, f"What follows the star is a list of options, but got {shown(value)}.")

    def _value(self, node: ast.expr) -> Any:
        try:
            return self._evaluate(node)
        except NameError as err:
            where = next((one for one in reads(node) if one.id == err.name), node)
            near = did_you_mean(err.name or "", self._known).strip()
            raise self._text.error(where, f"The notebook has no name {err.name!r}.", near) from err
        except Exception as err:
            raise self._failed(node, err) from err

    def _failed(self, node: ast.expr, err: Exception) -> SpaceSyntaxError:
        what = f"{type(err).__name__}: {err}" if str(err) else type(err).__name__
        return self._text.error(node, f"{ast.unparse(node)} cannot be evaluated: {what}.")
