"""Latency with a clock that the test moves, and latency in ONNX Runtime, in turn with torch."""

from __future__ import annotations

import gc
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from export_nets import error, ran
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.artifact.export.onnx_graph import OnnxSession
from nbcompress.errors import ArtifactError, MeasureError
from nbcompress.measure import compare, footprint, latencies
from nbcompress.measure import latency as latency_module
from nbcompress.measure.inputs import ModelInputs
from nbcompress.measure.latency import measure_latency


class Clock:
    """Stands still until a model runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(nn.Module):
    """Takes the seconds it is told, in order and again from the start."""

    def __init__(self, clock: Clock, *seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds, self.n_calls = clock, seconds, 0
        self.threads: set[int] = set()
        self.is_inference: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds[self.n_calls % len(self.seconds)]
        self.n_calls += 1
        self.threads.add(torch.get_num_threads())
        self.is_inference.add(torch.is_inference_mode_enabled())
        assert not gc.isenabled()
        return x


X = ModelInputs((torch.ones(1),))


def test_median_and_interval_of_known_times() -> None:
    clock = Clock()
    # Three calls of warm-up, then ten samples: 1 to 10 hundredths of a second, in some order.
    model = Timed(clock, 0.01, 0.01, 0.01, *(0.01 * factor for factor in (3, 1, 2, 10, 5, 4, 9, 6, 8, 7)))
    (found,) = measure_latency([model], [X], repeats=10, threads=1, clock=clock)
    assert found.median_ms == pytest.approx(55)
    assert (found.low_ms, found.high_ms) == (pytest.approx(20), pytest.approx(90))  # second and ninth
    assert (found.threads, found.repeats, len(found.samples_ms)) == (1, 10, 10)
    assert model.threads == {1}
    assert model.is_inference == {True}
    assert gc.isenabled()


def test_models_take_turns_and_short_calls_are_repeated() -> None:
    clock = Clock()
    order: list[str] = []
    short, long = Timed(clock, 1e-4), Timed(clock, 2e-3)
    short.register_forward_hook(lambda *_: order.append("s"))
    long.register_forward_hook(lambda *_: order.append("l"))
    first, second = measure_latency([short, long], [X, X], repeats=3, clock=clock)
    # What ran before a model is not always the same other one.
    assert "".join(order) == "sss" + "lll" + "s" * 10 + "l" + ("l" + "s" * 10) * 2
    assert (first.median_ms, second.median_ms) == (pytest.approx(0.1), pytest.approx(2))


def test_it_ends_at_its_budget() -> None:
    clock = Clock()
    (found,) = measure_latency([Timed(clock, 4.0)], [X], repeats=30, clock=clock)
    assert found.repeats == 7  # the fewest that give an interval, though 10 seconds were over before


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    measure_latency([nn.Linear(1, 1)], [X], repeats=1, threads=before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"repeats": 0}, "repeats is an integer of at least 1, but got 0"),
        ({"repeats": 2.5}, r"repeats is an integer of at least 1, but got 2\.5"),
        ({"threads": 0}, "threads is an integer of at least 1, but got 0"),
    ],
)
def test_bad_options(options: dict[str, object], text: str) -> None:
    with pytest.raises(MeasureError, match=text):
        measure_latency([nn.Linear(1, 1)], [X], **options)


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


X_RUNTIMES = torch.ones(2, 12)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nc.export(perceptron(), tmp_path_factory.mktemp("f") / "a.onnx", example=X_RUNTIMES)


def test_torch_and_onnx_take_turns(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    seen: list[int] = []

    class Recording(latency_module.OnnxModel):
        def __init__(self, model: str, threads: int) -> None:
            super().__init__(model, threads)
            seen.append(threads)

        def forward(self, *args: object, **kwargs: object) -> list[Tensor]:
            order.append("o")
            return super().forward(*args, **kwargs)

    monkeypatch.setattr(latency_module, "OnnxModel", Recording)
    # Calls of a thousandth of a second are not repeated within a sample.
    monkeypatch.setattr("nbcompress.measure.latency._MIN_SAMPLE_S", 0.0)

    class Slow(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            order.append("t")
            return super().forward(x)

    found = latencies({"eager": Slow(12, 3), "file": file}, X_RUNTIMES, repeats=4, threads=2)
    assert "".join(order) == "ttt" + "ooo" + "to" + "ot" + "ot" + "to"
    assert seen == [2]
    assert {name: (latency.runtime, latency.repeats, latency.threads) for name, latency in found.items()} == {
        "eager": ("torch", 4, 2),
        "file": ("onnx", 4, 2),
    }


def test_sessions_are_pinned(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    options: list[onnxruntime.SessionOptions] = []
    real = onnxruntime.InferenceSession

    def recording(model: object, session_options: onnxruntime.SessionOptions, **more: object) -> object:
        options.append(session_options)
        return real(model, session_options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recording)
    OnnxSession(str(file), 3)
    assert (options[0].intra_op_num_threads, options[0].inter_op_num_threads) == (3, 1)


def test_footprints_in_onnx_runtime() -> None:
    small = nc.quantize(perceptron().bfloat16(), 8, activations="dynamic")
    found = footprint(small, X_RUNTIMES.bfloat16(), repeats=7, runtime="onnx")
    assert found.latency is not None
    assert found.latency.runtime == found.to_json()["latency"]["runtime"] == "onnx"
    assert "the median of 7 on 1 thread in ONNX Runtime with its 95 % interval" in str(found)
    found = compare(perceptron(), nc.quantize(perceptron(), 8), X_RUNTIMES, repeats=7, runtime="onnx")
    assert "medians of 7 on 1 thread in ONNX Runtime, in turn" in str(found)


def test_rounding_in_onnx_runtime_is_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64))
    x = torch.randn(4, 5, 256)
    small = nc.quantize(model, 8)
    found = compare(model, small, x, repeats=7, runtime="onnx")
    assert found.before.latency is not None
    assert found.after.latency is not None
    assert found.before.latency.rounding == 0
    file = nc.export(small, tmp_path / "small.onnx", example=x)
    usual, exact = (ran(file, x, is_exact=is_exact) for is_exact in (False, True))
    assert found.after.latency.rounding == pytest.approx(error(exact, usual), abs=1e-6)
    # Not every processor rounds.
    rounded = replace(found, after=replace(found.after, latency=replace(found.after.latency, rounding=0.012)))
    note = r"ONNX Runtime rounds activations of after to 8 bits before products .* changes its outputs by 1\.2%$"
    assert len([line for line in rounded.notes() if re.match(note, line)]) == 1
    assert "rounds" not in str(compare(model, small, x, repeats=7))


def test_refusals(file: Path) -> None:
    with pytest.raises(MeasureError, match="runtime must be torch or onnx, got 'tensorrt'"):
        footprint(perceptron(), X_RUNTIMES, runtime="tensorrt")  # type: ignore[call-overload]
    with pytest.raises(MeasureError, match="latencies needs at least one model, got none"):
        latencies({}, X_RUNTIMES)
    with pytest.raises(MeasureError, match="give an input that it runs on: example=x"):
        latencies({"file": file}, None)
    with pytest.raises(
        ArtifactError, match=r"ONNX Runtime must be able to load the model, but it raised .*missing\.onnx"
    ):
        latencies({"file": file.parent / "missing.onnx"}, X_RUNTIMES)
    with pytest.raises(
        MeasureError, match=r"OnnxModel must run on the example, float32\[2, 5\], but raised ArtifactErr"
    ):
        latencies({"file": file}, torch.ones(2, 5))


def test_milliseconds_of_a_model_or_a_file(file: Path) -> None:
    for model, options in (
        (perceptron(), {}),
        (perceptron(), {"runtime": "torch"}),
        (perceptron(), {"runtime": "onnx"}),
        (file, {}),
        (str(file), {"runtime": "onnx"}),
    ):
        found = nc.latency_ms(model, X_RUNTIMES, repeats=3, **options)
        assert type(found) is float
        assert 0 < found < 1000
    latency = nc.footprint(perceptron(), X_RUNTIMES).latency
    assert latency is not None
    assert float(latency) == latency.median_ms, "a trial can measure it"
    for wrong, options, text in (
        (perceptron(), {"runtime": "tensorrt"}, "runtime must be torch or onnx, got 'tensorrt'"),
        (file, {"runtime": "torch"}, "runtime='torch' runs modules, and .* is a file"),
        ("small.nbz", {}, "holds weights and no code"),
        (3, {}, "a latency is that of a torch.nn.Module or an ONNX file, got int"),
    ):
        with pytest.raises(MeasureError, match=text):
            nc.latency_ms(wrong, X_RUNTIMES, **options)
    with pytest.raises(MeasureError, match="give an input that it runs on"):
        nc.latency_ms(perceptron(), None, runtime="onnx")
