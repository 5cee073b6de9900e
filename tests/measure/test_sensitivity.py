"""Change of an evaluation per layer, by the real compressors."""

from __future__ import annotations

import json

import pytest
import torch
from golden_texts import check_golden
from packed_zoo import Awkward, Perceptron
from torch import nn

import nbcompress as nc
from nbcompress.compressors.record import record_of
from nbcompress.errors import CompressionError, LayerNotFound, MeasureError
from nbcompress.measure import sensitivity
from nbcompress.measure.sensitivity import Sensitivity, SensitivityRow


def even() -> Perceptron:
    model = Perceptron()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((torch.arange(weight.numel()) * 7 % 31 - 15.5).reshape(weight.shape) / 16)
    return model


def nonzero_share(model: nn.Module) -> float:
    weights = [weight for weight in model.parameters() if weight.ndim > 1]
    return sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


def test_by_layer() -> None:
    """The mean size of the change; what failed is left out."""
    rows = [("a", 0.1, -0.2), ("a", 0.2, 0.4), ("b", 0.1, None), ("b", 0.2, -0.5), ("c", 0.1, None), ("c", 0.2, None)]
    made = tuple(SensitivityRow(layer, 10, level, change=change) for layer, level, change in rows)
    found = Sensitivity("prune", (0.1, 0.2), 0.9, made, {})
    assert found.by_layer() == {"a": pytest.approx(0.3), "b": 0.5}


def test_each_layer_is_compressed_alone() -> None:
    model = even()
    seen: list[set[str]] = []

    def evaluate(small: nn.Module) -> float:
        assert small is not model
        seen.append(set(record_of(small).tensors))
        return nonzero_share(small)

    found = sensitivity(model, evaluate, levels=[0.5, 0.9])
    assert seen == [set(), *({f"{name}.weight"} for name in ("fc1", "fc2", "fc3") for _ in range(2))]
    assert found.baseline == 1
    assert [(row.layer, row.parameters, row.level) for row in found.rows[:3]] == [
        ("fc1", 960, 0.5),
        ("fc1", 960, 0.9),
        ("fc2", 1200, 0.5),
    ]
    assert found.rows[1].change == pytest.approx(-0.9 * 960 / 2460)
    small = nc.prune(model, amount=0.9, layers="fc1")
    assert found.rows[1].saved_bytes == nc.size_bytes(model) - nc.size_bytes(small)
    json.dumps(found.to_json())


@pytest.mark.parametrize("compressor", ["prune", "quantize", "cluster", "factorize"])
def test_every_compressor_works(compressor: str) -> None:
    found = sensitivity(even(), nonzero_share, compressor=compressor, layers="fc[12]")
    assert len(found.rows) == 2 * 3
    assert not any(row.error for row in found.rows)


def test_a_layer_that_fails_is_named() -> None:
    def evaluate(small: nn.Module) -> float:
        if "fc2.weight" in record_of(small).tensors:
            raise ZeroDivisionError("nothing left\nto divide")
        return float("nan") if "fc3.weight" in record_of(small).tensors else nonzero_share(small)

    found = sensitivity(even(), evaluate, levels=[0.5])
    assert [row.error for row in found.rows] == [
        "",
        "it raised ZeroDivisionError: nothing left",
        "the evaluation gave nan",
    ]
    check_golden("measure/sensitivity.txt", str(found))


def test_a_layer_around_others_is_compressed_without_them() -> None:
    model = Awkward()
    found = sensitivity(model, nonzero_share, levels=[0.5])
    assert [row.layer for row in found.rows] == ["bare", "recurrent", "attention", "attention.out_proj"]
    assert all(row.change is not None and row.change < 0 for row in found.rows)
    total = sum(row.parameters for row in found.rows)
    assert sum(row.change or 0 for row in found.rows) == pytest.approx(-0.5, abs=4 / total)


def test_every_evaluation_sees_the_same_random_numbers() -> None:
    seen = []

    def evaluate(small: nn.Module) -> float:
        seen.append(torch.rand(1).item())
        return seen[-1]

    model = even()
    state = torch.get_rng_state()
    found = sensitivity(model, evaluate, levels=[0.5])
    assert len(set(seen)) == 1
    assert torch.equal(state, torch.get_rng_state())
    assert [row.change for row in found.rows] == [0, 0, 0]


def test_the_model_is_left_as_it_was() -> None:
    model = even().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sensitivity(model, lambda small: nonzero_share(small.eval()), levels=[0.9])
    assert model.training
    assert record_of(model).tensors == {}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"compressor": "prun"}, MeasureError, r"compressor must be prune, .* got 'prun'\. Did you mean 'prune'\?"),
        ({"levels": []}, MeasureError, r"levels must be a list of numbers, got \[\]"),
        ({"levels": ["a"]}, MeasureError, r"levels must be a list of numbers, got \['a'\]"),
        ({"layers": "conv*"}, LayerNotFound, "'conv"),
    ],
)
def test_bad_options(options: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        sensitivity(even(), nonzero_share, **options)


@pytest.mark.parametrize(
    ("evaluate", "text"),
    [
        (lambda model: None, "must give a number for the model as it came, but it raised TypeError"),
        (lambda model: float("inf"), "for the model as it came, but the evaluation gave inf"),
    ],
)
def test_an_evaluation_that_gives_no_number(evaluate, text: str) -> None:
    with pytest.raises(MeasureError, match=text):
        sensitivity(even(), evaluate)


def test_a_model_without_shapes_is_refused() -> None:
    with pytest.raises(CompressionError, match="parameter 'weight' has no shape yet"):
        sensitivity(nn.LazyLinear(2), lambda _: 1.0)
