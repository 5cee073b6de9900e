"""Recurrent layers: weights in the order of ONNX's gates, and LSTM layers that compute in 8 bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from export_nets import error, operators, ran
from torch import Tensor, nn

import nbcompress as nc


class Sequence(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], n_directions: int) -> None:
        super().__init__()
        self.layers = kind(20, 24, batch_first=True, bidirectional=n_directions == 2)
        self.head = nn.Linear(24 * n_directions, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0][:, -1])


@pytest.mark.parametrize(
    ("kind", "bits", "granularity", "n_directions", "is_integer"),
    [
        (nn.LSTM, 8, "channel", 2, True),
        (nn.LSTM, 8, "tensor", 1, True),
        (nn.LSTM, 4, "group:16", 2, False),  # no scales by group, and it would double the file
        (nn.GRU, 8, "channel", 1, False),
    ],
)
def test_recurrent_layers(
    kind: type[nn.LSTM] | type[nn.GRU],
    bits: int,
    granularity: str,
    n_directions: int,
    is_integer: bool,
    tmp_path: Path,
) -> None:
    torch.manual_seed(1)
    small = nc.quantize(Sequence(kind, n_directions).eval(), bits, granularity=granularity)
    x = torch.randn(3, 6, 20)
    path = nc.export(small, tmp_path / "small.onnx", example=x)
    found = operators(path)
    assert found["DynamicQuantizeLSTM"] == is_integer
    assert found["LSTM"] + found["GRU"] == (not is_integer)
    # The gates are in order in the file. Cut out of the weights at every call, they would be 8 slices a direction.
    assert found["Slice"] < 8
    with torch.no_grad():
        expected = small(x)
    assert error(expected, ran(path, x)) < 0.05
    if not is_integer:
        assert error(expected, ran(path, x, is_exact=True)) < 1e-5
    assert path.report is not None
    assert len(path.report.recurrent) == 2 * is_integer * n_directions
    assert sum("layers" in name for name in path.report.decoded) == (0 if is_integer else 2 * n_directions)


def test_lstm_layers_that_disagree_are_decoded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Sequence(nn.LSTM, 1).eval()
    small, x = nc.quantize(model, 8), torch.randn(3, 6, 20)
    path = nc.export(small, tmp_path / "small.onnx", example=x, tolerance=1e-5)
    assert operators(path)["DynamicQuantizeLSTM"] == 0
    assert path.report is not None
    assert path.report.why.startswith("weights are decoded: products compute in floating point, because")
    with torch.no_grad():
        assert error(small(x), ran(path, x)) < 1e-5
