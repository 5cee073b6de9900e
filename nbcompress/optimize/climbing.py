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
    """
    low, high = np.broadcast_to(low, starts.shape), np.broadcast_to(high, starts.shape)
    x = np.minimum(np.maximum(starts, low), high)
    on = np.arange(len(x))  # the starts that still climb; all arrays below are theirs
    f, g = function(x, on)
    f = np.where(np.isfinite(f), f, np.inf)
    found, best = x.copy(), f.copy()
    H = np.repeat(np.eye(x.shape[1])[None], len(x), axis=0)
    is_scaled, n_slow, t = np.zeros(len(x), dtype=bool), np.zeros(len(x), dtype=np.intp), np.ones(len(x))
    ended = np.isinf(f)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for _ in range(evaluations - 1):
            p, steepest = _directions(x, g, H, low, high)
            longest = np.abs(p).max(1, initial=0.0)
            scale = np.where(is_scaled, t, t * np.minimum(1.0, first_step / np.maximum(longest, 1e-300)))
            ended |= (steepest <= gradient_tolerance) | (scale * longest <= SHORTEST) | (n_slow == 2)
            if ended.any():
                found[on], best[on] = x, f
                kept = ~ended
                if not kept.any():
                    return found, best
                on, n_slow, is_scaled, ended = on[kept], n_slow[kept], is_scaled[kept], ended[kept]
                x, f, g, H, low, high, t, p, scale = (a[kept] for a in (x, f, g, H, low, high, t, p, scale))
            trial = np.minimum(np.maximum(x + scale[:, None] * p, low), high)
            step = trial - x
            value, gradient = function(trial, on)
            slope, rise = (g * step).sum(1), value - f
            won = np.isfinite(value) & (rise <= SUFFICIENT * slope) & (slope < 0)
            H, is_scaled = _updated(H, step, gradient - g, is_scaled, won)
            n_slow = np.where(won, np.where(-rise < value_tolerance, n_slow + 1, 0), n_slow)
            t = np.where(won, 1.0, t * _cut(rise, slope))
            x, g = np.where(won[:, None], trial, x), np.where(won[:, None], gradient, g)
            f = np.where(won, value, f)
    found[on], best[on] = x, f
    return found, best


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
