"""What a file holds, read without its model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.artifact import contents, size_by_tensor
from nbcompress.artifact.contents import file_json, read_contents
from nbcompress.errors import ArtifactError


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    model.register_buffer("steps", torch.tensor(3))
    return model


MODELS = {
    "plain": network,
    "bits": lambda: nc.quantize(nc.prune(network(), 0.7), bits=4),
    "codebook": lambda: nc.cluster(network(), clusters=5),
    "cut": lambda: nc.quantize(
        nc.prune(network(), 0.5, granularity="channel", example=torch.randn(1, 1, 8, 8)), bits=2
    ),
    "low rank": lambda: nc.factorize(network(), rank=0.25),
}


@pytest.mark.parametrize("kind", MODELS)
def test_bytes_and_zeros_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    read = read_contents(nc.save(model, tmp_path / "a.nbz"))
    state = model.state_dict()
    assert read.n_bytes == nc.size_bytes(model)
    assert read.class_name == "Sequential"
    assert [tensor.shape for tensor in read.tensors] == [tuple(tensor.shape) for tensor in state.values()]
    assert [tensor.n_zeros for tensor in read.tensors] == [int((tensor == 0).sum()) for tensor in state.values()]
    sizes = size_by_tensor(model)
    assert [tensor.n_bytes for tensor in read.tensors] == [sizes[name] for name in state]


def test_words_for_how_a_tensor_is_stored(tmp_path: Path) -> None:
    pruned = read_contents(nc.save(MODELS["bits"](), tmp_path / "a.nbz"))
    assert pruned.tensors[1].encoding == "4 bits, symmetric, by channel, pruned"
    assert read_contents(nc.save(MODELS["codebook"](), tmp_path / "b.nbz")).tensors[1].encoding == "codebook of 5"
    cut = read_contents(nc.save(MODELS["cut"](), tmp_path / "c.nbz"))
    assert any(change.startswith("0: cut to weight (4, 1, 3, 3)") for change in cut.changes)
    assert dict(pruned.facts)["class"] == "Sequential"
    assert repr(pruned).startswith("<Sequential in a.nbz: ")
    n_zeros = sum(int((tensor == 0).sum()) for tensor in MODELS["bits"]().state_dict().values())
    assert dict(pruned.facts)["zeros"] == f"{n_zeros:,} ({n_zeros / 4773:.1%})"


def test_a_shared_tensor_counts_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    read = read_contents(nc.save(model, tmp_path / "a.nbz"))
    assert [tensor.tied_to for tensor in read.tensors] == [None, 0]
    assert read.tensors[1].n_bytes == 0
    assert read.rows[1][2] == "same as 0"
    assert dict(read.facts)["numbers"] == "24"


def test_the_json_holds_texts_only(tmp_path: Path) -> None:
    data = json.loads(file_json(nc.save(MODELS["bits"](), tmp_path / "<b>.nbz")))
    assert data["title"] == "<b>.nbz"
    assert all(isinstance(cell, str) for row in data["rows"] for cell in row)
    assert len(data["rows"][0]) == len(data["columns"])


def test_a_file_that_claims_too_much_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nc.save(MODELS["plain"](), tmp_path / "a.nbz")
    monkeypatch.setattr(contents, "MIN_NUMBERS", 10)
    monkeypatch.setattr(contents, "MAX_NUMBERS_PER_BYTE", 0)
    with pytest.raises(ArtifactError, match=r"claims 4773 numbers in .* more than 10"):
        read_contents(path)


@pytest.mark.parametrize("text", [b"", b"no model", b"\0" * 100])
def test_other_files_are_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.nbz").write_bytes(text)
    with pytest.raises(ArtifactError):
        read_contents(tmp_path / "a.nbz")
