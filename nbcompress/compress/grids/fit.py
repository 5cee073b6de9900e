"""Scales and zeros of a uniform grid, for all groups of a tensor at once.

Notation
    w   groups of weights, `(G, o, n)`: n of each of o outputs; a group within one output has o = 1
    v   which weights count, `(G, o, n)`, 1 or 0, or None for all
    s   scales, `(G, 1, 1)`
    z   code of the value zero, `(G, 1, 1)`
    q   steps away from zero, `(G, o, n)`: code minus z

The scale that spans the largest weight (`absmax`) wastes most codes of a narrow grid on a few outliers. The default
therefore searches for the least squared error: a fixed set of clipping ranges is tried, the best is improved by
alternating between rounding and the closed-form scale `sum(w q) / sum(q q)`, and absmax stays where it is better.

A grid with zero and an even number of codes has more of them on one side. Clipping the other side then shifts all
weights of an output the same way, which squared errors `e` of single weights do not see, but inputs that are not
centred do: for inputs of mean m and deviation d the output is off by `d^2 sum(e^2) + m^2 sum(e)^2` in the mean square.
So `b sum(e)^2` is added for each output, with b that of a rectified normal input. Without it, a symmetric grid of two
bits does worse with four codes than with three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi
from typing import Literal

import torch
from torch import Tensor

from nbcompress.compress.grids.groups import Group, rows_of
from nbcompress.compress.record import Grid, n_codes_of

# More weights than these of an output are sampled at even steps while clipping ranges are compared (a heuristic: the
# error of a range is a mean, and the last comparison reads all weights again).
_N_SAMPLED = 4096
# Each improvement can only lower the error; after a few it moves by less than the rounding of a scale to float16.
_N_IMPROVEMENTS = 4
# Up to so many bits, the side of a symmetric grid with one value more is chosen group by group. From 4 bits on it is
# below zero, as in the integers of 4 and 8 bits that kernels take; one value in sixteen is not worth other ones.
_MOST_BITS_WITH_SIDES = 3
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
        scale: `error` searches for the least error, `absmax` spans the largest weight. A symmetric grid of 2 to 7 bits
            then has the smallest scale at which no weight is more than half a step off; others have their ends on the
            last codes. One bit has only one sensible scale, the mean magnitude, which is that of least squared error.
    """

    bits: int
    scheme: Literal["symmetric", "affine"] = "symmetric"
    group: Group = "channel"
    scale: Literal["error", "absmax"] = "error"

    @property
    def n_codes(self) -> int:
        return n_codes_of(self.bits, self.scheme)

    @property
    def shift_weight(self) -> float:
        """How much the squared sum of an output's errors counts beside the sum of their squares."""
        return _RECTIFIED if self.n_codes % 2 == 0 else 0.0

    def is_that_of(self, grid: Grid) -> bool:
        return (self.bits, self.scheme, self.group) == (grid.bits, grid.scheme, grid.group)


def fit_grid(tensor: Tensor, scheme: Scheme, *, is_pruned: bool = False) -> Grid:
    """Fit a grid to `tensor`.

    Args:
        tensor: Finite values of shape `(out, ...)`, at least one.
        scheme: Bits, symmetry and groups.
        is_pruned: Zeros are no weights: they take no part in the scale of one bit.

    Returns:
        The grid. Rounding `tensor` to it (`rounded`) has, group by group, no larger error (see `shift_weight`) than
        with the absmax scale; with `scale="absmax"`, the error of one weight is at most half its scale (and 1/16 of a
        scale more for the largest weights, 1/8 if affine, as scales are rounded to float16 and codes count from zero).
    """
    w, v = _groups_of(tensor, scheme.group)
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

    Zeros of a pruned tensor stay zero, and so do groups of nothing but zeros. Under one bit, every other weight becomes
    plus or minus the scale.
    """
    scale, _ = grid.spread(tuple(tensor.shape), tensor.device)
    # Adding zero turns -0.0 into 0.0, as decoding does.
    return (_nearest_steps(tensor, grid, is_pruned).mul_(scale) + 0.0).to(tensor.dtype)


def nearest_codes(tensor: Tensor, grid: Grid, *, is_pruned: bool = False) -> Tensor:
    """int32 codes of the values of `grid` nearest to `tensor`, of its shape."""
    zero = grid.spread(tuple(tensor.shape), tensor.device)[1]
    return _nearest_steps(tensor, grid, is_pruned).to(torch.int32) + zero


def improved_scale(tensor: Tensor, grid: Grid, *, is_pruned: bool = False) -> Grid:
    """`grid` with the scales of least error for the codes that `tensor` has on it now; its zeros stay.

    A group keeps its scale where rounding again would not lower the error, and where everything rounds to zero.
    """
    scheme = Scheme(grid.bits, grid.scheme, grid.group)
    w, _ = _groups_of(tensor, grid.group)
    q, _ = _groups_of(_nearest_steps(tensor, grid, is_pruned), grid.group)
    s, z = (one.reshape(-1, 1, 1).to(w.device, torch.float32) for one in (grid.scale, grid.zero))
    best = _closed_form(w, q, None, s, scheme.shift_weight)
    best = _storable(_positive(best), z, scheme, tensor.dtype)
    if scheme.bits > 1:
        found, kept = (_error(w, None, one, z, scheme.n_codes, scheme.shift_weight) for one in (best, s))
        best = torch.where(found < kept, best, s)
    return Grid(grid.bits, grid.scheme, grid.group, best.flatten().cpu(), grid.zero)


def _groups_of(tensor: Tensor, group: Group) -> tuple[Tensor, Tensor | None]:
    """`w` and `v` of the notation above. The numbers of a vector are an output each."""
    rows, real = rows_of(tensor, group)
    w = rows.reshape(len(rows), tensor.shape[0] if group == "tensor" and tensor.ndim else 1, -1)
    return w, None if real is None else real.reshape(w.shape).to(torch.float32)


def _nearest_steps(tensor: Tensor, grid: Grid, is_pruned: bool) -> Tensor:
    """Steps away from zero (code minus zero) of the nearest values, as whole float32 numbers."""
    values = tensor.detach().to(torch.float32)
    if grid.bits == 1:
        signs = torch.ones_like(values).masked_fill_(~(values >= 0), -1.0)
        is_group = rows_of(values, grid.group)[0].any(dim=1)
        return signs.mul_(values != 0 if is_pruned else grid.spread_one(is_group, tuple(tensor.shape)))
    scale, zero = grid.spread(tuple(tensor.shape), tensor.device)
    return torch.minimum(torch.maximum((values / scale).round_(), -zero), grid.n_codes - 1 - zero)


def _fit_signs(w: Tensor, v: Tensor | None, is_pruned: bool) -> tuple[Tensor, Tensor]:
    """The mean magnitude is the best scale of one bit (Rastegari et al. 2016, XNOR-Net, equation 6)."""
    v = torch.ones_like(w) if v is None else v
    if is_pruned:
        v = v * (w != 0)
    s = _sum(w.abs().double() * v) / _sum(v).clamp(min=1)
    # For a group of zeros it would be zero, which no scale is. From a small one, training can grow.
    s = torch.where(s > 0, _positive(s.float()), _SMALLEST_HALF)
    return s, torch.ones_like(s, dtype=torch.float32)


def _fit_error(w: Tensor, v: Tensor | None, scheme: Scheme, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    step, shift = max(1, w.shape[2] // _N_SAMPLED), scheme.shift_weight
    few, few_v = w[:, :, ::step], None if v is None else v[:, :, ::step]
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
        q = _steps(w, best_s, best_z, scheme.n_codes)
        better_s = _closed_form(w.double(), q.double(), v, best_s, shift)
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
    is_narrow, most = scheme.bits <= 4, scheme.n_codes - 1
    low = w.amin(dim=(1, 2), keepdim=True).clamp(max=0)
    high = w.amax(dim=(1, 2), keepdim=True).clamp(min=0)
    if scheme.scheme == "symmetric":
        yield from _symmetric_candidates(low, high, scheme)
        return
    shares = _evenly(0.3 if is_narrow else 0.7, 8 if is_narrow else 4)
    for below in shares:
        for above in shares:
            # Divided before they are added: the range itself may not fit into float32.
            s = _positive(high * above / most - low * below / most)
            yield s, torch.round(-low * below / s).clamp(0, most)


def _symmetric_candidates(low: Tensor, high: Tensor, scheme: Scheme) -> Iterator[tuple[Tensor, Tensor]]:
    is_narrow, most = scheme.bits <= 4, scheme.n_codes - 1
    zeros = [torch.full_like(low, scheme.n_codes // 2)]
    if scheme.bits <= _MOST_BITS_WITH_SIDES:
        zeros.append(zeros[0] - 1)

    def spanning(z: Tensor, share: float, beyond: float) -> Tensor:
        """The scale at which the share of the range ends so many steps beyond the last codes."""
        return _positive(torch.maximum(-low * share / (z + beyond), high * share / (most - z + beyond)))

    z = torch.where(-low >= high, zeros[0], zeros[-1])
    yield spanning(z, 1.0, 0.5 if scheme.n_codes % 2 == 0 else 0.0), z
    for z in zeros:
        for share in _evenly(0.1 if is_narrow else 0.5, 28 if is_narrow else 11):
            yield spanning(z, share, 0.0), z


def _evenly(end: float, n: int) -> list[float]:
    """`n` numbers from 1 down to `end`, in float32 whatever the default is."""
    found: list[float] = torch.linspace(1.0, end, n, dtype=torch.float32, device="cpu").tolist()
    return found


def _steps(w: Tensor, s: Tensor, z: Tensor, n_codes: int) -> Tensor:
    q = torch.round(w / s)
    return torch.minimum(torch.maximum(q, -z), n_codes - 1 - z)


def _error(w: Tensor, v: Tensor | None, s: Tensor, z: Tensor, n_codes: int, shift: float) -> Tensor:
    differences = (w - _steps(w, s, z, n_codes) * s).double()
    counted = differences if v is None else differences * v
    squares = _sum(differences * counted)
    return squares + shift * _sum(_by_output(counted).square()) if shift else squares


def _closed_form(w: Tensor, q: Tensor, v: Tensor | None, s: Tensor, shift: float) -> Tensor:
    """The scale of least error for given steps; the old one where all steps are zero."""
    counted = q if v is None else q * v
    power, product = _sum(counted * q), _sum(counted * w)
    if shift:
        total = _by_output(counted)
        weights = _by_output(w if v is None else w * v)
        power, product = power + shift * _sum(total.square()), product + shift * _sum(total * weights)
    best = product / power.clamp(min=1)
    return torch.where((power > 0) & (best > 0), best.float(), s)


def _sum(one: Tensor) -> Tensor:
    return one.sum(dim=(1, 2), keepdim=True)


def _by_output(one: Tensor) -> Tensor:
    return one.sum(dim=2, keepdim=True)


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
