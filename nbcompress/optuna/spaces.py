"""Convert a search space of Optuna to a `Space`, with conditions that are inferred from the trials.

Optuna's objective is a function, so its conditions are not declared. A parameter that only some trials have depends on
another parameter if the values of that one decide which trials: a category, or a small integer such as a number of
layers. A parameter without such a parent is sampled independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from nbcompress.errors import PointError
from nbcompress.space import Parameter, Point, Space
from nbcompress.study.optuna_distributions import parameter_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


# An integer with more values is not a parent: the condition would have to be learned for each value.
MAX_PARENT_VALUES = 32

Conditions = Mapping[str, tuple[str, tuple[Any, ...]]]
"""By parameter: its parent, and the values of the parent at which trials have it."""


def conditional_search_space(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return the parameters of complete trials that are unconditional or have a known condition, with their ranges.

    If a range changed, it is the one that the latest two trials with the parameter share; if these differ, a range that
    holds all. A parameter with a single value or without a counterpart is left out, and so are those that depend on
    it. The unconditional parameters come first, by name; then the others, each after its parent.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    ranges = {name: range_of(found) for name, found in sorted(_ranges(complete).items())}
    usable = {
        name: distribution
        for name, distribution in ranges.items()
        if distribution is not None and not distribution.single() and parameter_of(distribution) is not None
    }
    unconditional = {
        name: distribution
        for name, distribution in usable.items()
        if all(name in trial.distributions for trial in complete)
    }
    conditions = conditions_of(complete, usable)
    return unconditional | {name: usable[name] for name in conditions}


def changed_ranges(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the names of the parameters that do not have the same range in all complete trials."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(name for name, found in _ranges(complete).items() if len(set(found)) > 1)


def _ranges(trials: Sequence[FrozenTrial]) -> dict[str, list[BaseDistribution]]:
    """Return by parameter the ranges that the trials have, in the order of the trials."""
    ranges: dict[str, list[BaseDistribution]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            ranges.setdefault(name, []).append(distribution)
    return ranges


def range_of(found: Sequence[BaseDistribution]) -> BaseDistribution | None:
    """Return the range to search, given the ranges of the trials so far; None if they do not go together."""
    latest = found[-1]
    if len(set(found)) == 1:
        return latest
    if not isinstance(latest, (FloatDistribution, IntDistribution)):
        return None
    others = [other for other in found if isinstance(other, type(latest)) and other.log == latest.log]
    if len(others) < len(found):
        return None
    # A range that was changed on purpose stays for a while. One that depends on other parameters is another one in
    # nearly every trial, and no single one of them says where to search.
    if found[-2] == latest or latest.step not in (None, 1):
        return latest
    low, high = min(other.low for other in others), max(other.high for other in others)
    return type(latest)(low, high, log=latest.log)  # type: ignore[arg-type]


def conditions_of(trials: Sequence[FrozenTrial], search_space: Mapping[str, BaseDistribution]) -> Conditions:
    """Return the conditions of the parameters that only some complete trials have, each after its parent.

    If several parents are possible, the one that trials ask for first is taken.
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
            candidates = ((param, _parent_values(name, param, complete, search_space[param])) for param in earlier)
            parent = next((candidate for candidate in candidates if candidate[1]), None)
            if parent is not None:
                found[name] = parent
                placed.append(name)
                waiting.remove(name)
                break
        else:
            return found
    return found


def _values(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return the values of a possible parent; empty if it cannot be one."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    if isinstance(distribution, IntDistribution) and not distribution.log:
        values = range(distribution.low, distribution.high + 1, distribution.step)
        return tuple(values) if len(values) <= MAX_PARENT_VALUES else ()
    return ()


def _parent_values(
    name: str, parent: str, trials: Sequence[FrozenTrial], distribution: BaseDistribution
) -> tuple[Any, ...]:
    """Return the values of the parent at which trials have the parameter; empty if they do not decide it."""
    has_status = [trial for trial in trials if name in trial.params]
    if any(parent not in trial.params for trial in has_status):
        return ()
    # Compared by their text, because 1 == True in Python.
    values = {repr(trial.params[parent]) for trial in has_status}
    others = (trial for trial in trials if name not in trial.params and parent in trial.params)
    if any(repr(other.params[parent]) in values for other in others):
        return ()
    return tuple(value for value in _values(distribution) if repr(value) in values)


@dataclass(frozen=True)
class SearchSpace:
    """Optuna's distributions by name, with their conditions, and the `Space` of the same parameters.

    The parameters of `space` have names of their own, because Optuna's names may be any text.

    Raises:
        KeyError: By `space`: a distribution has no counterpart (`parameter_of` returns None).
    """

    distributions: Mapping[str, BaseDistribution]
    conditions: Conditions = field(default_factory=dict)

    @cached_property
    def _names(self) -> dict[str, str]:
        return {name: f"p{i}" for i, name in enumerate(self.distributions)}

    @cached_property
    def space(self) -> Space:
        parents = {parent for parent, _ in self.conditions.values()}
        parameters: dict[str, Parameter] = {}
        for name, distribution in self.distributions.items():
            when = None
            if name in self.conditions:
                parent, values = self.conditions[name]
                when = {self._names[parent]: values}
            parameter = parameter_of(distribution, is_parent=name in parents, when=when)
            if parameter is None:
                raise KeyError(name)
            parameters[self._names[name]] = parameter
        return Space(parameters)

    def point(self, values: Mapping[str, Any]) -> Point | None:
        """Return values by Optuna's names as a point, or None if they are not a complete point of the space."""
        given = {short: values[name] for name, short in self._names.items() if name in values}
        try:
            return self.space.check(given)
        except PointError:  # other parameters, or enqueued outside the range, which Optuna allows
            return None

    def values(self, point: Point) -> dict[str, Any]:
        """Return a point by Optuna's names."""
        return {name: point[short] for name, short in self._names.items() if short in point}
