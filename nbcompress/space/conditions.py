"""When a parameter is active: as a set of combinations of the choices it hangs on.

Words of this module: a parameter's *parents* are the choices that decide whether it is active. A *case* demands a
value, or one of several, of some parents; a condition holds when one of its cases does. An *assignment* gives a value
to each active choice of a set that is *closed*: with a choice, the set holds that choice's own parents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Protocol

from nbcompress.errors import ParameterError, SpaceError
from nbcompress.space.values import Point, Value, as_value, is_same, shown

# A condition over more combinations is refused: to try them all would take longer than a person wants to wait.
MAX_COMBINATIONS = 10_000

Case = tuple[tuple[str, tuple[Value, ...]], ...]

_LAW = (
    "when= is a dict from the name of a Choice to the value, or a tuple of the values, at which the parameter is active"
    " (or a list of such dicts, of which one must hold)"
)


@dataclass(frozen=True, eq=False, repr=False)
class Condition:
    """A parameter is active where one of these cases holds.

    Attributes:
        cases: Each a tuple of `(parent, values that it may have)`.
    """

    cases: tuple[Case, ...]

    @classmethod
    def of(cls, when: Any) -> Condition:
        """Read `{"method": "cluster"}`, `{"method": ("a", "b")}`, or a list of such, of which one must hold.

        Raises:
            ParameterError: It is something else.
        """
        if isinstance(when, Condition):
            return when
        cases = [when] if isinstance(when, Mapping) else when
        if not isinstance(cases, (list, tuple)) or not cases:
            raise ParameterError(f"{_LAW}, but got {shown(when)}.", "when")
        return cls(tuple(_case(case) for case in cases))

    def holds(self, point: Mapping[str, Value]) -> bool:
        """Say whether `point`, which may lack inactive parameters, fulfils one of the cases."""
        for names, wanted in self._wanted.items():
            if all(name in point for name in names) and tuple(_key(point[name]) for name in names) in wanted:
                return True
        return any(
            all(name in point and any(is_same(point[name], value) for value in values) for name, values in case)
            for case in self._wide
        )

    @cached_property
    def _wanted(self) -> dict[tuple[str, ...], set[tuple[object, ...]]]:
        """The cases that demand one value of each parent, to be looked up: there may be thousands."""
        found: dict[tuple[str, ...], set[tuple[object, ...]]] = {}
        for case in self.cases:
            if all(len(values) == 1 for _, values in case):
                names = tuple(name for name, _ in case)
                found.setdefault(names, set()).add(tuple(_key(values[0]) for _, values in case))
        return found

    @cached_property
    def _wide(self) -> list[Case]:
        """The other cases."""
        return [case for case in self.cases if any(len(values) != 1 for _, values in case)]

    @property
    def parents(self) -> tuple[str, ...]:
        """Every name that a case demands a value of, each once."""
        return tuple(dict.fromkeys(name for case in self.cases for name, _ in case))

    def to_json(self) -> list[dict[str, list[Value]]]:
        """Return what `Condition.of` reads."""
        return [{name: list(values) for name, values in case} for case in self.cases]

    def __repr__(self) -> str:
        """Return the text to write after `when=`."""
        cases = [{name: values[0] if len(values) == 1 else values for name, values in case} for case in self.cases]
        return repr(cases[0] if len(cases) == 1 else cases)

    def __eq__(self, other: object) -> bool:
        # By text, since 1, 1.0 and True are equal for Python, and are not the same option for a space.
        return repr(self) == repr(other) if isinstance(other, Condition) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))


def _key(value: Value) -> object:
    return isinstance(value, bool), value


def _case(when: Any) -> Case:
    if not isinstance(when, Mapping) or not when:
        raise ParameterError(f"{_LAW}, but got {shown(when)}.", "when")
    case = []
    for name, wanted in when.items():
        if not isinstance(name, str):
            raise ParameterError(f"{_LAW}, but got the key {shown(name)}.", "when")
        several = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
        try:
            values = [as_value(value) for value in several]
        except TypeError as err:
            raise ParameterError(f"{_LAW}, but got {shown(wanted)} for {name!r}.", "when") from err
        if not values:
            raise ParameterError(f"{_LAW}, but got no value for {name!r}.", "when")
        case.append((name, tuple(values)))
    return tuple(case)


def closure(names: Iterable[str], conditions: Mapping[str, Condition]) -> set[str]:
    """Return `names`, their parents, the parents of these, and so on."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name in conditions:
                waiting += conditions[name].parents
    return found


class Finite(Protocol):
    """A parameter that can be walked through, such as a `Choice`."""

    def values(self) -> tuple[Value, ...]:
        """Return every value, in order."""


def assignments(choices: Mapping[str, Finite], conditions: Mapping[str, Condition]) -> Iterator[Point]:
    """Walk through all assignments of a closed set of choices, which come parents first.

    Raises:
        SpaceError: There are more than `MAX_COMBINATIONS`.
    """
    found: list[Point] = [{}]
    for name, choice in choices.items():
        grown: list[Point] = []
        for item in found:
            if name in conditions and not conditions[name].holds(item):
                grown.append(item)
            else:
                grown += [{**item, name: value} for value in choice.values()]
            if len(grown) > MAX_COMBINATIONS:
                raise SpaceError(
                    f"A condition may read choices with at most {MAX_COMBINATIONS:,} combinations in all, but "
                    f"{', '.join(choices)} have more."
                )
        found = grown
    return iter(found)


def simplest(
    is_active: Callable[[Point], bool], choices: Mapping[str, Finite], conditions: Mapping[str, Condition]
) -> Condition | None:
    """Return the condition that says the same as `is_active` with the fewest parents, or None if it always holds.

    There is exactly one smallest closed set of choices that decides; so two descriptions of the same activity give
    equal conditions. Every case is a whole assignment of that set, with one value a choice; if the cases are all
    combinations of some values, they are one case with these values.

    Args:
        is_active: Decides over one assignment of all `choices`.
        choices: A closed set, parents first.
        conditions: Those of the choices; equally simplified.

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
    """Return assignments as cases: as a single one if they are all combinations of some values."""
    values: dict[str, list[Value]] = {}
    for items in found:
        for name, value in items:
            several = values.setdefault(name, [])
            if not any(is_same(value, case) for case in several):
                several.append(value)
    same_parents = all(len(items) == len(values) for items in found)
    if found and same_parents and len(found) == prod(len(value) for value in values.values()):
        return (tuple((name, tuple(several)) for name, several in values.items()),)
    return tuple(tuple((name, (value,)) for name, value in items) for items in found)


def parents_first(names: Iterable[str], conditions: Mapping[str, Condition]) -> list[str]:
    """Return `names` in their order, except that each one follows its parents."""
    done: dict[str, None] = {}

    def place(name: str) -> None:
        if name not in done:
            for parent in conditions[name].parents if name in conditions else ():
                place(parent)
            done[name] = None

    for name in names:
        place(name)
    return list(done)
