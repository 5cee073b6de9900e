"""Inputs of a model are read from an example, or from the first batch of the data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nbcompress.compressors.data import Batches
from nbcompress.compressors.inputs import Inputs, inputs_from_example, inputs_of
from nbcompress.errors import DataError

X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("example", "args", "names"),
    [(X, 1, []), ((X, 2), 2, []), ([X, X], 2, []), ({"x": X, "scale": 2}, 0, ["x", "scale"]), (([X],), 1, [])],
)
def test_an_example_becomes_arguments(example: object, args: int, names: list[str]) -> None:
    inputs = inputs_from_example(example)
    assert len(inputs.args) == args
    assert list(inputs.kwargs) == names
    assert inputs_from_example(inputs) is inputs


@pytest.mark.parametrize("example", [3, "x", (), (1, 2), {"x": 1}])
def test_an_example_without_a_tensor_is_refused(example: object) -> None:
    with pytest.raises(DataError, match="example must be a tensor, a tuple of positional or a dict of keyword inputs"):
        inputs_from_example(example)


class Scaled(nn.Module):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return scale * x


def test_inputs_call_a_model_and_describe_themselves() -> None:
    inputs = Inputs((X,), {"scale": 3.0})
    assert torch.equal(inputs(Scaled()), 3 * X)
    assert str(inputs) == "float32[2, 3], scale=float"


def test_an_example_comes_before_the_first_batch() -> None:
    batches = Batches((torch.zeros(4, 3), torch.zeros(4)), 2)
    model = nn.Linear(3, 1).double()
    assert inputs_of(model, X, batches) == Inputs((X,))
    first = inputs_of(model, None, batches)
    assert first is not None
    assert (first.args[0].shape, first.args[0].dtype) == ((2, 3), torch.float64)
    assert inputs_of(model, None, None) is None
