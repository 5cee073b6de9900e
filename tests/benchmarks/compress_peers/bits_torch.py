"""Few bits by quantizers of PyTorch models: torchao, Intel Neural Compressor, NNCF."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from methods import Method, Stage, share_of, state_bytes, theirs, weights_of
from nets import Case
from torch import Tensor, nn

BITS = (8, 4, 3, 2)


def _linear_share(model: nn.Module) -> float:
    names = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return share_of(names, model)


def _intx(bits: int, *, affine: bool, group: int | None) -> Any:
    from torchao.quantization import IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_primitives import MappingType

    return IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{bits}"),
        granularity=PerGroup(group) if group else PerAxis(0),
        mapping_type=MappingType.ASYMMETRIC if affine else MappingType.SYMMETRIC,
    )


def torchao_rounded(case: Case, bits: int, *, affine: bool = False, group: int | None = None) -> Iterator[Stage]:
    """By torchao, weights of linear layers only; its file keeps a byte for each at any number of bits."""
    from torchao.quantization import quantize_

    model = copy.deepcopy(case.model)
    quantize_(model, _intx(bits, affine=affine, group=group))
    yield theirs("plain", model, covers=_linear_share(case.model))


def torchao_trained(case: Case, bits: int) -> Iterator[Stage]:
    """By torchao's training with rounded weights."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    model, config = copy.deepcopy(case.model), _intx(bits, affine=False, group=None)
    quantize_(model, QATConfig(config, step="prepare"))
    case.tuned(model)
    quantize_(model, QATConfig(config, step="convert"))
    yield theirs("tuned", model, covers=_linear_share(case.model))


def torchao_dynamic(case: Case, _: int) -> Iterator[Stage]:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = copy.deepcopy(case.model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    yield theirs("plain", model, covers=_linear_share(case.model))


def _exported(case: Case) -> Any:
    batch = torch.export.Dim("batch", min=2, max=4096)
    program = torch.export.export(copy.deepcopy(case.model), (case.example,), dynamic_shapes=({0: batch},))
    return program.module()


def torchao_static(case: Case, _: int) -> Iterator[Stage]:
    """By the quantizer for exported programs on x86."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(_exported(case), quantizer)
    prepared(case.train[0])
    yield theirs("plain", convert_pt2e(prepared))


def inc_rounded(case: Case, bits: int, **options: object) -> Iterator[Stage]:
    """By Intel Neural Compressor, weights of linear layers only, one scale a channel."""
    from neural_compressor.torch import quantization

    config = quantization.RTNConfig(bits=bits, group_size=-1, use_layer_wise=False, **options)
    model = quantization.convert(quantization.prepare(copy.deepcopy(case.model), config), config)
    yield theirs("plain", model, covers=_linear_share(case.model))


def inc_integers(case: Case, _: int, *, static: bool) -> Iterator[Stage]:
    """By Intel Neural Compressor, inputs of layers in 8 bits too."""
    from neural_compressor.torch import quantization
    from neural_compressor.torch.export import export

    batch = torch.export.Dim("batch", min=2, max=4096)
    program = export(copy.deepcopy(case.model), (case.example,), dynamic_shapes=({0: batch},))
    config = quantization.get_default_static_config() if static else quantization.DynamicQuantConfig()
    prepared = quantization.prepare(program, config, example_inputs=(case.example,))
    prepared(case.train[0])
    yield theirs("plain", quantization.convert(prepared))


def nncf_rounded(case: Case, bits: int, mode: str) -> Iterator[Stage]:
    """By NNCF. It takes eight bits where it does not pack four."""
    import nncf

    options = {} if bits == 8 else {"group_size": -1, "all_layers": True}
    model = nncf.compress_weights(
        copy.deepcopy(case.model),
        mode=nncf.CompressWeightsMode[mode],
        dataset=nncf.Dataset([case.example]),
        **options,
    )
    dense, state = weights_of(case.model), model.state_dict()
    # Two codes of four bits share a byte, so what is packed has fewer elements than it had.
    packed = [name for name, weight in dense.items() if _is_coded(state[name], weight, bits)]
    yield theirs("plain", model, covers=share_of(packed, case.model))


def _is_coded(tensor: Tensor, dense: Tensor, bits: int) -> bool:
    return not tensor.is_floating_point() and (bits == 8 or tensor.numel() < dense.numel())


def nncf_static(case: Case, _: int) -> Iterator[Stage]:
    """By NNCF's calibration; on first use it compiles an extension."""
    import nncf

    # The minute that it allows for compiling is too short on a busy machine.
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "1800")
    kind = nncf.ModelType.TRANSFORMER if case.net == "encoder" else None
    batches = nncf.Dataset(list(case.train[0].split(64)))
    model = nncf.quantize(copy.deepcopy(case.model), batches, model_type=kind)
    # Weights stay floating, with the steps of rounding beside them.
    yield Stage("plain", model, partial(state_bytes, model))


METHODS = (
    Method("bits", "torchao", "symmetric, channel, absmax", torchao_rounded, BITS),
    Method("bits", "torchao", "affine, channel, absmax", partial(torchao_rounded, affine=True), BITS),
    Method("bits", "torchao", "affine, group", partial(torchao_rounded, affine=True, group=32), BITS),
    Method("bits", "torchao", "symmetric, channel", torchao_trained, BITS),
    Method("bits", "torchao", "dynamic inputs", torchao_dynamic, (8,)),
    Method("bits", "torchao", "static inputs", torchao_static, (8,)),
    Method("bits", "neural-compressor", "symmetric, channel, absmax", inc_rounded, BITS),
    Method("bits", "neural-compressor", "symmetric, channel", partial(inc_rounded, use_mse_search=True), BITS),
    Method("bits", "neural-compressor", "affine, channel, absmax", partial(inc_rounded, use_sym=False), BITS),
    Method("bits", "neural-compressor", "static inputs", partial(inc_integers, static=True), (8,)),
    Method("bits", "neural-compressor", "dynamic inputs", partial(inc_integers, static=False), (8,)),
    Method("bits", "nncf", "symmetric, channel, absmax", partial(nncf_rounded, mode="INT8_SYM"), (8,)),
    Method("bits", "nncf", "affine, channel, absmax", partial(nncf_rounded, mode="INT8_ASYM"), (8,)),
    Method("bits", "nncf", "symmetric, channel, absmax", partial(nncf_rounded, mode="INT4_SYM"), (4,)),
    Method("bits", "nncf", "affine, channel, absmax", partial(nncf_rounded, mode="INT4_ASYM"), (4,)),
    Method("bits", "nncf", "static inputs", nncf_static, (8,)),
)
