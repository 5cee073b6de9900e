"""Uniform grids: the scales and zeros of all groups of a tensor, fitted at once.

Notation
    w   groups of weights, `(G, o, n)`: n weights of each of o outputs; a group within one output has o = 1
    v   which weights count, `(G, o, n)`, 1 or 0, or None if all do
    s   scales, `(G, 1, 1)`
    z   code of the value zero, `(G, 1, 1)`
    q   steps away from zero, `(G, o, n)`: code minus z

The scale that spans the largest weight (`absmax`) wastes most codes of a narrow grid on a few outliers. So the default
searches for the least squared error: it tries a fixed set of clipping ranges, improves the best one by alternating
between rounding and the closed-form scale `sum(w q) / sum(q q)`, and keeps absmax where that is better.

A grid with zero and an even number of codes has one more of them on one side. Clipping the other side shifts all
weights of an output the same way. Squared errors `e` of single weights do not see that shift, but inputs that are not
centred do: for inputs of mean m and standard deviation d the output is off by `d^2 sum(e^2) + m^2 sum(e)^2` in the mean
square. So `b sum(e)^2` is added for each output, with the ratio b = m^2 / d^2 of a rectified normal input. Without this
term, a symmetric grid of two bits does worse with four codes than with three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import pi
from typing import Literal

import torch
from torch import Tensor

from nbcompress.compressors.codes import grid_parts, row_parts, without
from nbcompress.compressors.record import Grid, n_codes_of
from nbcompress.errors import CompressionError, option

Group = Literal["tensor", "channel"] | int


def parse_granularity(text: object) -> Group:
    """Parse `channel`, `tensor`, or `group:32`, which is returned as the number 32.

    Raises:
        CompressionError: Anything else.
    """
    if text == "tensor":
        return "tensor"
    if text == "channel":
        return "channel"
    if isinstance(text, str) and text.startswith("group:") and text[6:].isdecimal() and int(text[6:]) >= 2:
        return int(text[6:])
    raise CompressionError(
        f"{option('granularity')} must be channel, tensor, or group:N with N from 2, such as group:32, got {text!r}"
    )


def group_rows(tensor: Tensor, group: Group) -> tuple[Tensor, Tensor | None]:
    """Arrange the weights that share a scale as rows.

    Args:
        tensor: Shape `(out, ...)`.
        group: `tensor`, `channel` (along axis 0), or a number of consecutive weights within a channel.

    Returns:
        Rows of shape `(groups, n)`, float32; and a bool tensor of that shape that is False where a short group was
        filled up with zeros, or None if none was.
    """
    values = tensor.detach().to(torch.float32)
    if group == "tensor":
        return values.reshape(1, -1), None
    channels = values.reshape(values.shape[0], -1)
    if group == "channel":
        return channels, None
    missing = -channels.shape[1] % group
    if not missing:
        return channels.reshape(-1, group), None
    real = torch.ones_like(channels, dtype=torch.bool)
    filled = torch.nn.functional.pad(channels, (0, missing))
    return filled.reshape(-1, group), torch.nn.functional.pad(real, (0, missing)).reshape(-1, group)


# If an output has more weights, about so many are sampled at even steps to compare clipping ranges (a heuristic: the
# error of a range is a mean, and the last comparison reads all weights again).
_N_SAMPLED = 4096
# Each improvement can only lower the error. After a few, it changes a scale by less than its rounding to float16.
_N_IMPROVEMENTS = 4
# Up to so many bits, each group of a symmetric grid chooses the side that has one value more. From 4 bits on it is the
# side below zero, as in the 4-bit and 8-bit integers of kernels: one value of sixteen gains too little.
_MOST_BITS_WITH_SIDES = 3
# Mean squared over variance of max(0, x) for x normal: 1 / (2 pi) over (pi - 1) / (2 pi).
_RECTIFIED = 1 / (pi - 1)
_SMALLEST_NORMAL_HALF = 2.0**-14
_SMALLEST_HALF = 2.0**-24


@dataclass(frozen=True)
class GridSpec:
    """What kind of grid to fit.

    Attributes:
        bits: 1 to 8.
        scheme: See `Grid`.
        group: See `Grid`.
        scale: `error` searches for the scale of least error. `absmax` ends at the largest weights: symmetric grids have
            `max |w| / (2^(bits-1) - 1)`, affine ones `(max - min) / (2^bits - 1)`, in float32. `pow2` is the power of
            two of least error. A number Q is a factor of the user's own: the scale is `1 / Q`, so that a weight becomes
            `round(w Q) / Q`. With one bit all take the mean magnitude, which has the least squared error, or the power
            of two near it.
        share: Share of the weights that are on the grid, above 0 to 1. The largest of the others stay in half
            precision, and the grid need not reach them.
        is_turned: See `Grid`.
    """

    bits: int
    scheme: Literal["symmetric", "affine"] = "symmetric"
    group: Group = "channel"
    scale: Literal["error", "absmax", "pow2"] | float = "error"
    share: float = 1.0
    is_turned: bool = False

    @property
    def n_codes(self) -> int:
        return n_codes_of(self.bits, self.scheme)

    @property
    def shift_weight(self) -> float:
        """The weight b of the squared sum of an output's errors beside the sum of their squares; see above."""
        return _RECTIFIED if self.n_codes % 2 == 0 else 0.0

    @property
    def is_fixed(self) -> bool:
        """Whether training keeps the scales."""
        return self.scale not in ("error", "absmax")

    def n_in_half(self, n_weights: int) -> int:
        """Return how many of the weights of a tensor stay in half precision."""
        return n_weights - round(self.share * n_weights)

    def matches(self, grid: Grid, n_weights: int) -> bool:
        """Whether `grid`, of a tensor of `n_weights`, has these bits, this scheme, these groups and such scales."""
        n_in_half = 0 if grid.in_half is None else len(grid.in_half)
        if (self.bits, self.scheme, self.group, self.is_turned) != (
            grid.bits,
            grid.scheme,
            grid.group,
            grid.is_turned,
        ):
            return False
        if n_in_half != self.n_in_half(n_weights) or self.is_fixed != grid.is_fixed:
            return False
        if self.scale == "pow2":
            return bool((torch.frexp(grid.scale).mantissa == 0.5).all())
        return isinstance(self.scale, str) or bool((grid.scale == _step_of(self.scale)).all())


def fit_grid(tensor: Tensor, spec: GridSpec, *, is_pruned: bool = False) -> Grid:
    """Fit a grid to `tensor`.

    Args:
        tensor: Finite values of shape `(out, ...)`, at least one.
        spec: Bits, symmetry and groups.
        is_pruned: Zeros are pruned weights, which do not count in the scale of one bit.

    Returns:
        The grid. In each group, rounding `tensor` to it (`round_to_grid`) has no larger error (see `shift_weight`) than
        the scale that spans them all has. With `scale="absmax"`, the error of one weight is at most half of its scale.

    Raises:
        CompressionError: A weight that stays in half precision overflows it.
    """
    if spec.is_turned:
        return fit_grid(tensor.T, replace(spec, is_turned=False), is_pruned=is_pruned).of_transposed
    in_half = largest(tensor, spec.n_in_half(tensor.numel()))
    if in_half is not None:
        _half_values(tensor, in_half)
        # Zeros leave the scales of the others as they are.
        tensor, is_pruned = without(tensor, in_half), True
    fitted = [_scales_and_zeros(part, spec, is_pruned) for part in row_parts(tensor, spec.group)]
    scale, zero = (torch.cat(numbers).cpu() for numbers in zip(*fitted, strict=True))
    return Grid(spec.bits, spec.scheme, spec.group, scale, zero.to(torch.int32), spec.is_fixed, in_half)


def _scales_and_zeros(tensor: Tensor, spec: GridSpec, is_pruned: bool) -> tuple[Tensor, Tensor]:
    """A scale for each group, and its code of zero."""
    w, v = _groups_of(tensor, spec.group)
    if spec.bits == 1:
        s, z = _fit_signs(w, v, is_pruned)
    elif spec.scale == "error":
        s, z = _fit_error(w, v, spec, tensor.dtype)
    else:
        s, z = _plain_scale(w, spec)
    if spec.scale == "pow2":
        s, z = _power_of_two(w, v, s, spec)
    if spec.scale == "error" or tensor.dtype == torch.float16:
        s = _storable(s, z, spec, tensor.dtype)
    return s.flatten(), z.flatten()


def largest(tensor: Tensor, count: int) -> Tensor | None:
    """Return the flat positions of the `count` weights of largest magnitude, ascending; of equal ones the first."""
    if not count:
        return None
    magnitudes = tensor.detach().to("cpu", torch.float32).abs().flatten()
    edge = torch.kthvalue(magnitudes, len(magnitudes) - count + 1).values
    marked = magnitudes > edge
    ties = torch.nonzero(magnitudes == edge).flatten()
    marked[ties[: count - int(marked.sum())]] = True
    return torch.nonzero(marked).flatten()


def _half_values(tensor: Tensor, positions: Tensor) -> Tensor:
    """The weights at flat `positions`, rounded to half precision in their own dtype."""
    values = tensor.detach().reshape(-1)[positions.to(tensor.device)]
    if values.dtype not in (torch.float32, torch.float64):
        return values
    half = values.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise CompressionError(
            f"{option('share=')} keeps the largest weights in half precision, but one is beyond 65504: leave it out"
        )
    return half.to(values.dtype)


def _step_of(factor: float) -> float:
    """The scale `1 / factor` as a float32 number."""
    return float(torch.tensor(1 / factor, dtype=torch.float32, device="cpu"))


def _plain_scale(w: Tensor, spec: GridSpec) -> tuple[Tensor, Tensor]:
    """Scales that end at the largest weights, or the one of the user's own, and the codes of zero."""
    low = w.amin(dim=(1, 2), keepdim=True).clamp(max=0)
    high = w.amax(dim=(1, 2), keepdim=True).clamp(min=0)
    most = spec.n_codes - 1
    if not isinstance(spec.scale, str):
        s = torch.full_like(low, _step_of(spec.scale))
    elif spec.scheme == "symmetric":
        s = _positive(torch.maximum(-low, high) / ((1 << (spec.bits - 1)) - 1))
    else:
        s = _positive(high / most - low / most)
    if spec.scheme == "affine":
        return s, torch.round(-low / s).clamp(0, most)
    return s, torch.full_like(low, spec.n_codes // 2)


# A power of two below the one that spans all weights clips them. This many are tried (a heuristic).
_N_POWERS = 4


def _power_of_two(w: Tensor, v: Tensor | None, s: Tensor, spec: GridSpec) -> tuple[Tensor, Tensor]:
    """The power of two of least squared error, from the first one that is not below `s` downwards."""
    above = torch.exp2(torch.ceil(torch.log2(s)))
    if spec.bits == 1:
        # The error is a parabola around `s`, so the nearer of the two neighbours is better.
        return torch.where(above - s <= s - above / 2, above, above / 2), torch.ones_like(s)
    low = w.amin(dim=(1, 2), keepdim=True).clamp(max=0)

    def candidates() -> Iterator[tuple[Tensor, Tensor]]:
        for power in range(_N_POWERS):
            tried = above * 2.0**-power
            is_affine = spec.scheme == "affine"
            middle = torch.full_like(s, spec.n_codes // 2)
            yield tried, torch.round(-low / tried).clamp(0, spec.n_codes - 1) if is_affine else middle

    return _least(candidates(), w, v, spec)


def _least(
    candidates: Iterator[tuple[Tensor, Tensor]], w: Tensor, v: Tensor | None, spec: GridSpec
) -> tuple[Tensor, Tensor]:
    """The scale and the zero of least error for each group; of equal ones the first."""
    best_s, best_z = next(candidates)
    lowest = _error(w, v, best_s, best_z, spec.n_codes, spec.shift_weight)
    for s, z in candidates:
        error = _error(w, v, s, z, spec.n_codes, spec.shift_weight)
        better = error < lowest
        best_s, best_z = torch.where(better, s, best_s), torch.where(better, z, best_z)
        lowest = torch.where(better, error, lowest)
    return best_s, best_z


# Where grids of a few bits end, as shares of the largest weights, if rounding carries errors on to other weights: those
# need room beyond the range that suits rounding to the nearest (a heuristic, see benchmarks.md#rounding).
_RANGES = (1.0, 0.85, 0.7)


def grids_by_range(tensor: Tensor, spec: GridSpec) -> list[Grid]:
    """Grids for `tensor` that end at shares of the largest weights of each group, for 2 to 4 bits; else none.

    Args:
        tensor: As in `fit_grid`.
        spec: Bits, symmetry and groups; its scales are not read.
    """
    if not 2 <= spec.bits <= 4 or spec.share < 1:
        return []
    if spec.is_turned:
        return [grid.of_transposed for grid in grids_by_range(tensor.T, replace(spec, is_turned=False))]
    grids = []
    for share in _RANGES:
        fitted = [_ranged(part, spec, share) for part in row_parts(tensor, spec.group)]
        scale, zero = (torch.cat(numbers).cpu() for numbers in zip(*fitted, strict=True))
        grids.append(Grid(spec.bits, spec.scheme, spec.group, scale, zero.to(torch.int32)))
    return grids


def _ranged(tensor: Tensor, spec: GridSpec, share: float) -> tuple[Tensor, Tensor]:
    """Scales that end at a share of the largest weights, and the codes of zero."""
    w, _ = _groups_of(tensor, spec.group)
    low = w.amin(dim=(1, 2), keepdim=True).clamp(max=0) * share
    high = w.amax(dim=(1, 2), keepdim=True).clamp(min=0) * share
    most = spec.n_codes - 1
    if spec.scheme == "affine":
        s = _positive(high / most - low / most)
        z = torch.round(-low / s).clamp(0, most)
    else:
        s = _positive(torch.maximum(-low, high) * (2 / most))
        z = torch.full_like(s, spec.n_codes // 2)
        if spec.bits <= _MOST_BITS_WITH_SIDES:
            z = torch.where(-low >= high, z, z - 1)
    return _storable(s, z, spec, tensor.dtype).flatten(), z.flatten()


def with_scales(grid: Grid, scale: Tensor, dtype: torch.dtype) -> Grid:
    """Return `grid` with other scales, positive and of its shape, rounded such that a file can hold them.

    Args:
        grid: The grid.
        scale: Shape `(groups,)`.
        dtype: Of the weights.
    """
    s, z = (numbers.reshape(-1, 1, 1).to("cpu", torch.float32) for numbers in (scale, grid.zero))
    spec = GridSpec(grid.bits, grid.scheme, grid.group)
    return replace(grid, scale=_storable(_positive(s), z, spec, dtype).flatten())


def round_to_grid(tensor: Tensor, grid: Grid, *, is_pruned: bool = False) -> Tensor:
    """Round `tensor` to the nearest values of `grid`, in its own dtype and on its device.

    Zeros of a pruned tensor stay zero, and so do groups in which all weights are zero. With one bit, every other weight
    becomes plus or minus the scale. Weights in half precision are rounded to it.
    """
    if grid.is_turned:
        return round_to_grid(tensor.T, grid.of_transposed, is_pruned=is_pruned).T.contiguous()
    values = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    parts = row_parts(tensor.detach(), grid.group)
    for part, rounded, its_grid in zip(parts, row_parts(values, grid.group), grid_parts(grid, parts), strict=True):
        scale, _ = its_grid.spread(tuple(part.shape), part.device)
        # Adding zero turns -0.0 into 0.0, as decoding does.
        rounded.copy_(_nearest_steps(part, its_grid, is_pruned).mul_(scale) + 0.0)
    if grid.in_half is not None:
        values.view(-1)[grid.in_half.to(values.device)] = _half_values(tensor, grid.in_half)
    return values


def refit_scale(tensor: Tensor, grid: Grid, *, is_pruned: bool = False) -> Grid:
    """Return `grid` with the scales of least error for the codes that `tensor` has on it now; its zeros stay.

    A group keeps its scale if the new one would not lower the error, and if all its weights round to zero. Scales that
    somebody chose stay.
    """
    if grid.is_fixed:
        return grid
    if grid.is_turned:
        return refit_scale(tensor.T, grid.of_transposed, is_pruned=is_pruned).of_transposed
    tensor = without(tensor, grid.in_half)
    spec = GridSpec(grid.bits, grid.scheme, grid.group)
    w, _ = _groups_of(tensor, grid.group)
    q, _ = _groups_of(_nearest_steps(tensor, grid, is_pruned), grid.group)
    s, z = (by_group.reshape(-1, 1, 1).to(w.device, torch.float32) for by_group in (grid.scale, grid.zero))
    best = _closed_form(w, q, None, s, spec.shift_weight)
    best = _storable(_positive(best), z, spec, tensor.dtype)
    if spec.bits > 1:
        error, error_before = (_error(w, None, scale, z, spec.n_codes, spec.shift_weight) for scale in (best, s))
        best = torch.where(error < error_before, best, s)
    return replace(grid, scale=best.flatten().cpu())


def _groups_of(tensor: Tensor, group: Group) -> tuple[Tensor, Tensor | None]:
    """`w` and `v` of the notation above. Each number of a vector is an output."""
    rows, real = group_rows(tensor, group)
    w = rows.reshape(len(rows), tensor.shape[0] if group == "tensor" and tensor.ndim else 1, -1)
    return w, None if real is None else real.reshape(w.shape).to(torch.float32)


def _nearest_steps(tensor: Tensor, grid: Grid, is_pruned: bool) -> Tensor:
    """Steps away from zero (code minus zero) of the nearest values, as whole float32 numbers."""
    values = tensor.detach().to(torch.float32)
    if grid.bits == 1:
        signs = torch.ones_like(values).masked_fill_(~(values >= 0), -1.0)
        has_weights = group_rows(values, grid.group)[0].any(dim=1)
        return signs.mul_(values != 0 if is_pruned else grid.spread_groups(has_weights, tuple(tensor.shape)))
    scale, zero = grid.spread(tuple(tensor.shape), tensor.device)
    return torch.minimum(torch.maximum((values / scale).round_(), -zero), grid.n_codes - 1 - zero)


def _fit_signs(w: Tensor, v: Tensor | None, is_pruned: bool) -> tuple[Tensor, Tensor]:
    """The mean magnitude, the scale of least squared error of one bit (Rastegari et al. 2016, XNOR-Net, equation 6)."""
    v = torch.ones_like(w) if v is None else v
    if is_pruned:
        v = v * (w != 0)
    s = _sum(w.abs().double() * v) / _sum(v).clamp(min=1)
    # A scale is positive, but the mean of a group of zeros is not. Training can grow a small scale.
    s = torch.where(s > 0, _positive(s.float()), _SMALLEST_HALF)
    return s, torch.ones_like(s, dtype=torch.float32)


def _fit_error(w: Tensor, v: Tensor | None, spec: GridSpec, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    step, shift = max(1, w.shape[2] // _N_SAMPLED), spec.shift_weight
    few, few_v = w[:, :, ::step], None if v is None else v[:, :, ::step]
    best_s, best_z = _least(_candidates(w, spec), few, few_v, spec)
    for _ in range(_N_IMPROVEMENTS):
        q = _steps(w, best_s, best_z, spec.n_codes)
        better_s = _closed_form(w.double(), q.double(), v, best_s, shift)
        if shift:
            # Rounding to the nearest lowers each square, but not always their squared sum.
            errors = [_error(w, v, s, best_z, spec.n_codes, shift) for s in (better_s, best_s)]
            better_s = torch.where(errors[0] < errors[1], better_s, best_s)
        best_s = better_s
    first_s, first_z = next(_candidates(w, spec))
    found = _error(w, v, _storable(best_s, best_z, spec, dtype), best_z, spec.n_codes, shift)
    plain = _error(w, v, _storable(first_s, first_z, spec, dtype), first_z, spec.n_codes, shift)
    worse = found > plain
    return torch.where(worse, first_s, best_s), torch.where(worse, first_z, best_z)


def _candidates(w: Tensor, spec: GridSpec) -> Iterator[tuple[Tensor, Tensor]]:
    """Scales and zeros to try, absmax first. Narrow grids gain from clipping far, wide ones hardly (a heuristic)."""
    is_narrow, most = spec.bits <= 4, spec.n_codes - 1
    low = w.amin(dim=(1, 2), keepdim=True).clamp(max=0)
    high = w.amax(dim=(1, 2), keepdim=True).clamp(min=0)
    if spec.scheme == "symmetric":
        yield from _symmetric_candidates(low, high, spec)
        return
    shares = _evenly(0.3 if is_narrow else 0.7, 8 if is_narrow else 4)
    for below in shares:
        for above in shares:
            # Divided before they are added: the range itself may not fit into float32.
            s = _positive(high * above / most - low * below / most)
            yield s, torch.round(-low * below / s).clamp(0, most)


def _symmetric_candidates(low: Tensor, high: Tensor, spec: GridSpec) -> Iterator[tuple[Tensor, Tensor]]:
    is_narrow, most = spec.bits <= 4, spec.n_codes - 1
    zeros = [torch.full_like(low, spec.n_codes // 2)]
    if spec.bits <= _MOST_BITS_WITH_SIDES:
        zeros.append(zeros[0] - 1)

    def spanning(z: Tensor, share: float, beyond: float) -> Tensor:
        """The scale at which a share of the range ends `beyond` steps outside of the last codes."""
        return _positive(torch.maximum(-low * share / (z + beyond), high * share / (most - z + beyond)))

    z = torch.where(-low >= high, zeros[0], zeros[-1])
    yield spanning(z, 1.0, 0.5 if spec.n_codes % 2 == 0 else 0.0), z
    for z in zeros:
        for share in _evenly(0.1 if is_narrow else 0.5, 28 if is_narrow else 11):
            yield spanning(z, share, 0.0), z


def _evenly(end: float, n: int) -> list[float]:
    """`n` numbers from 1 down to `end`, computed in float32 whatever the default dtype is."""
    shares: list[float] = torch.linspace(1.0, end, n, dtype=torch.float32, device="cpu").tolist()
    return shares


def _steps(w: Tensor, s: Tensor, z: Tensor, n_codes: int) -> Tensor:
    q = torch.round(w / s)
    return torch.minimum(torch.maximum(q, -z), n_codes - 1 - z)


def _error(w: Tensor, v: Tensor | None, s: Tensor, z: Tensor, n_codes: int, shift: float) -> Tensor:
    differences = (w - _steps(w, s, z, n_codes) * s).double()
    counted = differences if v is None else differences * v
    squares = _sum(differences * counted)
    return squares + shift * _sum(_by_output(counted).square()) if shift else squares


def _closed_form(w: Tensor, q: Tensor, v: Tensor | None, s: Tensor, shift: float) -> Tensor:
    """The scale of least error for given steps `q`; `s` where all steps are zero."""
    counted = q if v is None else q * v
    power, product = _sum(counted * q), _sum(counted * w)
    if shift:
        total = _by_output(counted)
        weights = _by_output(w if v is None else w * v)
        power, product = power + shift * _sum(total.square()), product + shift * _sum(total * weights)
    best = product / power.clamp(min=1)
    return torch.where((power > 0) & (best > 0), best.float(), s)


def _sum(x: Tensor) -> Tensor:
    return x.sum(dim=(1, 2), keepdim=True)


def _by_output(x: Tensor) -> Tensor:
    return x.sum(dim=2, keepdim=True)


def _positive(s: Tensor) -> Tensor:
    """Scales that float32 can divide by. A group of zeros gets the scale 1."""
    return torch.where(s == 0, torch.ones_like(s), s.clamp(min=torch.finfo(torch.float32).tiny))


def _storable(s: Tensor, z: Tensor, spec: GridSpec, dtype: torch.dtype) -> Tensor:
    """Round scales to float16 within its normal range, such that no value of the grid overflows in `dtype`.

    For a float16 tensor every scale is rounded, also below the normal range: multiples of such a scale are
    representable, while those of a finer one would round to equal numbers.
    """
    most = 1.0 if spec.bits == 1 else torch.maximum(z, spec.n_codes - 1 - z)
    rounded = _half_scale(s, dtype)
    limit = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)
    # A little below the limit, since rounding to float16 may go up again.
    widest = torch.full_like(s, limit * (1 - 2**-9)) / most
    return torch.where(rounded.double() * most > limit, _half_scale(widest, dtype), rounded)


def _half_scale(s: Tensor, dtype: torch.dtype) -> Tensor:
    half = s.to(torch.float16).to(torch.float32)
    if dtype == torch.float16:
        return half.clamp(min=_SMALLEST_HALF)
    fits = (s >= _SMALLEST_NORMAL_HALF) & (half <= torch.finfo(torch.float16).max)
    return torch.where(fits, half, s)
