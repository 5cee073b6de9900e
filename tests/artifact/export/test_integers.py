"""Weights as the integers of their grid: the numbers, without any file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.artifact.export.agreement import agreement, check_agreement
from nbcompress.artifact.export.onnx_graph import IntegerWeight, integer_weights
from nbcompress.errors import ArtifactError, NbcompressWarning


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("granularity", ["channel", "tensor", "group:7"])
@pytest.mark.parametrize("bits", [1, 2, 4, 5, 8])
def test_values_are_the_weights(bits: int, granularity: str, scheme: str) -> None:
    if bits == 1 and scheme == "affine":
        pytest.skip("one bit is symmetric")
    torch.manual_seed(bits)
    model = nn.Conv2d(3, 6, 3)
    with torch.no_grad():
        model.weight += 0.2  # so that an affine grid is not in the middle
    small = nc.quantize(model, bits, scheme=scheme, granularity=granularity)
    weight = integer_weights(small)["weight"]
    np.testing.assert_array_equal(weight.values, small.weight.detach().numpy())
    assert weight.codes.dtype == (np.int8 if weight.zero is None else np.uint8)
    assert weight.fits_4_bits == (bits <= 4)
    signed = weight.signed
    if signed is not None:
        np.testing.assert_array_equal(signed.values, weight.values)
    else:
        assert bits == 8


def by_hand() -> IntegerWeight:
    codes = np.array([[1, -2], [3, 0], [-7, 5]], np.int8)
    return IntegerWeight("w", codes, np.array([0.5, 1.0, 2.0], np.float32), None, 0)


def test_a_factor_goes_into_the_scale_and_its_sign_into_the_codes() -> None:
    scaled = by_hand().scaled(np.array([2.0, -1.0, 0.0], np.float32))
    assert scaled is not None
    np.testing.assert_array_equal(scaled.codes, [[1, -2], [-3, 0], [0, 0]])
    np.testing.assert_array_equal(scaled.scale, [1.0, 1.0, 2.0])
    np.testing.assert_array_equal(scaled.values, [[1.0, -2.0], [-3.0, 0.0], [0.0, 0.0]])


def test_a_code_without_a_negative_refuses_a_negative_factor() -> None:
    weight = IntegerWeight("w", np.array([[-128, 3]], np.int8), np.ones(1, np.float32), None, 0)
    assert weight.scaled(np.array([-1.0], np.float32)) is None
    assert weight.scaled(np.array([3.0], np.float32)) is not None
    wide = IntegerWeight("w", np.array([[0, 255]], np.uint8), np.ones(1, np.float32), np.array([3], np.uint8), 0)
    assert wide.signed is None
    assert wide.scaled(np.array([-1.0], np.float32)) is None


def test_clusters_on_a_grid_are_integers_and_others_are_not() -> None:
    torch.manual_seed(0)
    clustered = nc.cluster(nn.Linear(30, 20), 9)
    assert integer_weights(clustered) == {}
    both = nc.quantize(clustered, 4)
    np.testing.assert_array_equal(integer_weights(both)["weight"].values, both.weight.detach().numpy())


def test_a_weight_that_left_its_grid_is_named() -> None:
    small = nc.quantize(nn.Linear(4, 3), 8)
    with torch.no_grad():
        small.weight += 0.01
    with pytest.warns(NbcompressWarning, match="'weight' is exported in float32"):
        assert integer_weights(small) == {}


def test_shared_weights_are_one_under_every_name() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    found = integer_weights(nc.quantize(model, 8))
    assert found["a.weight"] is found["b.weight"]
    assert found["b.weight"].name == "a.weight"


@pytest.mark.parametrize(
    ("expected", "found", "error", "cosine"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0, 1.0),
        ([3.0, 4.0], [4.0, 3.0], 2**0.5 / 5, 24 / 25),
        ([3.0, 4.0], [-3.0, -4.0], 2.0, -1.0),
        ([3.0, 4.0], [6.0, 8.0], 1.0, 1.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0, 1.0),
        ([1.0, 2.0], [1.0, float("nan")], float("inf"), 0.0),
        ([1.0, float("inf")], [1.0, float("inf")], 0.0, 1.0),
        ([1.0, 2.0], [1.0], float("inf"), 0.0),
    ],
)
def test_agreement_by_hand(expected: list[float], found: list[float], error: float, cosine: float) -> None:
    figure = agreement([torch.tensor(expected)], [torch.tensor(found)])
    assert figure.error == pytest.approx(error)
    assert figure.cosine == pytest.approx(cosine)


def test_agreement_of_integers_and_of_several() -> None:
    same, other = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])
    assert agreement([same], [other]).error == 0.25
    assert agreement([same, same], [same, other]).error == 0.25
    assert agreement([same], []).error == float("inf")


def test_disagreement_is_told_with_its_figure() -> None:
    figure = agreement([torch.tensor([3.0, 4.0])], [torch.tensor([4.0, 3.0])])
    check_agreement("Net", "ONNX Runtime on 3 examples", figure, 0.3)
    text = (
        r"the exported model must agree with Net, but ONNX Runtime on 3 examples gives outputs that are off by 0\.283 "
        r"of their length \(cosine 0\.960\), and tolerance=0\.1 is allowed: nothing was written"
    )
    with pytest.raises(ArtifactError, match=text):
        check_agreement("Net", "ONNX Runtime on 3 examples", figure, 0.1)
