"""What was done to a model, kept beside its weights.

A compressed model stays a plain `nn.Module` with plain float weights whose *values* lie on a grid, in a
codebook, or at zero. No class is swapped and nothing is parametrized, so `deepcopy`, `pickle`, `state_dict`,
tracing and export all see an ordinary model. The record says which values are promised, so that fine-tuning
can keep them and the file can store them in few bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

_ATTRIBUTE = "_nbcompress_record"


@dataclass(frozen=True)
class Grid:
    """A uniform grid: `value = (code - zero) * scale`, computed in float32.

    Attributes:
        bits: 1 to 8.
        scheme: `symmetric` (zero is the middle code) or `affine`.
        group: `tensor`, `channel` (along axis 0), or a number of consecutive weights within a channel.
        scale: Shape `(groups,)`, float32, each exactly representable in float16 unless its range forbids it.
        zero: Shape `(groups,)`, the integer code of the value zero.
    """

    bits: int
    scheme: Literal["symmetric", "affine"]
    group: Literal["tensor", "channel"] | int
    scale: Tensor
    zero: Tensor


@dataclass(frozen=True)
class Codebook:
    """Shared values of one tensor.

    Attributes:
        values: Shape `(k,)`, float32, ascending. A pruned tensor holds zero among them.
        grid: The grid that the values themselves lie on, after quantizing a clustered tensor.
    """

    values: Tensor
    grid: Grid | None = None


@dataclass(frozen=True)
class TensorRecord:
    """What is promised of one parameter tensor.

    Attributes:
        is_pruned: Its zeros stay zeros.
        grid: Its non-zero values lie on this grid.
        codebook: Its values are among these. A tensor has a grid or a codebook, never both.
    """

    is_pruned: bool = False
    grid: Grid | None = None
    codebook: Codebook | None = None


@dataclass(frozen=True)
class Surgery:
    """One structural change, replayed on a fresh instance before its weights are filled in.

    Attributes:
        kind: `cut` (attributes and shapes of one module) or `factorize` (a layer becomes two).
        module: Dotted name of the module.
        shapes: New shape by parameter or buffer name within the module.
        attributes: New integer attributes, such as `out_channels`.
    """

    kind: Literal["cut", "factorize"]
    module: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    attributes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """Everything that was done to a model.

    Attributes:
        tensors: By dotted parameter name; tied parameters under their first name.
        surgery: Structural changes, in order.
        rest: `float16` when everything else was rounded to half precision.
        left_out: Why a tensor that one might expect here was not compressed, by name.
    """

    tensors: Mapping[str, TensorRecord] = field(default_factory=dict)
    surgery: tuple[Surgery, ...] = ()
    rest: Literal["float16", "float32"] = "float32"
    left_out: Mapping[str, str] = field(default_factory=dict)


def record_of(model: nn.Module) -> Record:
    """Return what was done to `model`; an empty record for a model that was never compressed."""
    record = model.__dict__.get(_ATTRIBUTE)
    return record if isinstance(record, Record) else Record()


def attach_(model: nn.Module, record: Record) -> None:
    """Put `record` on `model` in place, instead of the one it has."""
    model.__dict__[_ATTRIBUTE] = record


__all__ = ["Codebook", "Grid", "Record", "Surgery", "TensorRecord", "attach_", "record_of"]
