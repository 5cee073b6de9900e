"""How much memory one call takes at its fullest.

On a CPU: every operator's results are seen as they are made and as they are given up, so the figure is the bytes of
all tensors that are alive at once. Scratch memory that an operator takes and returns inside itself is not seen. On a
GPU: what torch's allocator handed out at once, scratch memory included.
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

from nbcompress.measure.inputs import Inputs

Method = Literal["tensors", "allocator"]
HOW: dict[Method, str] = {
    "tensors": "tensors alive at once, without scratch memory inside an operator",
    "allocator": "handed out at once by the allocator of the GPU",
}


@dataclass(frozen=True)
class PeakMemory:
    """Memory of one call in evaluation mode.

    Attributes:
        weight_bytes: Parameters and buffers as they lie in memory, shared ones once.
        call_bytes: Inputs and what operators made, at the fullest moment.
        method: `tensors` or `allocator`: how `call_bytes` was found.
    """

    weight_bytes: int
    call_bytes: int
    method: Method

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.call_bytes


def measure_memory(copy: nn.Module, inputs: Inputs) -> PeakMemory:
    """Run `copy`, which nobody else uses, once on `inputs` and watch what it holds.

    Raises:
        MeasureError: The model fails on the inputs.
    """
    weights = _storages([*copy.parameters(), *copy.buffers()])
    given = [leaf for leaf in tree_leaves((inputs.args, dict(inputs.kwargs))) if isinstance(leaf, Tensor)]
    weight_bytes = sum(weight.nbytes() for weight in weights.values())
    # An example is often a slice of all the data, so its own elements count, not what lies behind them.
    given_bytes = sum(item.nbytes for item in given)
    with torch.inference_mode():
        if inputs.on_cuda:
            made, method = _on_cuda(copy, inputs), "allocator"
        else:
            made, method = _on_cpu(copy, inputs, {*weights, *_storages(given)}), "tensors"
    return PeakMemory(weight_bytes, given_bytes + made, method)  # type: ignore[arg-type]


def _on_cuda(copy: nn.Module, inputs: Inputs) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    inputs(copy)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _on_cpu(copy: nn.Module, inputs: Inputs, known: Iterable[int]) -> int:
    watch = _Watch(known)
    with watch:
        inputs(copy)
    return watch.most


def _storages(tensors: Iterable[Tensor]) -> dict[int, torch.UntypedStorage]:
    """The memory behind `tensors` by its address, each piece once."""
    found = {}
    for tensor in tensors:
        # A sparse or otherwise odd tensor has no one storage; its parts are not counted.
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage
    return found


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operators make, for as long as each lives."""

    def __init__(self, known: Iterable[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = set(known)
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._now = 0
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = _storages(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        for key, storage in made.items():
            if key not in self._known and key not in self._alive:
                self._add(key, storage)
        self.most = max(self.most, self._now)
        return result

    def _add(self, key: int, storage: torch.UntypedStorage) -> None:
        n_bytes = storage.nbytes()

        def gone(_: object) -> None:
            self._now -= n_bytes
            del self._alive[key]

        self._now += n_bytes
        self._alive[key] = weakref.ref(storage, gone)


__all__ = ["HOW", "Method", "PeakMemory", "measure_memory"]
