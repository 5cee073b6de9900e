"""The sampler `gp`: Bayesian optimization with Gaussian processes.

The first points are the middle of every range and a Sobol sequence. Then the point with the largest acquisition value
is proposed. If the search has reached a plateau, every other point is random. A search over families of parameters
(`each=`) with a constraint begins with values that all members share, see `families.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from nbcompress.choices import ACQUISITIONS, MULTI_OBJECTIVE_ACQUISITIONS
from nbcompress.errors import GoalError, SpaceExhausted, did_you_mean, first_line, option, shown
from nbcompress.optimize.acquisition import (
    N_SAMPLED_POINTS,
    AcquisitionFunction,
    AnalyticAcquisition,
    QLogExpectedImprovement,
    SumAcquisition,
    analytic_acquisition,
    entropy_search,
    log_feasibility,
    negated_mean,
    sampled_function,
)
from nbcompress.optimize.acquisition_optimizer import (
    DEFAULT_OPTIONS,
    SAMPLED_ACQUISITION_OPTIONS,
    optimize_acquisition,
)
from nbcompress.optimize.candidates import Narrowing, UntriedPoints, UntriedPointsWithin
from nbcompress.optimize.encoding import Embedding, SpaceEncoder
from nbcompress.optimize.history import Array, History, Proposal, violations
from nbcompress.optimize.models import FittedModels, compiled
from nbcompress.optimize.multi_objective import (
    LogExpectedHypervolumeImprovement,
    ScalarizedConfidenceBound,
    draw_weights,
    reference_point,
    scalarized_acquisition,
    useful_limits,
)
from nbcompress.optimize.proposers.baselines import SobolProposer, sobol_rows
from nbcompress.optimize.proposers.families import (
    MIN_MEMBERS,
    REGION,
    SHARED_EVERY,
    Families,
    fit_member_models,
    region,
    region_length,
)
from nbcompress.optimize.protocol import Stream, random_generator
from nbcompress.optimize.surrogates.closed_form import GaussianProcess, ModelSpec
from nbcompress.optimize.surrogates.members import MemberFit
from nbcompress.optimize.surrogates.protocol import ModelFitter, Surrogate, definition_of, name_of
from nbcompress.space import Point, Space
from nbcompress.study.front import is_non_dominated

MAX_OBJECTIVES = 4
# With these, a search with a constraint uses families of parameters.
FAMILY_ACQUISITIONS = ("logei", "ei", "ucb", "pi", "qlogei")
# The acquisition optimizer starts near this many of the best known points.
N_BEST_KNOWN = 6
# `kg`, `mes` and `thompson` look at so many of the best known points; `kg` also at so many quasi-random ones.
N_KG_BEST, N_KG_POINTS = 32, 32
# A gain below this, in standardized units, is shown in words: its digits mean nothing to a reader.
NEGLIGIBLE_GAIN = 1e-9
# The search is on a plateau if this many of the latest trials only repeat the best values. Heuristic, see
# benchmarks.md#plateau.
PLATEAU_REPEATS, PLATEAU_WINDOW = 2, 6
# On a plateau one trial in this many is random.
RANDOM_EVERY = 2


def n_initial_points(d: int) -> int:
    """Return the number of initial points before the surrogate is used, for `d` parameters. Heuristic."""
    return min(8, 2 * (d + 1))


class GaussianProcessProposer:
    """The sampler `gp`; a `SurrogateProposer` and a `NarrowableProposer`.

    Args:
        space: The space to search.
        n_objectives: From 1 to 4.
        n_constraints: The number of constraints.
        seed: Equal seeds and histories give equal points.
        acquisition: One of `choices.ACQUISITIONS`, or a factory; see `nc.search`.
        kernel, mean: Names, or parts of GPyTorch.
        surrogate: What takes the place of kernel and mean, or a dict of that by `loss j` and `slack j`.
        labels: What `loss j` and `slack j` are called in a warning.
        sensitivity: By `loss j` and `slack j`, a number of at least 0 for each name of `each=`.
        limits_reference: Whether the hypervolume of several objectives is limited to a useful range, see
            `useful_limits`. It always is in a search over families with a constraint.

    Raises:
        GoalError: The acquisition, the surrogate or the sensitivity cannot be used; or there are too many objectives.
    """

    def __init__(
        self,
        space: Space,
        n_objectives: int,
        n_constraints: int = 0,
        seed: int = 0,
        acquisition: str | Callable[..., Any] = "logei",
        kernel: Any = "matern52",
        mean: Any = "constant",
        surrogate: Any = None,
        labels: Mapping[str, str] | None = None,
        *,
        sensitivity: Mapping[str, Mapping[str, float]] | None = None,
        limits_reference: bool = False,
    ) -> None:
        _check_acquisition(acquisition, n_objectives)
        if n_objectives > MAX_OBJECTIVES:
            raise GoalError(
                f"The sampler 'gp' supports at most {MAX_OBJECTIVES} objectives, but got {n_objectives}. "
                "Turn some into constraints, or use the sampler 'nsga2'."
            )
        self.encoder = SpaceEncoder(space)
        self.embedding = Embedding(self.encoder)
        self.n_objectives, self.n_constraints = n_objectives, n_constraints
        # A factory is not known by its name: it may have that of an acquisition of ours.
        self.seed, self.acquisition, self._labels = seed, acquisition, dict(labels or {})
        self._set_surrogate(surrogate, kernel, mean)
        if not isinstance(acquisition, str):
            from nbcompress.optimize.surrogates.botorch_acquisition import check_acquisition_factory

            check_acquisition_factory(acquisition, self.embedding.n_features)
        # What a person passed may fail in mid search; the default then takes its place.
        self._uses_torch = acquisition in ("noisy-ei", "kg") or not isinstance(acquisition, str)
        self._fallback: GaussianProcessProposer | None = None
        if self.replaced or self._uses_torch:
            self._fallback = GaussianProcessProposer(space, n_objectives, n_constraints, seed)
        self.narrowing = Narrowing(space)
        self._sobol = SobolProposer(space, seed)
        # A space is compared by its text, which is slow to make.
        kinds = tuple((name, self.replaced[name]) for name in sorted(self.replaced))
        self._models_key = (FittedModels, repr(space), self.spec, kinds)
        # Without a constraint a search of the whole space is better, see benchmarks.md#many-parameters.
        uses_families = n_constraints > 0 and not self.replaced and self.acquisition in FAMILY_ACQUISITIONS
        self.families = Families.of(space) if uses_families else None
        self.limits_reference = limits_reference or self.families is not None
        if self.families is not None:
            self._shared = GaussianProcessProposer(
                self.families.shared_space, n_objectives, n_constraints, seed, acquisition, self.spec.kernel,
                self.spec.mean, limits_reference=True,
            )  # fmt: skip
            self._member_fit = self.families.member_fit(self.embedding, self._shared.embedding)
        elif sensitivity:
            raise GoalError(
                f"{option('sensitivity')} is for a search with a constraint and with a parameter for each of "
                f"{MIN_MEMBERS} names or more (each=), with the surrogate and an acquisition of the default."
            )
        given = (sensitivity or {}).items()
        self._sensitivities = {role: self.families.sensitivity(by_name) for role, by_name in given if self.families}

    def _set_surrogate(self, surrogate: Any, kernel: Any, mean: Any) -> None:
        """Set `spec`, of every model, and `replaced`, what takes its place for some."""
        roles = [f"loss {j}" for j in range(self.n_objectives)] + [f"slack {j}" for j in range(self.n_constraints)]
        by_role = dict(surrogate) if isinstance(surrogate, Mapping) else dict.fromkeys(roles, surrogate)
        made: dict[int, ModelSpec | ModelFitter] = {}
        self.spec = ModelSpec()
        self.replaced: dict[str, ModelSpec | ModelFitter] = {}
        for role, given in by_role.items():
            if id(given) not in made:
                made[id(given)] = compiled(
                    definition_of(given, kernel, mean),
                    self.embedding,
                    n_objectives=self.n_objectives,
                    seed=self.seed,
                    n=n_initial_points(self.encoder.d),
                )
            self.replaced[role] = made[id(given)]
        first = next(iter(made.values()), None)
        if len(made) == 1 and isinstance(first, ModelSpec) and set(by_role) == set(roles):
            is_named = first == replace(ModelSpec(first.kernel, first.mean), has_trend=first.has_trend)
            if is_named:
                self.spec, self.replaced = replace(first, has_trend=False), {}

    def propose(self, number: int, history: History) -> Proposal:
        with single_threaded_blas():
            return self.narrowing.proposal(
                self.encoder, history, lambda untried: self._propose_or_fall_back(number, history, untried)
            )

    def _propose_or_fall_back(self, number: int, history: History, untried: UntriedPoints) -> Proposal:
        """Propose; if the acquisition or the surrogate of a person raises, the default proposes, with a warning."""
        if self._fallback is None:
            return self._propose_among(number, history, untried)
        try:
            return self._propose_among(number, history, untried)
        except SpaceExhausted:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the parts of a person raise
            proposal = self._fallback._propose_among(number, history, untried)
            parts = [f"acquisition {_acquisition_name(self.acquisition)!r}"] if self.acquisition != "logei" else []
            what = " with the ".join([*(["surrogate"] if self.replaced else []), *parts])
            cause = f"The {what} failed ({first_line(error)}); the default proposed the point."
            return replace(proposal, warnings=(cause,))

    def _failure_texts(self, models: FittedModels) -> tuple[str, ...]:
        """Return a sentence for each surrogate of a person that could not be fitted."""
        return tuple(
            f"The surrogate of {self._labels.get(role, role)!r} failed ({why}); the default took its place."
            for role, why in models.failures.items()
        )

    def fit_models(self, history: History) -> FittedModels:
        """Return the models fitted to a history. They are kept with the history, because panels ask many times."""

        def fit() -> FittedModels:
            with single_threaded_blas():
                return FittedModels.fit(history, self.embedding, self.spec, self.replaced)

        return history.cached(self._models_key, fit)

    def acquisition_function(self, history: History, number: int) -> AcquisitionFunction:
        """Return the acquisition function for trial `number`: improvement and feasibility together."""
        gain, feasibility = self.acquisition_terms(self.fit_models(history), history, number)
        return SumAcquisition([*([gain] if gain else []), *feasibility])

    def acquisition_terms(
        self, models: FittedModels, history: History, number: int
    ) -> tuple[AcquisitionFunction | None, list[AnalyticAcquisition]]:
        """Return the improvement (None while no point is feasible), and the log probability of each constraint."""
        feasibility = [log_feasibility(model) for model in models.constraints.values()]
        if not history.is_feasible.any():
            return None, feasibility
        return self._improvement(models, history, number, self.acquisition), feasibility

    def _propose_among(self, number: int, history: History, untried: UntriedPoints) -> Proposal:
        if self.families is not None and not isinstance(untried, UntriedPointsWithin):
            return self._propose_with_families(self.families, number, history, untried)
        n_initial = n_initial_points(self.encoder.d)
        has_results = (history.has_status("told") | history.has_status("failed")).any()
        if len(history) < n_initial or not has_results:
            proposal = self._initial_point(number, history, untried)
            what = f"one of the first {n_initial} points" if len(history) < n_initial else "no result is known yet"
            return Proposal(proposal.point, reason=f"{what}: {proposal.reason}")
        return self._propose_by_models(number, history, untried)

    def _propose_with_families(
        self, families: Families, number: int, history: History, untried: UntriedPoints
    ) -> Proposal:
        """Propose a point whose members share values, or one in a trust region around the best known point."""
        shared_history = families.shared_history(history)
        if families.is_first(shared_history) or (
            number % SHARED_EVERY == 0 and families.are_shared(self._best_points(history))
        ):
            try:
                return self._propose_shared(families, number, shared_history)
            except SpaceExhausted:
                pass
        models = self._fit_member_models(families, history)
        best = self._best_known_rows(models, history)
        if len(best) == 0:
            return self._initial_point(number, history, untried)
        length = region_length(history)
        ranges = region(self.encoder, best[number % len(best) if self.n_objectives > 1 else 0], length)
        try:
            proposal = self._propose_by_models(
                number, history, UntriedPointsWithin(self.encoder, history, ranges), models
            )
        except SpaceExhausted:
            proposal = self._propose_by_models(number, history, untried, models)
        note = {**proposal.note, REGION: length}
        return Proposal(proposal.point, note, f"{proposal.reason}; within {length:.2g} of a best known point")

    def _propose_shared(self, families: Families, number: int, shared_history: History) -> Proposal:
        """Propose a point whose members share values, from the trials that do."""
        untried = UntriedPoints(self._shared.encoder, shared_history)
        proposal = self._shared._propose_among(number, shared_history, untried)
        reason = f"{proposal.reason}; with one value for each of {', '.join(families.names)}"
        return Proposal(families.spread(proposal.point), proposal.note, reason)

    def _best_points(self, history: History) -> list[Point]:
        """Return the feasible points that no other one covers; with one objective the best one."""
        feasible = np.flatnonzero(history.is_feasible)
        losses = history.losses[feasible]
        best = feasible[is_non_dominated(losses)] if self.n_objectives > 1 else feasible[losses[:, 0].argsort()[:1]]
        return [history.points[i] for i in best]

    def _fit_member_models(self, families: Families, history: History) -> FittedModels:
        """Return the models that learn from shared values; the usual ones for `qlogei`, which conditions them."""
        usual, members = self.fit_models(history), self._member_fit
        if members is None or self.acquisition == "qlogei":
            return usual
        known = tuple((role, values.tobytes()) for role, values in self._sensitivities.items())
        key = (MemberFit, *self._models_key, known)
        return history.cached(key, lambda: fit_member_models(usual, history, families, members, self._sensitivities))

    def _propose_by_models(
        self, number: int, history: History, untried: UntriedPoints, models: FittedModels | None = None
    ) -> Proposal:
        """Propose the point with the largest acquisition value; on a plateau, every other one is random."""
        if is_random_on_plateau(number, history):
            reason = f"drawn at random, since {n_repeats(history)} of the latest trials only repeat the best value"
            rng = random_generator(self.seed, number, Stream.RANDOM_AMONG_UNTRIED)
            return Proposal(untried.draw(rng), reason=reason)
        models = models if models is not None else self.fit_models(history)
        gain, feasibility = self.acquisition_terms(models, history, number)
        if gain is None and not feasibility:
            return self._initial_point(number, history, untried)
        acquisition = SumAcquisition([*([gain] if gain else []), *feasibility])
        rng = random_generator(self.seed, number, Stream.ACQUISITION_OPTIMIZER)
        is_sampled = self._uses_torch or (self.n_objectives > 1 and self.acquisition == "qlogei")
        options = SAMPLED_ACQUISITION_OPTIONS if is_sampled else DEFAULT_OPTIONS
        best_known = self._best_known_rows(models, history)
        row, _ = optimize_acquisition(self.embedding, acquisition, untried, rng, best_known, options)
        expected_gain, reason = self._explain(models, history, number, gain, feasibility, row)
        note: dict[str, Any] = {**models.note, **({} if expected_gain is None else {"gain": expected_gain})}
        return Proposal(self.encoder.point(row), note, reason, self._failure_texts(models))

    def _initial_point(self, number: int, history: History, untried: UntriedPoints) -> Proposal:
        """Return the middle of the space, and then points of a Sobol sequence; a random point within ranges.

        Users tend to center a range on the usual value; Ax begins in the middle, too. Heuristic, see
        benchmarks.md#initial-points.
        """
        if isinstance(untried, UntriedPointsWithin):
            rng = random_generator(self.seed, number, Stream.RANDOM_AMONG_UNTRIED)
            return Proposal(untried.draw(rng), reason="random")
        center = self.encoder.center()
        if number == 0 and center in untried:
            return Proposal(self.encoder.point(center), reason="the middle of every range")
        return self._sobol.propose(number, history)

    def _improvement(
        self, models: FittedModels, history: History, number: int, acquisition: str | Callable[..., Any]
    ) -> AcquisitionFunction:
        """Return this acquisition without constraints; needs a feasible point."""
        feasible = models.features[history.is_feasible & models.is_used]
        if self.n_objectives == 1 and acquisition == "qlogei" and len(models.X_pending) > 0:
            model = models.unconditioned[0]
            best = float(model.predict_mean(feasible).min())
            rng = random_generator(self.seed, number, Stream.PENDING_OUTCOMES)
            return _improvement_while_pending(model, models.X_pending, best, rng)
        # Pending points count with their predicted losses: what they are about to find is no further improvement.
        losses = models.mean_losses(np.vstack([feasible, models.X_pending]))
        if acquisition == "noisy-ei" and self.n_objectives > 1:
            acquisition = "qlogei"
        if acquisition in ("mes", "thompson"):
            return _sampled_acquisition(acquisition, models, feasible, losses, seed=self.seed, number=number)
        if not isinstance(acquisition, str) or acquisition in ("noisy-ei", "kg"):
            return _torch_acquisition(acquisition, models, feasible, losses, seed=self.seed, number=number)
        if self.n_objectives == 1:
            return analytic_acquisition(acquisition, models.objectives[0], float(losses.min()))
        reference = self._reference(models, history, losses)
        objectives = [models.objectives[j] for j in range(self.n_objectives)]
        if acquisition in ("ucb", "pi"):
            rng = random_generator(self.seed, number, Stream.SCALARIZATION_WEIGHTS)
            weights = draw_weights(rng, self.n_objectives)
            return scalarized_acquisition(acquisition, objectives, losses, reference, weights)
        if acquisition in ("logei", "ei"):
            return LogExpectedHypervolumeImprovement(objectives, losses, reference)
        from nbcompress.optimize.surrogates.botorch_acquisition import noisy_hypervolume_improvement

        seed = int(random_generator(self.seed, number, Stream.SAMPLED_FRONT).integers(2**31))
        front = feasible[is_non_dominated(losses[: len(feasible)])]
        unconditioned = [models.unconditioned[j] for j in range(self.n_objectives)]
        X_baseline = np.vstack([front, models.X_pending])
        return noisy_hypervolume_improvement(unconditioned, X_baseline, reference, seed)

    def _reference(self, models: FittedModels, history: History, losses: Array) -> Array:
        """Return the reference point of the hypervolume, standardized; shape `(m,)`."""
        reference = reference_point(losses)
        if not self.limits_reference:
            return reference
        limits = useful_limits(history)
        transforms = [models.objectives[j].outcome_transform for j in range(self.n_objectives)]
        return np.array(
            [
                transform.transform(limit) if np.isfinite(limit) else usual
                for transform, limit, usual in zip(transforms, limits.tolist(), reference.tolist(), strict=True)
            ]
        )

    def _best_known_rows(self, models: FittedModels, history: History) -> Array:
        """Return full rows of the best known points, shape `(b, d)`; without a feasible one the least infeasible."""
        feasible = history.is_feasible
        if feasible.any():
            losses = history.losses[feasible]
            if self.n_objectives == 1:
                order = np.argsort(losses[:, 0], kind="stable")
            else:
                order = np.flatnonzero(is_non_dominated(losses))
                if self.limits_reference:
                    is_useful = (losses[order] <= useful_limits(history)).all(1)
                    order = order[is_useful] if is_useful.any() else order
                # Evenly spread along the front, including its ends.
                order = order[np.argsort(losses[order, 0], kind="stable")]
                order = order[np.unique(np.linspace(0, len(order) - 1, N_BEST_KNOWN).round().astype(int))]
            return models.rows[feasible][order[:N_BEST_KNOWN]]
        told = history.has_status("told")
        if not told.any():
            return np.empty((0, self.encoder.d))
        order = np.argsort(violations(history.slacks[told]), kind="stable")
        return models.rows[told][order[:N_BEST_KNOWN]]

    def _explain(
        self,
        models: FittedModels,
        history: History,
        number: int,
        gain: AcquisitionFunction | None,
        feasibility: list[AnalyticAcquisition],
        row: Array,
    ) -> tuple[float | None, str]:
        """Return the expected gain in the units of the losses (None without one), and the reason for this point."""
        feature = self.embedding.features(row[None])
        probability = float(np.exp(SumAcquisition(feasibility).score(feature)[0]))
        if gain is None:
            return None, f"no point is feasible yet; this one is with probability {probability:.0%}"
        if self.acquisition not in ("logei", "qlogei", "ei"):
            gain = self._improvement(models, history, number, "logei")
        scale = float(np.prod([model.outcome_transform.linear_scale for model in models.objectives.values()]))
        expected_gain = float(np.exp(gain.score(feature)[0])) * probability * scale
        what = "expected gain" if self.n_objectives == 1 else "expected gain in hypervolume"
        reason = f"{what} {gain_text(expected_gain, scale)}"
        return expected_gain, reason + (f", feasible with probability {probability:.0%}" if feasibility else "")


def _acquisition_name(acquisition: str | Callable[..., Any]) -> str:
    return acquisition if isinstance(acquisition, str) else name_of(acquisition)


def _check_acquisition(acquisition: Any, n_objectives: int) -> None:
    """Raise `GoalError` if an acquisition is unknown, or is not for so many objectives."""
    known = ", ".join(ACQUISITIONS)
    if isinstance(acquisition, str):
        if acquisition not in ACQUISITIONS:
            hint = did_you_mean(acquisition, ACQUISITIONS)
            raise GoalError(f"The acquisition is one of {known}, but got {acquisition!r}.{hint}")
    elif not callable(acquisition):
        raise GoalError(
            f"The acquisition is one of {known}, or a function (model, X_baseline, X_pending, best_f) that returns a "
            f"botorch AcquisitionFunction, but got {shown(acquisition)}."
        )
    if n_objectives > 1 and acquisition not in MULTI_OBJECTIVE_ACQUISITIONS:
        raise GoalError(
            f"{option('acquisition', _acquisition_name(acquisition))} is for one objective, but there are "
            f"{n_objectives}. With several take one of {', '.join(MULTI_OBJECTIVE_ACQUISITIONS)}."
        )


def _improvement_while_pending(
    model: Surrogate, X_pending: Array, best: float, rng: np.random.Generator
) -> AcquisitionFunction:
    """Return qLogEI of one new point while others are pending."""
    if isinstance(model, GaussianProcess):
        return QLogExpectedImprovement(model, X_pending, best, rng)
    from nbcompress.optimize.surrogates.botorch import as_model
    from nbcompress.optimize.surrogates.botorch_acquisition import sampled_expected_improvement

    return sampled_expected_improvement(as_model(model), X_pending, -best, int(rng.integers(2**31)))


def _sampled_acquisition(
    acquisition: str, models: FittedModels, feasible: Array, losses: Array, *, seed: int, number: int
) -> AcquisitionFunction:
    """Return `mes` or `thompson` without constraints.

    `mes`, max-value entropy search, is what the trial tells about the smallest loss. `thompson` minimizes a sampled
    function: for many trials at a time, which then differ.

    Args:
        acquisition: The name.
        models: With a model of every objective.
        feasible: Shape `(n, D)`; features of the feasible known points, at least one.
        losses: Shape `(n + p, m)`; predicted losses of them and of the pending points.
        seed, number: Of the search and of the trial.
    """
    rng = random_generator(seed, number, Stream.SAMPLED_FRONT)
    spread = models.embedding.features(sobol_rows(models.embedding.encoder, rng, N_SAMPLED_POINTS))
    points = _best_and_spread(feasible, losses, spread)
    if acquisition == "mes":
        return entropy_search(models.objectives[0], points, float(losses[:, 0].min()), rng)
    samples = [sampled_function(models.objectives[j], points, rng) for j in range(models.n_objectives)]
    if len(samples) == 1:
        return AnalyticAcquisition(samples[0], negated_mean)
    weights = draw_weights(random_generator(seed, number, Stream.SCALARIZATION_WEIGHTS), len(samples))
    return ScalarizedConfidenceBound(samples, reference_point(losses), weights, negated_mean)


def _torch_acquisition(
    acquisition: str | Callable[..., Any],
    models: FittedModels,
    feasible: Array,
    losses: Array,
    *,
    seed: int,
    number: int,
) -> AcquisitionFunction:
    """Return `noisy-ei`, `kg` or what a factory makes, without constraints; the arguments of `_sampled_acquisition`.

    For noisy objectives: `noisy-ei` is the expected improvement over the known points, whose noise-free losses are
    sampled. `kg`, the knowledge gradient, is how much better the best mean is expected to be after the trial; the best
    point need not be one that was tried.

    Raises:
        Exception: Whatever a factory of a person raises.
    """
    from nbcompress.optimize.surrogates.botorch import as_model
    from nbcompress.optimize.surrogates.botorch_acquisition import (
        DiscreteKnowledgeGradient,
        TorchAcquisition,
        acquisition_by_factory,
        noisy_expected_improvement,
    )

    rng = random_generator(seed, number, Stream.SAMPLED_FRONT)
    if acquisition == "noisy-ei":
        model = as_model(models.unconditioned[0])
        return noisy_expected_improvement(model, feasible, models.X_pending, int(rng.integers(2**31)))
    spread = models.embedding.features(sobol_rows(models.embedding.encoder, rng, N_KG_POINTS))
    if acquisition == "kg":
        points = _best_and_spread(feasible, losses, spread)
        gradient = DiscreteKnowledgeGradient(as_model(models.objectives[0]), points)
        return TorchAcquisition(gradient, is_log=False, reference=0.0)
    assert callable(acquisition)
    made = acquisition_by_factory(
        acquisition, as_model(models.unconditioned[0]), feasible, models.X_pending, -float(losses[:, 0].min())
    )
    return made.counted_from_lowest(np.vstack([feasible, spread])) if models.constraints else made


def _best_and_spread(feasible: Array, losses: Array, spread: Array) -> Array:
    """Return the features of the best known points in the first objective, and `spread`, without duplicates."""
    best = feasible[np.argsort(losses[: len(feasible), 0], kind="stable")[:N_KG_BEST]]
    return np.unique(np.vstack([best, spread]), axis=0)


def gain_text(gain: float, scale: float) -> str:
    """Return an expected gain as text.

    Args:
        gain: In the units of the losses.
        scale: The size of one standardized unit, in the units of the losses.
    """
    return f"{gain:.3g}" if gain > NEGLIGIBLE_GAIN * scale else "next to nothing"


def is_random_on_plateau(number: int, history: History) -> bool:
    """Say whether trial `number` is drawn at random because the search is on a plateau.

    A decision tree whose depth no longer matters, or an accuracy over few examples, is a step function. A smooth model
    keeps expecting that another point of the same step is better.
    """
    return number % RANDOM_EVERY == 0 and n_repeats(history) >= PLATEAU_REPEATS


def n_repeats(history: History) -> int:
    """Return how many of the latest feasible trials repeat exactly the losses of an earlier, non-dominated one."""
    losses = history.losses[history.is_feasible]
    is_on_front = is_non_dominated(losses)
    latest = range(max(0, len(losses) - PLATEAU_WINDOW), len(losses))
    return sum(bool(is_on_front[i]) and bool((losses[:i] == losses[i]).all(1).any()) for i in latest)


@cache
def _threadpool_controller() -> ThreadpoolController:
    # Finding the libraries takes milliseconds. By the first call those of NumPy and SciPy are loaded.
    return ThreadpoolController()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit the BLAS of NumPy and SciPy to one thread, and restore the limit afterwards.

    The matrices are small: with several threads waiting costs more than computing, and the number of threads would
    change the last digits. PyTorch, which trials train with, has its own threads and is not affected.
    """
    with _threadpool_controller().limit(limits=1, user_api="blas"):
        yield
