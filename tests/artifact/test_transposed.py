"""Layers that hold their weight as `(inputs, outputs)`, as those of GPT-2, against linear layers with equal numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import nbcompress as nc
from nbcompress.errors import CompressionError


def twins() -> tuple[nn.Module, nn.Module]:
    """A network of transposed layers, and the same of linear ones."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 48)).eval()
    turned = nn.Sequential(Conv1D(96, 64), nn.GELU(), Conv1D(48, 96)).eval()
    with torch.no_grad():
        for index in (0, 2):
            turned[index].weight.copy_(linear[index].weight.T)
            turned[index].bias.copy_(linear[index].bias)
    return turned, linear


INPUTS = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
SETTINGS: list[dict[str, Any]] = [
    {"bits": 4, "granularity": "group:32"},
    {"bits": 3, "granularity": "group:20", "scheme": "affine"},
    {"bits": 1, "granularity": "group:32"},
    {"bits": 8},
    {"bits": 3, "granularity": "group:32", "rounding": "gptq", "data": INPUTS},
    {"bits": 4, "rounding": "gptq", "data": INPUTS},
]


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_they_are_quantized_as_linear_layers_are(options: dict[str, Any], tmp_path: Path) -> None:
    turned, linear = (nc.quantize(model, **options) for model in twins())
    for index in (0, 2):
        assert torch.equal(turned[index].weight.T, linear[index].weight)
    assert nc.record_of(turned).left_out.keys() == nc.record_of(linear).left_out.keys()
    loaded = nc.load(nc.save(turned, tmp_path / "model.nbz"), twins()[0])
    assert torch.equal(loaded[0].weight, turned[0].weight)
    assert nc.record_of(loaded).tensors == nc.record_of(turned).tensors
    assert abs(nc.size_bytes(turned) - nc.size_bytes(linear)) < 200
    # What lies on such a grid already stays, whichever function is asked.
    assert torch.equal(nc.quantize(turned, **{**options, "rounding": "nearest"})[0].weight, turned[0].weight)


def test_training_keeps_their_grid() -> None:
    small = nc.quantize(twins()[0], 4, granularity="group:32")
    nc.finetune(small, (INPUTS, torch.randn(40, 48)), epochs=2)
    before = nc.size_bytes(small)
    assert nc.size_bytes(nc.quantize(small, 4, granularity="group:32")) == before
    with torch.no_grad():
        small[0].weight[3, 5] += 0.001
    with pytest.raises(CompressionError, match="must keep to its grid, but 1 of 6144 values left it"):
        nc.compressors.codes_of(small[0].weight, nc.record_of(small).tensors["0.weight"])


def test_a_cut_of_outputs_keeps_the_grid_and_one_of_inputs_drops_it() -> None:
    small = nc.quantize(twins()[0], 4, granularity="group:32")
    cut = nc.prune(small, 0.5, granularity="channel", example=INPUTS[:2])
    assert cut[0].weight.shape == (64, 48)
    kept = nc.record_of(cut).tensors
    assert kept["0.weight"].grid is not None
    assert len(kept["0.weight"].grid.scale) == 48 * 2
    assert "2.weight" not in kept


@pytest.mark.parametrize("bits", [4, 8])
def test_they_are_exported_as_products_in_few_bits(bits: int, tmp_path: Path) -> None:
    files = []
    for name, model in zip(("turned", "linear"), twins(), strict=True):
        small = nc.quantize(model, bits, granularity="group:32")
        files.append(nc.export(small, tmp_path / f"{name}.onnx", example=INPUTS[:3]))
    kinds = [sorted(node.op_type for node in onnx.load(file).graph.node) for file in files]
    assert kinds[0].count("MatMulNBits") == 2
    assert "DequantizeLinear" not in kinds[0]
    sizes = [file.stat().st_size for file in files]
    assert sizes[0] < 1.05 * sizes[1]


def test_they_compute_in_integers_with_8_bit_activations(tmp_path: Path) -> None:
    small = nc.quantize(twins()[0], 8)
    path = nc.export(small, tmp_path / "model.onnx", example=INPUTS[:3])
    assert path.report is not None
    assert [product.bits for product in path.report.products] == [8, 8]
