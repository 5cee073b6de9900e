"""Peak memory of one call.

On a CPU, the results of every operator are tracked from creation to release, so the figure is the bytes of all tensors
that are alive at once. Scratch memory inside an operator is not seen. On a GPU the figure comes from the allocator of
torch, scratch memory included.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nbcompress.measure.inputs import ModelInputs

Method = Literal["tensors", "allocator"]
METHOD_TEXT: dict[Method, str] = {
    "tensors": "tensors alive at once, without scratch memory inside an operator",
    "allocator": "allocated at once by torch on the GPU",
}


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of one call in evaluation mode, in bytes.

    Attributes:
        weight_bytes: Parameters and buffers in memory, shared ones once.
        call_bytes: Inputs and results of operators, at the peak.
        method: How `call_bytes` was measured: by `tensors` or by the `allocator`.
    """

    weight_bytes: int
    call_bytes: int
    method: Method

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.call_bytes


def measure_memory(copy: nn.Module, inputs: ModelInputs) -> PeakMemory:
    """Run a model once on `inputs` and measure its peak memory.

    Args:
        copy: The model; a copy, because the call may change it.
        inputs: Of the call.

    Raises:
        MeasureError: The model fails on the inputs.
    """
    weights = _storages([*copy.parameters(), *copy.buffers()])
    tensors = [leaf for leaf in tree_leaves((inputs.args, dict(inputs.kwargs))) if isinstance(leaf, Tensor)]
    weight_bytes = sum(weight.nbytes() for weight in weights.values())
    # An example is often a slice of a large tensor: its elements count, not the whole storage.
    input_bytes = sum(tensor.nbytes for tensor in tensors)
    with torch.inference_mode():
        if inputs.on_cuda:
            result_bytes, method = _on_cuda(copy, inputs), "allocator"
        else:
            result_bytes, method = _on_cpu(copy, inputs, {*weights, *_storages(tensors)}), "tensors"
    return PeakMemory(weight_bytes, input_bytes + result_bytes, method)  # type: ignore[arg-type]


def _on_cuda(copy: nn.Module, inputs: ModelInputs) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    inputs(copy)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _on_cpu(copy: nn.Module, inputs: ModelInputs, known: Iterable[int]) -> int:
    tracker = _StorageTracker(known)
    with tracker:
        inputs(copy)
    return tracker.peak


def _storages(tensors: Iterable[Tensor]) -> dict[int, torch.UntypedStorage]:
    """The storages of `tensors` by address, each once."""
    storages = {}
    for tensor in tensors:
        # A sparse tensor has no single storage; its parts are not counted.
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage
    return storages


class _StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operators create, as long as each is alive."""

    def __init__(self, known: Iterable[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = set(known)
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        created = _storages(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        for key, storage in created.items():
            if key not in self._known and key not in self._alive:
                self._add(key, storage)
        self.peak = max(self.peak, self._now)
        return result

    def _add(self, key: int, storage: torch.UntypedStorage) -> None:
        n_bytes = storage.nbytes()

        def released(_: object) -> None:
            self._now -= n_bytes
            del self._alive[key]

        self._now += n_bytes
        self._alive[key] = weakref.ref(storage, released)


__all__ = ["METHOD_TEXT", "Method", "PeakMemory", "measure_memory"]
