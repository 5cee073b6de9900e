"""From declarations to a space: arguments evaluated, activity learned, branches brought together.

The arguments of a declaration: their form, and their values.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from nbcompress.cell.branches import Declaration
from nbcompress.cell.source import CellText, reads
from nbcompress.errors import ParameterError, SpaceError, SpaceSyntaxError, did_you_mean, shown
from nbcompress.space.conditions import Condition, assignments, closure, parents_first, simplified
from nbcompress.space.parameters import Choice, Float, Int
from nbcompress.space.space import Space
from nbcompress.space.values import Point, shown_point

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
            where = next((read for read in reads(node) if read.id == err.name), node)
            near = did_you_mean(err.name or "", self._known).strip()
            raise self._text.error(where, f"The notebook has no name {err.name!r}.", near) from err
        except Exception as err:
            raise self._failed(node, err) from err

    def _failed(self, node: ast.expr, err: Exception) -> SpaceSyntaxError:
        what = f"{type(err).__name__}: {err}" if str(err) else type(err).__name__
        return self._text.error(node, f"{ast.unparse(node)} cannot be evaluated: {what}.")


# Where a declaration stands that is always active.
_ALWAYS = Condition(((),))


def resolve(
    text: CellText,
    declarations: Sequence[Declaration],
    evaluate: Callable[[ast.expr], object],
    known: Collection[str] = (),
) -> Space:
    """Return the space of declarations; see `Declarations.resolve`."""
    if not declarations:
        raise SpaceSyntaxError(
            "The cell declares no parameter.",
            text.first_line,
            1,
            "Write for example 'lr = Float(1e-4, 1e-1, log=True)'.",
        )
    resolver = _Resolver(text, evaluate, known)
    for declaration in declarations:
        resolver.add(declaration)
    return resolver.space()


def check_spelling(text: CellText, assigned: Collection[str], known: Collection[str]) -> None:
    """Refuse `lr = Flaot(0, 1)` where nothing is called `Flaot`.

    Args:
        text: The body.
        assigned: The names that it binds.
        known: Those of the notebook; if there are none, nothing can be said.

    Raises:
        SpaceSyntaxError: There is such a call.
    """
    if not known:
        return
    for statement in text.tree.body:
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or not isinstance(statement.value, ast.Call):
            continue
        callee = statement.value.func
        if not isinstance(callee, ast.Name) or callee.id in known or callee.id in assigned:
            continue
        near = did_you_mean(callee.id, KINDS)
        if near and callee.id not in KINDS and not hasattr(builtins, callee.id):
            raise text.error(callee, f"The notebook has no name {callee.id!r}.", near.strip())


class _Resolver:
    """Adds one declaration after the other to what is known of the space."""

    def __init__(self, text: CellText, evaluate: Callable[[ast.expr], object], known: Collection[str]) -> None:
        self._text, self._evaluate, self._known = text, evaluate, known
        self._parameters: dict[str, Float | Int | Choice] = {}
        self._first: dict[str, Declaration] = {}
        # By flat name, as those of a Space; `_conditions` also has the group's name.
        self._choices: dict[str, Choice] = {}
        self._conditions: dict[str, Condition] = {}
        self._members: dict[str, tuple[str, str]] = {}

    def add(self, declaration: Declaration) -> None:
        """Evaluate the arguments of a declaration and learn where it is active."""
        arguments = Arguments(declaration.call, declaration.kind, self._text, self._evaluate, self._known)
        parameter = arguments.parameter()
        condition = self._activity(declaration)
        name = declaration.name
        if name in self._parameters:
            condition = self._joined(declaration, parameter, condition)
        else:
            self._parameters[name], self._first[name] = parameter, declaration
        flat_names = [name] if parameter.each is None else [f"{name}[{one}]" for one in parameter.each]
        if parameter.each is not None:
            self._members |= {flat: (name, one) for flat, one in zip(flat_names, parameter.each, strict=True)}
        for flat in {name, *flat_names}:
            self._conditions.pop(flat, None)
            if condition is not None:
                self._conditions[flat] = condition
        if isinstance(parameter, Choice):
            self._choices |= dict.fromkeys(flat_names, parameter)
            self._choices = {name: self._choices[name] for name in parents_first(self._choices, self._conditions)}

    def space(self) -> Space:
        for name, condition in self._conditions.items():
            if not condition.cases and name in self._first:
                raise self._text.error(
                    self._first[name].call, f"{name!r} is never active: no combination of the Choices leads here."
                )
        return Space(
            {
                name: self._parameters[name].replaced(self._parameters[name].each, self._conditions.get(name))
                for name in parents_first(self._parameters, self._by_declaration())
            }
        )

    def _by_declaration(self) -> dict[str, Condition]:
        """Return the conditions with declared names for flat ones, for the order of declarations."""
        return {
            name: Condition(
                tuple(
                    tuple((self._members.get(parent, (parent, ""))[0], values) for parent, values in case)
                    for case in condition.cases
                )
            )
            for name, condition in self._conditions.items()
            if name in self._parameters
        }

    def _activity(self, declaration: Declaration) -> Condition | None:
        """Return where a declaration is active, or None for everywhere."""
        if not declaration.tests:
            return None

        def is_active(point: Point) -> bool:
            seen = self._seen(point)
            # As the cell runs: an inner test is not reached where an outer one sends elsewhere.
            return all(branch.is_taken(seen, point) for branch in declaration.tests)

        read = [flat for branch in declaration.tests for item in branch.question.items for flat in self._flat(*item)]
        try:
            return simplified(is_active, self._closed(read), self._conditions)
        except SpaceSyntaxError:
            raise
        except SpaceError as err:
            raise self._text.error(declaration.tests[-1].question.expressions[0], str(err)) from err

    def _joined(
        self, declaration: Declaration, parameter: Float | Int | Choice, condition: Condition | None
    ) -> Condition | None:
        """Return where a name that is declared already is active in all, if the declarations agree."""
        name, first = declaration.name, self._first[declaration.name]
        before = self._conditions.get(name)
        if parameter != self._parameters[name]:
            raise self._text.error(
                declaration.call,
                f"{name!r} was declared as {self._parameters[name]!r} in line {first.line}, and is {parameter!r} here.",
                "Write the same on both branches, or take another name.",
            )
        parts = [_ALWAYS if test is None else test for test in (before, condition)]
        choices = self._closed(parent for part in parts for parent in part.parents)
        for point in assignments(choices, self._conditions):
            if all(part.holds(point) for part in parts):
                raise self._text.error(
                    declaration.call,
                    f"{name!r} is declared already, in line {first.line}, and both run"
                    f"{f' when {shown_point(point)}' if point else ''}.",
                    "The same name is allowed only on branches that exclude each other.",
                )
        return simplified(lambda point: any(part.holds(point) for part in parts), choices, self._conditions)

    def _closed(self, names: Iterable[str]) -> dict[str, Choice]:
        needed = closure(names, self._conditions)
        return {name: choice for name, choice in self._choices.items() if name in needed}

    def _flat(self, node: ast.Name, key: str | None) -> list[str]:
        """Return the flat names behind what a test reads: `method`, `methods["conv1"]`, or all of `methods`."""
        if node.id in self._choices:
            return [node.id]
        members = {one: flat for flat, (group, one) in self._members.items() if group == node.id}
        if key is None:
            return list(members.values())
        if key not in members:
            near = did_you_mean(key, members).strip()
            raise self._text.error(node, f"{node.id!r} has nothing for {key!r}.", near)
        return [members[key]]

    def _seen(self, point: Point) -> dict[str, Any]:
        """Return active choices as the cell sees them."""
        seen: dict[str, Any] = {}
        for flat, value in point.items():
            if flat in self._members:
                group, name = self._members[flat]
                seen.setdefault(group, {})[name] = value
            else:
                seen[flat] = value
        return seen
