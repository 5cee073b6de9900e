"""Latency in ONNX Runtime, in turn with torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.artifact.export import session
from nbcompress.errors import ArtifactError, MeasureError
from nbcompress.measure import compare, footprint, latencies, runtimes


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


X = torch.ones(2, 12)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nc.export(perceptron(), tmp_path_factory.mktemp("f") / "a.onnx", example=X)


def test_torch_and_onnx_take_turns(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    seen: list[int] = []

    class Told(runtimes.OnnxModel):
        def __init__(self, model: str, threads: int) -> None:
            super().__init__(model, threads)
            seen.append(threads)

        def forward(self, *args: object, **kwargs: object) -> list[Tensor]:
            order.append("o")
            return super().forward(*args, **kwargs)

    monkeypatch.setattr(runtimes, "OnnxModel", Told)
    # Calls of a thousandth of a second are not repeated within a sample.
    monkeypatch.setattr("nbcompress.measure.latency._SHORTEST_SAMPLE_S", 0.0)

    class Slow(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            order.append("t")
            return super().forward(x)

    found = latencies({"eager": Slow(12, 3), "file": file}, X, repeats=4, threads=2)
    assert "".join(order) == "ttt" + "ooo" + "to" * 4
    assert seen == [2]
    assert {name: (one.runtime, one.repeats, one.threads) for name, one in found.items()} == {
        "eager": ("torch", 4, 2),
        "file": ("onnx", 4, 2),
    }


def test_sessions_are_pinned(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    options: list[onnxruntime.SessionOptions] = []
    real = onnxruntime.InferenceSession

    def noted(model: object, given: onnxruntime.SessionOptions, **more: object) -> object:
        options.append(given)
        return real(model, given, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    session.Session(str(file), 3)
    assert (options[0].intra_op_num_threads, options[0].inter_op_num_threads) == (3, 1)


def test_footprints_in_onnx_runtime() -> None:
    small = nc.quantize(perceptron().bfloat16(), 8, activations="dynamic")
    found = footprint(small, X.bfloat16(), repeats=7, runtime="onnx")
    assert found.latency is not None
    assert found.latency.runtime == found.to_json()["latency"]["runtime"] == "onnx"
    assert "the median of 7 on 1 thread in ONNX Runtime with its 95 % interval" in str(found)
    found = compare(perceptron(), nc.quantize(perceptron(), 8), X, repeats=7, runtime="onnx")
    assert "medians of 7 on 1 thread in ONNX Runtime, in turn" in str(found)


def test_refusals(file: Path) -> None:
    with pytest.raises(MeasureError, match="runtime must be torch or onnx, got 'tensorrt'"):
        footprint(perceptron(), X, runtime="tensorrt")  # type: ignore[call-overload]
    with pytest.raises(MeasureError, match="latencies needs at least one model, got none"):
        latencies({}, X)
    with pytest.raises(MeasureError, match="give an input that it runs on: example=x"):
        latencies({"file": file}, None)
    with pytest.raises(
        ArtifactError, match=r"ONNX Runtime must be able to load the model, but it says: .*missing\.onnx"
    ):
        latencies({"file": file.parent / "missing.onnx"}, X)
    with pytest.raises(
        MeasureError, match=r"OnnxModel must run on the example, float32\[2, 5\], but raised ArtifactErr"
    ):
        latencies({"file": file}, torch.ones(2, 5))
