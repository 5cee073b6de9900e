"""From declarations to a space: arguments evaluated, activity learned, branches brought together."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from nbcompress.errors import SpaceError, SpaceSyntaxError, did_you_mean
from nbcompress.space.arguments import KINDS, Arguments
from nbcompress.space.cell_text import CellText
from nbcompress.space.conditions import Condition, assignments, closure, parents_first, simplest
from nbcompress.space.declaration import Declaration
from nbcompress.space.parameters import Choice, Float, Int
from nbcompress.space.space import Space
from nbcompress.space.values import Point, shown_point

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
            self._choices = {one: self._choices[one] for one in parents_first(self._choices, self._conditions)}

    def space(self) -> Space:
        for name, condition in self._conditions.items():
            if not condition.cases and name in self._first:
                raise self._text.error(
                    self._first[name].call, f"{name!r} is never active: no combination of the Choices leads here."
                )
        return Space(
            {
                name: self._parameters[name].alone_with(self._parameters[name].each, self._conditions.get(name))
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
            return simplest(is_active, self._closed(read), self._conditions)
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
        parts = [_ALWAYS if one is None else one for one in (before, condition)]
        choices = self._closed(parent for one in parts for parent in one.parents)
        for point in assignments(choices, self._conditions):
            if all(one.holds(point) for one in parts):
                raise self._text.error(
                    declaration.call,
                    f"{name!r} is declared already, in line {first.line}, and both run"
                    f"{f' when {shown_point(point)}' if point else ''}.",
                    "The same name is allowed only on branches that exclude each other.",
                )
        return simplest(lambda point: any(one.holds(point) for one in parts), choices, self._conditions)

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
