"""Multiply-accumulates against counts by hand."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from nbcompress.measure.inputs import ModelInputs
from nbcompress.measure.macs import MacCount, count_macs


def counted(model: nn.Module, *inputs: Tensor) -> MacCount:
    return count_macs(deepcopy(model).eval(), ModelInputs(inputs))


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


class Grown(nn.Module):
    """Inference mode inside: its operators do not reach the counter in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 4)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.line(x)


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Linear(6, 4), (5, 6), 5 * 6 * 4),
        (nn.Linear(6, 4, bias=False), (2, 3, 6), 2 * 3 * 6 * 4),
        (Grown(), (5, 6), 5 * 6 * 4),
        (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 7, 7), 2 * 8 * 7 * 7 * 3 * 9),
        (nn.Conv2d(8, 8, 3, groups=4), (1, 8, 5, 5), 8 * 3 * 3 * 2 * 9),
        (nn.Conv1d(3, 4, 2, stride=2), (1, 3, 8), 4 * 4 * 3 * 2),
        # Each input value meets every weight that reads its channel.
        (nn.ConvTranspose2d(3, 5, 2, stride=2), (1, 3, 4, 4), 16 * 3 * 5 * 4),
        # Three gates, each with 5 inputs and 6 states; two steps of four rows.
        (nn.GRU(5, 6), (2, 4, 5), 2 * 4 * 3 * 6 * (5 + 6)),
        (nn.LSTM(5, 6, bidirectional=True), (2, 4, 5), 2 * 2 * 4 * 4 * 6 * (5 + 6)),
        # With the batch first, torch turns its result in place.
        (nn.LSTM(5, 6, batch_first=True), (4, 2, 5), 2 * 4 * 4 * 6 * (5 + 6)),
        (nn.GRU(5, 6, batch_first=True), (4, 2, 5), 2 * 4 * 3 * 6 * (5 + 6)),
        # Scores and mixing: 2 * 3 * 3 * 4 numbers each, in 2 batches.
        (Attention(), (2, 3, 4), 2 * 2 * 3 * 3 * 4),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Softmax(-1)), (2, 3, 4, 4), 0),
        (nn.Sequential(nn.LayerNorm(4), nn.GELU(), nn.Dropout(), nn.AdaptiveAvgPool1d(1)), (2, 3, 4), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_counts_by_hand(model: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    found = counted(model, torch.randn(shape))
    assert found.total == expected
    assert dict(found.uncounted) == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes_count_the_same(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)).to(dtype)
    assert counted(model, torch.randn(1, 3, 5, 5, dtype=dtype)).total == 4 * 9 * 27 + 72


def test_multi_head_attention_by_hand() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 3, 8)
    projections = 2 * 3 * 8 * (3 * 8 + 8)
    attention = 2 * 2 * 2 * (3 * 3 * 4)  # batch, heads, twice, 3 x 3 scores of 4 numbers
    assert counted(model, x, x, x).total == projections + attention


def test_counts_belong_to_the_innermost_layer() -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    found = counted(nn.Sequential(block, nn.Linear(4, 2)), torch.randn(3, 4))
    assert found.by_layer == {"0.0": 48, "1": 24}
    # A layer that is used twice counts twice.
    assert counted(nn.Sequential(block, block), torch.randn(3, 4)).by_layer == {"0.0": 2 * 48}


class Waves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).abs()


def test_what_was_not_counted_is_named() -> None:
    assert dict(counted(nn.Sequential(nn.Linear(4, 4), Waves()), torch.randn(1, 4)).uncounted) == {"_fft_r2c": 1}


def test_backends_are_put_back() -> None:
    def state() -> tuple[bool, ...]:
        return (
            torch.backends.mkldnn.enabled,
            torch.backends.cudnn.enabled,
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
        )

    before = state()
    counted(nn.Linear(2, 2), torch.randn(1, 2))
    assert state() == before
