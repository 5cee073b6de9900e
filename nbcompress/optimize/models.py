"""The models fitted to a history: one per objective, one per constraint and one for failure.

Each is a Gaussian process in closed form, or what a person put in its place (`compiled`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr
from scipy.stats import rankdata

from nbcompress.errors import first_line
from nbcompress.optimize.encoding import Embedding
from nbcompress.optimize.history import Array, History, violations
from nbcompress.optimize.outcome_transform import OutcomeTransform, without_penalties
from nbcompress.optimize.surrogates.classifier import FAILED, SUCCEEDED, Classifier, fit_classifier
from nbcompress.optimize.surrogates.closed_form import GaussianProcess, Hyperparameters, ModelSpec
from nbcompress.optimize.surrogates.fit import (
    LENGTHSCALE_PRIOR_WIDTH,
    LENGTHSCALE_PRIOR_WIDTH_MULTI_OBJECTIVE,
    fit,
    known_noise_of,
)
from nbcompress.optimize.surrogates.protocol import Definition, ModelFitter, Surrogate, SurrogateSpec
from nbcompress.space import Space
from nbcompress.study.front import is_non_dominated

# How many earlier sets of hyperparameters are tried after a failed fit.
MAX_EARLIER = 3
# Hyperparameters of the regression that tells failures by chance from others. They are not fitted: a step function has
# no lengthscale, and the best fit would forget failures at a short distance. The lengthscale is multiplied by the root
# of the dimension. Heuristics, see benchmarks.md#surrogate-priors.
FAILURE_LENGTHSCALE, FAILURE_SIGNAL, FAILURE_NOISE = 0.5, 1.0, 0.01
# How much of the variance of the labels may depend on the point, besides all of it and nothing. Predicted probabilities
# are cut off, so that a failure at the edge of a failing region is no proof of chance. Heuristics, see
# benchmarks.md#failures-by-chance.
FAILURE_SHARES, FAILURE_CERTAINTY = (0.5, 0.2), 0.05
# Of more ended points than this a surrogate learns from so many, of which this share are the best ones. Its cost grows
# with the cube of its points. Heuristic, see benchmarks.md#many-trials.
MAX_POINTS, BEST_SHARE = 800, 0.5
# What is taken evenly from the order of trials follows the golden ratio, which leaves no period.
_STRIDE = 0.5 * (5**0.5 - 1)


@dataclass(frozen=True, eq=False)
class FittedModels:
    """The Gaussian processes fitted to a history.

    Attributes:
        embedding: From full rows to features.
        spec: Kernel and mean of the models.
        n_objectives: The number of losses in the history.
        rows: Shape `(n, d)`; the history's points as full rows.
        features: Shape `(n, D)`.
        objectives: By index, the model of each objective with a known loss; conditioned on its mean at pending points.
        constraints: Models of values that should be at most 0: `slack j` of the history; also conditioned on their
            means at pending points.
        X_pending: Shape `(p, D)`; features of the pending points.
        note: What `Proposal.note` stores: `hyperparameters`, and `trouble` (the error) where a fit failed.
        unconditioned: The models of `objectives`, not conditioned on pending points.
        is_used: Shape `(n,)`; the points that the models learned from.
        failures: Of the replaced models, by name: why the default took their place.
        failure: The classifier of failed trials; None if none has failed, if failures seem to come by chance, or if
            this trial tests whether they do. A pending point has no label yet.
        by_chance: The probability that failures come by chance, where this trial tests it; else None.
    """

    embedding: Embedding
    spec: ModelSpec
    n_objectives: int
    rows: Array
    features: Array
    objectives: Mapping[int, Surrogate]
    constraints: Mapping[str, Surrogate]
    X_pending: Array
    note: Mapping[str, Any] = field(default_factory=dict)
    unconditioned: Mapping[int, Surrogate] = field(default_factory=dict)
    is_used: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=bool))
    failures: Mapping[str, str] = field(default_factory=dict)
    failure: Classifier | None = None
    by_chance: float | None = None

    @classmethod
    def fit(
        cls,
        history: History,
        embedding: Embedding,
        spec: ModelSpec,
        replaced: Mapping[str, ModelSpec | ModelFitter] | None = None,
    ) -> FittedModels:
        """Fit every model to the part of the history where its value is known.

        Hyperparameters in the history's notes serve as starts, so a fit depends on nothing but its arguments.

        Args:
            history: What is known.
            embedding: From full rows to features.
            spec: Of every model that is not replaced.
            replaced: By `loss j` and `slack j`, what takes the place of `spec`. If it fails, the default is fitted.
        """
        fits = _ModelFits(history, embedding, spec, replaced or {})
        unconditioned: dict[int, Surrogate] = {}
        objectives: dict[int, Surrogate] = {}
        constraints: dict[str, Surrogate] = {}
        for known in known_values(history, fits.is_used):
            model, conditioned = fits.fit(known)
            if known.is_loss:
                unconditioned[known.index], objectives[known.index] = model, conditioned
            else:
                constraints[known.name] = conditioned
        failure = fits.classifier()
        return cls(
            embedding,
            fits.spec,
            history.losses.shape[1],
            fits.rows,
            fits.features,
            objectives,
            constraints,
            fits.X_pending,
            {"hyperparameters": fits.hyperparameters, **({"trouble": fits.errors} if fits.errors else {})},
            unconditioned,
            fits.is_used,
            fits.failures,
            failure,
            fits.by_chance,
        )

    @property
    def has_all_objectives(self) -> bool:
        """Whether a loss of every objective is known."""
        return len(self.objectives) == self.n_objectives

    def mean_losses(self, features: Array) -> Array:
        """Return the predicted mean losses at features `(k, D)`, standardized: shape `(k, m)`."""
        return np.stack([self.objectives[j].predict_mean(features) for j in sorted(self.objectives)], axis=1)


class _ModelFits:
    """Fits the models of a history one by one, and collects what a proposal notes of them.

    Attributes:
        spec: Of every model that is not replaced.
        rows, features, X_pending, is_used: As of `FittedModels`.
        hyperparameters: By model, as JSON.
        errors: By model: why a fit of the closed form fell back to earlier hyperparameters.
        failures: By model: why the default took the place of a replaced one.
        by_chance: As of `FittedModels`; known after `classifier`.
    """

    def __init__(
        self, history: History, embedding: Embedding, spec: ModelSpec, replaced: Mapping[str, ModelSpec | ModelFitter]
    ) -> None:
        self._history, self._embedding, self._replaced = history, embedding, replaced
        # Effects of choices and stepped numbers tend to add up; among continuous parameters a trend gained nothing.
        self.spec = replace(spec, has_trend=not embedding.encoder.is_continuous.all())
        self.rows = embedding.encoder.rows(history.points)
        self.features = embedding.features(self.rows)
        self.is_used = learned_from(history)
        is_pending = history.has_status("pending")
        self.X_pending = self.features[is_pending]
        # Hyperparameters are fitted again as the study grows, also while the number of points in use stays the same.
        self._growth = (~is_pending).sum() / max((self.is_used & ~is_pending).sum(), 1)
        self._has_log_tail = uses_log_tail(history, embedding.encoder.space)
        self.hyperparameters: dict[str, Any] = {}
        self.errors: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self.by_chance: float | None = None

    def fit(self, known: KnownValues) -> tuple[Surrogate, Surrogate]:
        """Return the model of some values, and the same conditioned on the pending points."""
        log_tail = known.is_loss and self._has_log_tail
        features = self.features[known.is_known]
        chosen = self._replaced.get(known.name, self.spec)
        if not isinstance(chosen, ModelSpec):
            try:
                return _fit_replaced(chosen, features, known.values, log_tail, known.stds, self.X_pending)
            except Exception as error:  # noqa: BLE001 - whatever the parts of a person raise
                self.failures[known.name] = first_line(error)
                chosen = replace(ModelSpec(), has_trend=self.spec.has_trend)
        fitted = fit(
            chosen,
            self._embedding.owner,
            self._embedding.encoder.d,
            features,
            known.values,
            earlier_hyperparameters(self._history, known.name),
            log_tail=log_tail,
            width=prior_width(self._history.losses.shape[1]),
            growth=self._growth,
            known_stds=known.stds,
        )
        self.hyperparameters[known.name] = fitted.model.hyper.to_json()
        if fitted.error:
            self.errors[known.name] = fitted.error
        return fitted.model, fitted.model.condition_on_mean(self.X_pending)

    def classifier(self) -> Classifier | None:
        """Return the classifier of failed trials; None as `FittedModels.failure` says.

        A classifier keeps the search out of a region where trials failed, so it would never learn that they failed by
        chance there. Hence each hypothesis proposes the share of the trials that is its probability (Thompson
        sampling): with the probability of chance failures are left out. The trials are spread evenly, and follow from
        the length of the history alone.
        """
        failed = self._history.has_status("failed") & self.is_used
        if not failed.any():
            return None
        ended = failed | (self._history.has_status("told") & self.is_used)
        features, labels = self.features[ended], np.where(failed, FAILED, SUCCEEDED)[ended]
        evidence = evidence_of_dependence(self._embedding, self.spec, features, labels)
        if evidence <= 0:
            return None
        by_chance = float(expit(-evidence))
        if (len(self._history) * _STRIDE) % 1.0 < by_chance:
            self.by_chance = by_chance
            return None
        kernel, d = ModelSpec(self.spec.kernel), self._embedding.encoder.d
        earlier = earlier_hyperparameters(self._history, "failure")
        try:
            fitted = fit_classifier(kernel, self._embedding.owner, d, features, labels, earlier)
        except np.linalg.LinAlgError as error:
            self.errors["failure"] = first_line(error)
            return None
        self.hyperparameters["failure"] = fitted.hyper.to_json()
        return fitted


@dataclass(frozen=True, eq=False)
class KnownValues:
    """What is known of a loss or of a slack, at least at one point.

    Attributes:
        index: Its column in the history.
        is_loss: Whether it is a loss.
        is_known: Shape `(n,)`; the points where it is known.
        values: Shape `(k,)`, in its own units; losses without penalties.
        stds: Shape `(k,)`; known standard deviations of their noise, NaN where unknown; None if none is known.
    """

    index: int
    is_loss: bool
    is_known: NDArray[np.bool_]
    values: Array
    stds: Array | None

    @property
    def name(self) -> str:
        """`loss j` or `slack j`."""
        return f"{'loss' if self.is_loss else 'slack'} {self.index}"


def known_values(history: History, is_used: NDArray[np.bool_]) -> Iterator[KnownValues]:
    """Yield what is known of each loss and then of each slack, at the points in use; `is_used` has the shape `(n,)`."""
    told = history.has_status("told") & is_used
    feasible = history.losses[history.is_feasible]
    worst_on_front = feasible[is_non_dominated(feasible)].max(0, initial=-np.inf)
    n_losses = history.losses.shape[1]
    for j, column in enumerate(history.losses.T):
        is_known = told & np.isfinite(column)
        if is_known.any():
            stds = history.noise_of(j)
            values = without_penalties(column[is_known], worst_on_front[j])
            yield KnownValues(j, True, is_known, values, None if stds is None else stds[is_known])
    for j, column in enumerate(history.slacks.T):
        is_known = np.isfinite(column) & is_used
        if is_known.any():
            stds = history.noise_of(n_losses + j)
            yield KnownValues(j, False, is_known, column[is_known], None if stds is None else stds[is_known])


def _fit_replaced(
    fitter: ModelFitter, features: Array, values: Array, log_tail: bool, stds: Array | None, X_pending: Array
) -> tuple[Surrogate, Surrogate]:
    """Return a model that has no closed form, and the same conditioned on the pending points.

    Raises:
        Exception: The fit fails, or the model predicts no finite values.
    """
    y, transform = OutcomeTransform.fit(values, log_tail=log_tail and not fitter.is_of_person)
    known_noise = known_noise_of(ModelSpec(), values, transform, stds)
    model = fitter.fit(features, y, transform, known_noise)
    conditioned = model.condition_on_mean(X_pending)
    if not np.isfinite(conditioned.predict(features)).all():
        raise ValueError("its predictions are not finite")
    return model, conditioned


def learned_from(history: History) -> NDArray[np.bool_]:
    """Return for each point whether surrogates learn from it, shape `(n,)`; pending points are always among them.

    Of many points these are the best ones, near which the search goes on, and a share of all others, which says where
    nothing is to be found. The choice depends on the history alone, so a resumed search makes the same proposals.
    """
    chosen = history.has_status("pending")
    ended = np.flatnonzero(~chosen)
    if len(ended) <= MAX_POINTS:
        return np.ones(len(history), dtype=bool)
    order = ended[np.argsort(_badness(history)[ended], kind="stable")]
    n_best = int(BEST_SHARE * MAX_POINTS)
    chosen[order[:n_best]] = True
    others = np.sort(order[n_best:])
    # A point keeps its place when others come, so the choice changes little from trial to trial.
    place = (others * _STRIDE) % 1.0
    chosen[others[np.argsort(place, kind="stable")[: MAX_POINTS - n_best]]] = True
    return chosen


def _badness(history: History) -> Array:
    """Return a number for each point; smaller is better. Shape `(n,)`.

    Feasible points come first, by their ranks in the objectives; with several objectives a point counts by the
    weighting of ranks that favours it most. Then points that violate constraints, by how much; failed ones are last.
    """
    n, m = history.losses.shape
    badness = np.full(n, np.inf)
    feasible = history.is_feasible
    if feasible.any():
        ranks = rankdata(history.losses[feasible], axis=0) / n
        by_weight = [np.max(ranks * weights, axis=1) for weights in _weights(m)]
        badness[feasible] = np.min([rankdata(scores) for scores in by_weight], axis=0)
    told = history.has_status("told") & ~feasible
    if told.any() and history.slacks.shape[1] > 0:
        badness[told] = n + rankdata(violations(history.slacks[told]))
    return badness


def _weights(m: int) -> Array:
    """Return weightings of `m` objectives, one per row: each alone, and mixtures of all."""
    if m == 1:
        return np.ones((1, 1))
    steps = np.linspace(0.0, 1.0, 5)
    grid = np.stack(np.meshgrid(*[steps] * m), axis=-1).reshape(-1, m)
    return np.asarray(grid[np.isclose(grid.sum(1), 1.0)] + 1e-3)


def prior_width(n_objectives: int) -> float:
    """Return the width of the prior on lengthscales."""
    return LENGTHSCALE_PRIOR_WIDTH if n_objectives == 1 else LENGTHSCALE_PRIOR_WIDTH_MULTI_OBJECTIVE


def uses_log_tail(history: History, space: Space) -> bool:
    """Return whether losses that are worse than the median count by their logarithm.

    Not with several objectives: the hypervolume is measured on the linear scale. Not in a conditional space either: the
    first values of a branch are bad, and only their differences are known of it.
    """
    return history.losses.shape[1] == 1 and not space.has_conditions


def compiled(
    definition: Definition, embedding: Embedding, *, n_objectives: int, seed: int, n: int
) -> ModelSpec | ModelFitter:
    """Return what evaluates a surrogate: the closed form where it can, else models of GPyTorch.

    Args:
        definition: What a person passed.
        embedding: Of the space.
        n_objectives: Of the search.
        seed: Of the search.
        n: How many points a model has at least, when the search uses one.

    Raises:
        GoalError: It cannot be a surrogate of this space.
    """
    has_trend = not embedding.encoder.is_continuous.all()
    if isinstance(definition, SurrogateSpec) and definition.closed_form is not None:
        return replace(definition.closed_form, has_trend=has_trend)
    from nbcompress.optimize.surrogates.botorch import TorchFactory, compile_definition

    width = prior_width(n_objectives)
    factory = TorchFactory(definition, embedding.owner, embedding.is_choice, embedding.is_plain, width, has_trend, seed)
    return compile_definition(definition, factory, embedding.labels(), n) or factory


def evidence_of_dependence(embedding: Embedding, spec: ModelSpec, features: Array, labels: Array) -> float:
    """Return how much better labels of failure are predicted from nearby points than by chance, in nats.

    Failures may depend on the point (too little memory) or not (a flaky machine), or some of each. Each label is
    predicted from those of the other points, by a regression on labels with fixed lengthscales, for several shares of
    the labels' variance that depend on the point; the best one counts. Successes near failures speak for chance.
    """
    lengthscales = np.full(embedding.encoder.d, FAILURE_LENGTHSCALE * np.sqrt(embedding.encoder.d))
    scores = []
    for share in (1.0, *FAILURE_SHARES):
        hyper = Hyperparameters(lengthscales, share * FAILURE_SIGNAL, (1.0 - share) * FAILURE_SIGNAL + FAILURE_NOISE)
        model = GaussianProcess(ModelSpec(spec.kernel), hyper, embedding.owner, features, labels)
        mean, std = model.leave_one_out()
        scores.append(_log_score(ndtr(-mean / std), labels))
    # By chance: the share of successes among the others, with one more of each.
    succeeded = labels == SUCCEEDED
    others = succeeded.sum() - succeeded
    return max(scores) - _log_score((others + 1.0) / (len(labels) + 1.0), labels)


def _log_score(probabilities: Array, labels: Array) -> float:
    """Return the log probability of the labels, given the probability that each trial succeeds."""
    chances = np.where(labels == SUCCEEDED, probabilities, 1.0 - probabilities)
    return float(np.log(chances.clip(FAILURE_CERTAINTY, 1.0)).sum())


def earlier_hyperparameters(history: History, name: str) -> list[Hyperparameters]:
    """Return the latest hyperparameters of a model that the history's notes hold, newest first."""
    found: list[Hyperparameters] = []
    for note in reversed(history.notes):
        stored = note.get("hyperparameters", {}).get(name)
        if stored is not None:
            found.append(Hyperparameters.from_json(stored))
            if len(found) == MAX_EARLIER:
                break
    return found
