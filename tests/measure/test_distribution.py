"""The weights of each layer: errors by hand and by the real operation, and the card."""

from __future__ import annotations

import json
from math import sqrt

import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.errors import CompressionError, LayerNotFound
from nbcompress.measure import distribution
from nbcompress.panels.cards import weights_card


def test_numbers_by_hand() -> None:
    """Weights 1, -1, 3, -3: deviation sqrt(5), and two bits and more hold them."""
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0, 3.0, -3.0]]))
    (layer,) = nc.weights(model).layers
    assert layer.name == "weight"
    assert layer.n_weights == 4
    assert layer.deviation == pytest.approx(sqrt(5))
    assert layer.largest == 3.0
    assert sum(layer.counts) == 4
    assert layer.counts[0] == layer.counts[-1] == 1
    assert layer.cluster_errors == {16: 0.0, 32: 0.0}
    assert layer.codebooks[16] == (-3.0, -1.0, 1.0, 3.0)
    assert nc.weights(nn.Linear(3, 3).to(torch.bfloat16)).layers[0].errors[8] < 0.02


@pytest.mark.parametrize(("scheme", "granularity"), [("symmetric", "channel"), ("affine", "group:4")])
def test_errors_are_those_of_the_operations(scheme: str, granularity: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Linear(30, 20))
    table = nc.weights(model, scheme=scheme, granularity=granularity)  # type: ignore[arg-type]
    for bits in (8, 4, 2):
        small = nc.quantize(model, bits, scheme=scheme, granularity=granularity)  # type: ignore[arg-type]
        for layer in table.layers:
            before, after = (item.get_parameter(layer.name).detach() for item in (model, small))
            assert layer.errors[bits] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
    small = nc.cluster(model, 16, rest="float32")
    before, after = (item.get_parameter("1.weight").detach() for item in (model, small))
    assert table.layers[1].cluster_errors[16] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)


def test_large_layers_are_sampled_by_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Linear(16, 200)
    whole = nc.weights(model).layers[0]
    monkeypatch.setattr(distribution, "_MOST_WEIGHTS", 400)
    table = nc.weights(model)
    assert table.layers[0].is_sampled
    assert table.layers[0].n_weights == 3200
    assert table.layers[0].errors[4] == pytest.approx(whole.errors[4], rel=0.15)
    assert "evenly chosen channels were looked at: weight" in str(table)


def test_text_data_and_card() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    table = nc.weights(model, layers="1")
    assert json.loads(json.dumps(table.to_json()))["layers"][0]["name"] == "1.weight"
    bundle = weights_card(nc.weights(model), title="%weights model")
    lines = bundle["text/plain"].splitlines()
    assert lines[0] == "%weights model"
    assert lines[2].split()[:3] == ["layer", "weights", "deviation"]
    assert [line.split()[0] for line in lines[4:6]] == ["0.weight", "1.weight"]
    assert "Histograms: weights of the layers" in bundle["text/html"]
    assert bundle["image/png"]
    zeros = nn.Linear(2, 2)
    nn.init.zeros_(zeros.weight)
    assert nc.weights(zeros).rows()[0][3] == "-"
    assert weights_card(nc.weights(zeros))["image/png"]
    with pytest.raises(LayerNotFound):
        nc.weights(model, layers="fc*")
    with pytest.raises(CompressionError, match="granularity must be channel, tensor, or group:N"):
        nc.weights(model, granularity="row")
