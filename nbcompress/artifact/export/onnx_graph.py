"""Running ONNX models in ONNX Runtime, where the package is installed.

Weights as the integers of their own grid.

Adding constants and nodes to an ONNX graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nbcompress.compressors.layers import unique_parameters
from nbcompress.compressors.record import Grid, TensorRecord, codes_of, record_of
from nbcompress.errors import ArtifactError, CompressionError, MissingPart, NbcompressWarning

Floats = NDArray[np.float32]
Integers = NDArray[Any]


@dataclass(frozen=True, eq=False)
class IntegerWeight:
    """A weight of shape `(channels, ...)`: `(codes - zero) * scale`.

    Attributes:
        name: Of the parameter, the first one if it is shared; with a word behind it once its codes were changed.
        codes: Of the weight's shape. int8 where zero is the code 0 for all, else uint8.
        scale: Shape `(1,)`, `(channels,)`, or `(channels, blocks)` with `block` weights of a channel to each.
        zero: The code of zero, of the shape of `scale`, uint8; None where it is 0 everywhere.
        block: Consecutive weights of a channel that share a scale; 0 without blocks.
    """

    name: str
    codes: Integers
    scale: Floats
    zero: Integers | None
    block: int

    @property
    def fits_4_bits(self) -> bool:
        """Whether every code has a place in 4 bits, of a sign if zero is the code 0."""
        low, high = (-8, 7) if self.zero is None else (0, 15)
        return not self.codes.size or bool(self.codes.min() >= low and self.codes.max() <= high)

    @property
    def values(self) -> Floats:
        """What the integers stand for."""
        zero = 0 if self.zero is None else self._wide(self.zero).astype(np.int32)
        found: Floats = (self.codes.astype(np.int32) - zero).astype(np.float32) * self._wide(self.scale)
        return found

    @property
    def signed(self) -> IntegerWeight | None:
        """The same with zero at the code 0, if its codes then still are of 8 bits."""
        if self.zero is None:
            return self
        steps = self.codes.astype(np.int32) - self._wide(self.zero).astype(np.int32)
        if steps.size and not (steps.min() >= -128 and steps.max() <= 127):
            return None
        return replace(self, name=f"{self.name}.signed", codes=steps.astype(np.int8), zero=None)

    def scaled(self, factor: Floats) -> IntegerWeight | None:
        """This weight with each channel times its factor, shape `(channels,)`, in the same integers up to their sign.

        None where a factor that is not positive meets a code that has no negative.
        """
        scale = np.broadcast_to(self.scale, (len(factor), *self.scale.shape[1:]))
        # A channel that is switched off has the code 0 everywhere, and a scale that nothing is divided by.
        step = np.where(factor == 0, 1, np.abs(factor)).astype(np.float32).reshape(-1, *(1,) * (scale.ndim - 1))
        scale = np.ascontiguousarray(scale * step)
        if bool((factor > 0).all()):
            zero = None if self.zero is None else np.ascontiguousarray(np.broadcast_to(self.zero, scale.shape))
            return replace(self, scale=scale, zero=zero)
        signed = self.signed
        if signed is None or (signed.codes.size and signed.codes.min() == -128):
            return None
        sign = np.sign(factor).astype(np.int8).reshape(-1, *(1,) * (self.codes.ndim - 1))
        return replace(signed, codes=signed.codes * sign, scale=scale)

    def _wide(self, one: Integers | Floats) -> Integers | Floats:
        """`scale` or `zero`, of a shape that broadcasts to that of the codes."""
        shape = self.codes.shape
        if self.block:
            row = self.codes[0].size
            return np.repeat(one, self.block, axis=1)[:, :row].reshape(shape)
        return one.reshape(-1, *(1,) * (len(shape) - 1))


def integer_weights(model: nn.Module) -> dict[str, IntegerWeight]:
    """The weights of `model` that lie on a grid, under every name they have.

    One that left its grid is left out, and a warning names it.
    """
    found: dict[str, IntegerWeight] = {}
    record = record_of(model)
    for names, parameter in unique_parameters(model):
        promise = next((record.tensors[name] for name in names if name in record.tensors), TensorRecord())
        grid = promise.grid
        if grid is None and promise.codebook is not None:
            grid = promise.codebook.grid
        if grid is None or parameter.ndim < 2:
            continue
        try:
            weight = _on_grid(names[0], parameter, grid)
        except CompressionError as err:
            warnings.warn(f"{names[0]!r} is exported in float32. {err}", NbcompressWarning, stacklevel=2)
            continue
        found.update(dict.fromkeys(names, weight))
    return found


def _on_grid(name: str, parameter: torch.Tensor, grid: Grid) -> IntegerWeight:
    codes = codes_of(parameter, TensorRecord(grid=grid), name).cpu()
    _, zero = grid.spread(tuple(codes.shape))
    offsets = (codes - zero).numpy()
    shape = (-1,) if isinstance(grid.group, str) else (len(codes), grid.n_groups(tuple(codes.shape)) // len(codes))
    scale = grid.scale.reshape(shape).numpy().copy()
    block = 0 if isinstance(grid.group, str) else grid.group
    low, high = (int(offsets.min()), int(offsets.max())) if offsets.size else (0, 0)
    # Few bits are worth more than a zero at the code 0, and that more than nothing.
    if (low >= -8 and high <= 7) or (grid.n_codes > 16 and low >= -128 and high <= 127):
        return IntegerWeight(name, offsets.astype(np.int8), scale, None, block)
    zeros = grid.zero.reshape(shape).numpy().astype(np.uint8)
    return IntegerWeight(name, codes.numpy().astype(np.uint8), scale, zeros, block)


# A weight's integers where 4 bits are enough.
_NARROW: dict[np.dtype[Any], tuple[Any, ir.DataType]] = {
    np.dtype(np.int8): (ml_dtypes.int4, ir.DataType.INT4),
    np.dtype(np.uint8): (ml_dtypes.uint4, ir.DataType.UINT4),
}


class Editor:
    """Adds to a graph; `done` puts its nodes into an order in which they can run."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        self._constants: dict[str, ir.Value] = {}

    def constant(self, name: str, array: Integers | Floats, *, is_narrow: bool = False) -> ir.Value:
        """A constant, or the one that was added under this name before.

        Args:
            name: To be found under, with a word more if the model has something of that name.
            array: What it holds.
            is_narrow: Store int8 and uint8 in 4 bits each.
        """
        if name in self._constants:
            return self._constants[name]
        dtype = None
        if is_narrow:
            narrow, dtype = _NARROW[array.dtype]
            array = array.astype(narrow)
        tensor = ir.tensor(np.array(array, order="C"), dtype=dtype, name=name)
        free = f"{name}.integers" if name in self.graph.initializers else name
        value = ir.val(free, tensor.dtype, array.shape, const_value=tensor)
        self.graph.register_initializer(value)
        self._constants[name] = value
        return value

    def add(
        self, kind: str, inputs: Sequence[ir.Value | None], n_outputs: int = 1, **attributes: int | Sequence[int]
    ) -> list[ir.Value]:
        """The outputs of a new node."""
        node = ir.node(kind, inputs, attributes, num_outputs=n_outputs)
        self.graph.append(node)
        return list(node.outputs)

    def one(self, kind: str, inputs: Sequence[ir.Value | None], **attributes: int | Sequence[int]) -> ir.Value:
        """The output of a new node that has one."""
        return self.add(kind, inputs, 1, **attributes)[0]

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new` be read wherever `old` was, also as an output of the model, under the old name."""
        if old.is_graph_output():
            new.name, old.name = old.name, f"{old.name}.before"
            new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def done(self) -> ir.Model:
        """Drop what nothing reads, order the nodes, and forget shapes in between, which are no longer sure."""
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

        self.graph.sort()
        RemoveUnusedNodesPass()(self.model)
        # The exporter notes where in the user's files each node comes from.
        ClearMetadataAndDocStringPass()(self.model)
        for node in self.graph.all_nodes():
            for value in node.outputs:
                if not value.is_graph_output():
                    value.shape, value.type = None, None
        return self.model


def constant_of(value: ir.Value | None) -> Floats | None:
    """The numbers of a constant of the graph, None if it is none."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read `value`, each once."""
    return list(dict.fromkeys(node for node, _ in value.uses()))


def only_reader(value: ir.Value, kinds: Iterable[str]) -> ir.Node | None:
    """The one node that reads `value` if it is of these kinds and the model does not return the value as well."""
    found = readers(value)
    is_one = len(found) == 1 and len(value.uses()) == 1 and not value.is_graph_output()
    return found[0] if is_one and found[0].op_type in kinds and not found[0].domain else None


_PARTS = ("ml_dtypes", "onnx", "onnx_ir", "onnxruntime", "onnxscript")


def check_parts() -> None:
    """Raise a MissingPart error if a package for ONNX is not installed."""
    for name in _PARTS:
        try:
            import_module(name)
        except ImportError as err:
            raise MissingPart(f'ONNX needs the package {name}: pip install "nbcompress[onnx]"') from err


class Session:
    """An ONNX model, ready to run on the CPU.

    Args:
        model: Bytes of the model, or the path of its file.
        threads: That an operator computes on; 0 leaves it to ONNX Runtime.
        is_exact: Compute as the model says. Without it, ONNX Runtime takes the liberty of rounding activations to
            8 bits before a matrix product with decoded integers.

    Raises:
        ArtifactError: ONNX Runtime cannot read or run it.
        MissingPart: ONNX Runtime is not installed.
    """

    def __init__(self, model: bytes | str, threads: int = 0, *, is_exact: bool = False) -> None:
        check_parts()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Errors only: warnings tell what its own optimizer left alone.
        options.log_severity_level = 3
        if is_exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as err:
            raise ArtifactError(f"ONNX Runtime must be able to load the model, but {_first_line(err)}") from err
        self.inputs = tuple(get_input.name for get_input in self._session.get_inputs())

    def __call__(self, tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
        """The outputs for inputs in order."""
        arrays = [tensor.numpy(force=True) for tensor in tensors]
        try:
            found = self._session.run(None, dict(zip(self.inputs, arrays, strict=True)))
        except Exception as err:
            raise ArtifactError(f"ONNX Runtime must be able to run the model, but {_first_line(err)}") from err
        return [np.asarray(item) for item in found]


def tensors_of(arrays: Sequence[NDArray[Any]]) -> list[Tensor]:
    """Outputs of a session as tensors."""
    return [torch.from_numpy(np.array(array)) for array in arrays]


def _first_line(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return f"it says: {lines[0][:300]}" if lines else f"it raised {type(err).__name__}"
