"""`export`: every format, every refusal, and nothing else touched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from export_nets import Encoder, perceptron, ran
from safetensors import safe_open
from safetensors.torch import load_model
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.artifact.export.agreement import ExampleInputs, example_inputs
from nbcompress.errors import ArtifactError, DataError, MissingPart

X = torch.ones(3, 12)


class Deciding(nn.Module):
    """Looks at its input to decide what to do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else -x


class OfThree(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(3, 12)


class Pinned(nn.Module):
    """Runs on any batch, but writes the size of the first into what is traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x * int(x.shape[0] > 4)


class WithState(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"epoch": 3}

    def set_extra_state(self, state: object) -> None:
        pass


def test_programs_of_torch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = nc.quantize(Encoder(), 8)
    tokens = torch.arange(10).reshape(2, 5)
    path = nc.export(model, tmp_path / "small.pt2", example=tokens)
    assert path == tmp_path / "small.pt2"
    program = torch.export.load(path).module()
    for n in (1, 2):
        torch.testing.assert_close(program(tokens[:n])["logits"], model.eval()(tokens[:n])["logits"])
    assert capfd.readouterr() == ("", "")


def test_state_dicts_hold_shared_tensors_once(tmp_path: Path) -> None:
    model = Encoder()
    path = nc.export(model, tmp_path / "small.safetensors")
    with safe_open(path, "pt") as file:
        assert set(model.state_dict()) - set(file.keys()) == {"out.weight"}
        assert file.metadata() == {"format": "pt", "out.weight": "embedding.weight"}
    fresh, other = Encoder(), Encoder()
    assert load_model(fresh, path) == (set(), [])
    other.load_state_dict(torch.load(nc.export(model, tmp_path / "small.pth"), weights_only=True))
    for name, tensor in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)
        assert torch.equal(other.state_dict()[name], tensor)


def test_views_are_written_as_tensors(tmp_path: Path) -> None:
    model = nn.Module()
    whole = torch.arange(12.0).reshape(3, 4)
    model.register_buffer("turned", whole.T)
    model.register_buffer("part", whole[1])
    with safe_open(nc.export(model, tmp_path / "a.safetensors"), "pt") as file:
        assert torch.equal(file.get_tensor("turned"), whole.T)
        assert torch.equal(file.get_tensor("part"), whole[1])


def test_the_model_stays_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    numbers = torch.get_rng_state()
    path = nc.export(model, tmp_path / "file", example=X, format="onnx", data=(X, torch.zeros(3)))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert capfd.readouterr() == ("", "")
    torch.testing.assert_close(ran(path, X), model.eval()(X).detach())


def test_data_gives_the_example(tmp_path: Path) -> None:
    path = nc.export(perceptron(), tmp_path / "a.onnx", data=(torch.randn(5, 12), torch.zeros(5)))
    assert ran(path, torch.randn(1, 12)).shape == (1, 5)


def test_examples_of_every_form() -> None:
    tensor = torch.ones(3, 2, dtype=torch.float64)
    assert example_inputs(tensor).args[0].dtype == torch.float32
    found = example_inputs(
        {"ids": torch.zeros(3, 4, dtype=torch.int64), "pair": (torch.ones(3), torch.ones(5)), "flag": True}
    )
    assert (found.batch_size, len(found.batched), len(found.tensors)) == (3, 2, 3)
    more = found.resized(5)
    assert [tuple(tensor.shape) for tensor in more.tensors] == [(5, 4), (5,), (5,)]
    assert more.kwargs["flag"] is True
    rows = ExampleInputs((torch.arange(3),), {}).resized(7).args[0]
    assert rows.tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("a.onx", {"example": X}, r"must end in \.onnx, .* got 'a\.onx'\. Did you mean '\.onnx'\?"),
        ("a", {"example": X}, r"must end in .* or format= must say what it is, got 'a'"),
        (
            "a.onnx",
            {"format": "onxx", "example": X},
            "format must be onnx, pt2, safetensors, pt, got 'onxx'. Did you mean",
        ),
        ("a.onnx", {}, "give an input that it runs on: example=x"),
        ("a.pt2", {}, "give an input that it runs on: example=x"),
        ("no/a.onnx", {"example": X}, "cannot be written: there is no folder .*no"),
        ("a.onnx", {"example": "x"}, "example must be a tensor, a tuple of positional inputs or a dict .*, got str"),
        ("a.onnx", {"example": torch.ones(0, 3)}, "example must hold a tensor with one or more examples"),
        ("a.onnx", {"example": (1, 2)}, "example must hold a tensor with one or more examples"),
        ("a.onnx", {"example": X, "tolerance": 0}, "tolerance must be a number above zero, got 0"),
        ("a.onnx", {"example": X, "tolerance": float("nan")}, "tolerance must be a number above zero, got nan"),
        ("a.onnx", {"example": torch.ones(3, 5)}, "Sequential must run on 3 examples like the given .*mat1 and mat2"),
    ],
)
def test_refusals(tmp_path: Path, name: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(ArtifactError, match=text):
        nc.export(perceptron(), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Deciding(), "torch.export must be able to trace Deciding with a free first dimension, but it raised Guard"),
        (OfThree(), "OfThree must run on 4 examples like the given .* but it raised RuntimeError: shape"),
        (Pinned(), "torch.export must be able to trace Pinned with a free first dimension, but it raised"),
    ],
    ids=["deciding", "of-three", "pinned"],
)
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_untraceable_models(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], model: nn.Module, text: str, suffix: str
) -> None:
    with pytest.raises(ArtifactError, match=text) as caught:
        nc.export(model, tmp_path / f"a{suffix}", example=X)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_what_is_no_module_and_what_returns_nothing(tmp_path: Path) -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    with pytest.raises(ArtifactError, match=r"only a torch.nn.Module can be exported, got dict"):
        nc.export({}, tmp_path / "a.onnx", example=X)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="Silent must return tensors to be exported, got NoneType"):
        nc.export(Silent(), tmp_path / "a.onnx", example=X)
    with pytest.raises(ArtifactError, match="holds tensors only, but '_extra_state' is dict"):
        nc.export(WithState(2, 2), tmp_path / "a.safetensors")
    with pytest.raises(DataError, match="data must be"):
        nc.export(perceptron(), tmp_path / "a.onnx", data=3)


@pytest.mark.parametrize("part", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setitem(sys.modules, part, None)
    with pytest.raises(MissingPart, match=rf'ONNX needs the package {part}: pip install "nbcompress\[onnx\]"'):
        nc.export(perceptron(), tmp_path / "a.onnx", example=X)
    assert not list(tmp_path.iterdir())
