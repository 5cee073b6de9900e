"""Free axes beside the first: sequences of any length in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from export_nets import Encoder, ran
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.errors import ArtifactError

TOKENS = torch.arange(28).reshape(4, 7)
MASK = torch.ones(4, 7, dtype=torch.bool)


@pytest.mark.parametrize("dynamic", [1, (1,), {"tokens": 1, "mask": 1}, {"tokens": {1: "steps"}, "mask": {1: "steps"}}])
def test_any_length_runs(dynamic: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nc.quantize(Encoder(32).eval(), 8)
    path = nc.export(model, tmp_path / "m.onnx", example={"tokens": TOKENS, "mask": MASK}, dynamic=dynamic)
    name = "steps" if isinstance(dynamic, dict) and isinstance(dynamic["tokens"], dict) else "length_1"
    graph = onnx.load(path).graph
    shapes = [[dim.dim_param or dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in graph.input]
    assert shapes == [["batch", name], ["batch", name]]
    assert [dim.dim_param for dim in graph.output[0].type.tensor_type.shape.dim][:2] == ["batch", name]
    for n in (2, 11):
        tokens = torch.arange(3 * n).reshape(3, n) % 40
        mask = torch.ones(3, n, dtype=torch.bool)
        with torch.no_grad():
            expected = model(tokens, mask)["logits"]
        torch.testing.assert_close(ran(path, tokens, mask, is_exact=True), expected, atol=1e-3, rtol=1e-3)


def test_a_program_of_torch_takes_any_length(tmp_path: Path) -> None:
    model = Encoder(32).eval()
    program = torch.export.load(nc.export(model, tmp_path / "m.pt2", example=TOKENS, dynamic=1)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(TOKENS[:, :3])["logits"], model(TOKENS[:, :3])["logits"])


class Positions(nn.Module):
    """At most 12 positions, as in most language models."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(12, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.table(torch.arange(x.shape[1])))


def test_a_longest_length_is_found(tmp_path: Path) -> None:
    model = Positions().eval()
    path = nc.export(model, tmp_path / "m.onnx", example=torch.randn(2, 5, 16), dynamic=1)
    x = torch.randn(1, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(ran(path, x), model(x))


@pytest.mark.parametrize(
    ("dynamic", "text"),
    [
        (0, "counted from 1"),
        ("tokens", "must be an axis, a tuple of axes, or a dict"),
        (5, "no input of the example has it"),
        ({"token": 1}, "Did you mean 'tokens'"),
        ({"tokens": 3}, "which has 2 axes"),
        ({"tokens": {1: "batch"}}, "a word that is not 'batch'"),
    ],
)
def test_what_makes_no_sense_is_refused(dynamic: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=text):
        nc.export(Encoder(32).eval(), tmp_path / "m.onnx", example={"tokens": TOKENS}, dynamic=dynamic)
    assert not list(tmp_path.iterdir())


def test_one_length_only_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(14, 3))
    with pytest.raises(ArtifactError, match=r"must run on 4 examples like the given ones \(float32\[4, 6, 2\]\)"):
        nc.export(model, tmp_path / "m.onnx", example=torch.randn(4, 7, 2), dynamic=1)
    with pytest.raises(ArtifactError, match="2 steps or more along a free axis, but 'length_1' has 1"):
        nc.export(model, tmp_path / "m.onnx", example=torch.randn(4, 1, 2), dynamic=1)
    with pytest.raises(ArtifactError, match="a state dict has no inputs"):
        nc.export(model, tmp_path / "m.pt", dynamic=1)
