"""Data-aware rounding (GPTQ): each weight of a layer is rounded such that the outputs of the layer change least.

Notation:
    W   weights of one layer, or of one group of a convolution, `(out, n)`
    H   second moments of its inputs, damped, `(n, n)`: half the Hessian of the squared error of the outputs
    U   upper Cholesky factor of the inverse of H: row k is all that the columns after k need to know of column k

Columns are rounded one after the other, those of the largest inputs first. The error of a column is carried on to the
columns that are not rounded yet, so that they make up for it. One layer is rounded after the other, on inputs that the
rounded layers before it give; so only one H is in memory.

Columns that take over errors leave the range that suits rounding to the nearest. So several grids are tried, and each
output takes the one on which it changes least. In the end its scales s are fitted to the codes that were found: the
output error `(w - Q s)' H (w - Q s)`, with the codes of each group in a column of Q, is least at the solution of
`Q' H Q s = Q' H w`.

References:
    Frantar et al. (2023), "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from nbcompress.compressors.calibration import NOT_CALLED, input_rows, layers_of, run_with_hooks, why_no_layer
from nbcompress.compressors.data import Batches
from nbcompress.compressors.grids import group_rows, round_to_grid, with_scales
from nbcompress.compressors.layers import Target, is_turned
from nbcompress.compressors.modes import evaluating, seeded
from nbcompress.compressors.prune.activation_scores import MAX_COLUMNS, InputStatistics
from nbcompress.compressors.prune.weight_scores import damped, inverse_factor
from nbcompress.compressors.record import Grid
from nbcompress.errors import CompressionError, DataError, option

# Columns that are rounded before the rest of the layer is updated at once.
_BLOCK = 128

# ---------------------------------------------------------------------------------------------------------------------
# One layer


def round_by_inputs(weight: Tensor, grid: Grid, moments: Tensor, *, is_pruned: bool = False) -> Tensor:
    """Round `weight` to values of `grid` such that the outputs of its layer change little.

    Args:
        weight: Shape `(out, ...)`, finite.
        grid: Its grid; see `Grid`.
        moments: Shape `(groups, n, n)`, float64: sums of products of the inputs that the flattened weight is multiplied
            with.
        is_pruned: Zeros stay zeros.

    Returns:
        Values of the shape, dtype and device of `weight`. The squared error of the outputs is never larger than that of
        rounding to the nearest values.
    """
    n_groups, n = moments.shape[0], moments.shape[-1]
    rounder = _Rounder.of(weight, grid, n_groups, n, is_pruned=is_pruned)
    w = weight.detach().to(moments.device, torch.float64).reshape(n_groups, -1, n)
    carried = torch.stack([_round_columns(w[k], damped(moments[k]), rounder.group(k)) for k in range(n_groups)])
    nearest = round_to_grid(weight, grid, is_pruned=is_pruned)
    near = nearest.to(moments.device, torch.float64).reshape(n_groups, -1, n)
    # Each output by itself: whichever changes it less.
    errors = [(((w - tried) @ moments) * (w - tried)).sum(2, keepdim=True) for tried in (carried, near)]
    best = torch.where(errors[0] < errors[1], carried, near)
    return best.reshape(weight.shape).to(weight.device, weight.dtype)


def round_on_best(
    weight: Tensor, grids: Sequence[Grid], moments: Tensor, *, is_pruned: bool = False
) -> tuple[Tensor, Grid]:
    """Round each output of `weight` on the one of several grids on which it changes least, and fit the scales to it.

    Args:
        weight: As in `round_by_inputs`.
        grids: Of the same bits, scheme and groups. A single one keeps its scales.
        moments: As in `round_by_inputs`.
        is_pruned: Zeros stay zeros.

    Returns:
        Values of the shape, dtype and device of `weight`, and their grid. No output changes more, in the squared sum
        over the inputs, than by `round_by_inputs` on the first grid.
    """
    values, grid = round_by_inputs(weight, grids[0], moments, is_pruned=is_pruned), grids[0]
    if len(grids) == 1:
        return values, grid
    lowest = _output_errors(weight, values, moments)
    for other in grids[1:]:
        tried = round_by_inputs(weight, other, moments, is_pruned=is_pruned)
        errors = _output_errors(weight, tried, moments)
        values, grid, lowest = _better_outputs((values, grid, lowest), (tried, other, errors))
    refitted, other = _refit(weight, grid, values, moments)
    errors = _output_errors(weight, refitted, moments)
    values, grid, _ = _better_outputs((values, grid, lowest), (refitted, other, errors))
    return values, grid


# Values, their grid, and the squared error of each output, shape `(out,)`.
_Rounded = tuple[Tensor, Grid, Tensor]


def _output_errors(weight: Tensor, values: Tensor, moments: Tensor) -> Tensor:
    n_groups, n = moments.shape[0], moments.shape[-1]
    w, v = (item.detach().to(moments.device, torch.float64).reshape(n_groups, -1, n) for item in (weight, values))
    return (((w - v) @ moments) * (w - v)).sum(2).flatten()


def _better_outputs(first: _Rounded, second: _Rounded) -> _Rounded:
    """The one of less error, output by output; the first one where both are equal."""
    (values, grid, errors), (other_values, other, other_errors) = first, second
    better = other_errors < errors
    of_values = better.to(values.device).reshape(-1, *(1,) * (values.ndim - 1))
    of_groups = better.cpu().repeat_interleave(len(grid.scale) // len(better))
    grid = replace(
        grid,
        scale=torch.where(of_groups, other.scale, grid.scale),
        zero=torch.where(of_groups, other.zero, grid.zero),
    )
    return torch.where(of_values, other_values, values), grid, torch.where(better, other_errors, errors)


# Outputs whose scales are fitted at once.
_ROWS = 4096
# A fitted scale is at most this many times the one before, or as many times smaller: rows of few codes determine theirs
# badly. Those scales stay.
_MOST_CHANGE = 3.0


def _refit(weight: Tensor, grid: Grid, values: Tensor, moments: Tensor) -> tuple[Tensor, Grid]:
    """The scales at which the outputs change least for the codes that `values` have, and the values on that grid."""
    n_conv, n = moments.shape[0], moments.shape[-1]
    shape, device = tuple(weight.shape), moments.device
    scale, _ = grid.spread(shape, weight.device)
    steps = (values.detach().float() / scale).round_()
    size = grid.group if isinstance(grid.group, int) else n
    n_blocks = -(-n // size)
    filled = torch.nn.functional.pad
    old = grid.scale.to(device, torch.float64).reshape(n_conv, -1, n_blocks)
    q, w = (item.detach().reshape(n_conv, -1, n) for item in (steps, weight))
    found = torch.empty_like(old)
    for k, hessian in enumerate(filled(moments, (0, n_blocks * size - n, 0, n_blocks * size - n))):
        for start in range(0, q.shape[1], _ROWS):
            rows = slice(start, start + _ROWS)
            codes, weights = (filled(item[k, rows].to(device, torch.float64), (0, len(hessian) - n)) for item in (q, w))
            found[k, rows] = _scales_of_least_error(codes.unflatten(1, (n_blocks, size)), weights, hessian)
    keeps = ~((found > old / _MOST_CHANGE) & (found < old * _MOST_CHANGE))
    new = with_scales(grid, torch.where(keeps, old, found).flatten(), weight.dtype)
    return (steps * new.spread(shape, weight.device)[0] + 0.0).to(weight.dtype), new


def _scales_of_least_error(codes: Tensor, weights: Tensor, hessian: Tensor) -> Tensor:
    """Solve `Q' H Q s = Q' H w` for each output.

    Args:
        codes: Steps away from zero, shape `(out, blocks, n / blocks)`.
        weights: Shape `(out, n)`.
        hessian: Shape `(n, n)`.

    Returns:
        Shape `(out, blocks)`. A little is added to the diagonal, so that codes of zero make no error.
    """
    blocks = codes.shape[1:]
    products = [
        ((codes[:, index] @ part).unflatten(1, blocks) * codes).sum(2)
        for index, part in enumerate(hessian.unflatten(0, blocks))
    ]
    left, right = torch.stack(products, 1), ((weights @ hessian).unflatten(1, blocks) * codes).sum(2)
    damping = 1e-4 * left.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-30
    return torch.linalg.solve(left + damping * torch.eye(blocks[0], dtype=left.dtype, device=left.device), right)


def _round_columns(w: Tensor, hessian: Tensor, rounder: _Rounder) -> Tensor:
    """Algorithm 1 of GPTQ, with columns in order of activation. Shapes `(out, n)` and `(n, n)`."""
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    upper = inverse_factor(hessian[order][:, order])
    w = w[:, order].clone()
    for start in range(0, w.shape[1], _BLOCK):
        end = min(start + _BLOCK, w.shape[1])
        block, factor = w[:, start:end].clone(), upper[start:end, start:end]
        errors = torch.zeros_like(block)
        for k in range(end - start):
            rounded = rounder.column(block[:, k], int(order[start + k]))
            errors[:, k] = (block[:, k] - rounded) / factor[k, k]
            block[:, k + 1 :] -= errors[:, k : k + 1] * factor[k, k + 1 :]
            block[:, k] = rounded
        w[:, start:end] = block
        w[:, end:] -= errors @ upper[start:end, end:]
    return w[:, torch.argsort(order)]


@dataclass(frozen=True)
class _Rounder:
    """Rounds single columns to a grid.

    Attributes:
        grid: The grid.
        dtype: Of the weight.
        scale: Of each weight, `(groups, out, n)`, float32.
        zero: Its code of zero, float32.
        fixed: Values that are not rounded here, such as pruned zeros; NaN where there are none.
    """

    grid: Grid
    dtype: torch.dtype
    scale: Tensor
    zero: Tensor
    fixed: Tensor

    @classmethod
    def of(cls, weight: Tensor, grid: Grid, n_groups: int, n: int, *, is_pruned: bool) -> _Rounder:
        """Return the rounder of all groups of a layer."""
        shape = tuple(weight.shape)
        scale, zero = (item.expand(shape).reshape(n_groups, -1, n) for item in grid.spread(shape, weight.device))
        fixed = torch.full(shape, torch.nan, dtype=torch.float64, device=weight.device)
        values = weight.detach()
        if is_pruned:
            fixed[values == 0] = 0.0
        if grid.bits == 1:
            has_weights = group_rows(values, grid.group)[0].any(dim=1)
            fixed[~grid.spread_groups(has_weights, shape).expand(shape)] = 0.0
        if grid.in_half is not None:
            places = grid.in_half.to(weight.device)
            fixed.view(-1)[places] = round_to_grid(values, grid, is_pruned=is_pruned).double().view(-1)[places]
        return cls(grid, weight.dtype, scale, zero.to(torch.float32), fixed.reshape(n_groups, -1, n))

    def group(self, index: int) -> _Rounder:
        """Return the rounder of one group, with shapes `(out, n)`."""
        return _Rounder(self.grid, self.dtype, self.scale[index], self.zero[index], self.fixed[index])

    def column(self, values: Tensor, index: int) -> Tensor:
        """Round the weights of column `index`, float64, exactly to values that the file gives back."""
        scale, zero = self.scale[:, index], self.zero[:, index]
        narrow = values.to(torch.float32)
        if self.grid.bits == 1:
            steps = torch.where(narrow >= 0, 1.0, -1.0)
        else:
            steps = torch.minimum(torch.maximum((narrow / scale).round(), -zero), self.grid.n_codes - 1 - zero)
        on_grid = (steps * scale + 0.0).to(self.dtype).double()
        fixed = self.fixed[:, index]
        return torch.where(fixed.isnan(), on_grid, fixed)


# ---------------------------------------------------------------------------------------------------------------------
# The inputs of layers

# Input rows of one weight: `(groups, rows, columns)`.
RowsOf = Callable[[tuple[Any, ...], Mapping[str, Any]], Iterator[Tensor]]


@dataclass(frozen=True)
class _InputReader:
    """A module and how its call gives the rows that a weight is multiplied with."""

    module: nn.Module
    rows: RowsOf


def readers_of(model: nn.Module, target: Target) -> list[_InputReader] | str:
    """Return the modules that multiply by `target`, or the reason why its inputs are not known."""
    n_inputs = _n_inputs(model, target)
    if n_inputs > MAX_COLUMNS:
        return f"its {n_inputs} inputs are too many for products of inputs"
    readers = [_InputReader(layer, _plain_rows(layer)) for layer in layers_of(model, target).values()]
    if is_turned(model, target):
        readers += [_InputReader(model.get_submodule(name.rpartition(".")[0]), _last_axis) for name in target.names]
    for name in target.names:
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        if isinstance(module, nn.RNNBase) and last.startswith(("weight_ih_l", "weight_hh_l")):
            readers.append(_InputReader(module, _recurrent_rows(module, last)))
        if type(module) in (nn.LSTMCell, nn.GRUCell, nn.RNNCell) and last in ("weight_ih", "weight_hh"):
            readers.append(_InputReader(module, _cell_rows(module, last)))
    return readers or why_no_layer(model, target)


def _n_inputs(model: nn.Module, target: Target) -> int:
    """How many numbers an output of the layer of `target` is made of."""
    return len(target.parameter) if is_turned(model, target) else target.parameter[0].numel()


def _last_axis(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    x = args[0] if args else kwargs["x"]
    yield x.detach().float().reshape(1, -1, x.shape[-1])


def _plain_rows(layer: nn.Module) -> RowsOf:
    def rows(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, Tensor):
            yield from input_rows(layer, x.detach())

    return rows


def _cell_rows(cell: nn.Module, name: str) -> RowsOf:
    def rows(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
        x = args[0] if args else kwargs["input"]
        state = args[1] if len(args) > 1 else kwargs.get("hx")
        if name == "weight_hh":
            hidden = state[0] if isinstance(state, (tuple, list)) else state
            x = x.new_zeros((*x.shape[:-1], cell.hidden_size)) if hidden is None else hidden
        yield x.detach().float().reshape(1, -1, x.shape[-1])

    return rows


def _recurrent_rows(module: nn.RNNBase, name: str) -> RowsOf:
    """Inputs of one weight of a recurrent layer: those of a layer in the stack, or its states one step before."""
    is_reverse, is_hidden = name.endswith("_reverse"), name.startswith("weight_hh")
    depth = int(name.removesuffix("_reverse").rpartition("_l")[2])

    def rows(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
        x = args[0] if args else kwargs["input"]
        state = args[1] if len(args) > 1 else kwargs.get("hx")
        # The states before the first step: of an LSTM two tensors, else one.
        first = tuple(state) if isinstance(state, (tuple, list)) else () if state is None else (state,)
        if isinstance(x, PackedSequence):
            # Sorted by length, as the state is after the packing.
            order, lengths = x.sorted_indices, pad_packed_sequence(PackedSequence(x.data, x.batch_sizes))[1]
            x = pad_packed_sequence(PackedSequence(x.data, x.batch_sizes))[0]
            first = first if order is None else tuple(item.index_select(1, order) for item in first)
        else:
            if x.ndim == 2:
                x, first = x[:, None], tuple(item[:, None] for item in first)
            elif module.batch_first:
                x = x.transpose(0, 1)
            lengths = torch.full((x.shape[1],), x.shape[0], dtype=torch.int64)
        inner = _layer_input(module, x, first, depth, lengths)
        if is_hidden:
            n_ways = 2 if module.bidirectional else 1
            out = _run_layer(module, inner, first, depth, lengths)
            width = out.shape[-1] // n_ways
            way = int(is_reverse)
            inner = out[..., way * width : (way + 1) * width]
            start = first[0][depth * n_ways + way] if first else inner.new_zeros(inner.shape[1:])
            inner = _one_step_before(inner, start, lengths, is_reverse=is_reverse)
        counts = torch.arange(len(inner), device=inner.device)[:, None] < lengths.to(inner.device)
        yield inner[counts].float().reshape(1, -1, inner.shape[-1])

    return rows


def _one_step_before(out: Tensor, start: Tensor, lengths: Tensor, *, is_reverse: bool) -> Tensor:
    """The state that each step reads, `(steps, batch, features)`."""
    if not is_reverse:
        return torch.cat([start[None], out[:-1]])
    before = torch.cat([out[1:], start[None]])
    for column, length in enumerate(lengths.tolist()):
        before[length - 1, column] = start[column]
    return before


def _layer_input(module: nn.RNNBase, x: Tensor, first: tuple[Tensor, ...], depth: int, lengths: Tensor) -> Tensor:
    """What the layer at `depth` of the stack reads, `(steps, batch, features)`; dropout is off."""
    for below in range(depth):
        x = _run_layer(module, x, first, below, lengths)
    return x


def _run_layer(module: nn.RNNBase, x: Tensor, first: tuple[Tensor, ...], depth: int, lengths: Tensor) -> Tensor:
    """Run one layer of the stack on `(steps, batch, features)`, with weights of the module as they are now."""
    ways = ("", "_reverse") if module.bidirectional else ("",)
    kind: Any = type(module)
    extra: dict[str, Any] = {"proj_size": module.proj_size} if isinstance(module, nn.LSTM) else {}
    if isinstance(module, nn.RNN):
        extra["nonlinearity"] = module.nonlinearity
    extra |= {"bias": module.bias, "bidirectional": module.bidirectional, "device": x.device, "dtype": x.dtype}
    # The random start of the new module leaves the random state of the notebook as it is.
    with seeded(0):
        single = kind(x.shape[-1], module.hidden_size, **extra)
    for way in ways:
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"):
            source = getattr(module, f"{name}_l{depth}{way}", None)
            if isinstance(source, Tensor):
                setattr(single, f"{name}_l0{way}", nn.Parameter(source.detach(), requires_grad=False))
    states = tuple(item[depth * len(ways) : (depth + 1) * len(ways)].contiguous() for item in first)
    start: Any = states if len(states) > 1 else states[0] if states else None
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
    output: Tensor = pad_packed_sequence(single.eval()(packed, start)[0], total_length=len(x))[0]
    return output


def moments_of(
    model: nn.Module, target: Target, readers: Sequence[_InputReader], data: object, seed: int
) -> InputStatistics | None:
    """Sum the products of the inputs of `target` over one pass of `data`; None if the model does not read it.

    Raises:
        DataError: An input is NaN or infinite, or `data` does not fit.
    """
    found: list[InputStatistics] = []

    def hook_for(reader: _InputReader) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], __: Any) -> None:
            for rows in reader.rows(args, kwargs):
                if not found:
                    found.append(InputStatistics.for_rows(rows, with_products=True))
                found[0].add(rows)

        return hook

    run_with_hooks(model, [(reader.module, hook_for(reader)) for reader in readers], data, seed)
    if not found:
        return None
    if not bool(torch.isfinite(found[0].squares).all()):
        raise DataError(f"inputs must be finite, but those of {target.name!r} hold NaN or infinity on the data")
    return found[0]


@torch.no_grad()
def call_order(model: nn.Module, targets: Sequence[Target], data: object, seed: int) -> list[Target]:
    """Return `targets` in the order in which the model reads them on the first batch; those that it does not, last."""
    seen: dict[nn.Module, int] = {}
    owners = {
        target.name: [model.get_submodule(name.rpartition(".")[0]) for name in target.names] for target in targets
    }

    def note(module: nn.Module, *_: object) -> None:
        seen.setdefault(module, len(seen))

    modules = {module for found in owners.values() for module in found}
    handles = [module.register_forward_hook(note) for module in modules]
    batches = Batches(data)
    try:
        with evaluating(model), seeded(seed, *batches.generators):
            batches.first(model)(model)
    finally:
        for handle in handles:
            handle.remove()
    last = len(seen)
    return sorted(targets, key=lambda target: min(seen.get(module, last) for module in owners[target.name]))


def rounded_by_data(
    model: nn.Module, target: Target, grids: Sequence[Grid], data: object, seed: int, *, is_pruned: bool
) -> tuple[Tensor, Grid] | str:
    """Return the values of `target` by GPTQ and their grid, see `round_on_best`, or why its inputs are not known.

    Raises:
        CompressionError: The products of its inputs overflow.
        DataError: The data does not fit.
    """
    owner = model.get_submodule(target.name.rpartition(".")[0])
    if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)) and len(target.names) == 1:
        # Each row is read alone, so no error of one row can make up for another: the nearest value is the best one.
        return round_to_grid(target.parameter, grids[0], is_pruned=is_pruned), grids[0]
    readers = readers_of(model, target)
    if isinstance(readers, str):
        return readers
    statistics = moments_of(model, target, readers, data, seed)
    if statistics is None or statistics.products is None:
        return NOT_CALLED
    if _n_inputs(model, target) != statistics.products.shape[-1]:
        return "its inputs have another width"
    try:
        if is_turned(model, target):
            # A grid of one scale is the same for the transposed tensor.
            turned = [grid if grid.group == "tensor" else grid.of_transposed for grid in grids]
            values, grid = round_on_best(target.parameter.T, turned, statistics.products, is_pruned=is_pruned)
            return values.T, grid if grid.group == "tensor" else grid.of_transposed
        return round_on_best(target.parameter, grids, statistics.products, is_pruned=is_pruned)
    except RuntimeError as err:  # of torch.linalg, whose own class is not public in all versions
        raise CompressionError(
            f"{option('rounding', 'gptq')} cannot invert the products of inputs of {target.name!r}: use more data, or "
            f"{option('rounding', 'nearest')}"
        ) from err


__all__ = ["call_order", "moments_of", "readers_of", "round_by_inputs", "round_on_best", "rounded_by_data"]
