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
    x = np.clip(starts, low, high)
    n_starts, d = x.shape
    f, g = function(x, np.arange(n_starts))
    f = np.where(np.isfinite(f), f, np.inf)
    H = np.repeat(np.eye(d)[None], n_starts, axis=0)
    is_scaled = np.zeros(n_starts, dtype=bool)
    n_slow = np.zeros(n_starts, dtype=np.intp)
    t = np.ones(n_starts)
    p = np.zeros_like(x)
    fresh = np.isfinite(f)  # starts that need a new direction
    running = fresh.copy()
    for _ in range(evaluations - 1):
        new = np.flatnonzero(fresh & running)
        if len(new):
            p[new], ended = _directions(x[new], g[new], H[new], low[new], high[new], gradient_tolerance)
            largest = np.abs(p[new]).max(1, initial=0.0)
            unscaled = ~is_scaled[new]
            t[new] = np.where(unscaled, np.minimum(1.0, first_step / np.maximum(largest, 1e-300)), 1.0)
            running[new[ended]] = False
        on = np.flatnonzero(running)
        if len(on) == 0:
            break
        trial = np.clip(x[on] + t[on, None] * p[on], low[on], high[on])
        step = trial - x[on]
        value, gradient = function(trial, on)
        slope = (g[on] * step).sum(1)
        with np.errstate(invalid="ignore"):
            good = np.isfinite(value) & (value <= f[on] + SUFFICIENT * slope) & (slope < 0)
        fresh[:] = False
        won, lost = on[good], on[~good]
        if len(won):
            gained = f[won] - value[good]
            n_slow[won] = np.where(gained < value_tolerance, n_slow[won] + 1, 0)
            H[won], is_scaled[won] = _updated(H[won], step[good], gradient[good] - g[won], is_scaled[won])
            x[won], f[won], g[won] = trial[good], value[good], gradient[good]
            fresh[won] = True
            running[won] = n_slow[won] < 2
        if len(lost):
            t[lost] *= _cut(value[~good] - f[lost], slope[~good])
            running[lost] = t[lost] * np.abs(p[lost]).max(1) > SHORTEST
    return x, f


def _directions(
    x: Array, g: Array, H: Array, low: Array, high: Array, tolerance: float
) -> tuple[Array, NDArray[np.bool_]]:
    """Return directions of descent within the box, and which starts are at a minimum."""
    free = ~(((x <= low) & (g > 0)) | ((x >= high) & (g < 0)))
    downhill = np.where(free, -g, 0.0)
    p = np.where(free, (H @ downhill[:, :, None])[:, :, 0], 0.0)
    # Masked curvature stays positive definite; rounding may still spoil a direction.
    bad = (p * downhill).sum(1) <= 1e-12 * np.abs(p).max(1, initial=0.0) * np.abs(downhill).max(1, initial=0.0)
    p[bad] = downhill[bad]
    return p, np.abs(downhill).max(1, initial=0.0) <= tolerance


def _updated(H: Array, s: Array, y: Array, is_scaled: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    """Return the inverse curvatures after steps `s` that changed the gradients by `y`."""
    # A coordinate that a bound holds says nothing of the curvature among the others.
    y = np.where(s != 0.0, y, 0.0)
    sy, yy = (s * y).sum(1), (y * y).sum(1)
    use = sy > CURVED * np.sqrt((s * s).sum(1) * yy)
    if not use.any():
        return H, is_scaled
    first = use & ~is_scaled
    H = np.where(first[:, None, None], (sy / np.where(yy > 0, yy, 1.0))[:, None, None] * H, H)
    rho = np.where(use, 1.0 / np.where(use, sy, 1.0), 0.0)
    Hy = (H @ y[:, :, None])[:, :, 0]
    scale = rho * (1.0 + rho * (y * Hy).sum(1))
    sHy = s[:, :, None] * Hy[:, None, :]
    change = scale[:, None, None] * s[:, :, None] * s[:, None, :] - rho[:, None, None] * (sHy + sHy.transpose(0, 2, 1))
    return H + change, is_scaled | use


def _cut(rise: Array, slope: Array) -> Array:
    """Return by how much to shorten steps that rose by `rise`: the minimum of the parabola, within bounds."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        share = -slope / (2.0 * (rise - slope))
    return np.clip(np.where(np.isfinite(share), share, CUT[0]), *CUT)
