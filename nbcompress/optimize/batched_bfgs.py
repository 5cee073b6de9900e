"""Minimise a smooth function over a box from several starts at once.

Each start runs its own projected quasi-Newton iteration (BFGS on the coordinates that no bound holds), but all of them
are evaluated in one call: with small arrays it is the number of calls that costs. Arrays of `B` starts in `d`
dimensions; dense `(d, d)` curvature for each, so for tens of dimensions, not thousands.

References:
    Bertsekas (1982), "Projected Newton Methods for Optimization Problems with Simple Constraints".
    Nocedal & Wright (2006), "Numerical Optimization": (6.17) the update, (6.20) its first scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nbcompress.optimize.history import Array

Function = Callable[[Array, NDArray[np.intp]], tuple[Array, Array]]
"""From points `(b, d)` and the indices of their starts `(b,)` to values `(b,)` and gradients `(b, d)`."""

# A step must gain at least this share of what the slope promises.
SUFFICIENT = 1e-4
# A step is cut to no less than the first and no more than the second share of the one before.
CUT = (0.1, 0.5)
# The curvature of a step counts if it is at least this share of |step| |change of gradient|.
CURVED = 1e-8
# So short a step moves nothing any more.
SHORTEST = 1e-10
# In a race nobody is called behind before so many steps: the first ones only learn the curvature.
HEAD_START = 3


def minimise(
    function: Function,
    starts: Array,
    low: Array,
    high: Array,
    *,
    evaluations: int,
    first_step: float,
    gradient_tolerance: float = 1e-5,
    value_tolerance: float = 1e-9,
    patience: float = np.inf,
) -> tuple[Array, Array]:
    """Return the best point of every start, shape `(B, d)`, and its value, `(B,)`.

    Args:
        function: Values that are not finite count as too far.
        starts: Shape `(B, d)`.
        low, high: Shape `(d,)` or `(B, d)`.
        evaluations: At most so many calls of the function.
        first_step: Length of the first step in the largest coordinate, before anything is known of curvature.
        gradient_tolerance: A start ends when no free coordinate's slope is larger.
        value_tolerance: It also ends when a step gains less than this, twice in turn.
        patience: And when so many steps like its last one would not take it to the best value of all. Most calls are
            for the last few starts, and these are rarely the best; but an end far behind says where a start stood
            then, not how low it could have come.
    """
    low, high = np.broadcast_to(low, starts.shape), np.broadcast_to(high, starts.shape)
    climbers = _Climbers.at(starts, low, high, function)
    found, best = climbers.x.copy(), climbers.f.copy()
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for n_steps in range(evaluations - 1):
            step, steepest = climbers.steps(first_step)
            longest = np.abs(step).max(1, initial=0.0)
            ended = (
                np.isinf(climbers.f) | (steepest <= gradient_tolerance) | (longest <= SHORTEST) | (climbers.n_slow == 2)
            )
            if patience < np.inf and n_steps >= HEAD_START:
                ended |= climbers.f - patience * climbers.gain > min(best.min(), climbers.f.min())
            if ended.any():
                found[climbers.on], best[climbers.on] = climbers.x, climbers.f
                if ended.all():
                    return found, best
                climbers, step = climbers.only(~ended), step[~ended]
            climbers = climbers.moved(step, function, value_tolerance)
    found[climbers.on], best[climbers.on] = climbers.x, climbers.f
    return found, best


@dataclass
class _Climbers:
    """The starts that still climb; each array has a row for each of them.

    Attributes:
        on: Which starts they are.
        low, high: Their box.
        x, f, g: Where they stand: the point, its value and its gradient.
        H: The inverse curvature.
        is_scaled: Whether H has learned anything.
        t: By how much the step is cut, after steps that were too long.
        n_slow: How many steps in turn have gained next to nothing.
        gain: By how much the last step that gained did.
    """

    on: NDArray[np.intp]
    low: Array
    high: Array
    x: Array
    f: Array
    g: Array
    H: Array
    is_scaled: NDArray[np.bool_]
    t: Array
    n_slow: NDArray[np.intp]
    gain: Array

    @classmethod
    def at(cls, starts: Array, low: Array, high: Array, function: Function) -> _Climbers:
        x = np.minimum(np.maximum(starts, low), high)
        n, d = x.shape
        on = np.arange(n)
        f, g = function(x, on)
        H = np.repeat(np.eye(d)[None], n, axis=0)
        f = np.where(np.isfinite(f), f, np.inf)
        n_slow, gain = np.zeros(n, dtype=np.intp), np.full(n, np.inf)
        return cls(on, low, high, x, f, g, H, np.zeros(n, dtype=bool), np.ones(n), n_slow, gain)

    def only(self, kept: NDArray[np.bool_]) -> _Climbers:
        return _Climbers(*(getattr(self, field.name)[kept] for field in fields(self)))

    def steps(self, first_step: float) -> tuple[Array, Array]:
        """Return the steps to try, and the steepest slope of any free coordinate."""
        p, steepest = _directions(self.x, self.g, self.H, self.low, self.high)
        longest = np.maximum(np.abs(p).max(1, initial=0.0), 1e-300)
        share = np.where(self.is_scaled, self.t, self.t * np.minimum(1.0, first_step / longest))
        return share[:, None] * p, steepest

    def moved(self, step: Array, function: Function, value_tolerance: float) -> _Climbers:
        """Return the climbers after these steps, for those that gain; the others stay and cut the next one."""
        trial = np.minimum(np.maximum(self.x + step, self.low), self.high)
        step = trial - self.x
        value, gradient = function(trial, self.on)
        slope, rise = (self.g * step).sum(1), value - self.f
        won = np.isfinite(value) & (rise <= SUFFICIENT * slope) & (slope < 0)
        H, is_scaled = _updated(self.H, step, gradient - self.g, self.is_scaled, won)
        x, g = np.where(won[:, None], trial, self.x), np.where(won[:, None], gradient, self.g)
        t = np.where(won, 1.0, self.t * _cut(rise, slope))
        n_slow = np.where(won, np.where(-rise < value_tolerance, self.n_slow + 1, 0), self.n_slow)
        f, gain = np.where(won, value, self.f), np.where(won, -rise, self.gain)
        return _Climbers(self.on, self.low, self.high, x, f, g, H, is_scaled, t, n_slow, gain)


def _directions(x: Array, g: Array, H: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Return directions of descent within the box, and the steepest slope of any free coordinate."""
    held = np.where(g > 0, x <= low, x >= high)
    downhill = np.where(held, 0.0, -g)
    p = np.where(held, 0.0, (H @ downhill[:, :, None])[:, :, 0])
    # Masked curvature stays positive definite; rounding may still spoil a direction.
    steepest = np.abs(downhill).max(1, initial=0.0)
    bad = (p * downhill).sum(1) <= 1e-12 * np.abs(p).max(1, initial=0.0) * steepest
    return np.where(bad[:, None], downhill, p), steepest


def _updated(
    H: Array, s: Array, y: Array, is_scaled: NDArray[np.bool_], won: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.bool_]]:
    """Return the inverse curvatures after steps `s` that changed the gradients by `y`, of those that `won`."""
    # A coordinate that a bound holds says nothing of the curvature among the others.
    y = np.where(s != 0.0, y, 0.0)
    sy, yy = (s * y).sum(1), (y * y).sum(1)
    use = won & (sy > CURVED * np.sqrt((s * s).sum(1) * yy))
    if not use.any():
        return H, is_scaled
    first = use & ~is_scaled
    if first.any():
        H = np.where(first[:, None, None], (sy / yy)[:, None, None] * H, H)
    y = np.where(use[:, None], y, 0.0)  # which may not be finite where a step was lost
    sy = np.where(use, sy, 1.0)
    Hy = (H @ y[:, :, None])[:, :, 0]
    u = np.where(use, 1.0 / sy, 0.0)[:, None] * s
    # u s' + u u' (y'Hy) - u (Hy)' - (Hy) u', each pair of a product and its transpose as one.
    half = u[:, :, None] * (0.5 * (s + (y * Hy).sum(1)[:, None] * u) - Hy)[:, None, :]
    return H + half + half.transpose(0, 2, 1), is_scaled | use


def _cut(rise: Array, slope: Array) -> Array:
    """Return by how much to shorten steps that rose by `rise`: the minimum of the parabola, within bounds."""
    share = -slope / (2.0 * (rise - slope))
    return np.minimum(np.maximum(np.where(np.isfinite(share), share, CUT[0]), CUT[0]), CUT[1])
