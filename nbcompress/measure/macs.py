"""Multiply-accumulates of one call, counted while the model runs.

A multiplication with its addition counts as one. Counted are matrix products and convolutions; attention and recurrent
layers run as these. Activations, norms, sums, pooling and copies count zero, as is usual. Any other operator is
reported as uncounted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nbcompress.errors import MeasureError
from nbcompress.measure.inputs import ModelInputs

# Operators that count zero by the convention above and that torch does not tag as pointwise or as a view.
_ZERO_COST_NAMES = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _efficientzerotensor _fused_dropout _fused_rms_norm
    _local_scalar_dense _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training _reshape_copy
    _safe_softmax _softmax _to_copy _unsafe_index _unsafe_view adaptive_avg_pool1d adaptive_max_pool2d alias all
    amax amin any arange argmax argmin as_strided avg_pool1d avg_pool2d avg_pool3d bernoulli bernoulli_ bincount cat
    clone constant_pad_nd copy copy_ count_nonzero cudnn_batch_norm cumsum detach detach_ embedding empty empty_like
    empty_strided equal expand eye fill fill_ flip full full_like gather glu index index_add index_copy index_put
    index_put_ index_select item lift lift_fresh lift_fresh_copy linalg_vector_norm linspace log_softmax logsumexp
    masked_fill masked_fill_ masked_select max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d_with_indices
    mean median min native_batch_norm native_dropout native_group_norm native_layer_norm new_empty new_empty_strided
    new_full new_ones new_zeros nonzero norm normal_ one_hot ones ones_like permute pixel_shuffle pixel_unshuffle
    prod rand rand_like randint randint_like randn randn_like randperm reflection_pad1d reflection_pad2d
    reflection_pad3d repeat replication_pad1d replication_pad2d replication_pad3d resize_ roll scalar_tensor scatter
    scatter_ scatter_add select_scatter set_ slice_scatter softmax sort split split_with_sizes squeeze_ stack std
    std_mean sum sym_size t_ topk transpose_ tril triu unbind unfold uniform_ unique_dim unsafe_chunk unsafe_split
    unsafe_split_with_sizes unsqueeze_ unsqueeze_copy upsample_nearest1d upsample_nearest2d upsample_nearest3d var
    var_mean view where zero_ zeros zeros_like
"""
_ZERO_COST = frozenset(_ZERO_COST_NAMES.split())


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates of one call.

    Attributes:
        by_layer: By dotted name of the innermost module that ran them; the model itself is "".
        uncounted: Operators that were not counted, with the number of their calls.
    """

    by_layer: Mapping[str, int]
    uncounted: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_layer.values())


def count_macs(copy: nn.Module, inputs: ModelInputs) -> MacCount:
    """Run a model once on `inputs` and count.

    Args:
        copy: The model; a copy, because the call may change it.
        inputs: Of the call.

    Raises:
        MeasureError: The model fails on the inputs, or a part of it is a scripted module.
    """
    scripted = [name for name, module in copy.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        raise MeasureError(
            f"calls cannot be counted inside of a scripted module, and {scripted[0] or 'the model'!r} is one: measure "
            "it before it is scripted, or leave out the example"
        )
    with ExitStack() as stack:
        counter = _MacCounter()
        stack.enter_context(_decomposed_layers())
        stack.enter_context(_track_modules(copy, counter))
        stack.enter_context(torch.no_grad())
        stack.enter_context(counter)
        inputs(copy)
    return MacCount(dict(counter.by_layer), dict(counter.uncounted))


class _MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator that reaches a backend."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_layer: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.module_stack = [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        if packet not in flop_registry and isinstance(func, torch._ops.OpOverload):
            # A composite operator, such as `linear` in inference mode, is counted by its parts.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if packet in flop_registry:
            # Torch counts floating-point operations: two for a multiplication with its addition.
            self.by_layer[self.module_stack[-1]] += flop_registry[packet](*args, **kwargs, out_val=result) // 2
        elif not _costs_nothing(func):
            self.uncounted[str(packet).replace("aten.", "")] += 1
        return result


def _costs_nothing(func: Any) -> bool:
    if not isinstance(func, torch._ops.OpOverload):
        return False
    name = func._schema.name
    return (
        torch.Tag.pointwise in func.tags
        or func.is_view
        or name.startswith("prim::")
        or (name.startswith("aten::") and name.removeprefix("aten::") in _ZERO_COST)
    )


@contextmanager
def _decomposed_layers() -> Iterator[None]:
    """Run attention and recurrent layers as matrix products instead of one operator of a backend."""
    backends: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    before = [backend.enabled for backend in backends]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for backend in backends:
            backend.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for backend, was_enabled in zip(backends, before, strict=True):
            backend.enabled = was_enabled


@contextmanager
def _track_modules(copy: nn.Module, counter: _MacCounter) -> Iterator[None]:
    """Keep the running module on top of `counter.module_stack`."""

    def enter(name: str) -> Any:
        return lambda _module, _args: counter.module_stack.append(name)

    def leave(_module: nn.Module, _args: Any, _result: Any) -> None:
        counter.module_stack.pop()

    handles = []
    for name, module in copy.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), prepend=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["MacCount", "count_macs"]
