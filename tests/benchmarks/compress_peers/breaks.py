"""Where other libraries fail: the same step on the same small network by a peer and by us, and what happens.

The sentences are made from what was measured. If a step raises, the sentence is its error.
"""

from __future__ import annotations

import copy
import csv
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import break_nets as nets
import torch
from bits_onnx import Batches, answers_of
from methods import state_bytes
from nets import Multilayer
from torch import Tensor, nn

import nbcompress as nc


@dataclass(frozen=True)
class Place:
    """One place where a peer fails.

    Attributes:
        where: What is special about the network or the step.
        peer: Who is compared.
        theirs: Does the step with the peer, and says what came out.
        ours: Does the step with nbcompress.
    """

    where: str
    peer: str
    theirs: Callable[[], str]
    ours: Callable[[], str]


def told(step: Callable[[], str]) -> str:
    """What a step says, or how it fails."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return step()
    except Exception as err:  # noqa: BLE001 (whatever comes is what happens)
        text = " ".join(f"{type(err).__name__}: {err}".split())
        return text if len(text) <= 160 else text[:157] + "..."


def _file(n_bytes: int, dense: nn.Module) -> str:
    return f"file {n_bytes / state_bytes(dense):.2f} of fp32"


def _difference(outputs: Tensor, expected: Tensor) -> str:
    return f"outputs differ by {float((outputs - expected).norm() / expected.norm()):.1%}"


# Eight bits.


def _quantized_by_ours(model: nn.Module, x: Tensor, bits: int = 8) -> str:
    small = nc.quantize(model, bits)
    with torch.no_grad():
        return f"{_file(nc.size_bytes(small), model)}, {_difference(small(x), model(x))}"


def _quantized_by_torchao(model: nn.Module, x: Tensor) -> str:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    small = copy.deepcopy(model)
    quantize_(small, Int8WeightOnlyConfig())
    with torch.no_grad():
        return f"{_file(state_bytes(small), model)}, {_difference(small(x), model(x))}"


def _static_by_torchao(model: nn.Module, x: Tensor) -> str:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(model, (x,)).module(), quantizer)
    prepared(x)
    small = convert_pt2e(prepared)
    return f"{_file(state_bytes(small), model)}: the float weights are kept beside the integers"


def _grouped_by_torchao(model: nn.Module, x: Tensor) -> str:
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    small = copy.deepcopy(model)
    quantize_(small, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)))
    return _file(state_bytes(small), model)


def _grouped_by_ours(model: nn.Module, x: Tensor) -> str:
    small = nc.quantize(model, 4, granularity="group:32")
    with torch.no_grad():
        return f"{_file(nc.size_bytes(small), model)}, {_difference(small(x), model(x))}"


def _affine_by_inc(model: nn.Module, x: Tensor) -> str:
    from neural_compressor.torch import quantization

    config = quantization.RTNConfig(bits=8, group_size=-1, use_layer_wise=False, use_sym=False)
    small = quantization.convert(quantization.prepare(copy.deepcopy(model), config), config)
    with torch.no_grad():
        return _difference(small(x), model(x))


def _affine_by_ours(model: nn.Module, x: Tensor) -> str:
    with torch.no_grad():
        return _difference(nc.quantize(model, 8, scheme="affine")(x), model(x))


def _saved_whole_by_torchao(model: nn.Module, x: Tensor) -> str:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    small, file = copy.deepcopy(model), io.BytesIO()
    quantize_(small, Int8WeightOnlyConfig())
    torch.save(small, file)
    file.seek(0)
    torch.load(file)
    return "saved and loaded"


def _saved_by_ours(model: nn.Module, x: Tensor) -> str:
    small = nc.quantize(model, 8)
    with TemporaryDirectory() as folder, torch.no_grad():
        path = nc.save(small, Path(folder) / "model.nbz")
        same = torch.equal(nc.load(path, copy.deepcopy(model))(x), small(x))
    return f"loaded without pickle, outputs {'equal' if same else 'NOT equal'}"


# ONNX Runtime.


def _exported(model: nn.Module, x: Tensor, folder: str) -> Path:
    path = Path(folder) / "plain.onnx"
    batch = torch.export.Dim("batch", min=2, max=4096)
    torch.onnx.export(model, (x,), input_names=["x"], dynamic_shapes=({0: batch},), verbose=False).save(path)
    return path


def _dynamic_by_runtime(model: nn.Module, x: Tensor) -> str:
    from onnxruntime.quantization import quantize_dynamic

    with TemporaryDirectory() as folder:
        path, small = _exported(model, x, folder), Path(folder) / "small.onnx"
        quantize_dynamic(path, small)
        return _file(small.stat().st_size, model)


def _blocks_by_runtime(model: nn.Module, x: Tensor) -> str:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with TemporaryDirectory() as folder:
        quantizer = MatMulNBitsQuantizer(onnx.load(_exported(model, x, folder)), block_size=32, is_symmetric=True)
        quantizer.process()
        quantizer.model.save_model_to_file(str(Path(folder) / "small.onnx"))
        return f"{_file((Path(folder) / 'small.onnx').stat().st_size, model)}: linear layers are exported as Gemm"


def _static_by_runtime(model: nn.Module, x: Tensor) -> str:
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder, torch.no_grad():
        path, ready, small = _exported(model, x, folder), Path(folder) / "ready.onnx", Path(folder) / "small.onnx"
        quant_pre_process(str(path), str(ready))
        quantize_static(ready, small, Batches(x), per_channel=True)
        return f"{_difference(answers_of(small)(x), model(x))}, without a word"


def _exported_by_ours(model: nn.Module, x: Tensor, activations: str) -> str:
    small = nc.quantize(model, 8, activations=activations, data=(x, torch.zeros(len(x), dtype=torch.int64)))
    with TemporaryDirectory() as folder, torch.no_grad():
        path = nc.export(small, Path(folder) / "small.onnx", example=x)
        return f"{_file(path.stat().st_size, model)}, {_difference(answers_of(path)(x), model(x))}"


# Zeros.


def _masked_by_torch(model: nn.Module, x: Tensor) -> str:
    from torch.nn.utils import prune

    small = copy.deepcopy(model)
    for module in small.modules():
        if isinstance(module, nn.Linear):
            prune.l1_unstructured(module, "weight", 0.9)
    small(x)
    text = f"{_file(state_bytes(small), model)} with its masks"
    try:
        copy.deepcopy(small)
    except RuntimeError as err:
        text += f"; deepcopy raises {type(err).__name__}"
    for module in small.modules():
        if isinstance(module, nn.Linear):
            prune.remove(module, "weight")
    return f"{text}; {state_bytes(small) / state_bytes(model):.2f} after remove"


def _pruned_by_ours(model: nn.Module, x: Tensor) -> str:
    return f"{_file(nc.size_bytes(copy.deepcopy(nc.prune(model, 0.9))), model)}; deepcopy works"


def _masked_by_nncf(model: nn.Module, x: Tensor) -> str:
    import nncf

    mode = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL
    nncf.prune(copy.deepcopy(model), mode, ratio=0.5, examples_inputs=x)(x)
    return "pruned"


# Channels.


def _cut_by_torch_pruning(model: nn.Module, x: Tensor) -> str:
    import torch_pruning

    small = copy.deepcopy(model)
    rank = torch_pruning.importance.GroupMagnitudeImportance()
    pruner = torch_pruning.pruner.BasePruner(
        small, x, importance=rank, pruning_ratio=0.5, ignored_layers=[small.get_submodule("head")]
    )
    pruner.step()
    return _cut(small, model, x)


def _cut_by_ours(model: nn.Module, x: Tensor) -> str:
    return _cut(nc.prune(model, 0.5, granularity="channel", example=x), model, x)


def _cut(small: nn.Module, model: nn.Module, x: Tensor) -> str:
    n_left, n_all = (sum(parameter.numel() for parameter in found.parameters()) for found in (small, model))
    with torch.no_grad():
        shape = tuple(small(x).shape)
    return f"{n_left / n_all:.0%} of the parameters left, runs, output {shape}"


def _same(
    where: str, peer: str, theirs: Callable[..., str], ours: Callable[..., str], build: Callable[[], nets.Sample]
) -> Place:
    """Both get the same network and input."""

    def run(step: Callable[..., str]) -> Callable[[], str]:
        def with_sample() -> str:
            model, x = build()
            return step(model.eval(), x)

        return with_sample

    return Place(where, peer, run(theirs), run(ours))


def _static(model: nn.Module, x: Tensor) -> str:
    return _exported_by_ours(model, x, "static")


def _dynamic(model: nn.Module, x: Tensor) -> str:
    return _exported_by_ours(model, x, "dynamic")


def _four_bits(model: nn.Module, x: Tensor) -> str:
    return _quantized_by_ours(model, x, 4)


def multilayer() -> nets.Sample:
    return Multilayer(), torch.rand(64, 64)


PLACES = (
    _same("static 8 bits, file", "torchao PT2E", _static_by_torchao, _quantized_by_ours, multilayer),
    _same("an embedding, 8 bits", "torchao", _quantized_by_torchao, _quantized_by_ours, nets.embedded),
    _same("convolutions, 8 bits", "torchao", _quantized_by_torchao, _quantized_by_ours, nets.convolved),
    _same("an LSTM, 8 bits", "torchao", _quantized_by_torchao, _quantized_by_ours, nets.recurrent),
    _same("a bare parameter, 8 bits", "torchao", _quantized_by_torchao, _quantized_by_ours, nets.bare),
    _same("tied weights, 8 bits", "torchao", _quantized_by_torchao, _quantized_by_ours, nets.tied),
    _same("torch.save of the whole model", "torchao", _saved_whole_by_torchao, _saved_by_ours, multilayer),
    _same("300 inputs in groups of 32", "torchao", _grouped_by_torchao, _grouped_by_ours, multilayer),
    _same("affine, 8 bits", "neural-compressor", _affine_by_inc, _affine_by_ours, multilayer),
    _same("dynamic 8 bits of an export", "onnxruntime", _dynamic_by_runtime, _dynamic, multilayer),
    _same("4 bits of an export", "onnxruntime", _blocks_by_runtime, _four_bits, multilayer),
    _same("static 8 bits, outliers", "onnxruntime", _static_by_runtime, _static, nets.with_outliers),
    _same("90 % zeros", "torch.nn.utils.prune", _masked_by_torch, _pruned_by_ours, multilayer),
    _same("zeros in a Sequential", "nncf", _masked_by_nncf, _pruned_by_ours, nets.sequential),
    _same("channels, sizes in a view", "torch-pruning", _cut_by_torch_pruning, _cut_by_ours, nets.viewed),
    _same("channels, a layer used twice", "torch-pruning", _cut_by_torch_pruning, _cut_by_ours, nets.used_twice),
    _same("channels, chunk and gate", "torch-pruning", _cut_by_torch_pruning, _cut_by_ours, nets.gated),
    _same("channels, an LSTM", "torch-pruning", _cut_by_torch_pruning, _cut_by_ours, nets.recurrent),
)


def write_breaks(folder: Path) -> str:
    """Run every place; write `breaks.csv` and return the table as text."""
    rows = [(place.where, place.peer, told(place.theirs), told(place.ours)) for place in PLACES]
    with (folder / "breaks.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("where", "peer", "theirs", "ours"), *rows])
    lines = [f"{where} ({peer})\n    theirs: {theirs}\n    ours:   {ours}" for where, peer, theirs, ours in rows]
    return "What happens where peers break\n\n" + "\n".join(lines)
