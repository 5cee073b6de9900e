"""How many points a finite conditional space has, without walking through them."""

from __future__ import annotations

from collections.abc import Mapping

from nbcompress.space.conditions import Condition
from nbcompress.space.parameters import Choice
from nbcompress.space.values import Value, is_same

# What is left of a condition when some choices are known: its cases, each a list of demands still open.
# An empty case is fulfilled; no case is out of reach.
_Open = list[list[tuple[str, tuple[Value, ...]]]]


def count_points(sizes: Mapping[str, int], choices: Mapping[str, Choice], conditions: Mapping[str, Condition]) -> int:
    """Return the number of points.

    Parts of the space that share no open condition are counted apart and multiplied; inside a part the first choice
    takes its values one after the other, which closes conditions. So a hundred layers with a condition each are quick.

    Args:
        sizes: The number of values of every parameter, parents first.
        choices: The parameters that conditions may read.
        conditions: Those of the parameters that are not always active.
    """
    return _count(
        list(sizes), {name: [list(case) for case in one.cases] for name, one in conditions.items()}, sizes, choices
    )


def _count(names: list[str], open_: dict[str, _Open], sizes: Mapping[str, int], choices: Mapping[str, Choice]) -> int:
    total = 1
    for part in _parts(names, open_):
        if len(part) == 1:
            total *= sizes[part[0]]
            continue
        # The first of a part is always active: its own parents, if any, are known.
        first, rest = part[0], part[1:]
        counted = 0
        for value in choices[first].values():
            counted += _after(first, value, rest, open_, sizes, choices)
        total *= counted
    return total


def _after(
    name: str,
    value: Value,
    rest: list[str],
    open_: dict[str, _Open],
    sizes: Mapping[str, int],
    choices: Mapping[str, Choice],
) -> int:
    """Count the points of `rest` where `name` has `value`."""
    left = {other: _close(cases, name, value) for other, cases in open_.items() if other in rest}
    return _count_reachable(rest, left, sizes, choices)


def _count_reachable(
    names: list[str], open_: dict[str, _Open], sizes: Mapping[str, int], choices: Mapping[str, Choice]
) -> int:
    """Drop what is out of reach, and what demands a value of it, then count the others."""
    kept: list[str] = []
    gone: set[str] = set()
    for name in names:
        if name in open_:
            cases = [case for case in open_[name] if not any(parent in gone for parent, _ in case)]
            if not cases:
                gone.add(name)
                continue
            if [] in cases:
                del open_[name]
            else:
                open_[name] = cases
        kept.append(name)
    return _count(kept, open_, sizes, choices)


def _close(cases: _Open, name: str, value: Value) -> _Open:
    """Return what is left of `cases` when `name` has `value`."""
    left: _Open = []
    for case in cases:
        wanted = [values for parent, values in case if parent == name]
        if all(any(is_same(value, one) for one in values) for values in wanted):
            left.append([demand for demand in case if demand[0] != name])
    return left


def _parts(names: list[str], open_: dict[str, _Open]) -> list[list[str]]:
    """Split names into parts that no open condition joins, each in the order of `names`."""
    leader = {name: name for name in names}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for name in names:
        for parent in {parent for case in open_.get(name, []) for parent, _ in case}:
            leader[find(name)] = find(parent)
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(find(name), []).append(name)
    return list(parts.values())
