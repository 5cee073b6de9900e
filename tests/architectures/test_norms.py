"""Transformers with `norms="cut"`: they lose width of the residual stream, heads and neurons."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from architectures.test_zoo import agree, built, n_parameters, outputs
from architectures.zoo import ZOO

import nbcompress as nc
from nbcompress.compressors.record import record_of

# What libraries say of their own classes, not of ours.
pytestmark = pytest.mark.filterwarnings("ignore")

# A tensor along the stream, and how much of the model goes: half of every side of a product leaves a quarter of it.
STREAMS = {
    "BERT": ("bert.embeddings.word_embeddings.weight", 0.68),
    "GPT-2": ("transformer.wte.weight", 0.68),
    "Llama": ("model.embed_tokens.weight", 0.68),
    "ViT": ("vit.embeddings.cls_token", 0.65),
    "Swin": ("swin.embeddings.norm.weight", 0.7),
    "ConvNeXt V2": ("convnextv2.embeddings.layernorm.weight", 0.65),
    "TransformerEncoder, tied": ("token.weight", 0.65),
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_stream_is_cut_saved_and_loaded(name: str, tmp_path: Path) -> None:
    architecture, (stream, share) = ZOO[name], STREAMS[name]
    model, example = built(architecture), architecture.example()
    small = nc.prune(model, 0.5, granularity="channel", norms="cut", example=example)
    assert 2 * small.get_parameter(stream).shape[-1] == model.get_parameter(stream).shape[-1]
    assert 1 - n_parameters(small) / n_parameters(model) >= share
    assert [a.shape for a in outputs(small, example)] == [b.shape for b in outputs(model, example)]
    packed = nc.quantize(small, bits=8)
    path = nc.save(packed, tmp_path / "small.nbz")
    agree(outputs(nc.load(path, architecture.build()), example), outputs(packed, example), 1e-5)


def test_a_stream_that_is_an_output_stays_and_is_named() -> None:
    """T5 returns the output of its encoder besides its logits."""
    architecture = ZOO["T5"]
    small = nc.prune(built(architecture), 0.5, granularity="channel", norms="cut", example=architecture.example())
    assert small.get_parameter("shared.weight").shape == (60, 32)
    reasons = record_of(small).left_out
    assert "it is an output of the model" in reasons["encoder.block.0.layer.0.SelfAttention.o.weight"]


def test_a_language_model_without_part_of_its_stream_writes_on() -> None:
    architecture = ZOO["Llama"]
    small = nc.prune(built(architecture), 0.5, granularity="channel", norms="cut", example=architecture.example())
    ids = architecture.example()["input_ids"]
    with_cache, without = (
        small.generate(ids, max_new_tokens=4, do_sample=False, use_cache=cached) for cached in (True, False)
    )
    assert torch.equal(with_cache, without)
    assert with_cache.shape[1] == ids.shape[1] + 4
