"""Searches over many parameters of one declaration (`each=`): first all members share a value, then each moves a bit.

A family is a declaration with `each=`, such as bits for each of 30 layers. A random point of such a space is nearly
the same as any other one: sums over the members hardly vary, so a hard budget of size is met nowhere. Settings that
all members share differ the most, they are few parameters, and a person would sweep them by hand. So

1. the first trials search the *shared space*, with one parameter for each family; later ones only now and then, as long
   as nothing better is known;
2. all others search a trust region around the best known point. It grows after a better point and shrinks after
   several that are not.

References:
    Eriksson, Pearce, Gardner, Turner, Poloczek (2019), "Scalable Global Optimization via Local Bayesian Optimization"
        (TuRBO: the trust region).
    Eriksson, Poloczek (2021), "Scalable Constrained Bayesian Optimization" (SCBO).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from nbcompress.errors import GoalError, did_you_mean, option
from nbcompress.optimize.candidates import Ranges
from nbcompress.optimize.encoding import Embedding, SpaceEncoder
from nbcompress.optimize.history import Array, History
from nbcompress.optimize.models import (
    FittedModels,
    earlier_hyperparameters,
    known_values,
    prior_width,
    uses_log_tail,
)
from nbcompress.optimize.surrogates.members import MemberFit, MemberMaps
from nbcompress.optimize.surrogates.protocol import Surrogate
from nbcompress.space import Choice, Point, Space, Value

# A declaration with at least so many members makes a search one over families. Heuristic.
MIN_MEMBERS = 5
# So many trials search the shared space first: some, and some for each of its parameters, up to a limit. Heuristic, see
# benchmarks.md#many-parameters.
SHARED_FIRST, SHARED_FIRST_PER_PARAMETER, MAX_SHARED_FIRST = 4, 3, 16
# The losses of at least this share of them should be known. Heuristic.
KNOWN_SHARE = 0.8
# Later, one trial in so many searches the shared space, as long as nothing better than shared values is known.
SHARED_EVERY = 6
# The key of the trust region's length in a proposal's note.
REGION = "region"
# More numbers than this in the maps of members would take too much memory.
MAX_MAPS = 10_000_000
# Half the width of the trust region, as a share of an axis: at first, its limits, and its change after a better point
# and after several others. Heuristics, see benchmarks.md#many-parameters.
FIRST_LENGTH, MIN_LENGTH, MAX_LENGTH = 0.2, 0.02, 0.5
GROWTH, SHRINKAGE, MAX_FAILURES = 1.5, 0.7, 3


class Families:
    """The families of a space, and the space where the members of each share a value.

    Attributes:
        space: All parameters.
        shared_space: One parameter for each family, and the rest.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        conditions = space.conditions
        first = {name: space.groups.get(name, (name,))[0] for name in space.declared()}
        self.shared_space = Space(
            {name: space[member].replaced(None, conditions.get(member)) for name, member in first.items()}
        )
        self._family = {member: name for name, members in space.groups.items() for member in members}

    @classmethod
    def of(cls, space: Space) -> Families | None:
        """Return the families of a space; None if it has none with enough members, or if a member is a parent."""
        parents = {parent for name in space.names for parent in space.parents(name)}
        members = [member for names in space.groups.values() for member in names]
        is_large = any(len(names) >= MIN_MEMBERS for names in space.groups.values())
        return cls(space) if is_large and not parents.intersection(members) else None

    @property
    def n_shared_first(self) -> int:
        """How many trials search the shared space first."""
        return min(SHARED_FIRST + SHARED_FIRST_PER_PARAMETER * len(self.shared_space), MAX_SHARED_FIRST)

    def is_first(self, shared_history: History) -> bool:
        """Say whether the next trial is one of the first, which search the shared space.

        They are up to twice as many if none is feasible, since the shared space reaches the smallest values, or if the
        losses of most are unknown: a trial that breaks a constraint is often stopped before it has all metrics.
        """
        n, n_first = len(shared_history), self.n_shared_first
        if n < n_first or n >= 2 * n_first:
            return n < n_first
        n_known = int(np.isfinite(shared_history.losses).all(1).sum())
        return not shared_history.is_feasible.any() or n_known < KNOWN_SHARE * n_first

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the declarations with `each=`."""
        return tuple(self.space.groups)

    @property
    def members(self) -> tuple[str, ...]:
        """What the families are declared for, such as the names of layers, each once."""
        return tuple(dict.fromkeys(label for labels in _labels(self.space).values() for label in labels))

    def sensitivity(self, given: Mapping[str, float]) -> Array:
        """Return the sensitivity of every member as an array.

        Raises:
            GoalError: A member has none, or a name is no member.
        """
        for name in (name for name in given if name not in self.members):
            raise GoalError(
                f"{option('sensitivity')} has a number for each name of each=, and {name!r} is none of them."
                f"{did_you_mean(name, self.members)}"
            )
        for name in (name for name in self.members if name not in given):
            raise GoalError(f"{option('sensitivity')} has a number for each name of each=, but none for {name!r}.")
        return np.array([given[name] for name in self.members], dtype=np.float64)

    def member_fit(self, embedding: Embedding, shared: Embedding) -> MemberFit | None:
        """Return how models learn from shared values; None if there are too many members.

        Args:
            embedding: Of `space`.
            shared: Of `shared_space`.
        """
        if len(self.members) * embedding.n_features * shared.n_features > MAX_MAPS:
            return None
        has_trend = not bool(shared.encoder.is_continuous.all())
        maps = _member_maps(self.space, embedding, shared)
        return MemberFit(maps, shared.owner, shared.encoder.d, has_trend)

    def spread(self, shared: Point) -> Point:
        """Return the point of `space` where the members of each family have the value of a point of `shared_space`."""
        sources = {name: self._family.get(name, name) for name in self.space.names}
        return {name: shared[source] for name, source in sources.items() if source in shared}

    def shared(self, point: Point) -> Point | None:
        """Return a point whose members are equal within each family as one of `shared_space`; None for any other."""
        found: dict[str, Value] = {}
        for name, value in point.items():
            if found.setdefault(self._family.get(name, name), value) != value:
                return None
        return found

    def are_shared(self, points: Sequence[Point]) -> bool:
        """Say whether each of these points shares its values."""
        return all(self.shared(point) is not None for point in points)

    def shared_history(self, history: History) -> History:
        """Return the trials of a history that lie in the shared space, as points of it."""
        points = [self.shared(point) for point in history.points]
        chosen = [i for i, point in enumerate(points) if point is not None]
        return History(
            tuple(point for point in points if point is not None),
            history.losses[chosen],
            history.slacks[chosen],
            tuple(history.status[i] for i in chosen),
            tuple(history.notes[i] for i in chosen),
            noise=history.noise[chosen] if history.noise.size else history.noise,
        )


def _labels(space: Space) -> dict[str, dict[str, str]]:
    """Return by declaration with `each=` the full name of the parameter of each name in it."""
    return {family: {name[len(family) + 1 : -1]: name for name in members} for family, members in space.groups.items()}


def _member_maps(space: Space, embedding: Embedding, shared: Embedding) -> MemberMaps:
    """Return the maps from all features to those of the shared parameters, one for each name of a member.

    A family without a member of that name gives the mean of its members, and a parameter of its own gives itself.
    """
    names = embedding.encoder.names
    families = {
        family: {label: names.index(name) for label, name in members.items()}
        for family, members in _labels(space).items()
    }
    labels = list(dict.fromkeys(label for members in families.values() for label in members))
    maps = np.zeros((len(labels), embedding.n_features, shared.n_features))
    for u, label in enumerate(labels):
        for j, name in enumerate(shared.encoder.names):
            members = families[name] if name in families else {label: names.index(name)}
            sources = [members[label]] if label in members else list(members.values())
            for i in sources:
                maps[u, np.flatnonzero(embedding.owner == i), np.flatnonzero(shared.owner == j)] += 1 / len(sources)
    return MemberMaps(maps)


def fit_member_models(
    base: FittedModels,
    history: History,
    families: Families,
    members: MemberFit,
    sensitivities: Mapping[str, Array],
) -> FittedModels:
    """Return models where those of losses and slacks are `MemberProcess`es, as far as enough shared values are known.

    Args:
        base: The usual models of the same history.
        history: All trials.
        families: Of the space.
        members: How the processes are fitted.
        sensitivities: By `loss j` and `slack j`, the sensitivity of each member, where it was measured.
    """
    log_tail, width = uses_log_tail(history, families.space), prior_width(history.losses.shape[1])
    shared_history = families.shared_history(history)
    unconditioned, constraints = dict(base.unconditioned), dict(base.constraints)
    for known in known_values(history, base.is_used):
        features = base.features[known.is_known]
        if not members.is_enough(features):
            continue
        earlier = earlier_hyperparameters(shared_history, known.name)
        has_log_tail = known.is_loss and log_tail
        process = members.fit(
            base.spec, features, known.values, earlier, log_tail=has_log_tail, width=width,
            sensitivity=sensitivities.get(known.name),
        )  # fmt: skip
        if known.is_loss:
            unconditioned[known.index] = cast(Surrogate, process)
        else:
            constraints[known.name] = cast(Surrogate, process.condition_on_mean(base.X_pending))
    objectives = {j: model.condition_on_mean(base.X_pending) for j, model in unconditioned.items()}
    return replace(base, unconditioned=unconditioned, objectives=objectives, constraints=constraints)


def region(encoder: SpaceEncoder, center: Array, length: float) -> Ranges:
    """Return the ranges of a trust region: within `length` of a full row, and at least one step to either side.

    Unordered choices and inactive parameters stay free.
    """
    found: dict[str, Sequence[Value]] = {}
    active = encoder.is_active(center[None])[0]
    for i in np.flatnonzero(encoder.is_ordered & active):
        name, u, levels = encoder.names[i], float(center[i]), encoder.levels[i]
        parameter = encoder.space[name]
        if levels is None:
            low, high = max(0.0, u - length), min(1.0, u + length)
            found[name] = [parameter.from_unit(low), parameter.from_unit(high)]
            continue
        here = int(np.abs(levels - u).argmin())
        near = (np.abs(levels - u) <= length) | (np.abs(np.arange(len(levels)) - here) <= 1)
        values = [parameter.from_unit(level) for level in levels[near].tolist()]
        found[name] = values if isinstance(parameter, Choice) else [values[0], values[-1]]
    return found


def region_length(history: History) -> float:
    """Return half the width of the next trust region.

    It follows from the ended trials within earlier ones: is a trial feasible, and no earlier feasible one as good?
    """
    length, failures = FIRST_LENGTH, 0
    feasible, is_pending = history.is_feasible, history.has_status("pending")
    for i in (i for i, note in enumerate(history.notes) if REGION in note and not is_pending[i]):
        earlier = history.losses[:i][feasible[:i]]
        is_better = bool(feasible[i]) and not bool((earlier <= history.losses[i]).all(1).any())
        failures = 0 if is_better else failures + 1
        if is_better:
            length = min(MAX_LENGTH, length * GROWTH)
        elif failures == MAX_FAILURES:
            length, failures = max(MIN_LENGTH, length * SHRINKAGE), 0
    return length
