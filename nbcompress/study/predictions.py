"""What a study predicts: the surrogate of its search, which a higher floor fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nbcompress.public import slot

if TYPE_CHECKING:
    import pandas as pd

    from nbcompress.space import Point


class Predictor(Protocol):
    """Fits surrogates to a study; `nbcompress.run` has it."""

    def surrogate(self, study: Any, metric: str) -> Any: ...
    def encode(self, study: Any, points: Sequence[Mapping[str, Any]]) -> Any: ...
    def decode(self, study: Any, X: Any) -> list[Point]: ...
    def predict(self, study: Any, points: Sequence[Mapping[str, Any]]) -> pd.DataFrame: ...


class PredictingStudy:
    """The part of a `Study` that predicts.

    Attributes:
        predictor: What fits the surrogates; the search of this session sets it. None takes what the record of the study
            names.
    """

    predictor: Predictor | None = None

    def surrogate(self, metric: str) -> Any:
        """Return a BoTorch model of a metric in its own units and sign, fitted to the trials.

        It is the definition that the search uses, fitted to linearly standardized values. Its inputs are what `encode`
        returns. Each call returns a model of its own.

        Args:
            metric: The name of a metric.

        Raises:
            StudyError: There is no such metric, or no trial has it yet.
            GoalError: The surrogate was an object of an earlier session, which was not stored.

        Example:
            >>> import nbcompress as nc
            >>> study = nc.maximize(lambda x: -((x - 0.3) ** 2), {"x": nc.Float(-1, 1)}, trials=8)
            >>> model = study.surrogate("value")
            >>> posterior = model.posterior(study.encode([{"x": 0.3}]))
            >>> abs(posterior.mean.item()) < 0.1
            True
        """
        return self._predictor().surrogate(self, metric)

    def encode(self, points: Sequence[Mapping[str, Any]]) -> Any:
        """Return points as a double tensor `(n, D)` in the unit cube, as the surrogate takes them.

        A number has one column, an unordered choice one for each option, a conditional number two.

        Args:
            points: Dicts of the active parameters.

        Raises:
            PointError: A point is not in the space.
        """
        return self._predictor().encode(self, points)

    def decode(self, X: Any) -> list[Point]:
        """Return the points nearest to encoded ones, as dicts of the active parameters.

        Args:
            X: A tensor or an array `(n, D)`.

        Raises:
            StudyError: It has another shape.

        Example:
            >>> import nbcompress as nc
            >>> space = {"x": nc.Float(-1, 1), "kind": nc.Choice("a", "b")}
            >>> study = nc.search(lambda x, kind: {"loss": x}, space, minimize="loss", trials=2, sampler="sobol")
            >>> study.decode(study.encode([{"x": 0.5, "kind": "b"}]))
            [{'x': 0.5, 'kind': 'b'}]
        """
        return self._predictor().decode(self, X)

    def predict(self, points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """Return what the surrogate predicts at points, one row for each, in the order given.

        Args:
            points: Dicts of the active parameters.

        Returns:
            For every metric `m` of the goal the columns `m`, `m_low` and `m_high`: the mean and the 95 % interval of
            the value without noise.

        Raises:
            PointError: A point is not in the space.
            StudyError: No trial has a metric yet.

        Example:
            >>> import nbcompress as nc
            >>> study = nc.maximize(lambda x: -((x - 0.3) ** 2), {"x": nc.Float(-1, 1)}, trials=8)
            >>> table = study.predict([{"x": 0.3}, {"x": -1.0}])
            >>> list(table.columns), bool(table.value[0] > table.value[1])
            (['value', 'value_low', 'value_high'], True)
        """
        return self._predictor().predict(self, points)

    def _predictor(self) -> Predictor:
        if self.predictor is None:
            self.predictor = slot("predictor")(self)
        assert self.predictor is not None
        return self.predictor
