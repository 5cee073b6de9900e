"""A search space of Optuna as a space of ours, whose parameters have names of their own: Optuna takes any text.

When is a parameter asked for? Learned from the trials of a study, whose objective is a program that nobody reads.

A parameter that some trials had and others not hangs on another one if that one's values tell in which: a category, or
a small whole number such as a number of layers. Parameters of which no other tells are drawn independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from nbcompress.errors import ParameterError, PointError
from nbcompress.space import Choice, Float, Int, Parameter, Point, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


# A whole number with more values is no parent: what each of them asks for would be learned one by one.
MAX_VALUES = 32

Conditions = Mapping[str, tuple[str, tuple[Any, ...]]]
"""By parameter: its parent, and the values of that at which it is asked for."""


def conditional_search_space(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return the parameters that the complete trials had with one range, and whose absence is understood.

    One that has a single value, or is none of ours, is left out with those that hang on it. Those that every trial had
    come first, by name; then the others, each after its parent.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    ranges: dict[str, set[BaseDistribution]] = {}
    for trial in complete:
        for name, distribution in trial.distributions.items():
            ranges.setdefault(name, set()).add(distribution)
    single = {name: next(iter(found)) for name, found in sorted(ranges.items()) if len(found) == 1}
    same = {name: one for name, one in single.items() if not one.single() and parameter_of(one) is not None}
    always = {name: one for name, one in same.items() if all(name in trial.distributions for trial in complete)}
    found = conditions_of(complete, same)
    return always | {name: same[name] for name in found}


def conditions_of(trials: Sequence[FrozenTrial], search_space: Mapping[str, BaseDistribution]) -> Conditions:
    """Return the conditions of the parameters that not every complete trial had, each after its parent.

    Of several parents that would do, the one that a trial was asked for first counts.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    counts = {name: sum(name in trial.params for trial in complete) for name in search_space}
    placed = [name for name, n in counts.items() if n in (0, len(complete))]
    waiting = [name for name in search_space if name not in placed]
    found: dict[str, tuple[str, tuple[Any, ...]]] = {}
    while waiting:
        for name in waiting:
            first = next(trial for trial in complete if name in trial.params)
            earlier = [param for param in first.params if param in placed and _values(search_space[param])]
            parents = ((trial, _telling(name, trial, complete, search_space[trial])) for trial in earlier)
            parent = next((parent for parent in parents if parent[1]), None)
            if parent is not None:
                found[name] = parent
                placed.append(name)
                waiting.remove(name)
                break
        else:
            return found
    return found


def _values(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return the values of a parameter that others may hang on; none for one that is no parent."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    if isinstance(distribution, IntDistribution) and not distribution.log:
        values = range(distribution.low, distribution.high + 1, distribution.step)
        return tuple(values) if len(values) <= MAX_VALUES else ()
    return ()


def _telling(name: str, parent: str, trials: Sequence[FrozenTrial], distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return the values of the parent at which trials had the parameter, or nothing if it does not tell."""
    having = [trial for trial in trials if name in trial.params]
    if any(parent not in trial.params for trial in having):
        return ()
    # Told apart by their text, since for Python 1 and True are equal.
    values = {repr(trial.params[parent]) for trial in having}
    others = (trial for trial in trials if name not in trial.params and parent in trial.params)
    if any(repr(other.params[parent]) in values for other in others):
        return ()
    return tuple(value for value in _values(distribution) if repr(value) in values)


@dataclass(frozen=True)
class SearchSpace:
    """Distributions by name, and when they are asked for.

    Raises:
        KeyError: At `space`: a distribution has no parameter of ours; `parameter_of` tells.
    """

    distributions: Mapping[str, BaseDistribution]
    conditions: Conditions = field(default_factory=dict)

    @cached_property
    def _inner(self) -> dict[str, str]:
        return {name: f"p{i}" for i, name in enumerate(self.distributions)}

    @cached_property
    def space(self) -> Space:
        parents = {parent for parent, _ in self.conditions.values()}
        parameters: dict[str, Parameter] = {}
        for name, distribution in self.distributions.items():
            when = None
            if name in self.conditions:
                parent, values = self.conditions[name]
                when = {self._inner[parent]: values}
            parameter = parameter_of(distribution, is_parent=name in parents, when=when)
            if parameter is None:
                raise KeyError(name)
            parameters[self._inner[name]] = parameter
        return Space(parameters)

    def point(self, values: Mapping[str, Any]) -> Point | None:
        """Return values by Optuna's names as a point, or None if they are no whole point of the space."""
        given = {inner: values[name] for name, inner in self._inner.items() if name in values}
        try:
            return self.space.check(given)
        except PointError:  # asked for elsewhere, or enqueued outside of the range, which Optuna allows
            return None

    def values(self, point: Point) -> dict[str, Any]:
        """Return a point by Optuna's names."""
        return {name: point[inner] for name, inner in self._inner.items() if inner in point}


def parameter_of(
    distribution: BaseDistribution, *, is_parent: bool = False, when: Mapping[str, Any] | None = None
) -> Parameter | None:
    """Return the parameter with the same values, or None if there is none, as for an integer beyond 10**12.

    Choices that are all numbers count as ordered, as everywhere here. A whole number that others hang on is a choice.
    """
    try:
        if isinstance(distribution, FloatDistribution):
            return Float(distribution.low, distribution.high, distribution.log, distribution.step, when=when)
        if isinstance(distribution, IntDistribution) and is_parent:
            return Choice(*range(distribution.low, distribution.high + 1, distribution.step), when=when)
        if isinstance(distribution, IntDistribution):
            return Int(distribution.low, distribution.high, distribution.log, distribution.step, when=when)
        if isinstance(distribution, CategoricalDistribution):
            return Choice(*distribution.choices, when=when)
    except ParameterError:
        pass
    return None
