"""Footprints: numbers by hand, sums that agree, and nothing left behind."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_texts import check_golden
from packed_zoo import CASES, Case, Convolutional, Perceptron, Tied
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import nbcompress as nc
from nbcompress.artifact import size_bytes
from nbcompress.errors import ArtifactError, DataError, MeasureError
from nbcompress.measure import Comparison, Footprint, Footprints, Latency, compare, compared, footprint

IMAGE = torch.randn(2, 1, 8, 8)


def even(model: nn.Module) -> nn.Module:
    """Weights that are the same on every machine."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((torch.arange(weight.numel()) % 17 - 8).reshape(weight.shape) / 16)
    return model


def test_a_small_network_by_hand() -> None:
    found = footprint(even(Convolutional()), IMAGE, repeats=0)
    by_name = {one.name: one for one in found.layers}
    assert [one.name for one in found.layers] == ["conv1", "norm", "conv2", "head"]
    assert by_name["conv1"].parameters == 8 * 9 + 8
    assert by_name["conv1"].macs == 2 * 8 * 64 * 9
    assert by_name["norm"].macs == 0
    assert by_name["conv2"].macs == 2 * 8 * 36 * 2 * 9
    assert by_name["head"].macs == 2 * 288 * 10
    assert found.parameters == 80 + 16 + 8 * 2 * 9 + 8 + 2890
    assert found.macs == sum(one.macs or 0 for one in found.layers)
    # Of every 17 weights in a row one is zero, the ninth.
    assert by_name["head"].nonzeros == 2890 - len(range(8, 2880, 17)) - len(range(8, 10, 17))
    assert found.uncounted == ()
    assert found.latency is None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layers_and_overhead_add_up(case: Case) -> None:
    model = case.make()
    found = footprint(model)
    assert found.size_bytes == size_bytes(model)
    assert found.size_bytes == found.overhead_bytes + sum(one.size_bytes for one in found.layers)
    assert found.parameters == sum(one.numel() for one in model.parameters())
    assert found.nonzeros == sum(int(one.count_nonzero()) for one in model.parameters())


def test_shared_weights_count_once() -> None:
    found = footprint(Tied(), torch.arange(6), repeats=0)
    assert [(one.name, one.parameters, one.macs) for one in found.layers] == [("embedding", 800, 0), ("out", 0, 4800)]


class Stateful(nn.Module):
    """Changes itself and draws random numbers whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("n_calls", torch.zeros((), dtype=torch.long))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        self.seen.append(x)
        random.random()
        np.random.rand()
        return self.drop(self.norm(x)) + torch.rand(1)


def test_nothing_is_left_behind() -> None:
    model = Stateful().train()
    model.norm.eval()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    loader = DataLoader(TensorDataset(torch.randn(8, 4), torch.zeros(8)), 4, shuffle=True, generator=torch.Generator())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    turned = loader.generator.get_state()
    footprint(model, torch.randn(3, 4, generator=torch.Generator()), repeats=2)
    footprint(model, data=loader, repeats=2)
    assert (model.training, model.norm.training, model.drop.training) == (True, False, True)
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert model.seen == []
    assert all(not one._forward_hooks and not one._forward_pre_hooks for one in model.modules())
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1], states[2]) == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(turned, loader.generator.get_state())


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        return self.line(x) * scale


@pytest.mark.parametrize(
    "example",
    [{"x": torch.randn(5, 3), "scale": torch.ones(1)}, {"scale": torch.ones(1), "x": torch.randn(5, 3)}],
    ids=["in order", "out of order"],
)
def test_examples_by_keyword(example: dict[str, Tensor]) -> None:
    found = footprint(Named(), example, repeats=0)
    assert found.macs == 30
    assert "x=float32[5, 3]" in found.inputs


def test_examples_and_data() -> None:
    pair = (torch.randn(10, 24), torch.zeros(10, dtype=torch.long))
    assert footprint(Perceptron(), (torch.randn(5, 24),), repeats=0).inputs == "float32[5, 24]"
    assert footprint(Perceptron(), data=pair, repeats=0).inputs == "float32[10, 24]"
    assert footprint(Perceptron(), data=pair, repeats=0).macs == 10 * (24 * 40 + 40 * 30 + 30 * 10)


def test_several_models() -> None:
    found = footprint([Perceptron(), Perceptron()], torch.randn(1, 24), repeats=7)
    assert isinstance(found, Footprints)
    assert [one.name for one in found] == ["Perceptron 1", "Perceptron 2"]
    assert all(one.latency is not None and len(one.latency.samples_ms) == 7 for one in found)
    assert [one.name for one in footprint({"old": Perceptron(), "new": Tied()})] == ["old", "new"]
    json.dumps(found.to_json())


class Uncopied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cached = threading.Lock()


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: footprint(Perceptron(), torch.ones(2, 3)),
            MeasureError,
            r"^Perceptron must run on the example, float32\[2, 3\], but raised RuntimeError: mat1",
        ),
        (lambda: footprint(Perceptron(), [1, 2]), MeasureError, "^example must be a tensor, a tuple .* got list"),
        (lambda: footprint("model"), MeasureError, r"^what is measured must be a torch\.nn\.Module, got str"),
        (lambda: footprint([]), MeasureError, "^footprint needs at least one model"),
        (lambda: footprint(Uncopied()), MeasureError, r"^Uncopied must allow copy\.deepcopy to be measured"),
        (lambda: footprint(Perceptron(), data=3), DataError, "^data must be"),
        (lambda: footprint(nn.LazyLinear(3), torch.ones(1, 2)), MeasureError, "^'weight' has no shape yet: run the"),
        (
            lambda: footprint(nn.Sequential(torch.jit.script(nn.ReLU())), torch.ones(1, 2)),
            MeasureError,
            "inside of a scripted module, and '0' is one: measure it before it is scripted",
        ),
        (lambda: footprint(nn.Linear(2, 2, device="meta")), ArtifactError, "on the meta device"),
        (lambda: footprint(Perceptron(), torch.ones(1, 24), repeats=-1), MeasureError, "repeats must be a count"),
    ],
)
def test_what_cannot_be_measured(call, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def timed(found: Footprint, *samples_ms: float) -> Footprint:
    ordered = sorted(samples_ms)
    latency = Latency(ordered[len(ordered) // 2], ordered[0], ordered[-1], 1, len(ordered), samples_ms)
    return replace(found, latency=latency)


def test_the_text_of_a_footprint() -> None:
    model = nc.prune(even(Convolutional()), amount=0.5)
    check_golden("measure/footprint.txt", str(timed(footprint(model, IMAGE, repeats=0), 1.2, 1.3, 1.25)))
    check_golden("measure/footprint-without-example.txt", str(footprint(model)))


def test_the_text_of_several() -> None:
    model = even(Perceptron())
    pair = footprint({"before": model, "after": nc.quantize(model, bits=4)}, torch.ones(1, 24), repeats=0)
    texts = Footprints((timed(pair[0], 1.2, 1.3, 1.25), timed(pair[1], 0.011, 0.012, 0.013)))
    check_golden("measure/footprints.txt", str(texts))


def test_the_text_of_a_comparison() -> None:
    model = even(Perceptron())
    before = footprint(model, torch.ones(1, 24), repeats=0)
    small = even(nn.Sequential(nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 10)))
    after = footprint(small, torch.ones(1, 24), repeats=0)
    faster = compared(timed(before, 2.0, 2.2, 2.1), timed(after, 1.0, 1.0, 1.05))
    assert faster.is_speed_different
    assert (faster.speedup.value, faster.speedup.low, faster.speedup.high) == (2.0, 2.0, 2.2)
    check_golden("measure/comparison.txt", str(faster))
    same = compared(timed(before, 2.0, 2.2, 2.1), timed(after, 1.9, 2.0, 2.05))
    assert same.is_speed_different is False
    check_golden("measure/comparison-no-difference.txt", str(same))
    check_golden("measure/comparison-without-example.txt", str(compare(model, nc.prune(model, amount=0.5))))
    json.dumps(faster.to_json())


def test_a_model_is_as_fast_as_itself() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    found = compare(model, model, torch.randn(16, 64), repeats=40)
    assert isinstance(found, Comparison)
    assert found.size_ratio == 1
    assert found.speedup is not None
    assert 0.8 < found.speedup.value < 1.25
