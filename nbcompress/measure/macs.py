"""Multiply-accumulates of one call, counted while the model runs.

One multiplication with its addition counts one: those of matrix products and convolutions, which attention and
recurrent layers are taken apart into. Activations, norms, sums, pooling and moving of data count none, as is the
custom. An operator that is neither is named as uncounted.
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
from nbcompress.measure.inputs import Inputs

# Operators that torch does not tag as pointwise or view, and that multiply and add nothing by the custom above.
_FREE_NAMES = """
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
_FREE = frozenset(_FREE_NAMES.split())


@dataclass(frozen=True)
class MacCount:
    """What was counted in one call.

    Attributes:
        by_layer: Multiply-accumulates by dotted name of the innermost module that ran them; the model itself is "".
        uncounted: Operators that were not counted, each with the number of its calls.
    """

    by_layer: Mapping[str, int]
    uncounted: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_layer.values())


def count_macs(copy: nn.Module, inputs: Inputs) -> MacCount:
    """Run `copy`, which nobody else uses, once on `inputs` and count.

    Raises:
        MeasureError: The model fails on the inputs, or a part of it is scripted.
    """
    scripted = [name for name, module in copy.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        raise MeasureError(
            f"calls cannot be counted inside of a scripted module, and {scripted[0] or 'the model'!r} is one: measure "
            "it before it is scripted, or leave out the example"
        )
    with ExitStack() as stack:
        counter = _Counter()
        stack.enter_context(_taken_apart())
        stack.enter_context(_layers_told(copy, counter))
        stack.enter_context(torch.no_grad())
        stack.enter_context(counter)
        inputs(copy)
    return MacCount(dict(counter.by_layer), dict(counter.uncounted))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator that reaches a backend."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_layer: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.inside = [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        if packet not in flop_registry and isinstance(func, torch._ops.OpOverload):
            # An operator that is made of others, such as `linear` in inference mode, is counted by its parts.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if packet in flop_registry:
            # Torch counts a multiplication and an addition as two.
            self.by_layer[self.inside[-1]] += flop_registry[packet](*args, **kwargs, out_val=result) // 2
        elif not _is_free(func):
            self.uncounted[str(packet).replace("aten.", "")] += 1
        return result


def _is_free(func: Any) -> bool:
    if not isinstance(func, torch._ops.OpOverload):
        return False
    name = func._schema.name
    return (
        torch.Tag.pointwise in func.tags
        or func.is_view
        or name.startswith("prim::")
        or (name.startswith("aten::") and name.removeprefix("aten::") in _FREE)
    )


@contextmanager
def _taken_apart() -> Iterator[None]:
    """Have attention and recurrent layers run as matrix products, not as one operator of a backend."""
    backends: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    before = [one.enabled for one in backends]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for one in backends:
            one.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for one, was_enabled in zip(backends, before, strict=True):
            one.enabled = was_enabled


@contextmanager
def _layers_told(copy: nn.Module, counter: _Counter) -> Iterator[None]:
    """Keep `counter.inside` at the module that runs."""

    def entered(name: str) -> Any:
        return lambda _module, _args: counter.inside.append(name)

    def left(_module: nn.Module, _args: Any, _result: Any) -> None:
        counter.inside.pop()

    handles = []
    for name, module in copy.named_modules():
        handles.append(module.register_forward_pre_hook(entered(name), prepend=True))
        handles.append(module.register_forward_hook(left, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["MacCount", "count_macs"]
