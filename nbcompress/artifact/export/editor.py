"""Adding constants and nodes to an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from nbcompress.artifact.export.integers import Floats, Integers

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


__all__ = ["Editor", "constant_of", "only_reader", "readers"]
