"""What was done to a model, kept beside its weights.

A compressed model stays a plain `nn.Module` with plain float weights whose *values* lie on a grid, in a
codebook, or at zero. No weight is wrapped and nothing is parametrized, so `deepcopy`, `pickle`, `state_dict`,
tracing and export all see an ordinary model. The record says which values are promised, so that fine-tuning
can keep them and the file can store them in few bits. Its tensors live on the CPU wherever the model is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, prod
from typing import Literal

import torch
from torch import Tensor, nn

from nbcompress.errors import CompressionError

_ATTRIBUTE = "_nbcompress_record"


def n_codes_of(bits: int, scheme: str) -> int:
    """How many codes a grid has; see `Grid`."""
    if bits == 1:
        return 3
    return (1 << bits) - (bits == 8 and scheme == "symmetric")


@dataclass(frozen=True, eq=False)
class Grid:
    """A uniform grid: `value = (code - zero) * scale`, computed in float32, then cast to the tensor's dtype.

    Codes count from 0. With `b` bits there are

    | scheme | codes | zero |
    | --- | --- | --- |
    | symmetric, b = 1 | 0 and 2 (minus and plus); 1 only for a pruned zero, or a group of zeros | 1 |
    | symmetric, b = 2 to 7 | 0 ... 2^b - 1, one more below zero than above or the other way round | a middle one |
    | symmetric, b = 8 | 0 ... 254, as many below zero as above, as kernels of 8 bits take them | 127 |
    | affine, b >= 2 | 0 ... 2^b - 1 | any of them |

    The middle ones are 2^(b-1) and 2^(b-1) - 1.

    Attributes:
        bits: 1 to 8.
        scheme: `symmetric` (zero is a middle code) or `affine`.
        group: `tensor`, `channel` (along axis 0), or a number of consecutive weights within a channel; the last
            group of a channel may be shorter. Groups are counted channel by channel.
        scale: Shape `(groups,)`, float32, positive; each representable in float16 unless its range forbids it.
        zero: Shape `(groups,)`, int32, the code of the value zero.
    """

    bits: int
    scheme: Literal["symmetric", "affine"]
    group: Literal["tensor", "channel"] | int
    scale: Tensor
    zero: Tensor

    def __post_init__(self) -> None:
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

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        same = (self.bits, self.scheme, self.group) == (other.bits, other.scheme, other.group)
        return same and torch.equal(self.scale, other.scale) and torch.equal(self.zero, other.zero)

    __hash__ = None  # type: ignore[assignment]

    @property
    def n_codes(self) -> int:
        """Size of the alphabet: every code is in `range(n_codes)`."""
        return n_codes_of(self.bits, self.scheme)

    def n_groups(self, shape: tuple[int, ...]) -> int:
        """How many scales a tensor of `shape` has."""
        if self.group == "tensor":
            return 1
        if self.group == "channel":
            return shape[0]
        return shape[0] * -(-prod(shape[1:]) // int(self.group))

    def spread(self, shape: tuple[int, ...], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Scale and zero of every weight, float32 and int32, each of a shape that broadcasts to `shape`.

        Raises:
            CompressionError: The grid has another number of groups than a tensor of `shape`.
        """
        if len(self.scale) != self.n_groups(shape):
            raise CompressionError(
                f"a tensor of shape {shape} has {self.n_groups(shape)} groups, not {len(self.scale)}"
            )
        scale, zero = (self.spread_one(one, shape).to(device) for one in (self.scale, self.zero))
        return scale, zero

    def spread_one(self, each: Tensor, shape: tuple[int, ...]) -> Tensor:
        """`each`, one number for every group, in a shape that broadcasts to `shape`."""
        if self.group == "tensor":
            return each.reshape((1,) * len(shape))
        if self.group == "channel":
            return each.reshape(shape[0], *(1,) * (len(shape) - 1))
        row = prod(shape[1:])
        return each.reshape(shape[0], -1).repeat_interleave(int(self.group), dim=1)[:, :row].reshape(shape)

    def values(self, codes: Tensor) -> Tensor:
        """Decode: integer codes of any shape, on any device, to float32 values of that shape."""
        scale, zero = self.spread(tuple(codes.shape), codes.device)
        return (codes.to(torch.int32) - zero).to(torch.float32) * scale


@dataclass(frozen=True, eq=False)
class Codebook:
    """Shared values of one tensor.

    Attributes:
        values: Shape `(k,)`, float32, ascending, each representable in the tensor's dtype (and in float16 if the
            rest of the model is, unless its range forbids it). A pruned tensor holds zero among them.
        grid: The grid that the values themselves lie on (one group), after quantizing a clustered tensor.
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
    """What is promised of one parameter tensor.

    Attributes:
        is_pruned: Its zeros stay zeros.
        grid: Its values lie on this grid. Every grid holds zero.
        codebook: Its values are among these. A tensor has a grid or a codebook, never both.
    """

    is_pruned: bool = False
    grid: Grid | None = None
    codebook: Codebook | None = None

    def __post_init__(self) -> None:
        if self.grid is not None and self.codebook is not None:
            raise CompressionError("a tensor has a grid or a codebook, never both")


@dataclass(frozen=True)
class ActivationRange:
    """The range of the input of one layer, from which integer kernels take their grid of 256 codes.

    The model itself goes on computing its activations in floating point; export reads this.

    Attributes:
        low: Where the code 0 lies, at most zero.
        high: Where the code 255 lies, at least zero.
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
        """Distance of two codes, a float32 number above zero; 1 where the input is always zero."""
        step = torch.tensor(self.high / 255 - self.low / 255, dtype=torch.float32, device="cpu")
        return float(step.clamp(min=torch.finfo(torch.float32).tiny)) if self.low < self.high else 1.0

    @property
    def zero(self) -> int:
        """The code of the value zero, 0 to 255: `value = (code - zero) * scale`."""
        return min(max(round(-self.low / self.scale), 0), 255)


# By dotted module name: the range measured on data (static), or the word that says it is found at every run.
Activations = Mapping[str, ActivationRange | Literal["dynamic"]]


@dataclass(frozen=True)
class Surgery:
    """One structural change, replayed on a fresh instance before its weights are filled in.

    Attributes:
        kind: `cut` (attributes and shapes of one module) or `factorize` (a layer becomes two).
        module: Dotted name of the module; an empty name is the model itself.
        shapes: New shape by parameter or buffer name within the module (after the change).
        attributes: New numbers of the module, such as `out_channels`, or `rank` of a factorized layer.
    """

    kind: Literal["cut", "factorize"]
    module: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    attributes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """Everything that was done to a model.

    Attributes:
        tensors: By dotted parameter name; tied parameters under their first name.
        surgery: Structural changes, in order.
        rest: `float16` when everything else was rounded to half precision.
        left_out: Why a tensor that one might expect here was not compressed, by name.
        activations: How integer kernels take the input of a layer whose weight has a grid, by dotted module name.
    """

    tensors: Mapping[str, TensorRecord] = field(default_factory=dict)
    surgery: tuple[Surgery, ...] = ()
    rest: Literal["float16", "float32"] = "float32"
    left_out: Mapping[str, str] = field(default_factory=dict)
    activations: Activations = field(default_factory=dict)


def record_of(model: nn.Module) -> Record:
    """What was done to `model` and, under their names, to modules in it that were compressed on their own.

    The record of a model that was never compressed is empty. What the model's own record says goes before that of a
    part. Half precision of a part's rest is not a promise about the whole.
    """
    whole = model.__dict__.get(_ATTRIBUTE)
    whole = whole if isinstance(whole, Record) else Record()
    tensors, surgery, left_out = dict(whole.tensors), list(whole.surgery), dict(whole.left_out)
    activations = dict(whole.activations)
    n_parts = 0
    for prefix, module in model.named_modules():
        part = module.__dict__.get(_ATTRIBUTE)
        if module is model or not isinstance(part, Record):
            continue
        n_parts += 1
        surgery += [replace(one, module=f"{prefix}.{one.module}" if one.module else prefix) for one in part.surgery]
        tensors = {**{f"{prefix}.{name}": one for name, one in part.tensors.items()}, **tensors}
        left_out = {**{f"{prefix}.{name}": why for name, why in part.left_out.items()}, **left_out}
        inner = {f"{prefix}.{name}" if name else prefix: one for name, one in part.activations.items()}
        activations = {**inner, **activations}
    if not n_parts:
        return whole
    return replace(whole, tensors=tensors, surgery=tuple(surgery), left_out=left_out, activations=activations)


def attach_(model: nn.Module, record: Record) -> None:
    """Put `record` on `model` in place, instead of those it and its parts have."""
    for module in model.modules():
        module.__dict__.pop(_ATTRIBUTE, None)
    model.__dict__[_ATTRIBUTE] = record


__all__ = [
    "ActivationRange",
    "Activations",
    "Codebook",
    "Grid",
    "Record",
    "Surgery",
    "TensorRecord",
    "attach_",
    "n_codes_of",
    "record_of",
]
