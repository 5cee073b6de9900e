"""The models fitted to a history: one per objective, one per constraint and one for failure.

Each is a Gaussian process in closed form, or what a person put in its place (`compiled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbcompress.errors import first_line
from nbcompress.optimize.encoding import Embedding
from nbcompress.optimize.history import Array, History
from nbcompress.optimize.outcome_transform import OutcomeTransform, without_penalties
from nbcompress.optimize.subset import learned_from
from nbcompress.optimize.surrogates.classifier import FAILED, SUCCEEDED, Classifier, fit_classifier
from nbcompress.optimize.surrogates.closed_form import GaussianProcess, Hyperparameters, ModelSpec
from nbcompress.optimize.surrogates.fit import (
    LENGTHSCALE_PRIOR_WIDTH,
    LENGTHSCALE_PRIOR_WIDTH_MULTI_OBJECTIVE,
    fit,
    known_noise_of,
)
from nbcompress.optimize.surrogates.protocol import Definition, ModelFitter, Surrogate, SurrogateSpec
from nbcompress.study.front import is_non_dominated

# How many earlier sets of hyperparameters are tried after a failed fit.
MAX_EARLIER = 3


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
        failure: The classifier of failed trials; None if no trial has failed. A pending point has no label yet.
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
        rows = embedding.encoder.rows(history.points)
        features = embedding.features(rows)
        is_used = learned_from(history)
        told, failed = history.has_status("told") & is_used, history.has_status("failed") & is_used
        X_pending = features[history.has_status("pending")]
        hyper: dict[str, Any] = {}
        errors: dict[str, str] = {}

        # Hyperparameters are fitted again as the study grows, also while the number of points in use stays the same.
        is_ended = ~history.has_status("pending")
        growth = is_ended.sum() / max((is_used & is_ended).sum(), 1)

        # No log tail with several objectives: the hypervolume is measured on the linear scale. No log tail in a
        # conditional space either: the first values of a branch are bad, and only their differences are known of it.
        is_single = history.losses.shape[1] == 1
        log_tail = is_single and not embedding.encoder.space.has_conditions
        width = prior_width(history.losses.shape[1])
        # Effects of choices and stepped numbers tend to add up; among continuous parameters a trend gained nothing.
        spec = replace(spec, has_trend=not embedding.encoder.is_continuous.all())

        replaced = replaced or {}
        failures: dict[str, str] = {}

        def fit_closed_form(
            chosen: ModelSpec, name: str, known: Array, values: Array, log_tail: bool, stds: Array | None
        ) -> GaussianProcess:
            earlier = _earlier_hyperparameters(history, name)
            fitted = fit(
                chosen,
                embedding.owner,
                embedding.encoder.d,
                known,
                values,
                earlier,
                log_tail=log_tail,
                width=width,
                growth=growth,
                known_stds=stds,
            )
            hyper[name] = fitted.model.hyper.to_json()
            if fitted.error:
                errors[name] = fitted.error
            return fitted.model

        def fit_model(
            name: str, known: Array, values: Array, log_tail: bool = False, stds: Array | None = None
        ) -> tuple[Surrogate, Surrogate]:
            """Return the model of some values, and the same conditioned on the pending points."""
            chosen = replaced.get(name, spec)
            if not isinstance(chosen, ModelSpec):
                try:
                    return _fit_replaced(chosen, known, values, log_tail, stds, X_pending)
                except Exception as error:  # noqa: BLE001 - whatever the parts of a person raise
                    failures[name] = first_line(error)
                    chosen = replace(ModelSpec(), has_trend=spec.has_trend)
            model = fit_closed_form(chosen, name, known, values, log_tail, stds)
            return model, model.condition_on_mean(X_pending)

        n_losses = history.losses.shape[1]
        unconditioned: dict[int, Surrogate] = {}
        objectives: dict[int, Surrogate] = {}
        worst_on_front = _worst_on_front(history)
        for j, column in enumerate(history.losses.T):
            known = told & np.isfinite(column)
            if known.any():
                values = without_penalties(column[known], worst_on_front[j])
                stds = history.noise_of(j)
                unconditioned[j], objectives[j] = fit_model(
                    f"loss {j}", features[known], values, log_tail, None if stds is None else stds[known]
                )
        constraints: dict[str, Surrogate] = {}
        failure: Classifier | None = None
        for j, column in enumerate(history.slacks.T):
            known = np.isfinite(column) & is_used
            if known.any():
                stds = history.noise_of(n_losses + j)
                _, constraints[f"slack {j}"] = fit_model(
                    f"slack {j}", features[known], column[known], stds=None if stds is None else stds[known]
                )
        if failed.any():
            ended = told | failed
            labels = np.where(failed, FAILED, SUCCEEDED)[ended]
            failure = fit_classifier(
                ModelSpec(spec.kernel),
                embedding.owner,
                embedding.encoder.d,
                features[ended],
                labels,
                _earlier_hyperparameters(history, "failure"),
            )
            hyper["failure"] = failure.hyper.to_json()
        note = {"hyperparameters": hyper, **({"trouble": errors} if errors else {})}
        return cls(
            embedding,
            spec,
            history.losses.shape[1],
            rows,
            features,
            objectives,
            constraints,
            X_pending,
            note,
            unconditioned,
            is_used,
            failures,
            failure,
        )

    @property
    def has_all_objectives(self) -> bool:
        """Whether a loss of every objective is known."""
        return len(self.objectives) == self.n_objectives

    def mean_losses(self, features: Array) -> Array:
        """Return the predicted mean losses at features `(k, D)`, standardized: shape `(k, m)`."""
        return np.stack([self.objectives[j].predict_mean(features) for j in sorted(self.objectives)], axis=1)


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


def prior_width(n_objectives: int) -> float:
    """Return the width of the prior on lengthscales."""
    return LENGTHSCALE_PRIOR_WIDTH if n_objectives == 1 else LENGTHSCALE_PRIOR_WIDTH_MULTI_OBJECTIVE


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


def _worst_on_front(history: History) -> Array:
    """Return the largest of each loss, shape `(m,)`, among the non-dominated feasible points."""
    feasible = history.losses[history.is_feasible]
    return np.asarray(feasible[is_non_dominated(feasible)].max(0, initial=-np.inf))


def _earlier_hyperparameters(history: History, name: str) -> list[Hyperparameters]:
    """Return the latest hyperparameters of a model that the history's notes hold, newest first."""
    found: list[Hyperparameters] = []
    for note in reversed(history.notes):
        stored = note.get("hyperparameters", {}).get(name)
        if stored is not None:
            found.append(Hyperparameters.from_json(stored))
            if len(found) == MAX_EARLIER:
                break
    return found
