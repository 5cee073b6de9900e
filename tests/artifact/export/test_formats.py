"""`export`: every format, every refusal, and nothing else touched."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import onnxruntime
import pytest
import torch
from export_nets import Encoder, perceptron, ran
from safetensors import safe_open
from safetensors.torch import load_model
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.artifact.export.agreement import ExampleInputs, example_inputs
from nbcompress.errors import ArtifactError, DataError, MissingPart, NbcompressWarning

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


class Fixed(nn.Module):
    """Runs on any batch, but reads its size as a number."""

    def forward(self, x: Tensor) -> Tensor:
        return x * int(x.shape[0])


class Chunked(nn.Linear):
    """Takes large batches in another way, with the same result."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[0] < 16 else x.clone())


class Keeping(nn.Linear):
    """Keeps what depends on the shape of its last input."""

    shape: torch.Size | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.shape != x.shape:
            self.shape, self.steps = x.shape, torch.arange(12.0)
        return super().forward(x + self.steps)


class Pair(NamedTuple):
    logits: Tensor
    inputs: Tensor


@dataclass
class Result:
    logits: Tensor
    pair: Pair
    loss: Tensor | None = None


class Structured(nn.Linear):
    def forward(self, x: Tensor) -> Result:
        logits = super().forward(x)
        return Result(logits, Pair(logits, x))


class OfPair(nn.Linear):
    def forward(self, pair: Pair) -> Tensor:
        return super().forward(pair.logits) + pair.inputs


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
        (Fixed(), "the first dimension of the inputs must be free, but Fixed works with 3 only. It must count"),
    ],
    ids=["deciding", "of-three", "fixed"],
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


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_limits_on_the_batch_size(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".onnx":
        # The graph has no limits: it is right beyond them, or refused.
        found = onnxruntime.InferenceSession(nc.export(Chunked(12, 12).eval(), path, example=X))
        assert found.run(None, {found.get_inputs()[0].name: torch.ones(20, 12).numpy()})[0].shape == (20, 12)
        with pytest.raises(ArtifactError, match="ONNX Runtime on 5 examples gives outputs that are off by"):
            nc.export(Pinned(), tmp_path / "b.onnx", example=X)
        return
    with pytest.warns(NbcompressWarning, match="takes at most 15 examples at a time, because Chunked branches"):
        nc.export(Chunked(12, 12), path, example=X)
    program = torch.export.load(path).module()
    assert program(torch.ones(15, 12)).shape == (15, 12)
    with pytest.raises(AssertionError, match="Guard failed"):
        program(torch.ones(16, 12))
    with pytest.warns(NbcompressWarning, match="at most 15"):
        nc.export(Chunked(12, 12), path, example=torch.ones(15, 12))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_what_a_model_keeps_of_a_shape_is_not_traced(tmp_path: Path, suffix: str) -> None:
    model = Keeping(12, 12)
    nc.export(model, tmp_path / f"a{suffix}", example=X)
    assert model.shape is None
    model(X)
    with pytest.raises(ArtifactError, match=r"works with 3 only.* what the model kept of the shape of an earlier"):
        nc.export(model, tmp_path / f"b{suffix}", example=X)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_outputs_in_classes(tmp_path: Path, suffix: str) -> None:
    model = Structured(12, 12).eval()
    path = nc.export(model, tmp_path / f"a{suffix}", example=X)
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        results = session.run(None, {session.get_inputs()[0].name: X.numpy()})
        assert torch.allclose(torch.from_numpy(results[0]), model(X).logits, atol=1e-6)
        nc.export(OfPair(12, 12), tmp_path / "b.onnx", example=(Pair(X, X),))
        return
    found = torch.export.load(path).module()(X)
    assert torch.allclose(found["logits"], model(X).logits)
    assert type(found["pair"]) is tuple
    with pytest.raises(ArtifactError, match=r"save the program of OfPair, .* \(inputs are tensors, and plain tuples"):
        nc.export(OfPair(12, 12), tmp_path / "b.pt2", example=(Pair(X, X),))


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
    for name in ("a.safetensors", "a.pt"):
        with pytest.raises(ArtifactError, match="'weight' has no shape yet: run the model once"):
            nc.export(nn.LazyLinear(2), tmp_path / name)
    with pytest.raises(DataError, match="data must be"):
        nc.export(perceptron(), tmp_path / "a.onnx", data=3)


@pytest.mark.parametrize("part", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setitem(sys.modules, part, None)
    with pytest.raises(MissingPart, match=rf'ONNX needs the package {part}: pip install "nbcompress\[onnx\]"'):
        nc.export(perceptron(), tmp_path / "a.onnx", example=X)
    assert not list(tmp_path.iterdir())
