"""Minimize a smooth function over a box from several starts at once, with projected BFGS.

Each start runs its own projected quasi-Newton iteration: BFGS on the coordinates that are not at a bound. All starts
are evaluated in one call, because with small arrays the number of calls dominates the cost. Arrays hold `B` starts in
`d` dimensions with a dense `(d, d)` inverse Hessian each: meant for tens of dimensions, not thousands.

References:
    Bertsekas (1982), "Projected Newton Methods for Optimization Problems with Simple Constraints".
    Nocedal & Wright (2006), "Numerical Optimization": (6.17) the update, (6.20) the initial scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nbcompress.optimize.history import Array

Function = Callable[[Array, NDArray[np.intp]], tuple[Array, Array]]
"""From points `(b, d)` and the indices of their starts `(b,)` to values `(b,)` and gradients `(b, d)`."""

# Armijo condition: a step must gain at least this share of what the slope predicts.
SUFFICIENT_DECREASE = 1e-4
# Bounds of the factor that shortens a rejected step.
STEP_SHRINK = (0.1, 0.5)
# A step updates the inverse Hessian if its curvature is at least this share of |step| |change of gradient|.
MIN_CURVATURE = 1e-8
# A start ends when its step is shorter than this.
MIN_STEP = 1e-10
# With `patience`, no start is discarded before this many iterations: the first ones only learn the curvature.
MIN_ITERATIONS = 3


def batched_minimize(
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
    """Minimize a function from every start.

    Args:
        function: Values and gradients of a batch. A value that is not finite rejects the step.
        starts: Shape `(B, d)`.
        low, high: The box; shape `(d,)` or `(B, d)`.
        evaluations: The most calls of the function.
        first_step: Length of the first step in its largest coordinate, before any curvature is known.
        gradient_tolerance: A start ends when no free coordinate has a steeper slope.
        value_tolerance: A start ends when two steps in a row gain less than this.
        patience: A start ends when this many steps like its last one would not reach the best value of all starts.
            Most calls are spent on the last few starts, which are rarely the best. A value reached by such a start is
            not a local minimum.

    Returns:
        The best point of every start, shape `(B, d)`, and its value, shape `(B,)`.
    """
    low, high = np.broadcast_to(low, starts.shape), np.broadcast_to(high, starts.shape)
    active = _ActiveStarts.evaluated(starts, low, high, function)
    best_x, best_f = active.x.copy(), active.f.copy()
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for n_iterations in range(evaluations - 1):
            step, steepest = active.steps(first_step)
            longest = np.abs(step).max(1, initial=0.0)
            ended = (
                np.isinf(active.f) | (steepest <= gradient_tolerance) | (longest <= MIN_STEP) | (active.n_small == 2)
            )
            if patience < np.inf and n_iterations >= MIN_ITERATIONS:
                ended |= active.f - patience * active.gain > min(best_f.min(), active.f.min())
            if ended.any():
                best_x[active.index], best_f[active.index] = active.x, active.f
                if ended.all():
                    return best_x, best_f
                active, step = active.subset(~ended), step[~ended]
            active = active.after(step, function, value_tolerance)
    best_x[active.index], best_f[active.index] = active.x, active.f
    return best_x, best_f


@dataclass
class _ActiveStarts:
    """The starts that have not ended; each array has one row per start.

    Attributes:
        index: Which starts they are.
        low, high: Their box.
        x, f, g: The current point, its value and its gradient.
        H: The inverse Hessian.
        is_scaled: Whether H has been updated.
        step_scale: Factor of the next step, below 1 after rejected steps.
        n_small: How many accepted steps in a row gained less than the tolerance.
        gain: How much the last accepted step gained.
    """

    index: NDArray[np.intp]
    low: Array
    high: Array
    x: Array
    f: Array
    g: Array
    H: Array
    is_scaled: NDArray[np.bool_]
    step_scale: Array
    n_small: NDArray[np.intp]
    gain: Array

    @classmethod
    def evaluated(cls, starts: Array, low: Array, high: Array, function: Function) -> _ActiveStarts:
        x = np.minimum(np.maximum(starts, low), high)
        n, d = x.shape
        index = np.arange(n)
        f, g = function(x, index)
        H = np.repeat(np.eye(d)[None], n, axis=0)
        f = np.where(np.isfinite(f), f, np.inf)
        n_small, gain = np.zeros(n, dtype=np.intp), np.full(n, np.inf)
        return cls(index, low, high, x, f, g, H, np.zeros(n, dtype=bool), np.ones(n), n_small, gain)

    def subset(self, kept: NDArray[np.bool_]) -> _ActiveStarts:
        return _ActiveStarts(*(getattr(self, field.name)[kept] for field in fields(self)))

    def steps(self, first_step: float) -> tuple[Array, Array]:
        """Return the steps to try, and the steepest slope of any free coordinate."""
        p, steepest = _descent_directions(self.x, self.g, self.H, self.low, self.high)
        longest = np.maximum(np.abs(p).max(1, initial=0.0), 1e-300)
        share = np.where(self.is_scaled, self.step_scale, self.step_scale * np.minimum(1.0, first_step / longest))
        return share[:, None] * p, steepest

    def after(self, step: Array, function: Function, value_tolerance: float) -> _ActiveStarts:
        """Return the starts after these steps. A start whose step is rejected stays and shortens its next step."""
        candidate = np.minimum(np.maximum(self.x + step, self.low), self.high)
        step = candidate - self.x
        value, gradient = function(candidate, self.index)
        slope, rise = (self.g * step).sum(1), value - self.f
        accepted = np.isfinite(value) & (rise <= SUFFICIENT_DECREASE * slope) & (slope < 0)
        H, is_scaled = _bfgs_update(self.H, step, gradient - self.g, self.is_scaled, accepted)
        x, g = np.where(accepted[:, None], candidate, self.x), np.where(accepted[:, None], gradient, self.g)
        step_scale = np.where(accepted, 1.0, self.step_scale * _step_shrink(rise, slope))
        n_small = np.where(accepted, np.where(-rise < value_tolerance, self.n_small + 1, 0), self.n_small)
        f, gain = np.where(accepted, value, self.f), np.where(accepted, -rise, self.gain)
        return _ActiveStarts(self.index, self.low, self.high, x, f, g, H, is_scaled, step_scale, n_small, gain)


def _descent_directions(x: Array, g: Array, H: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Return descent directions within the box, and the steepest slope of any free coordinate."""
    at_bound = np.where(g > 0, x <= low, x >= high)
    downhill = np.where(at_bound, 0.0, -g)
    p = np.where(at_bound, 0.0, (H @ downhill[:, :, None])[:, :, 0])
    # The masked inverse Hessian is positive definite, but rounding may still spoil a direction.
    steepest = np.abs(downhill).max(1, initial=0.0)
    bad = (p * downhill).sum(1) <= 1e-12 * np.abs(p).max(1, initial=0.0) * steepest
    return np.where(bad[:, None], downhill, p), steepest


def _bfgs_update(
    H: Array, s: Array, y: Array, is_scaled: NDArray[np.bool_], accepted: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.bool_]]:
    """Return the inverse Hessians after accepted steps `s` that changed the gradients by `y`."""
    # A coordinate at a bound says nothing about the curvature among the others.
    y = np.where(s != 0.0, y, 0.0)
    sy, yy = (s * y).sum(1), (y * y).sum(1)
    use = accepted & (sy > MIN_CURVATURE * np.sqrt((s * s).sum(1) * yy))
    if not use.any():
        return H, is_scaled
    first = use & ~is_scaled
    if first.any():
        H = np.where(first[:, None, None], (sy / yy)[:, None, None] * H, H)
    y = np.where(use[:, None], y, 0.0)  # may not be finite where a step was rejected
    sy = np.where(use, sy, 1.0)
    Hy = (H @ y[:, :, None])[:, :, 0]
    u = np.where(use, 1.0 / sy, 0.0)[:, None] * s
    # The update is u s' + u u' (y'Hy) - u (Hy)' - (Hy) u'. It is symmetric, so half of it plus the transpose.
    half = u[:, :, None] * (0.5 * (s + (y * Hy).sum(1)[:, None] * u) - Hy)[:, None, :]
    return H + half + half.transpose(0, 2, 1), is_scaled | use


def _step_shrink(rise: Array, slope: Array) -> Array:
    """Return the factor that shortens steps that rose by `rise`: the minimum of the parabola, within bounds."""
    share = -slope / (2.0 * (rise - slope))
    return np.minimum(np.maximum(np.where(np.isfinite(share), share, STEP_SHRINK[0]), STEP_SHRINK[0]), STEP_SHRINK[1])
