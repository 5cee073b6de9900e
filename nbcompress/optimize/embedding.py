"""Points as vectors whose distances the kernel reads.

Every parameter becomes a few Euclidean coordinates, its *features*; all of them share that parameter's lengthscale.
A kernel of Euclidean distance is positive semi-definite on any vectors, so it is on every space, mixed or conditional:

    parameter                     features                                        distance of two active values
    number, ordered choice        u                                               |u - u'|
    unordered choice              one-hot / sqrt(2)                               0 or 1 (Hamming)
    conditional number            (sin, cos)(angle u) / angle, inactive (0, 0)    2 sin(angle |u - u'| / 2) / angle
    conditional unordered choice  one-hot / sqrt(2), inactive 0                   0 or 1

So a value that is not active in both points says nothing: the distance between active and inactive is the same for
every value (1 / angle for a number, 1 / sqrt(2) for a choice), and between inactive and inactive it is 0.

References:
    Swersky, Duvenaud, Snoek, Hutter, Osborne (2014), "Raiders of the Lost Architecture: Kernels for Bayesian
    Optimization in Conditional Parameter Spaces" (the arc).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nbcompress.optimize.axes import Axes, Flags
from nbcompress.optimize.history import Array

# The part of a circle that a conditional number runs along. At a quarter circle the chord is within 10 % of the arc,
# so lengthscales mean the same as for plain numbers. A heuristic.
ANGLE = np.pi / 2


class Embedding:
    """Turns full rows into features.

    Attributes:
        owner: Shape `(D,)`; the parameter that each feature belongs to.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        owner: list[int] = []
        columns: list[slice] = []
        for i in range(axes.d):
            n_values = axes.n_values[i]
            width = (n_values or 0) if not axes.is_ordered[i] else 2 if axes.is_conditional[i] else 1
            columns.append(slice(len(owner), len(owner) + width))
            owner += [i] * width
        self.owner: NDArray[np.intp] = np.array(owner, dtype=np.intp)
        self._columns = columns
        self._lines = [i for i in range(axes.d) if axes.is_ordered[i] and not axes.is_conditional[i]]
        self._arcs = [i for i in range(axes.d) if axes.is_ordered[i] and axes.is_conditional[i]]
        self._choices = [i for i in range(axes.d) if not axes.is_ordered[i]]
        self._line_columns = [columns[i].start for i in self._lines]
        self._is_plain = len(self._lines) == axes.d  # then features are the rows

    @property
    def n_features(self) -> int:
        return len(self.owner)

    def features(self, rows: Array, active: Flags | None = None) -> Array:
        """Return the features of full rows of shape `(n, d)`: shape `(n, D)`."""
        if self._is_plain:
            return rows
        active = self.axes.is_active(rows) if active is None else active
        features = np.zeros((len(rows), self.n_features))
        features[:, self._line_columns] = rows[:, self._lines]
        for i in self._arcs:
            angle = ANGLE * rows[:, i]
            features[:, self._columns[i]] = np.stack([np.sin(angle), np.cos(angle)], 1) / ANGLE * active[:, [i]]
        for i in self._choices:
            k = self._columns[i].stop - self._columns[i].start
            chosen = np.rint(rows[:, i] * max(k - 1, 1)).astype(np.intp)
            features[np.arange(len(rows)), self._columns[i].start + chosen] = np.where(active[:, i], np.sqrt(0.5), 0.0)
        return features

    def pull_back(self, rows: Array, active: Flags, gradients: Array) -> Array:
        """Turn gradients by features, shape `(n, D)`, into ones by the coordinates of full rows, shape `(n, d)`.

        Unordered choices and inactive parameters get 0: there is no direction to go.
        """
        if self._is_plain:
            return gradients
        by_rows = np.zeros_like(rows)
        by_rows[:, self._lines] = gradients[:, self._line_columns]
        for i in self._arcs:
            angle = ANGLE * rows[:, i]
            by_sin, by_cos = gradients[:, self._columns[i]].T
            by_rows[:, i] = np.where(active[:, i], by_sin * np.cos(angle) - by_cos * np.sin(angle), 0.0)
        return by_rows
