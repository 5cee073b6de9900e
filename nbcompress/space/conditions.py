"""Conditions: at which values of its parents a parameter is active.

The *parents* of a parameter are the Choices that decide whether it is active. A *case* lists the values that some
parents must have. A condition holds where at least one of its cases holds (a disjunction of conjunctions). A set of
choices is *closed* if it includes the parents of all its members. An *assignment* gives a value to each active choice
of a closed set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Protocol

from nbcompress.errors import ParameterError, SpaceError, shown
from nbcompress.space.values import Point, Value, as_value, is_same

# A condition is simplified by evaluating it at all combinations; more of them would take too long.
MAX_COMBINATIONS = 10_000

Case = tuple[tuple[str, tuple[Value, ...]], ...]

_FORMS = (
    "when= is a dict from the name of a Choice to the value, or a tuple of the values, at which the parameter is active"
    " (or a list of such dicts, of which one must hold)"
)


@dataclass(frozen=True, eq=False, repr=False)
class Condition:
    """A parameter is active where at least one of these cases holds.

    Attributes:
        cases: Each case is a tuple of `(parent, allowed values)`.
    """

    cases: tuple[Case, ...]

    @classmethod
    def of(cls, when: Any) -> Condition:
        """Return the condition that `when=` describes.

        Args:
            when: `{"method": "cluster"}`, `{"method": ("a", "b")}`, or a list of such dicts, of which one must hold.

        Raises:
            ParameterError: It has another form.
        """
        if isinstance(when, Condition):
            return when
        cases = [when] if isinstance(when, Mapping) else when
        if not isinstance(cases, (list, tuple)) or not cases:
            raise ParameterError(f"{_FORMS}, but got {shown(when)}.", "when")
        return cls(tuple(_case(case) for case in cases))

    def holds(self, point: Mapping[str, Value]) -> bool:
        """Say whether a case holds at `point`, in which inactive parameters may be missing."""
        for names, allowed in self._single_valued_cases.items():
            if all(name in point for name in names) and tuple(_key(point[name]) for name in names) in allowed:
                return True
        return any(
            all(name in point and any(is_same(point[name], value) for value in values) for name, values in case)
            for case in self._multi_valued_cases
        )

    @cached_property
    def _single_valued_cases(self) -> dict[tuple[str, ...], set[tuple[object, ...]]]:
        """The cases with one allowed value for each parent. They are hashed, since there may be thousands."""
        found: dict[tuple[str, ...], set[tuple[object, ...]]] = {}
        for case in self.cases:
            if all(len(values) == 1 for _, values in case):
                names = tuple(name for name, _ in case)
                found.setdefault(names, set()).add(tuple(_key(values[0]) for _, values in case))
        return found

    @cached_property
    def _multi_valued_cases(self) -> list[Case]:
        """The cases with several allowed values for a parent."""
        return [case for case in self.cases if any(len(values) != 1 for _, values in case)]

    @property
    def parents(self) -> tuple[str, ...]:
        """The names of all parents, each once, in the order of the cases."""
        return tuple(dict.fromkeys(name for case in self.cases for name, _ in case))

    def to_json(self) -> list[dict[str, list[Value]]]:
        """Return the condition as JSON data, which `Condition.of` reads."""
        return [{name: list(values) for name, values in case} for case in self.cases]

    def __repr__(self) -> str:
        """Return the text to write after `when=`."""
        cases = [{name: values[0] if len(values) == 1 else values for name, values in case} for case in self.cases]
        return repr(cases[0] if len(cases) == 1 else cases)

    def __eq__(self, other: object) -> bool:
        # By text, since 1, 1.0 and True are equal in Python but are different options of a Choice.
        return repr(self) == repr(other) if isinstance(other, Condition) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))


def _key(value: Value) -> object:
    return isinstance(value, bool), value


def _case(when: Any) -> Case:
    if not isinstance(when, Mapping) or not when:
        raise ParameterError(f"{_FORMS}, but got {shown(when)}.", "when")
    case = []
    for name, given in when.items():
        if not isinstance(name, str):
            raise ParameterError(f"{_FORMS}, but got the key {shown(name)}.", "when")
        allowed = list(given) if isinstance(given, (list, tuple, set, frozenset)) else [given]
        try:
            values = [as_value(value) for value in allowed]
        except TypeError as err:
            raise ParameterError(f"{_FORMS}, but got {shown(given)} for {name!r}.", "when") from err
        if not values:
            raise ParameterError(f"{_FORMS}, but got no value for {name!r}.", "when")
        case.append((name, tuple(values)))
    return tuple(case)


def closure(names: Iterable[str], conditions: Mapping[str, Condition]) -> set[str]:
    """Return `names` with all their ancestors: their parents, the parents of those, and so on."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name in conditions:
                waiting += conditions[name].parents
    return found


class FiniteParameter(Protocol):
    """A parameter whose values can be listed, such as a `Choice`."""

    def values(self) -> tuple[Value, ...]:
        """Return every value, in order."""


def assignments(choices: Mapping[str, FiniteParameter], conditions: Mapping[str, Condition]) -> Iterator[Point]:
    """Iterate over all assignments of a closed set of choices, which are ordered parents first.

    Raises:
        SpaceError: There are more than `MAX_COMBINATIONS`.
    """
    found: list[Point] = [{}]
    for name, choice in choices.items():
        extended: list[Point] = []
        for assignment in found:
            if name in conditions and not conditions[name].holds(assignment):
                extended.append(assignment)
            else:
                extended += [{**assignment, name: value} for value in choice.values()]
            if len(extended) > MAX_COMBINATIONS:
                raise SpaceError(
                    f"A condition may read choices with at most {MAX_COMBINATIONS:,} combinations in all, but "
                    f"{', '.join(choices)} have more."
                )
        found = extended
    return iter(found)


def simplified(
    is_active: Callable[[Point], bool], choices: Mapping[str, FiniteParameter], conditions: Mapping[str, Condition]
) -> Condition | None:
    """Return the condition that is equivalent to `is_active` and has the fewest parents; None if it always holds.

    The smallest closed set of parents is unique, so equivalent descriptions give equal conditions. Each case is an
    assignment of all parents, with one value each. If the cases are all combinations of some values, they are merged
    into one case with these values.

    Args:
        is_active: Takes an assignment of all `choices`.
        choices: A closed set, ordered parents first.
        conditions: The simplified conditions of the choices.

    Returns:
        A condition without cases if `is_active` never holds.
    """
    active: dict[tuple[tuple[str, Value], ...], bool] = {
        tuple(assignment.items()): is_active(assignment) for assignment in assignments(choices, conditions)
    }
    kept = list(choices)
    for name in reversed(list(choices)):
        if any(name in conditions[other].parents for other in kept if other in conditions):
            continue
        without: dict[tuple[tuple[str, Value], ...], bool] = {}
        for items, value in active.items():
            if without.setdefault(tuple(item for item in items if item[0] != name), value) != value:
                break
        else:
            active = without
            kept.remove(name)
    if not kept and all(active.values()):
        return None
    return Condition(_merged([items for items, value in active.items() if value]))


def _merged(found: list[tuple[tuple[str, Value], ...]]) -> tuple[Case, ...]:
    """Return assignments as cases: as one case if they are all combinations of some values."""
    values: dict[str, list[Value]] = {}
    for items in found:
        for name, value in items:
            known = values.setdefault(name, [])
            if not any(is_same(value, other) for other in known):
                known.append(value)
    same_parents = all(len(items) == len(values) for items in found)
    if found and same_parents and len(found) == prod(len(allowed) for allowed in values.values()):
        return (tuple((name, tuple(allowed)) for name, allowed in values.items()),)
    return tuple(tuple((name, (value,)) for name, value in items) for items in found)


def parents_first(names: Iterable[str], conditions: Mapping[str, Condition]) -> list[str]:
    """Return `names` in their order, except that each name follows its parents (a stable topological sort)."""
    done: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in done:
            for parent in conditions[name].parents if name in conditions else ():
                visit(parent)
            done[name] = None

    for name in names:
        visit(name)
    return list(done)
