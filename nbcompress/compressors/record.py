"""The record of what was done to a model, and the codes of weights on a grid or in a codebook.

A compressed model stays a plain `nn.Module` with plain float weights whose *values* lie on a grid, in a codebook, or
at zero. No weight is wrapped and nothing is parametrized, so `deepcopy`, `pickle`, `state_dict`, tracing and export
all see an ordinary model. The record, an attribute of the model, says which constraint each tensor satisfies, so that
fine-tuning can keep it and a file can store the tensor in few bits. Tensors of a record are on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, prod
from typing import Literal

import torch
from torch import Tensor, nn

from nbcompress.compressors.blocks import name_after_removal, name_before_removal, unpacked_indices
from nbcompress.errors import CompressionError

_ATTRIBUTE = "_nbcompress_record"
# On every module inside of the model: a `_PartOf`.
_PART_ATTRIBUTE = "_nbcompress_part_of"


def n_codes_of(bits: int, scheme: str) -> int:
    """Return how many codes a grid has; see `Grid`."""
    if bits == 1:
        return 3
    return (1 << bits) - (bits == 8 and scheme == "symmetric")


@dataclass(frozen=True, eq=False)
class Grid:
    """A uniform grid: `value = (code - zero) * scale`, computed in float32, then cast to the tensor's dtype.

    Codes count from 0. With `b` bits there are:

    | scheme | codes | zero |
    | --- | --- | --- |
    | symmetric, b = 1 | 0 and 2 (minus and plus); 1 only for a pruned zero, or a group of zeros | 1 |
    | symmetric, b = 2 to 7 | 0 ... 2^b - 1, one more below zero than above, or one more above | a middle code |
    | symmetric, b = 8 | 0 ... 254, as many below zero as above, as 8-bit kernels expect | 127 |
    | affine, b >= 2 | 0 ... 2^b - 1 | any code |

    The middle codes are 2^(b-1) and 2^(b-1) - 1.

    Attributes:
        bits: 1 to 8.
        scheme: `symmetric` (the value zero has a middle code) or `affine`.
        group: `tensor`, `channel` (along axis 0), or a number of consecutive weights within a channel; the last
            group of a channel may be shorter. Groups are counted channel by channel.
        scale: Shape `(groups,)`, float32, positive; representable in float16 if it was found by error and is within the
            normal range.
        zero: Shape `(groups,)`, int32, the code of the value zero.
        is_fixed: Training keeps the scales, which somebody chose: powers of two, or one of the user's own.
        in_half: Shape `(k,)`, int64: ascending positions in the flattened tensor of weights that are in half precision
            instead of on the grid; None if all weights are on it. Their code is that of zero.
        is_turned: The grid is that of the transposed tensor of two axes: channels lie along axis 1. So it is for layers
            that multiply by `weight` where a linear layer multiplies by its transpose.

    Raises:
        CompressionError: There is no such grid.
    """

    bits: int
    scheme: Literal["symmetric", "affine"]
    group: Literal["tensor", "channel"] | int
    scale: Tensor
    zero: Tensor
    is_fixed: bool = False
    in_half: Tensor | None = None
    is_turned: bool = False

    def __post_init__(self) -> None:
        if self.is_turned and self.in_half is not None:
            raise CompressionError("a grid of the transposed tensor has no weights in half precision")
        if not 1 <= self.bits <= 8 or self.scheme not in ("symmetric", "affine"):
            raise CompressionError(f"a grid has 1 to 8 bits and is symmetric or affine, got {self.bits} {self.scheme}")
        if self.bits == 1 and self.scheme == "affine":
            raise CompressionError("a grid of 1 bit is sign * scale, so it is symmetric, got affine")
        if self.group not in ("tensor", "channel") and not (isinstance(self.group, int) and self.group >= 1):
            raise CompressionError(f"a grid's group is tensor, channel or a count from 1, got {self.group!r}")
        scale, zero = self.scale, self.zero
        if scale.ndim != 1 or scale.shape != zero.shape or scale.dtype != torch.float32 or zero.dtype != torch.int32:
            raise CompressionError("a grid has one float32 scale and one int32 zero for each group")
        if not bool((torch.isfinite(scale) & (scale > 0)).all()):
            raise CompressionError("the scales of a grid must be positive and finite")
        n = self.n_codes
        low, high = ((n - 1) // 2, n // 2) if self.scheme == "symmetric" else (0, n - 1)
        if not bool(((zero >= low) & (zero <= high)).all()):
            raise CompressionError(f"zero must be one of the grid's {n} codes (a middle one if it is symmetric)")
        rest = self.in_half
        if rest is not None and (rest.ndim != 1 or rest.dtype != torch.int64 or not bool((rest.diff() > 0).all())):
            raise CompressionError("the weights in half precision are given by ascending int64 positions in one row")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        kinds = [
            (grid.bits, grid.scheme, grid.group, grid.is_fixed, grid.in_half is None, grid.is_turned)
            for grid in (self, other)
        ]
        if kinds[0] != kinds[1]:
            return False
        if self.in_half is not None and other.in_half is not None and not torch.equal(self.in_half, other.in_half):
            return False
        return torch.equal(self.scale, other.scale) and torch.equal(self.zero, other.zero)

    __hash__ = None  # type: ignore[assignment]

    @property
    def n_codes(self) -> int:
        """Size of the alphabet: every code is in `range(n_codes)`."""
        return n_codes_of(self.bits, self.scheme)

    @property
    def of_transposed(self) -> Grid:
        """The same grid for the transposed tensor."""
        return replace(self, is_turned=not self.is_turned)

    def n_groups(self, shape: tuple[int, ...]) -> int:
        """Return how many scales a tensor of `shape` has."""
        shape = shape[::-1] if self.is_turned else shape
        if self.group == "tensor":
            return 1
        if self.group == "channel":
            return shape[0]
        return shape[0] * -(-prod(shape[1:]) // int(self.group))

    def spread(self, shape: tuple[int, ...], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Return scale and zero of every weight, float32 and int32, each of a shape that broadcasts to `shape`.

        Raises:
            CompressionError: The grid has another number of groups than a tensor of `shape`.
        """
        if len(self.scale) != self.n_groups(shape):
            raise CompressionError(
                f"a tensor of shape {shape} has {self.n_groups(shape)} groups, not {len(self.scale)}"
            )
        return self.spread_groups(self.scale, shape).to(device), self.spread_groups(self.zero, shape).to(device)

    def spread_groups(self, by_group: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return `by_group`, one number for each group, in a shape that broadcasts to `shape`."""
        if self.is_turned:
            return self.of_transposed.spread_groups(by_group, shape[::-1]).T
        if self.group == "tensor":
            return by_group.reshape((1,) * len(shape))
        if self.group == "channel":
            return by_group.reshape(shape[0], *(1,) * (len(shape) - 1))
        row = prod(shape[1:])
        return by_group.reshape(shape[0], -1).repeat_interleave(int(self.group), dim=1)[:, :row].reshape(shape)

    def values(self, codes: Tensor) -> Tensor:
        """Decode integer codes of any shape, on any device, to float32 values of that shape; zero for `in_half`."""
        scale, zero = self.spread(tuple(codes.shape), codes.device)
        return (codes.to(torch.int32) - zero).to(torch.float32) * scale


@dataclass(frozen=True, eq=False)
class Codebook:
    """The values that all weights of one tensor share, or of several, whose records then hold this very object.

    Attributes:
        values: Shape `(k,)`, float32, ascending, each representable in the tensor's dtype (and in float16 if the
            rest of the model is and none of them overflows it). Zero is one of them if the tensor has pruned weights.
        grid: The grid of one group that the values themselves lie on, after a clustered tensor was quantized.

    Raises:
        CompressionError: There is no such codebook.
    """

    values: Tensor
    grid: Grid | None = None

    def __post_init__(self) -> None:
        values = self.values
        if values.ndim != 1 or not 1 <= len(values) <= 65536 or values.dtype != torch.float32:
            raise CompressionError("a codebook holds 1 to 65536 float32 values in one row")
        if not bool(torch.isfinite(values).all()) or not bool((values[1:] > values[:-1]).all()):
            raise CompressionError("the values of a codebook must be finite and ascending")
        if self.grid is not None and self.grid.group != "tensor":
            raise CompressionError("the grid of a codebook has one group")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Codebook):
            return NotImplemented
        return torch.equal(self.values, other.values) and self.grid == other.grid

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class TensorRecord:
    """The constraint that one parameter tensor satisfies.

    Attributes:
        is_pruned: Its zeros stay zeros.
        grid: Its values lie on this grid. Zero is a value of every grid.
        codebook: Its values are among these. A tensor has a grid or a codebook, never both.
        n_zeros: How many zeros a pruned tensor had when the record was attached; None if it has a grid or a codebook,
            whose codes tell more. A file does not hold it.

    Raises:
        CompressionError: There is a grid and a codebook.
    """

    is_pruned: bool = False
    grid: Grid | None = None
    codebook: Codebook | None = None
    n_zeros: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.grid is not None and self.codebook is not None:
            raise CompressionError("a tensor has a grid or a codebook, never both")


@dataclass(frozen=True)
class ActivationRange:
    """The range of the input of one layer, which sets the grid of 256 codes of an integer kernel.

    Only export reads it: the model itself computes its activations in floating point.

    Attributes:
        low: The value of code 0, at most zero.
        high: The value of code 255, at least zero.

    Raises:
        CompressionError: The range is not finite or does not hold zero.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (isfinite(self.low) and isfinite(self.high) and self.low <= 0 <= self.high):
            raise CompressionError(
                f"an activation range must be finite and hold zero, got {self.low:g} to {self.high:g}"
            )

    @property
    def scale(self) -> float:
        """The distance of two neighbouring codes, a float32 number above zero; 1 if the input is always zero."""
        step = torch.tensor(self.high / 255 - self.low / 255, dtype=torch.float32, device="cpu")
        return float(step.clamp(min=torch.finfo(torch.float32).tiny)) if self.low < self.high else 1.0

    @property
    def zero(self) -> int:
        """The code of the value zero, 0 to 255: `value = (code - zero) * scale`."""
        return min(max(round(-self.low / self.scale), 0), 255)


# By dotted module name: the range measured on data (static), or `dynamic` if the kernel finds it at every run.
Activations = Mapping[str, ActivationRange | Literal["dynamic"]]


@dataclass(frozen=True)
class Surgery:
    """One structural change of a model. A file replays it on a fresh instance before it fills in the weights.

    Attributes:
        kind: `cut` (attributes and shapes of one module), `factorize` (a layer becomes two), `remove` (a container
            loses some of its modules, see `blocks`), `bypass` (a module becomes `nn.Identity`), or `resize` (the code
            of a module asks for sizes that no longer fit, see `resize`).
        module: Dotted name of the module; the empty name is the model itself.
        shapes: The new shape of each parameter or buffer, by its name within the module after the change.
        attributes: New numbers of the module, such as `out_channels`; for a factorized layer its `rank`; for `resize`
            the numbers of the rule.
        kept: The units that were kept (see `packed_indices`). For `cut`, by the name of a weight within the module:
            along its output axis (see `unit_axis`). For `remove`, under the empty name: the positions that stay.
    """

    kind: Literal["cut", "factorize", "remove", "bypass", "resize"]
    module: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    attributes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    kept: Mapping[str, int | bytes] = field(default_factory=dict)

    @property
    def positions(self) -> tuple[int, ...]:
        """For `remove`: the positions in the container that stay."""
        return unpacked_indices(self.kept.get("", 0))


@dataclass(frozen=True)
class TrainingLog:
    """The losses of one training.

    Attributes:
        optimizer: Its name.
        step_losses: The loss before each step.
        epoch_losses: The mean loss of the batches of each epoch.
        epoch_ends: How many steps were made until the end of each epoch.
        valid_losses: The loss on validation data after each epoch; empty without such data.
    """

    optimizer: str
    step_losses: tuple[float, ...] = ()
    epoch_losses: tuple[float, ...] = ()
    epoch_ends: tuple[int, ...] = ()
    valid_losses: tuple[float, ...] = ()

    def with_epoch(self, step_losses: Sequence[float], epoch_loss: float) -> TrainingLog:
        """Return the log with one more epoch."""
        steps = (*self.step_losses, *step_losses)
        return TrainingLog(
            self.optimizer,
            steps,
            (*self.epoch_losses, epoch_loss),
            (*self.epoch_ends, len(steps)),
            self.valid_losses,
        )

    def with_valid(self, loss: float) -> TrainingLog:
        """Return the log with the loss on validation data after the last epoch."""
        return replace(self, valid_losses=(*self.valid_losses, loss))


@dataclass(frozen=True)
class Record:
    """Everything that was done to a model.

    Attributes:
        tensors: The constraint of each tensor, by dotted parameter name; of a tied one by its first name.
        surgery: Structural changes, in order.
        rest: `float16` if everything else was rounded to half precision.
        left_out: Reasons why tensors were not compressed, by name.
        activations: How integer kernels read the input of a layer whose weight has a grid, by dotted module name.
        scores: The lowest and the highest score of each layer in the last pruning, by dotted module name. A file does
            not hold them.
        training: The losses of every training, in order. A file does not hold them.
    """

    tensors: Mapping[str, TensorRecord] = field(default_factory=dict)
    surgery: tuple[Surgery, ...] = ()
    rest: Literal["float16", "float32"] = "float32"
    left_out: Mapping[str, str] = field(default_factory=dict)
    activations: Activations = field(default_factory=dict)
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict, compare=False)
    training: tuple[TrainingLog, ...] = field(default=(), compare=False)

    @property
    def kept_indices(self) -> dict[str, Tensor]:
        """The units that were kept, as ascending indices of the original model (int64), by name.

        The name is that of a layer, and its indices S are along the output axis of its weight: `W[S]` of the original
        is the weight after the cut, `W[:, S]` for embeddings and transposed convolutions. A layer that reads these
        units has `W[:, S]`. A layer of which only inputs were cut has all indices. A weight that is not called
        `weight`, such as `attention.in_proj_weight`, has its own name. A container that lost whole blocks is listed
        with the positions of the blocks that stayed. After blocks were removed, names count the blocks that are left.
        """
        kept: dict[str, Tensor] = {}
        for step in self.surgery:
            if step.kind == "remove":
                positions = step.positions
                kept = {
                    new: indices
                    for name, indices in kept.items()
                    if (new := name_after_removal(name, step.module, positions)) is not None
                }
            elif step.kind == "bypass":
                start = f"{step.module}."
                kept = {name: item for name, item in kept.items() if name != step.module and not name.startswith(start)}
            for name, indices in step.kept.items():
                key = _layer_name(step.module, name)
                now = torch.tensor(unpacked_indices(indices), dtype=torch.int64, device="cpu")
                kept[key] = kept[key][now] if key in kept else now
        return kept


def _layer_name(module: str, weight: str) -> str:
    """The name under which `Record.kept_indices` lists a weight of `module`."""
    if weight in ("weight", ""):
        return module
    if module.endswith(".parametrizations.weight"):
        return module.removesuffix(".parametrizations.weight")
    if module == "parametrizations.weight":
        return ""
    return module if weight == "weight_v" else f"{module}.{weight}".removeprefix(".")


def unit_axis(module: nn.Module) -> int:
    """Return the axis of the weight of a layer along which its output units lie."""
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return 1 if isinstance(module, (*transposed, nn.Embedding, nn.EmbeddingBag)) else 0


@dataclass(frozen=True)
class _PartOf:
    """What a module inside of a compressed model knows of it, so that the module keeps its record when it is taken out.

    Attributes:
        record: The record of the model.
        path: Dotted name of the module there.
    """

    record: Record
    path: str


def record_of(model: nn.Module) -> Record:
    """Return the record of what compressors did to `model`.

    Args:
        model: Any module, also one that was never compressed.

    Returns:
        The record of the model itself, together with those of modules in it that were compressed on their own, or
        taken out of a compressed model, under dotted names. Where both name a tensor, the record of the model wins. The
        record of a model that was never compressed is empty. If only a part has its rest in half precision, `rest` is
        `float32`.

    Example:
        >>> import torch, nbcompress as nc
        >>> small = nc.quantize(nc.prune(torch.nn.Linear(8, 4), amount=0.5), bits=4)
        >>> record = nc.record_of(small)
        >>> record.rest, record.tensors["weight"].is_pruned, record.tensors["weight"].grid.bits
        ('float16', True, 4)
    """
    whole = _own_record(model) or Record()
    tensors, surgery, left_out = dict(whole.tensors), list(whole.surgery), dict(whole.left_out)
    activations, scores = dict(whole.activations), dict(whole.scores)
    n_parts = 0
    # Records of which a module holds a part are not read again from the modules inside of it.
    known = {prefix: [_origin(module)] for prefix, module in model.named_modules() if not prefix}
    for prefix, module in model.named_modules():
        if module is model:
            continue
        above = known.get(prefix.rpartition(".")[0], [])
        part, origin = _own_record(module), _origin(module)
        known[prefix] = [*above, origin]
        if part is None or (not isinstance(module.__dict__.get(_ATTRIBUTE), Record) and _is_among(origin, above)):
            continue
        n_parts += 1
        surgery += [replace(step, module=f"{prefix}.{step.module}" if step.module else prefix) for step in part.surgery]
        tensors = {**{f"{prefix}.{name}": tensor for name, tensor in part.tensors.items()}, **tensors}
        left_out = {**{f"{prefix}.{name}": why for name, why in part.left_out.items()}, **left_out}
        inner = {f"{prefix}.{name}" if name else prefix: activation for name, activation in part.activations.items()}
        activations = {**inner, **activations}
        scores = {**{f"{prefix}.{name}" if name else prefix: ends for name, ends in part.scores.items()}, **scores}
    if not n_parts:
        return whole
    return replace(
        whole, tensors=tensors, surgery=tuple(surgery), left_out=left_out, activations=activations, scores=scores
    )


def attach_(model: nn.Module, record: Record) -> None:
    """Attach `record` to `model` in place. It replaces the records of the model and of its parts."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tensors = {
        name: replace(constraint, n_zeros=_n_zeros(constraint, parameters.get(name)))
        for name, constraint in record.tensors.items()
    }
    if any(item.n_zeros != record.tensors[name].n_zeros for name, item in tensors.items()):
        record = replace(record, tensors=tensors)
    for name, module in model.named_modules():
        module.__dict__.pop(_ATTRIBUTE, None)
        module.__dict__[_PART_ATTRIBUTE] = _PartOf(record, name)
    model.__dict__.pop(_PART_ATTRIBUTE, None)
    model.__dict__[_ATTRIBUTE] = record


def _n_zeros(constraint: TensorRecord, tensor: Tensor | None) -> int | None:
    if tensor is None or not constraint.is_pruned or constraint.grid is not None or constraint.codebook is not None:
        return None
    return int((tensor.detach() == 0).sum())


def zeros_lost(tensor: Tensor, constraint: TensorRecord, name: str) -> str:
    """Return a sentence about pruned zeros of a tensor that became other numbers; empty if there are none."""
    if constraint.n_zeros is None:
        return ""
    n_lost = constraint.n_zeros - int((tensor.detach() == 0).sum())
    if n_lost <= 0:
        return ""
    return (
        f"{called(name)} must keep its zeros, but {n_lost} of {constraint.n_zeros} are other numbers now: change "
        "weights with finetune(), which keeps them, or prune again"
    )


def _origin(module: nn.Module) -> Record | None:
    """The record that was attached to the module, or to the model that it was a part of."""
    own = module.__dict__.get(_ATTRIBUTE)
    if isinstance(own, Record):
        return own
    part = module.__dict__.get(_PART_ATTRIBUTE)
    return part.record if isinstance(part, _PartOf) else None


def _is_among(record: Record | None, records: Iterable[Record | None]) -> bool:
    return any(record is known for known in records)


def _own_record(module: nn.Module) -> Record | None:
    """The record of the module itself; that of a part of a compressed model is what the model's record says of it."""
    own = module.__dict__.get(_ATTRIBUTE)
    if isinstance(own, Record):
        return own
    part = module.__dict__.get(_PART_ATTRIBUTE)
    if not isinstance(part, _PartOf):
        return None
    record, path = part.record, part.path
    start = f"{path}."
    return Record(
        {name.removeprefix(start): item for name, item in record.tensors.items() if name.startswith(start)},
        _surgery_of_part(record.surgery, path),
        record.rest,
        {name.removeprefix(start): why for name, why in record.left_out.items() if name.startswith(start)},
        {
            name.removeprefix(path).removeprefix("."): item
            for name, item in record.activations.items()
            if name == path or name.startswith(start)
        },
    )


def _surgery_of_part(surgery: tuple[Surgery, ...], path: str) -> tuple[Surgery, ...]:
    """The steps that changed the module now called `path`, under names within it. Removed blocks changed its name."""
    steps: list[Surgery] = []
    for step in reversed(surgery):
        if step.kind == "remove" and path != step.module:
            path = name_before_removal(path, step.module, step.positions)
        if step.module == path or step.module.startswith(f"{path}."):
            steps.append(replace(step, module=step.module.removeprefix(path).removeprefix(".")))
    return tuple(reversed(steps))


def called(name: str) -> str:
    """Return how the text of an error calls a tensor."""
    return f"parameter {name!r}" if name else "the tensor"
