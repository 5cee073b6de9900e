"""Timing with a clock that the test turns by hand."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

from nbcompress.errors import MeasureError
from nbcompress.measure.inputs import Inputs
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


X = Inputs((torch.ones(1),))


def test_median_and_interval_of_known_times() -> None:
    clock = Clock()
    # Three calls of warm-up, then ten samples: 1 to 10 hundredths of a second, in some order.
    model = Timed(clock, 0.01, 0.01, 0.01, *(0.01 * one for one in (3, 1, 2, 10, 5, 4, 9, 6, 8, 7)))
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
    one, two = measure_latency([short, long], [X, X], repeats=3, clock=clock)
    assert "".join(order) == "sss" + "lll" + ("s" * 10 + "l") * 3
    assert (one.median_ms, two.median_ms) == (pytest.approx(0.1), pytest.approx(2))


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
        ({"repeats": 0}, "repeats must be a count from 1, got 0"),
        ({"repeats": 2.5}, r"repeats must be a count from 1, got 2\.5"),
        ({"threads": 0}, "threads must be a count from 1, got 0"),
    ],
)
def test_bad_options(options: dict[str, object], text: str) -> None:
    with pytest.raises(MeasureError, match=text):
        measure_latency([nn.Linear(1, 1)], [X], **options)
