"""Schedules of one's own: lists of shares and functions of the step, for weights, channels and layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compressors.prune.schedules import gradual_share, own_shares
from nbcompress.errors import CompressionError

X, Y = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3
DATA = (X, Y)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))


def n_zeros(module: nn.Module) -> int:
    return sum(int((value == 0).sum()) for value in module.parameters() if value.ndim > 1)


def test_the_cubic_schedule_by_hand() -> None:
    """Four epochs prune in three: from 0.1 to 0.9 by 0.9 - 0.8 (1 - t)^3 with t = 1/3, 2/3, 1."""
    shares = [gradual_share(0.1, 0.9, epoch, 4) for epoch in (1, 2, 3, 4)]
    assert shares == [pytest.approx(0.9 - 0.8 * 8 / 27), pytest.approx(0.9 - 0.8 / 27), pytest.approx(0.9), None]


@pytest.mark.parametrize("schedule", [[0.3, 0.6, 0.8], (0.3, 0.6, 0.8), lambda step: [0.3, 0.6, 0.8][min(step, 2)]])
def test_weights_follow_the_shares(schedule: Any) -> None:
    """The last share is zero at the end, and a function is called once for each epoch."""
    n = sum(value.numel() for value in model().parameters() if value.ndim > 1)
    small = nc.prune(model(), schedule=schedule, data=DATA, finetune=4)
    assert n_zeros(small) == round(0.8 * n)
    seen: list[float] = []

    def watched(step: int) -> float:
        seen.append(step)
        return [0.3, 0.6, 0.8, 0.8][step]

    assert n_zeros(nc.prune(model(), schedule=watched, data=DATA, finetune=4)) == round(0.8 * n)
    assert seen == [0, 1, 2, 3]


def test_without_training_a_list_prunes_step_after_step() -> None:
    # By magnitude, steps and one shot agree; by gradient, scores are computed again.
    stepwise, at_once = nc.prune(model(), schedule=[0.2, 0.5]), nc.prune(model(), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(stepwise.parameters(), at_once.parameters(), strict=True))
    keywords = {"criterion": "gradient", "data": DATA}
    stepwise, at_once = nc.prune(model(), schedule=[0.4, 0.8], **keywords), nc.prune(model(), 0.8, **keywords)
    assert n_zeros(stepwise) == n_zeros(at_once)
    assert any(not torch.equal(a, b) for a, b in zip(stepwise.parameters(), at_once.parameters(), strict=True))


@pytest.mark.parametrize(
    ("schedule", "amount", "widths"),
    [([0.1, 0.25, 0.5], None, (10, 5)), ("gradual", 0.3, (14, 7)), (lambda step: 0.15 * (step + 1), None, (11, 5))],
)
def test_channels_follow_the_shares(schedule: Any, amount: float | None, widths: tuple[int, int]) -> None:
    """Shares count the original units, whatever was rounded on the way: a half is rounded up."""
    small = nc.prune(model(), amount, granularity="channel", schedule=schedule, data=DATA, finetune=3)
    assert (small[0].out_features, small[2].out_features) == widths
    kept = nc.record_of(small).kept_indices
    assert len(kept["0"]) == widths[0]
    assert int(kept["0"].max()) > widths[0] - 1  # counted from the original
    assert nc.record_of(small).left_out.keys() == {"4.weight"}


def test_channels_by_a_list_without_training() -> None:
    small = nc.prune(model(), granularity="channel", schedule=[0.0, 0.02, 0.2, 0.4], example=X)
    assert (small[0].out_features, small[2].out_features) == (12, 6)
    at_once = nc.prune(model(), 0.4, granularity="channel", example=X)
    # Weights that read removed units do not count any more, so that the second cut can choose others.
    assert (at_once[0].out_features, at_once[2].out_features) == (12, 6)


def test_global_scope_counts_all_units_once() -> None:
    small = nc.prune(model(), granularity="channel", scope="global", schedule=[0.2, 0.5], example=X)
    assert small[0].out_features + small[2].out_features == 15


def falling(step: int) -> float:
    return 0.5 - 0.1 * step


@pytest.mark.parametrize("granularity", ["weight", "channel", "layer"])
@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"schedule": [0.5, 0.3]}, r"schedule must not fall, .*: step 1 says 0.3 after 0.5"),
        ({"schedule": falling, "data": DATA, "finetune": 2}, r"must not fall, .*: step 1 says 0.4 after 0.5"),
        ({"schedule": falling}, r"a function as schedule= gives the share before each epoch: pass finetune=EPOCHS"),
        ({"schedule": [0.1, 1.2]}, r"schedule\[1\] must be a number from 0 to 1, got 1.2"),
        ({"schedule": []}, r"schedule must be one-shot, gradual, a list of amounts such as \[0.3, 0.6\]"),
        ({"schedule": 3}, r"schedule must be one-shot, gradual, a list"),
        ({"schedule": "slow", "amount": 0.5}, r"schedule must be one of one-shot, gradual, got 'slow'"),
        (
            {"schedule": [0.1, 0.2, 0.3], "data": DATA, "finetune": 2},
            r"has 3 steps, .*: pass finetune of at least 3, got 2",
        ),
        ({"schedule": [0.1, 0.2], "amount": 0.5}, r"schedule ends at 0.2, but amount is 0.5: leave out the amount"),
    ],
)
def test_refused(granularity: str, keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(CompressionError, match=text):
        nc.prune(model(), granularity=granularity, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("granularity", ["channel", "layer"])
@pytest.mark.parametrize("keywords", [{"schedule": [0.01, 0.02]}, {"amount": 0.02, "schedule": "gradual"}])
def test_a_schedule_that_removes_nothing_is_refused_like_one_shot(granularity: str, keywords: dict[str, Any]) -> None:
    """2 % of 20 channels, or of 4 blocks, round to none. No step of training is made before the error."""

    def loss(_output: Tensor, _target: Tensor) -> Tensor:
        raise AssertionError("nothing is trained")

    stack = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)) for _ in range(4)))
    net = model() if granularity == "channel" else stack
    for epochs in (0, 2) if "amount" not in keywords else (2,):
        with pytest.raises(CompressionError, match=r"amount=0.02 rounds to no"):
            nc.prune(net, granularity=granularity, data=DATA, finetune=epochs, loss=loss, **keywords)


def test_a_first_step_may_remove_nothing() -> None:
    small = nc.prune(model(), granularity="channel", data=DATA, schedule=[0.0, 0.01, 0.5])
    assert [len(layer.weight) for layer in small if isinstance(layer, nn.Linear)] == [10, 5, 3]


def test_amount_may_repeat_the_last_share() -> None:
    assert own_shares([0.1, 0.5], 0.5, 0) == (0.1, 0.5)
    assert own_shares("gradual", 0.5, 3) is None
    function: Callable[[int], float] = lambda step: 0.1 * step  # noqa: E731
    assert own_shares(function, None, 3) == pytest.approx((0.0, 0.1, 0.2))


def test_other_options_that_do_not_go_with_steps() -> None:
    with pytest.raises(CompressionError, match="'hessian' updates the other weights at once"):
        nc.prune(model(), schedule=[0.1, 0.5], criterion="hessian", data=DATA)
    with pytest.raises(CompressionError, match="has no smaller share to start with"):
        nc.prune(model(), granularity="2:4", schedule=[0.1, 0.5])
    with pytest.raises(CompressionError, match="comes before quantizing and clustering"):
        nc.prune(nc.quantize(model()), schedule=[0.1, 0.5], data=DATA, finetune=2)
