"""What a study hands out of its surrogate: BoTorch models in the units of the metrics, and predictions.

The model of a metric is the definition that the search uses, fitted to linearly standardized values, so that it is an
exact Gaussian process in the units of the metric. (The search itself has a logarithmic tail for bad values.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbcompress.choices import KERNELS, MEANS
from nbcompress.errors import GoalError, StudyError, did_you_mean, option, shown
from nbcompress.run.history import noise_stds
from nbcompress.run.options import noise_names
from nbcompress.study.goal import Goal, State, Trial

if TYPE_CHECKING:
    import pandas as pd

    from nbcompress.optimize.encoding import Embedding
    from nbcompress.space import Point
    from nbcompress.study import Study


def by_role(given: Any, goal: Goal, keyword: str = "surrogate") -> Any:
    """Return an option as a proposer takes it: a dict by metric becomes one by `loss j` and `slack j`.

    Raises:
        GoalError: A key is no metric of the goal.
    """
    if not isinstance(given, Mapping):
        return given
    for metric in given:
        if metric not in goal.metrics:
            raise GoalError(
                f"{option(keyword)} as a dict is by metric ({', '.join(goal.metrics)}), but got {metric!r}."
                f"{did_you_mean(metric, goal.metrics)}"
            )
    losses = {f"loss {j}": given.get(part.metric) for j, part in enumerate(goal.objectives)}
    return losses | {f"slack {j}": given.get(part.metric) for j, part in enumerate(goal.constraints)}


def is_larger_better(metric: str, goal: Goal) -> bool:
    """Return the direction of a metric: of its objective, else of its constraint; others are minimized."""
    for objective in goal.objectives:
        if objective.metric == metric:
            return objective.direction == "maximize"
    return any(constraint.metric == metric and constraint.operator == ">=" for constraint in goal.constraints)


class SearchPredictor:
    """Fits the surrogate of a search to a study; implements `study.predictions.Predictor`.

    Args:
        surrogate, kernel, mean: As the options of the search.
        noise: By metric, the name of the metric that holds its standard deviation.
    """

    def __init__(
        self,
        surrogate: Any = None,
        kernel: Any = KERNELS[0],
        mean: Any = MEANS[0],
        noise: Mapping[str, str] | None = None,
    ) -> None:
        self._surrogate, self._kernel, self._mean, self.noise = surrogate, kernel, mean, dict(noise or {})
        self._embedding: Embedding | None = None
        # The latest fit of each metric, with the trials that it was fitted to.
        self._fits: dict[str, tuple[tuple[Trial, ...], Any, float]] = {}

    @classmethod
    def of_record(cls, study: Study) -> SearchPredictor:
        """Return the predictor of a study that was opened again: its record holds names, no objects.

        Raises:
            GoalError: The surrogate was an object of an earlier session.
        """
        from nbcompress.optimize.surrogates.protocol import from_record

        search = study.record.get("search", {})
        parts = {name: from_record(search[name]) for name in ("surrogate", "kernel", "mean") if name in search}
        return cls(**parts, noise=noise_names(search.get("noise", ()), study.goal))

    def definition(self, goal: Goal) -> dict[str, Any]:
        """Return surrogate, kernel and mean as a proposer takes them."""
        return {"surrogate": by_role(self._surrogate, goal), "kernel": self._kernel, "mean": self._mean}

    def surrogate(self, study: Study, metric: str) -> Any:
        """Return a BoTorch model of a metric, in its units and with its sign."""
        from nbcompress.optimize.surrogates.botorch import as_botorch, in_units
        from nbcompress.optimize.surrogates.closed_form import GaussianProcess

        fitted, sign = self._fitted(study, metric)
        transform = fitted.outcome_transform
        shift, scale = float(transform.untransform(np.zeros(1), np.zeros(1))[0][0]), transform.linear_scale
        if isinstance(fitted, GaussianProcess):
            return as_botorch(fitted, 1.0, (shift, scale))
        # The model is of `-y`, where y is `sign` times the metric.
        return in_units(deepcopy(fitted.model), sign * shift, -sign * scale)

    def encode(self, study: Study, points: Sequence[Mapping[str, Any]]) -> Any:
        """Return points as the tensor that `surrogate` takes."""
        import torch

        return torch.tensor(self._features(study, points), dtype=torch.float64)

    def decode(self, study: Study, X: Any) -> list[Point]:
        """Return the points nearest to rows of encoded parameters."""
        array = np.asarray(X.detach().cpu().numpy() if hasattr(X, "detach") else X, dtype=np.float64)
        embedding = self._embedding_of(study)
        if array.ndim == 1 and array.shape[0] == embedding.n_features:
            array = array[None]
        if array.ndim != 2 or array.shape[1] != embedding.n_features or not np.isfinite(array).all():
            raise StudyError(
                f"study.decode takes finite numbers of the shape (n, {embedding.n_features}), one column for each of "
                f"{', '.join(embedding.labels())}, but got the shape {array.shape}."
            )
        return embedding.points(array)

    def predict(self, study: Study, points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """Return mean and 95 % interval of every metric at points."""
        import pandas as pd

        from nbcompress.optimize.insight import WIDTH_95

        features = self._features(study, points)
        columns: dict[str, NDArray[np.float64]] = {}
        for metric in study.goal.metrics:
            fitted, sign = self._fitted(study, metric)
            mean, std = fitted.untransform(*fitted.predict(features))
            mean = sign * mean
            columns |= {metric: mean, f"{metric}_low": mean - WIDTH_95 * std, f"{metric}_high": mean + WIDTH_95 * std}
        return pd.DataFrame(columns)

    def _features(self, study: Study, points: Any) -> NDArray[np.float64]:
        listed = [points] if isinstance(points, Mapping) else points
        if isinstance(listed, str) or not all(isinstance(point, Mapping) for point in listed):
            raise StudyError(
                f"Points are dicts of the active parameters, such as study.best.point; got {shown(points)}."
            )
        embedding = self._embedding_of(study)
        checked = [study.space.check(point) for point in listed]
        return np.array(embedding.features(embedding.encoder.rows(checked)))

    def _embedding_of(self, study: Study) -> Embedding:
        if self._embedding is None:
            from nbcompress.optimize.encoding import Embedding, SpaceEncoder

            self._embedding = Embedding(SpaceEncoder(study.space))
        return self._embedding

    def _fitted(self, study: Study, metric: str) -> tuple[Any, float]:
        """Return the fitted surrogate of `sign` times a metric, and the sign.

        Raises:
            StudyError: There is no such metric, or no trial has it.
        """
        trials = study.all_trials
        known = [
            trial
            for trial in trials
            if trial.state is not State.RUNNING and math.isfinite(trial.values.get(metric, math.nan))
        ]
        if not known:
            names = dict.fromkeys([*study.goal.metrics, *(name for trial in trials for name in trial.values)])
            near = did_you_mean(metric, names)
            if metric in study.goal.metrics:
                raise StudyError(f"No trial of study {study.name!r} has the metric {metric!r} yet.")
            raise StudyError(f"A metric of study {study.name!r} is {', '.join(names)}, but got {metric!r}.{near}")
        cached = self._fits.get(metric)
        if cached is None or [id(trial) for trial in cached[0]] != [id(trial) for trial in known]:
            self._fits[metric] = (tuple(known), *self._fit(study, metric, known))
        return self._fits[metric][1:]

    def _fit(self, study: Study, metric: str, trials: Sequence[Trial]) -> tuple[Any, float]:
        """Return the surrogate fitted to `sign` times a metric, and the sign."""
        from nbcompress.optimize.models import compiled, prior_width
        from nbcompress.optimize.outcome_transform import OutcomeTransform
        from nbcompress.optimize.proposers.gp import n_initial_points, single_threaded_blas
        from nbcompress.optimize.surrogates.closed_form import ModelSpec
        from nbcompress.optimize.surrogates.fit import fit, known_noise_of
        from nbcompress.optimize.surrogates.protocol import definition_of

        surrogate = self._surrogate.get(metric) if isinstance(self._surrogate, Mapping) else self._surrogate
        embedding = self._embedding_of(study)
        n_objectives = len(study.goal.objectives)
        definition = definition_of(surrogate, self._kernel, self._mean)
        n = n_initial_points(embedding.encoder.d)
        chosen = compiled(definition, embedding, n_objectives=n_objectives, seed=0, n=n)
        features = self._features(study, [trial.point for trial in trials])
        values = np.array([trial.values[metric] for trial in trials])
        stds = noise_stds(trials, metric, self.noise.get(metric))
        with single_threaded_blas():
            if isinstance(chosen, ModelSpec):
                d, width = embedding.encoder.d, prior_width(n_objectives)
                return fit(chosen, embedding.owner, d, features, values, width=width, known_stds=stds).model, 1.0
            # BoTorch's models are of `-y`. A factory of a person gets values of which larger is better.
            sign = 1.0 if chosen.is_of_person and not is_larger_better(metric, study.goal) else -1.0
            y, transform = OutcomeTransform.fit(sign * values)
            known_noise = known_noise_of(ModelSpec(), sign * values, transform, stds)
            return chosen.fit(features, y, transform, known_noise), sign


def predictor_of(study: Study) -> SearchPredictor:
    """Return the predictor of a study that no search of this session has; see `study.predictions`."""
    return SearchPredictor.of_record(study)
