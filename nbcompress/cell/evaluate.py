"""Make a space from declarations: check and evaluate their arguments, and learn where each is active."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from nbcompress.cell.branches import Declaration
from nbcompress.cell.source import CellText, names_read
from nbcompress.errors import ParameterError, SpaceError, SpaceSyntaxError, did_you_mean, shown
from nbcompress.space.conditions import Condition, assignments, closure, parents_first, simplified
from nbcompress.space.parameters import Choice, Float, Int
from nbcompress.space.space import KINDS, Space, grouped
from nbcompress.space.values import Point, shown_point

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
    """Return `Float`, `Int` or `Choice` if `node` is a call of that name, else None. The name is not looked up."""
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
    """Check that the arguments of a call fit the signature of its kind.

    Raises:
        SpaceSyntaxError: They do not fit.
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
        yield from names_read(node)


class EvaluatedArguments:
    """The values of the arguments of a declaration, each with its node.

    Args:
        call: A call that `check_form` accepts.
        kind: `Float`, `Int` or `Choice`.
        text: The text of the body.
        evaluate: Returns the value of an expression in the notebook's namespace.
        known: The names of the notebook, for a hint when a name is unknown.

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
            SpaceSyntaxError: Its constructor refuses an argument; the position is that of the argument.
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
            where = next((read for read in names_read(node) if read.id == err.name), node)
            near = did_you_mean(err.name or "", self._known).strip()
            raise self._text.error(where, f"The notebook has no name {err.name!r}.", near) from err
        except Exception as err:
            raise self._failed(node, err) from err

    def _failed(self, node: ast.expr, err: Exception) -> SpaceSyntaxError:
        what = f"{type(err).__name__}: {err}" if str(err) else type(err).__name__
        return self._text.error(node, f"{ast.unparse(node)} cannot be evaluated: {what}.")


# The condition of a declaration that is always active: one case without demands.
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
    builder = _SpaceBuilder(text, evaluate, known)
    for declaration in declarations:
        builder.add(declaration)
    return builder.space()


def check_spelling(text: CellText, assigned: Collection[str], known: Collection[str]) -> None:
    """Refuse a misspelt kind, as in `lr = Flaot(0, 1)`, if no variable has that name.

    Args:
        text: The text of the body.
        assigned: The names that the body assigns.
        known: The names of the notebook. If it is empty, nothing is checked.

    Raises:
        SpaceSyntaxError: A kind is misspelt.
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


class _SpaceBuilder:
    """Builds a space from one declaration after the other."""

    def __init__(self, text: CellText, evaluate: Callable[[ast.expr], object], known: Collection[str]) -> None:
        self._text, self._evaluate, self._known = text, evaluate, known
        self._parameters: dict[str, Float | Int | Choice] = {}
        self._first: dict[str, Declaration] = {}
        # By flat name, as in a Space; `_conditions` also has the name of each group.
        self._choices: dict[str, Choice] = {}
        self._conditions: dict[str, Condition] = {}
        self._members: dict[str, tuple[str, str]] = {}

    def add(self, declaration: Declaration) -> None:
        """Evaluate the arguments of a declaration and find its condition."""
        arguments = EvaluatedArguments(declaration.call, declaration.kind, self._text, self._evaluate, self._known)
        parameter = arguments.parameter()
        condition = self._condition_of(declaration)
        name = declaration.name
        if name in self._parameters:
            condition = self._merged_condition(declaration, parameter, condition)
        else:
            self._parameters[name], self._first[name] = parameter, declaration
        flat_names = [name] if parameter.each is None else [f"{name}[{member}]" for member in parameter.each]
        if parameter.each is not None:
            self._members |= {flat: (name, member) for flat, member in zip(flat_names, parameter.each, strict=True)}
        for flat in {name, *flat_names}:
            self._conditions.pop(flat, None)
            if condition is not None:
                self._conditions[flat] = condition
        if isinstance(parameter, Choice):
            self._choices |= dict.fromkeys(flat_names, parameter)
            self._choices = {choice: self._choices[choice] for choice in parents_first(self._choices, self._conditions)}

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
        """Return the conditions of the declarations, with groups in place of their members."""
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

    def _condition_of(self, declaration: Declaration) -> Condition | None:
        """Return the condition under which a declaration is active, or None if it always is."""
        if not declaration.branches:
            return None

        def is_active(point: Point) -> bool:
            names = grouped(point, self._members)
            # From the outermost test to the innermost, as the cell runs: an inner test is evaluated only where the
            # outer ones lead to it.
            return all(branch.is_taken(names, point) for branch in declaration.branches)

        read = [
            flat
            for branch in declaration.branches
            for item in branch.test.keyed_names
            for flat in self._flat_names_read(*item)
        ]
        try:
            return simplified(is_active, self._closed(read), self._conditions)
        except SpaceSyntaxError:
            raise
        except SpaceError as err:
            raise self._text.error(declaration.branches[-1].test.expressions[0], str(err)) from err

    def _merged_condition(
        self, declaration: Declaration, parameter: Float | Int | Choice, condition: Condition | None
    ) -> Condition | None:
        """Return the condition of a parameter with several declarations, which must be equal and exclude each other."""
        name, first = declaration.name, self._first[declaration.name]
        before = self._conditions.get(name)
        if parameter != self._parameters[name]:
            raise self._text.error(
                declaration.call,
                f"{name!r} was declared as {self._parameters[name]!r} in line {first.line}, and is {parameter!r} here.",
                "Write the same on both branches, or take another name.",
            )
        parts = [_ALWAYS if part is None else part for part in (before, condition)]
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

    def _flat_names_read(self, node: ast.Name, key: str | None) -> list[str]:
        """Return the flat names that a test reads: `method`, `methods["conv1"]`, or all members of `methods`."""
        if node.id in self._choices:
            return [node.id]
        members = {member: flat for flat, (group, member) in self._members.items() if group == node.id}
        if key is None:
            return list(members.values())
        if key not in members:
            near = did_you_mean(key, members).strip()
            raise self._text.error(node, f"{node.id!r} has nothing for {key!r}.", near)
        return [members[key]]
