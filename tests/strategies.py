"""Hypothesis strategies for the things a search is made of: parameters, spaces (also conditional ones) and points."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from nbcompress.errors import SpaceError
from nbcompress.space import Choice, Float, Int, Parameter, Point, Space

BOUND = 1e9

numbers = st.floats(-BOUND, BOUND, allow_subnormal=False)
options = st.one_of(st.none(), st.booleans(), st.integers(-100, 100), numbers, st.text(max_size=5))
names_of_layers = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3, unique=True)


@st.composite
def floats(draw: st.DrawFn, **rest: Any) -> Float:
    """A `Float` of any form: plain, logarithmic or with a step, also of a single value."""
    form = draw(st.sampled_from(["plain", "log", "step"]))
    if form == "log":
        low, high = sorted(draw(st.tuples(*[st.floats(1e-9, BOUND)] * 2)))
        return Float(low, high, log=True, **rest)
    if form == "step":
        low = draw(st.integers(-1000, 1000)) / 10
        step = draw(st.sampled_from([0.05, 0.1, 0.25, 1.0, 3.0]))
        return Float(low, low + step * draw(st.integers(1, 12)) + draw(st.sampled_from([0, 0.04])), step=step, **rest)
    low, high = sorted(draw(st.tuples(numbers, numbers)))
    return Float(low, high, **rest)


@st.composite
def ints(draw: st.DrawFn, max_width: int = 10**12, **rest: Any) -> Int:
    """An `Int` of any form, with up to `max_width + 1` values."""
    if draw(st.booleans()):
        low = draw(st.integers(1, 1000))
        return Int(low, min(low + draw(st.integers(0, max_width)), 10**12), log=True, **rest)
    low = draw(st.integers(-1000, 1000))
    width = draw(st.integers(0, min(max_width, 10**12 - 1000)))
    return Int(low, low + width, step=draw(st.integers(1, max(width, 1))), **rest)


@st.composite
def choices(draw: st.DrawFn, max_size: int = 4, **rest: Any) -> Choice:
    """A `Choice` of any options, ordered or not."""
    found: list[Any] = []
    for option in draw(st.lists(options, min_size=1, max_size=max_size)):
        if option not in found:
            found.append(option)
    return Choice(*found, ordered=draw(st.sampled_from([None, True, False])), **rest)


def parameters(**rest: Any) -> st.SearchStrategy[Parameter]:
    """A parameter of any kind."""
    return st.one_of(floats(**rest), ints(**rest), choices(**rest))


def finite_parameters(**rest: Any) -> st.SearchStrategy[Parameter]:
    """A parameter with few values."""
    grids = floats(**rest).filter(lambda grid: grid.n_values is not None and grid.n_values <= 4)
    return st.one_of(ints(max_width=3, **rest), choices(max_size=3, **rest), grids)


@st.composite
def conditions(draw: st.DrawFn, parents: dict[str, Choice]) -> list[dict[str, list[Any]]] | None:
    """Something for `when=` over some of `parents`, or None."""
    if not parents or not draw(st.booleans()):
        return None
    cases = []
    for _ in range(draw(st.integers(1, 2))):
        named = draw(st.lists(st.sampled_from(sorted(parents)), min_size=1, max_size=2, unique=True))
        cases.append(
            {
                name: draw(st.lists(st.sampled_from(parents[name].options), min_size=1, max_size=3, unique=True))
                for name in named
            }
        )
    return cases


@st.composite
def spaces(draw: st.DrawFn, finite: bool = False, conditional: bool = True, max_size: int = 5) -> Space:
    """A space: groups, conditions over earlier choices, conditions over conditional choices."""
    declared: dict[str, Parameter] = {}
    space: Space | None = None
    for index in range(draw(st.integers(1, max_size))):
        parents = {}
        if conditional and space is not None:
            parents = {name: parameter for name in space if isinstance(parameter := space[name], Choice)}
        rest: dict[str, Any] = {"when": draw(conditions(parents)), "each": draw(st.none() | names_of_layers)}
        if finite and rest["each"]:
            rest["each"] = rest["each"][:2]
        kind = finite_parameters(**rest) if finite else parameters(**rest)
        grown = {**declared, f"p{index}": draw(kind)}
        try:
            space = Space(grown)
        except SpaceError:  # the drawn condition contradicts itself
            continue
        declared = grown
    return space or Space({"p": Int(0, 1)})


@st.composite
def points_of(draw: st.DrawFn, space: Space) -> Point:
    """A point of `space`."""
    row = draw(st.lists(st.floats(0, 1), min_size=len(space), max_size=len(space)))
    return space.decode(row)


@st.composite
def spaces_with_points(draw: st.DrawFn, n: int = 1) -> tuple[Space, list[Point]]:
    """A space and `n` of its points."""
    space = draw(spaces())
    return space, [draw(points_of(space)) for _ in range(n)]
