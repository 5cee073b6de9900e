"""What the surrogate believes after a history: one process for each loss, each slack and for failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nbcompress.optimize.encoding import Embedding
from nbcompress.optimize.history import Array, History
from nbcompress.optimize.multi_objective import is_efficient
from nbcompress.optimize.outcome_transform import without_penalties
from nbcompress.optimize.surrogates.closed_form import Form, GaussianProcess, Hyperparameters
from nbcompress.optimize.surrogates.fit import LENGTHSCALE_WIDTH, LENGTHSCALE_WIDTH_OF_SEVERAL, Fit, fit

# How many older sets of hyperparameters are tried after a failed fit.
MAX_OLDER = 3
# Labels of a trial that failed and of one that ran; a slack is feasible at or below 0.
FAILED, RAN = 1.0, -1.0
# The process of these labels is not fitted: a step has no lengthscale, and what fits it best forgets failures a short
# way off. Lengthscale times the root of the dimension, signal and noise are heuristics, chosen on two problems where
# the optimum lies at the edge of what runs.
FAILURE_LENGTHSCALE, FAILURE_SIGNAL, FAILURE_NOISE = 0.5, 1.0, 0.01


@dataclass(frozen=True, eq=False)
class Belief:
    """Processes over the features of a space.

    Attributes:
        embedding: From full rows to features.
        rows: Shape `(n, d)`; full rows of the history.
        features: Shape `(n, D)`.
        losses: A process for each objective with a known loss, by its index.
        limits: Processes that should be at most 0: slacks, by `slack j`, and `failure`.
        pending: Shape `(p, D)`; features of the points that run. Every process believes its own mean there.
        note: What `Proposal.note` keeps: hyperparameters, and `trouble` where a fit failed.
        fitted: The processes of `losses` before they believed in pending points.
    """

    embedding: Embedding
    history: History
    rows: Array
    features: Array
    losses: Mapping[int, GaussianProcess]
    limits: Mapping[str, GaussianProcess]
    pending: Array
    note: Mapping[str, Any] = field(default_factory=dict)
    fitted: Mapping[int, GaussianProcess] = field(default_factory=dict)

    @classmethod
    def after(cls, history: History, embedding: Embedding, form: Form) -> Belief:
        """Fit every process to what is known of it."""
        rows = embedding.axes.rows(history.points)
        features = embedding.features(rows)
        told, failed = history.having("told"), history.having("failed")
        pending = features[history.having("pending")]
        hyper: dict[str, Any] = {}
        trouble: dict[str, str] = {}

        # A front's hypervolume is measured in the losses' own scale. And in a conditional space a branch begins with
        # bad values, whose differences are all that is known of it.
        is_single = history.losses.shape[1] == 1
        damped = is_single and not embedding.axes.space.has_conditions
        width = LENGTHSCALE_WIDTH if is_single else LENGTHSCALE_WIDTH_OF_SEVERAL
        # What choices and stepped numbers do tends to add up. Among continuous parameters alone a trend won nothing.
        form = replace(form, has_trend=not embedding.axes.is_continuous.all())

        def learn(name: str, known: Array, values: Array, is_damped: bool = False) -> GaussianProcess:
            older = _older(history, name)
            found: Fit = fit(
                form, embedding.owner, embedding.axes.d, known, values, older, damped=is_damped, width=width
            )
            hyper[name] = found.process.hyper.to_json()
            if found.trouble:
                trouble[name] = found.trouble
            return found.process

        fitted: dict[int, GaussianProcess] = {}
        ends_of_front = _ends_of_front(history)
        for j, column in enumerate(history.losses.T):
            known = told & np.isfinite(column)
            if known.any():
                values = without_penalties(column[known], ends_of_front[j])
                fitted[j] = learn(f"loss {j}", features[known], values, damped)
        limits: dict[str, GaussianProcess] = {}
        for j, column in enumerate(history.slacks.T):
            known = np.isfinite(column)
            if known.any():
                limits[f"slack {j}"] = learn(f"slack {j}", features[known], column[known]).believing(pending)
        if failed.any():
            ended = told | failed
            labels = np.where(failed, FAILED, RAN)[ended]
            limits["failure"] = _failure(embedding, form, features[ended], labels).believing(pending)
        note = {"hyperparameters": hyper, **({"trouble": trouble} if trouble else {})}
        losses = {j: process.believing(pending) for j, process in fitted.items()}
        return cls(embedding, history, rows, features, losses, limits, pending, note, fitted)

    def standard_losses(self, features: Array) -> Array:
        """Return the predicted mean losses at features `(k, D)`, standardised: shape `(k, m)`."""
        return np.stack([self.losses[j].means(features) for j in sorted(self.losses)], axis=1)


def _ends_of_front(history: History) -> Array:
    """Return the largest of each loss, shape `(m,)`, among the feasible points that nothing beats."""
    feasible = history.losses[history.is_feasible]
    return np.asarray(feasible[is_efficient(feasible)].max(0, initial=-np.inf))


def _failure(embedding: Embedding, form: Form, features: Array, labels: Array) -> GaussianProcess:
    lengthscales = np.full(embedding.axes.d, FAILURE_LENGTHSCALE * np.sqrt(embedding.axes.d))
    hyper = Hyperparameters(lengthscales, FAILURE_SIGNAL, FAILURE_NOISE)
    return GaussianProcess(Form(form.kernel), hyper, embedding.owner, features, labels)


def _older(history: History, name: str) -> list[Hyperparameters]:
    """Return the newest hyperparameters of a process that the history's notes hold, newest first."""
    found: list[Hyperparameters] = []
    for note in reversed(history.notes):
        stored = note.get("hyperparameters", {}).get(name)
        if stored is not None:
            found.append(Hyperparameters.from_json(stored))
            if len(found) == MAX_OLDER:
                break
    return found
