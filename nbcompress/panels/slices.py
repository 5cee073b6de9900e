"""Slices of the surrogate in the units of the metrics: what the acquisition view draws."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from nbcompress.panels.text import finite
from nbcompress.study.goal import Goal


class SliceLike(Protocol):
    """What `nbcompress.optimize.slice_of` returns, all objectives minimised.

    Attributes:
        values: The n values of the parameter.
        mean: Posterior mean of the m objectives as losses, shape (m, n).
        std: Posterior standard deviation, shape (m, n).
        acquisition: The acquisition, shape (n,).
    """

    @property
    def values(self) -> Any: ...
    @property
    def mean(self) -> Any: ...
    @property
    def std(self) -> Any: ...
    @property
    def acquisition(self) -> Any: ...


def slice_data(parameter: str, one: SliceLike, goal: Goal, at: Any = None) -> dict[str, Any]:
    """Return a slice as data against the schema: maximised metrics get their own sign back.

    Args:
        parameter: The (flat) name of the parameter along which the slice runs.
        one: The slice.
        goal: Whose objectives, in order, the rows of `one.mean` are.
        at: The parameter's value in the point through which the slice passes.
    """
    mean, std = np.atleast_2d(one.mean), np.atleast_2d(one.std)
    acquisition = np.asarray(one.acquisition, dtype=float)
    values = list(one.values)
    metrics = []
    for objective, loss, spread in zip(goal.objectives, mean, std, strict=False):
        center = np.array([objective.loss(value) for value in loss])
        metrics.append(
            {
                "metric": objective.metric,
                "mean": [finite(value) for value in center],
                # 95 in 100 of a normal distribution lie within 1.96 standard deviations.
                "low": [finite(value) for value in center - 1.96 * spread],
                "high": [finite(value) for value in center + 1.96 * spread],
            }
        )
    known = np.isfinite(acquisition).any()
    return {
        "parameter": parameter,
        "values": [value.item() if isinstance(value, np.generic) else value for value in values],
        "metrics": metrics,
        "acquisition": [finite(value) for value in acquisition],
        "at": at,
        "next": values[int(np.nanargmax(acquisition))] if known else None,
    }
