"""When is a parameter asked for? Learned from the trials of a study, whose objective is a program that nobody reads.

A parameter that some trials had and others not hangs on another one if that one's values tell in which: a category, or
a small whole number such as a number of layers. Parameters of which no other tells are drawn independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from nbcompress.optuna.spaces import parameter_of

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
    complete = [one for one in trials if one.state == TrialState.COMPLETE]
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
    complete = [one for one in trials if one.state == TrialState.COMPLETE]
    counts = {name: sum(name in one.params for one in complete) for name in search_space}
    placed = [name for name, n in counts.items() if n in (0, len(complete))]
    waiting = [name for name in search_space if name not in placed]
    found: dict[str, tuple[str, tuple[Any, ...]]] = {}
    while waiting:
        for name in waiting:
            first = next(one for one in complete if name in one.params)
            earlier = [one for one in first.params if one in placed and _values(search_space[one])]
            parents = ((one, _telling(name, one, complete, search_space[one])) for one in earlier)
            parent = next((one for one in parents if one[1]), None)
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
    having = [one for one in trials if name in one.params]
    if any(parent not in one.params for one in having):
        return ()
    # Told apart by their text, since for Python 1 and True are equal.
    values = {repr(one.params[parent]) for one in having}
    others = (one for one in trials if name not in one.params and parent in one.params)
    if any(repr(one.params[parent]) in values for one in others):
        return ()
    return tuple(one for one in _values(distribution) if repr(one) in values)
