"""Scales and zeros of a uniform grid, for all groups of a tensor at once.

Notation
    w   rows of weights, `(G, n)`: one row for each group
    v   how much each weight counts, `(G, n)`, or None for all alike
    s   scales, `(G, 1)`
    z   code of the value zero, `(G, 1)`
    q   steps away from zero, `(G, n)`: code minus z

The scale that spans the largest weight (`absmax`) wastes most codes of a narrow grid on a few outliers. The default
therefore searches for the least squared error: a fixed set of clipping ranges is tried, the best is improved by
alternating between rounding and the closed-form scale `sum(w q) / sum(q q)`, and absmax stays where it is better.

An affine grid of few codes has more of them on one side of zero. Clipping the other side then shifts all weights of an
output the same way, which squared errors `e` of single weights do not see, but inputs that are not centred do: for
inputs of mean m and deviation d the output is off by `d^2 sum(e^2) + m^2 sum(e)^2` in the mean square. So for affine
rows within an output, `b sum(e)^2` is added to the error, with b that of a rectified normal input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi
from typing import Literal

import torch
from torch import Tensor

from nbcompress.compress.grids.groups import Group, rows_of
from nbcompress.compress.record import Grid

# More weights than these in a row are sampled at even steps while clipping ranges are compared (a heuristic: the
# error of a range is a mean, and the last comparison reads all weights again).
_N_SAMPLED = 4096
# Each improvement can only lower the error; after a few it moves by less than the rounding of a scale to float16.
_N_IMPROVEMENTS = 4
# Mean squared over variance of max(0, x) for x normal: 1 / (2 pi) over (pi - 1) / (2 pi).
_RECTIFIED = 1 / (pi - 1)
_SMALLEST_NORMAL_HALF = 2.0**-14
_SMALLEST_HALF = 2.0**-24


@dataclass(frozen=True)
class Scheme:
    """What kind of grid is fitted.

    Attributes:
        bits: 1 to 8.
        scheme: See `Grid`.
        group: See `Grid`.
        scale: `error` searches for the least error, `absmax` spans the largest weight. One bit has only one sensible
            scale, the mean magnitude, which is the one of least squared error.
    """

    bits: int
    scheme: Literal["symmetric", "affine"] = "symmetric"
    group: Group = "channel"
    scale: Literal["error", "absmax"] = "error"

    @property
    def n_codes(self) -> int:
        return 3 if self.bits == 1 else (1 << self.bits) - (self.scheme == "symmetric")

    @property
    def shift_weight(self) -> float:
        """How much the squared sum of a row's errors counts beside the sum of their squares."""
        return _RECTIFIED if self.scheme == "affine" and self.group != "tensor" else 0.0

    def is_that_of(self, grid: Grid) -> bool:
        return (self.bits, self.scheme, self.group) == (grid.bits, grid.scheme, grid.group)


def fit_grid(tensor: Tensor, scheme: Scheme, *, is_pruned: bool = False, counts: Tensor | None = None) -> Grid:
    """Fit a grid to `tensor`.

    Args:
        tensor: Finite values of shape `(out, ...)`, at least one.
        scheme: Bits, symmetry and groups.
        is_pruned: Zeros are no weights: they take no part in the scale of one bit.
        counts: How often each value occurs (shape of `tensor`), for the values of a codebook.

    Returns:
        The grid. Rounding `tensor` to it (`rounded`) has, group by group, no larger error (see `shift_weight`) than
        with the absmax scale; with `scale="absmax"`, the error of one weight is at most half its scale (and 1/16 of a
        scale more for the largest weights, 1/8 if affine, as scales are rounded to float16 and codes count from zero).
    """
    w, real = rows_of(tensor, scheme.group)
    v = None if counts is None else counts.reshape(w.shape).to(torch.float32)
    if real is not None:
        v = real.to(torch.float32)
    if scheme.bits == 1:
        s, z = _fit_signs(w, v, is_pruned)
    elif scheme.scale == "absmax":
        s, z = next(_candidates(w, scheme))
    else:
        s, z = _fit_error(w, v, scheme, tensor.dtype)
    s = _storable(s, z, scheme, tensor.dtype)
    return Grid(scheme.bits, scheme.scheme, scheme.group, s.flatten().cpu(), z.flatten().to(torch.int32).cpu())


def rounded(tensor: Tensor, grid: Grid, *, is_pruned: bool = False) -> Tensor:
    """`tensor` rounded to the nearest value of `grid`, in its own dtype and on its device.

    Zeros of a pruned tensor stay zero. Under one bit, every other weight becomes plus or minus the scale.
    """
    scale, _ = grid.spread(tuple(tensor.shape), tensor.device)
    # Adding zero turns -0.0 into 0.0, as decoding does.
    return (_nearest_steps(tensor, grid, is_pruned).mul_(scale) + 0.0).to(tensor.dtype)


def nearest_codes(tensor: Tensor, grid: Grid, *, is_pruned: bool = False) -> Tensor:
    """int32 codes of the values of `grid` nearest to `tensor`, of its shape."""
    zero = grid.spread(tuple(tensor.shape), tensor.device)[1]
    return _nearest_steps(tensor, grid, is_pruned).to(torch.int32) + zero


def improved_scale(tensor: Tensor, grid: Grid, *, is_pruned: bool = False) -> Grid:
    """`grid` with the scales of least squared error for the codes that `tensor` has on it now (zeros unchanged).

    Groups where everything rounds to zero keep their scale. In float32 throughout, as it runs at every training step.
    """
    w, _ = rows_of(tensor, grid.group)
    q, _ = rows_of(_nearest_steps(tensor, grid, is_pruned), grid.group)
    s = grid.scale.reshape(-1, 1).to(w.device)
    power = q.square().sum(dim=1, keepdim=True)
    best = (q * w).sum(dim=1, keepdim=True) / power.clamp(min=1)
    best = torch.where((power > 0) & (best > 0), best, s)
    zero = grid.zero.reshape(-1, 1).to(w.device, torch.float32)
    scheme = Scheme(grid.bits, grid.scheme, grid.group)
    scale = _storable(_positive(best), zero, scheme, tensor.dtype).flatten().cpu()
    return Grid(grid.bits, grid.scheme, grid.group, scale, grid.zero)


def _nearest_steps(tensor: Tensor, grid: Grid, is_pruned: bool) -> Tensor:
    """Steps away from zero (code minus zero) of the nearest values, as whole float32 numbers."""
    values = tensor.detach().to(torch.float32)
    if grid.bits == 1:
        signs = torch.where(values >= 0, 1.0, -1.0)
        return signs.mul_(values != 0) if is_pruned else signs
    scale, zero = grid.spread(tuple(tensor.shape), tensor.device)
    return torch.minimum(torch.maximum((values / scale).round_(), -zero), grid.n_codes - 1 - zero)


def _fit_signs(w: Tensor, v: Tensor | None, is_pruned: bool) -> tuple[Tensor, Tensor]:
    """The mean magnitude is the best scale of one bit (Rastegari et al. 2016, XNOR-Net, equation 6)."""
    v = torch.ones_like(w) if v is None else v
    if is_pruned:
        v = v * (w != 0)
    total = v.sum(dim=1, keepdim=True)
    s = (w.abs().double() * v).sum(dim=1, keepdim=True) / total.clamp(min=1)
    return _positive(s.float()), torch.ones_like(s, dtype=torch.float32)


def _fit_error(w: Tensor, v: Tensor | None, scheme: Scheme, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    step, shift = max(1, w.shape[1] // _N_SAMPLED), scheme.shift_weight
    few, few_v = w[:, ::step], None if v is None else v[:, ::step]
    best_s, best_z, lowest = w.new_empty(0), w.new_empty(0), w.new_empty(0)
    for s, z in _candidates(w, scheme):
        error = _error(few, few_v, s, z, scheme.n_codes, shift)
        if not len(lowest):
            best_s, best_z, lowest = s, z, error
            continue
        better = error < lowest
        best_s, best_z = torch.where(better, s, best_s), torch.where(better, z, best_z)
        lowest = torch.where(better, error, lowest)
    for _ in range(_N_IMPROVEMENTS):
        better_s = _closed_form(w, _steps(w, best_s, best_z, scheme.n_codes), v, best_s, shift)
        if shift:
            # Rounding to the nearest lowers each square, but not always their squared sum.
            errors = [_error(w, v, s, best_z, scheme.n_codes, shift) for s in (better_s, best_s)]
            better_s = torch.where(errors[0] < errors[1], better_s, best_s)
        best_s = better_s
    first_s, first_z = next(_candidates(w, scheme))
    found = _error(w, v, _storable(best_s, best_z, scheme, dtype), best_z, scheme.n_codes, shift)
    plain = _error(w, v, _storable(first_s, first_z, scheme, dtype), first_z, scheme.n_codes, shift)
    worse = found > plain
    return torch.where(worse, first_s, best_s), torch.where(worse, first_z, best_z)


def _candidates(w: Tensor, scheme: Scheme) -> Iterator[tuple[Tensor, Tensor]]:
    """Scales and zeros to try, absmax first. Narrow grids gain from clipping far, wide ones hardly at all."""
    is_narrow = scheme.bits <= 4
    if scheme.scheme == "symmetric":
        most = (scheme.n_codes - 1) // 2
        peak = w.abs().amax(dim=1, keepdim=True)
        z = torch.full_like(peak, most)
        for share in torch.linspace(1.0, 0.1 if is_narrow else 0.5, 28 if is_narrow else 11).tolist():
            yield _positive(peak * share / most), z
        return
    low = w.amin(dim=1, keepdim=True).clamp(max=0)
    high = w.amax(dim=1, keepdim=True).clamp(min=0)
    shares = torch.linspace(1.0, 0.3 if is_narrow else 0.7, 8 if is_narrow else 4).tolist()
    for below in shares:
        for above in shares:
            # Divided before they are added: the range itself may not fit into float32.
            s = _positive(high * above / (scheme.n_codes - 1) - low * below / (scheme.n_codes - 1))
            yield s, torch.round(-low * below / s).clamp(0, scheme.n_codes - 1)


def _steps(w: Tensor, s: Tensor, z: Tensor, n_codes: int) -> Tensor:
    q = torch.round(w / s)
    return torch.minimum(torch.maximum(q, -z), n_codes - 1 - z)


def _error(w: Tensor, v: Tensor | None, s: Tensor, z: Tensor, n_codes: int, shift: float) -> Tensor:
    differences = (w - _steps(w, s, z, n_codes) * s).double()
    counted = differences if v is None else differences * v
    squares = (differences * counted).sum(dim=1, keepdim=True)
    return squares + shift * counted.sum(dim=1, keepdim=True).square() if shift else squares


def _closed_form(w: Tensor, q: Tensor, v: Tensor | None, s: Tensor, shift: float) -> Tensor:
    """The scale of least error for given steps; the old one where all steps are zero."""
    counted = q.double() if v is None else q.double() * v
    power = (counted * q).sum(dim=1, keepdim=True)
    product = (counted * w).sum(dim=1, keepdim=True)
    if shift:
        total = counted.sum(dim=1, keepdim=True)
        weights = (w.double() if v is None else w.double() * v).sum(dim=1, keepdim=True)
        power, product = power + shift * total.square(), product + shift * total * weights
    best = product / power.clamp(min=1)
    return torch.where((power > 0) & (best > 0), best.float(), s)


def _positive(s: Tensor) -> Tensor:
    """A group of zeros gets the scale 1; the rest stays above what float32 can divide by."""
    return torch.where(s == 0, torch.ones_like(s), s.clamp(min=torch.finfo(torch.float32).tiny))


def _storable(s: Tensor, z: Tensor, scheme: Scheme, dtype: torch.dtype) -> Tensor:
    """Round scales to float16 within its normal range, so that no value of the grid overflows in `dtype`.

    In a float16 tensor every scale is rounded, below the normal range too: multiples of such a scale are
    representable, while those of a finer one would fall on each other.
    """
    most = 1.0 if scheme.bits == 1 else torch.maximum(z, scheme.n_codes - 1 - z)
    snapped = _snapped(s, dtype)
    limit = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)
    # A little below the limit, since rounding to float16 may go up again.
    widest = torch.full_like(s, limit * (1 - 2**-9)) / most
    return torch.where(snapped.double() * most > limit, _snapped(widest, dtype), snapped)


def _snapped(s: Tensor, dtype: torch.dtype) -> Tensor:
    half = s.to(torch.float16).to(torch.float32)
    if dtype == torch.float16:
        return half.clamp(min=_SMALLEST_HALF)
    fits = (s >= _SMALLEST_NORMAL_HALF) & (half <= torch.finfo(torch.float16).max)
    return torch.where(fits, half, s)


__all__ = ["Scheme", "fit_grid", "improved_scale", "nearest_codes", "rounded"]
