"""ONNX graphs: weights as integers of their grid, an editor for graphs, and sessions of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nbcompress.artifact.export.agreement import failure_text
from nbcompress.compressors.codes import codes_of
from nbcompress.compressors.layers import unique_parameters
from nbcompress.compressors.record import ActivationRange, Grid, TensorRecord, record_of
from nbcompress.errors import ArtifactError, CompressionError, check_installed, warn

Floats = NDArray[np.float32]
Integers = NDArray[Any]


# ---- Weights as integers ----


@dataclass(frozen=True, eq=False)
class IntegerWeight:
    """A weight of shape `(channels, ...)`: `(codes - zero) * scale`.

    Attributes:
        name: Of the parameter, the first one if it is shared; with a suffix once its codes were changed.
        codes: Of the weight's shape; int8 where the zero point is 0 everywhere, else uint8.
        scale: Shape `(1,)`, `(channels,)`, or `(channels, blocks)` with `block` weights of a channel to each.
        zero: The zero point, uint8 of the shape of `scale`; None where it is 0 everywhere.
        block: Consecutive weights of a channel that share a scale; 0 without blocks.
        is_turned: The parameter is the transposed one of this weight.
    """

    name: str
    codes: Integers
    scale: Floats
    zero: Integers | None
    block: int
    is_turned: bool = False

    @property
    def fits_4_bits(self) -> bool:
        """Whether every code fits into 4 bits, signed if the zero point is 0."""
        low, high = (-8, 7) if self.zero is None else (0, 15)
        return not self.codes.size or bool(self.codes.min() >= low and self.codes.max() <= high)

    @property
    def values(self) -> Floats:
        """The weight in floating point."""
        zero = 0 if self.zero is None else self.spread(self.zero).astype(np.int32)
        values: Floats = (self.codes.astype(np.int32) - zero).astype(np.float32) * self.spread(self.scale)
        return values

    @property
    def signed(self) -> IntegerWeight | None:
        """The same weight with zero points 0; None if its codes then need more than 8 bits."""
        if self.zero is None:
            return self
        codes = self.codes.astype(np.int32) - self.spread(self.zero).astype(np.int32)
        if codes.size and not (codes.min() >= -128 and codes.max() <= 127):
            return None
        return replace(self, name=f"{self.name}.signed", codes=codes.astype(np.int8), zero=None)

    def scaled(self, factor: Floats) -> IntegerWeight | None:
        """Return this weight with each channel multiplied by its factor.

        Args:
            factor: Shape `(channels,)`.

        Returns:
            The weight with the same integers up to their sign. None where a factor that is not positive meets a code
            that has no negative.
        """
        scale = np.broadcast_to(self.scale, (len(factor), *self.scale.shape[1:]))
        # A channel with factor 0 gets the code 0 everywhere. Its scale must not become 0.
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

    def spread(self, numbers: Integers | Floats) -> Integers | Floats:
        """`scale` or `zero` in a shape that broadcasts to that of the codes."""
        shape = self.codes.shape
        if self.block:
            row = self.codes[0].size
            return np.repeat(numbers, self.block, axis=1)[:, :row].reshape(shape)
        return numbers.reshape(-1, *(1,) * (len(shape) - 1))


def integer_weights(model: nn.Module) -> dict[str, IntegerWeight]:
    """Return the weights of `model` that lie on a grid, under every name that they have.

    A weight that left its grid is left out, and a warning names it.
    """
    weights: dict[str, IntegerWeight] = {}
    tensors = record_of(model).tensors
    for names, parameter in unique_parameters(model):
        record = next((tensors[name] for name in names if name in tensors), TensorRecord())
        grid = record.grid
        if grid is None and record.codebook is not None:
            grid = record.codebook.grid
        # Weights of which some are in half precision are no tensor of integers.
        if grid is None or grid.in_half is not None or parameter.ndim < 2:
            continue
        try:
            if grid.is_turned:
                weight = replace(_on_grid(names[0], parameter.T, grid.of_transposed), is_turned=True)
            else:
                weight = _on_grid(names[0], parameter, grid)
        except CompressionError as err:
            warn(f"{names[0]!r} is exported in float32. {err}")
            continue
        weights.update(dict.fromkeys(names, weight))
    return weights


def _on_grid(name: str, parameter: torch.Tensor, grid: Grid) -> IntegerWeight:
    codes = codes_of(parameter, TensorRecord(grid=grid), name).cpu()
    _, zero = grid.spread(tuple(codes.shape))
    offsets = (codes - zero).numpy()
    shape = (-1,) if isinstance(grid.group, str) else (len(codes), grid.n_groups(tuple(codes.shape)) // len(codes))
    scale = grid.scale.reshape(shape).numpy().copy()
    block = 0 if isinstance(grid.group, str) else grid.group
    low, high = (int(offsets.min()), int(offsets.max())) if offsets.size else (0, 0)
    # 4 bits come first. After that, a zero point of 0 is better than another one, if 8 bits suffice.
    if (low >= -8 and high <= 7) or (grid.n_codes > 16 and low >= -128 and high <= 127):
        return IntegerWeight(name, offsets.astype(np.int8), scale, None, block)
    zeros = grid.zero.reshape(shape).numpy().astype(np.uint8)
    return IntegerWeight(name, codes.numpy().astype(np.uint8), scale, zeros, block)


def union_of(first: ActivationRange, second: ActivationRange) -> ActivationRange:
    """Return the smallest range that holds both."""
    return ActivationRange(min(first.low, second.low), max(first.high, second.high))


# ---- Editing a graph ----

# 4-bit dtypes of NumPy and ONNX, by the 8-bit dtype that they narrow.
_NARROW: dict[np.dtype[Any], tuple[Any, ir.DataType]] = {
    np.dtype(np.int8): (ml_dtypes.int4, ir.DataType.INT4),
    np.dtype(np.uint8): (ml_dtypes.uint4, ir.DataType.UINT4),
}


class GraphEditor:
    """Adds constants and nodes to a graph; `finish` then sorts its nodes so that they can run."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        self._constants: dict[str, ir.Value] = {}

    def constant(self, name: str, array: Integers | Floats, *, is_narrow: bool = False) -> ir.Value:
        """Return a constant: the one that was added under this name before, or a new one.

        Args:
            name: Of the constant; it gets a suffix in the graph if the model already uses the name.
            array: Its numbers.
            is_narrow: Whether to store int8 and uint8 in 4 bits each.
        """
        if name in self._constants:
            return self._constants[name]
        dtype = None
        if is_narrow:
            narrow, dtype = _NARROW[array.dtype]
            array = array.astype(narrow)
        tensor = ir.tensor(np.array(array, order="C"), dtype=dtype, name=name)
        unused = f"{name}.integers" if name in self.graph.initializers else name
        value = ir.val(unused, tensor.dtype, array.shape, const_value=tensor)
        self.graph.register_initializer(value)
        self._constants[name] = value
        return value

    def add_node(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        n_outputs: int = 1,
        domain: str = "",
        **attributes: int | str | Sequence[int],
    ) -> list[ir.Value]:
        """Add a node and return its outputs. A domain other than that of ONNX has its first version."""
        node = ir.node(kind, inputs, attributes, domain=domain, num_outputs=n_outputs)
        if domain:
            self.graph.opset_imports.setdefault(domain, 1)
        self.graph.append(node)
        return list(node.outputs)

    def op(
        self, kind: str, inputs: Sequence[ir.Value | None], domain: str = "", **attributes: int | str | Sequence[int]
    ) -> ir.Value:
        """Add a node with one output and return that output."""
        return self.add_node(kind, inputs, 1, domain, **attributes)[0]

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Replace `old` by `new` in all readers and graph outputs; an output keeps its name."""
        if old.is_graph_output():
            new.name, old.name = old.name, f"{old.name}.before"
            new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def drop_unused(self) -> None:
        """Sort the nodes, and drop those whose results nothing reads."""
        from onnx_ir.passes.common import RemoveUnusedNodesPass

        self.graph.sort()
        RemoveUnusedNodesPass()(self.model)

    def finish(self) -> ir.Model:
        """Drop unused nodes, sort the nodes, and forget the shapes of inner values, which may have changed."""
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass

        self.drop_unused()
        # The exporter records which line of the user's files each node comes from.
        ClearMetadataAndDocStringPass()(self.model)
        for node in self.graph.all_nodes():
            for value in node.outputs:
                if not value.is_graph_output():
                    value.shape, value.type = None, None
        return self.model


def constant_of(value: ir.Value | None) -> Floats | None:
    """Return the numbers of a constant of the graph; None if `value` is not a constant."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def readers(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that read `value`, each once."""
    return list(dict.fromkeys(node for node, _ in value.uses()))


def only_reader(value: ir.Value, kinds: Iterable[str]) -> ir.Node | None:
    """Return the only node that reads `value`, once, if its operator is one of `kinds`.

    None if there are other readers, or the graph returns the value as well.
    """
    nodes = readers(value)
    is_only = len(nodes) == 1 and len(value.uses()) == 1 and not value.is_graph_output()
    return nodes[0] if is_only and nodes[0].op_type in kinds and not nodes[0].domain else None


# ---- ONNX Runtime ----


# The option of a session that keeps activations in floating point beside decoded integers.
EXACT_OPTION = "session.qdq_matmulnbits_accuracy_level"
# The option of a session that says where the other files of a model lie, if the model is given as bytes.
_FOLDER_OPTION = "session.model_external_initializers_file_folder_path"


class OnnxSession:
    """An ONNX model in ONNX Runtime, on the CPU.

    Args:
        model: Bytes of the model, or the path of its file.
        threads: Threads of an operator; 0 leaves them to ONNX Runtime.
        is_exact: Whether matrix products with weights in few bits compute in floating point. Without it, ONNX Runtime
            may round activations to 8 bits before them, as the file or its own settings say.

    Raises:
        ArtifactError: ONNX Runtime cannot read or run it.
        MissingPart: ONNX Runtime is not installed.
    """

    def __init__(self, model: bytes | str, threads: int = 0, *, is_exact: bool = False) -> None:
        check_installed("onnx")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Errors only: the warnings are about its own optimizer.
        options.log_severity_level = 3
        if is_exact:
            options.add_session_config_entry(EXACT_OPTION, "1")
            if _names_product(model):
                if isinstance(model, str):
                    options.add_session_config_entry(_FOLDER_OPTION, str(Path(model).resolve().parent))
                model = _with_exact_products(model)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as err:
            raise ArtifactError(f"ONNX Runtime must be able to load the model, but {failure_text(err)}") from err
        self.inputs = tuple(value.name for value in self._session.get_inputs())

    def __call__(self, tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
        """Return the outputs for these inputs, both in order."""
        arrays = [tensor.numpy(force=True) for tensor in tensors]
        try:
            outputs = self._session.run(None, dict(zip(self.inputs, arrays, strict=True)))
        except Exception as err:
            raise ArtifactError(f"ONNX Runtime must be able to run the model, but {failure_text(err)}") from err
        return [np.asarray(output) for output in outputs]


_PRODUCT = b"MatMulNBits"
_CHUNK_BYTES = 2**24


def _names_product(model: bytes | str) -> bool:
    """Whether the name of the operator stands anywhere in a model; a file is read piece by piece.

    To parse a model takes twice its weights, which is not needed where there is nothing to change.
    """
    if isinstance(model, bytes):
        return _PRODUCT in model
    end = b""
    try:
        with Path(model).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                if _PRODUCT in end + chunk:
                    return True
                end = chunk[-len(_PRODUCT) :]
    except OSError as err:
        raise ArtifactError(f"ONNX must be able to read the model, but {failure_text(err)}") from err
    return False


def _with_exact_products(model: bytes | str) -> bytes:
    """The model with `accuracy_level` 1 in each `MatMulNBits`: products of floats."""
    import onnx

    try:
        proto = (
            onnx.load_model_from_string(model)
            if isinstance(model, bytes)
            else onnx.load(model, load_external_data=False)
        )
    except Exception as err:
        raise ArtifactError(f"ONNX must be able to read the model, but {failure_text(err)}") from err
    for node in proto.graph.node:
        for attribute in node.attribute:
            if node.op_type == _PRODUCT.decode() and attribute.name == "accuracy_level":
                attribute.i = 1
    written: bytes = proto.SerializeToString()
    return written


def tensors_of(arrays: Sequence[NDArray[Any]]) -> list[Tensor]:
    """Return the outputs of a session as tensors."""
    return [torch.from_numpy(np.array(array)) for array in arrays]
