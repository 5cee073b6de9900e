"""Every architecture is cut, saved and loaded with equal outputs, or refused with a reason."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures.entry import Architecture
from architectures.keras_models import KERAS
from architectures.zoo import KINDS, ZOO
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compressors.coupling import tensors_of
from nbcompress.compressors.inputs import inputs_from_example
from nbcompress.compressors.record import record_of
from nbcompress.errors import CompressionError

# What libraries say of their own classes, not of ours.
pytestmark = pytest.mark.filterwarnings("ignore")

REFUSED = {name for name, architecture in ZOO.items() if architecture.refused}


@torch.no_grad()
def outputs(model: nn.Module, example: object) -> list[Tensor]:
    return tensors_of(inputs_from_example(example)(model.eval()))


def agree(expected: list[Tensor], actual: list[Tensor], tolerance: float = 1e-4) -> None:
    assert [a.shape for a in expected] == [b.shape for b in actual]
    for a, b in zip(expected, actual, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(a.float().abs().median())))


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def built(architecture: Architecture) -> nn.Module:
    torch.manual_seed(0)
    return architecture.build().eval()


@pytest.mark.parametrize("name", [name for name in ZOO if name not in REFUSED])
def test_cut_saved_and_loaded(name: str, tmp_path: Path) -> None:
    architecture = ZOO[name]
    model, example = built(architecture), architecture.example()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    small = nc.prune(model, 0.5, granularity="channel", example=example)
    assert 1 - n_parameters(small) / n_parameters(model) >= architecture.share
    assert [a.shape for a in outputs(small, example)] == [b.shape for b in outputs(model, example)]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    # Every matrix went smaller or is named.
    shapes = {key: value.shape for key, value in small.named_parameters()}
    whole = [key for key, value in model.named_parameters() if value.ndim > 1 and shapes[key] == value.shape]
    assert set(whole) <= set(record_of(small).left_out)
    packed = nc.quantize(nc.prune(small, 0.5), bits=8)
    path = nc.save(packed, tmp_path / "small.nbz")
    assert path.stat().st_size == nc.size_bytes(packed)
    agree(outputs(nc.load(path, architecture.build()), example), outputs(packed, example), 1e-5)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_by_name(name: str) -> None:
    architecture = ZOO[name]
    model = built(architecture)
    with pytest.raises(CompressionError, match=architecture.refused):
        nc.prune(model, 0.5, granularity="channel", example=architecture.example())


# What stops these is in the error, of which this is a part.
NO_LAYERS = {
    "ALBERT": r"albert_layer_groups.0: it is called 2 times",
    "T5": r"encoder.block.0: it is the only item of its list",
    "BART": r"model.encoder.layers.0: it is the only BartEncoderLayer",
    "SegFormer": r"segformer.stages.0.blocks.0: it is the only item of its list",
    "EfficientNet": r"there is only 'efficientnet.encoder.blocks.0' to remove",
    "PoolFormer": r"finds no block that can go",
}
# The others of the zoo are like one of these.
LAYERED = [
    *("ALBERT", "DistilBERT", "GPT-J", "BLOOM", "Mamba", "T5", "BART"),
    *("Swin", "SegFormer", "ResNet", "MobileNetV2", "EfficientNet", "PoolFormer", "Wav2Vec2"),
]


@pytest.mark.parametrize("name", LAYERED)
def test_layers_removed_saved_and_loaded(name: str, tmp_path: Path) -> None:
    architecture = ZOO[name]
    model, example = built(architecture), architecture.example()
    if name in NO_LAYERS:
        with pytest.raises(CompressionError, match=NO_LAYERS[name]):
            nc.prune(model, 0.3, granularity="layer", example=example)
        return
    small = nc.prune(model, 0.3, granularity="layer", example=example)
    assert n_parameters(small) < n_parameters(model)
    assert [a.shape for a in outputs(small, example)] == [b.shape for b in outputs(model, example)]
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), architecture.build())
    agree(outputs(loaded, example), outputs(small, example), 1e-5)
    kept = {name: item.tolist() for name, item in record_of(small).kept_indices.items()}
    assert {name: item.tolist() for name, item in record_of(loaded).kept_indices.items()} == kept


@pytest.mark.parametrize("name", KERAS)
def test_single_weights_of_what_keras_makes(name: str, tmp_path: Path) -> None:
    architecture = ZOO[name]
    model, example = built(architecture), architecture.example()
    small = nc.quantize(nc.prune(model, 0.5), bits=8)
    n_zero = sum(int((value == 0).sum()) for value in small.parameters() if value.ndim > 1)
    assert n_zero >= 0.45 * sum(value.numel() for value in small.parameters() if value.ndim > 1)
    assert not torch.equal(outputs(small, example)[0], outputs(model, example)[0])
    path = nc.save(small, tmp_path / "small.nbz")
    agree(outputs(nc.load(path, architecture.build()), example), outputs(small, example), 1e-5)


def test_four_fifths_are_cut() -> None:
    assert len(ZOO) >= 30
    assert all(kind for kind in KINDS.values())
    assert REFUSED == {"ConvNeXt V2", "branch on data", "narrow of fixed lengths", "response normalization"}  # noqa: SIM300
    assert len(REFUSED) <= 0.2 * len(ZOO)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["BERT", "Llama", "ResNet", "TransformerEncoderLayer"])
def test_half_precision(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    architecture = ZOO[name]
    model = built(architecture).to(dtype)
    example = architecture.example()
    example = {key: value.to(dtype) if value.is_floating_point() else value for key, value in as_dict(example).items()}
    given = example["x"] if list(example) == ["x"] else example
    small = nc.prune(model, 0.5, granularity="channel", example=given)
    assert {value.dtype for value in small.parameters()} == {dtype}
    assert 1 - n_parameters(small) / n_parameters(model) >= architecture.share
    fresh = nc.load(nc.save(small, tmp_path / "half.nbz"), architecture.build().to(dtype))
    agree(outputs(fresh, given), outputs(small, given))


def as_dict(example: object) -> dict[str, Tensor]:
    return example if isinstance(example, dict) else {"x": example}


# `save_pretrained` of the library itself


def test_a_configuration_holds_a_cut_with_equal_layers(tmp_path: Path) -> None:
    model, example = built(ZOO["Llama"]), ZOO["Llama"].example()
    small: Any = nc.prune(model, 0.5, granularity="channel", example=example)
    found = (small.config.num_attention_heads, small.config.num_key_value_heads, small.config.intermediate_size)
    assert (*found, small.config.hidden_size, small.config.max_position_embeddings) == (2, 1, 32, 32, 32)
    assert model.config.num_attention_heads == 4  # type: ignore[union-attr]
    # A file of ours holds the configuration, too.
    loaded: Any = nc.load(nc.save(small, tmp_path / "small.nbz"), built(ZOO["Llama"]))
    loaded.save_pretrained(tmp_path / "pretrained")
    again = type(small).from_pretrained(tmp_path / "pretrained").eval()
    assert [torch.equal(a, b) for a, b in zip(outputs(again, example), outputs(small, example), strict=True)] == [True]


def test_what_no_configuration_holds_is_refused_with_the_line_that_saves_it(tmp_path: Path) -> None:
    model, example = built(ZOO["BERT"]), ZOO["BERT"].example()
    # The width of a head follows from the number of heads, so that only the width between can be cut.
    small: Any = nc.prune(model, 0.5, granularity="channel", example=example)
    for refusing in (small, copy.deepcopy(small), nc.load(nc.save(small, tmp_path / "small.nbz"), built(ZOO["BERT"]))):
        with pytest.raises(CompressionError, match=r'no configuration of BertFor.*nc\.save\(model, "model\.nbz"\)'):
            refusing.save_pretrained(tmp_path / "pretrained")
    assert not (tmp_path / "pretrained").exists()
    small = nc.prune(model, 0.5, granularity="channel", layers="*intermediate*", example=example)
    small.save_pretrained(tmp_path / "pretrained")
    again = type(small).from_pretrained(tmp_path / "pretrained").eval()
    assert again.config.intermediate_size == 32
    assert all(torch.equal(a, b) for a, b in zip(outputs(again, example), outputs(small, example), strict=True))


def test_a_class_that_computes_something_else_from_the_new_numbers_is_refused(tmp_path: Path) -> None:
    """Gemma multiplies its embeddings by the root of the width, which is no weight."""
    small: Any = nc.prune(built(ZOO["Gemma"]), 0.5, granularity="channel", norms="cut", example=ZOO["Gemma"].example())
    with pytest.raises(CompressionError, match="no configuration of Gemma"):
        small.save_pretrained(tmp_path / "pretrained")
