from __future__ import annotations

from collections import namedtuple
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nbcompress.compress.data import Batches, output_of
from nbcompress.compress.losses import class_scores, default_loss
from nbcompress.errors import DataError

X, Y = torch.arange(14.0).reshape(7, 2), torch.arange(7)


def labels_of(data: object, batch_size: int = 3, model: nn.Module | None = None) -> list[list[int]]:
    return [batch.target.tolist() for batch in Batches(data, batch_size).for_model(model or nn.Linear(2, 2))]


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(zip(X, Y, strict=True))


def named(value: object) -> str:
    """A name for a test case that is the same in every process."""
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(
    "data", [(X, Y), [X, Y], (X.numpy(), Y.numpy()), TensorDataset(X, Y)], ids=lambda one: type(one).__name__
)
def test_what_is_not_in_batches_is_shuffled(data: object) -> None:
    torch.manual_seed(0)
    once, again = labels_of(data), labels_of(data)
    assert sorted(chain(*once)) == Y.tolist()
    assert once != again
    torch.manual_seed(0)
    assert labels_of(data) == once


def test_a_lone_last_example_joins_the_batch_before() -> None:
    assert [len(one) for one in labels_of((X, Y))] == [3, 4]
    assert [len(one) for one in labels_of((X[:1], Y[:1]))] == [1]


@pytest.mark.parametrize(
    "data", [DataLoader(TensorDataset(X, Y), 4), [(X[:4], Y[:4]), (X[4:], Y[4:])], Stream()], ids=named
)
def test_what_is_in_order_stays_in_order(data: object) -> None:
    assert list(chain(*labels_of(data))) == Y.tolist()


def test_inputs_come_in_the_dtype_of_the_model() -> None:
    model = nn.Linear(2, 2).bfloat16()
    batch = Batches((X, Y)).first(model)
    assert batch.args[0].dtype == torch.bfloat16
    assert batch(model).shape == (7, 2)
    assert Batches((X.double().numpy(), Y)).first(nn.Linear(2, 2)).args[0].dtype == torch.float32
    # Targets, and inputs of a model in several dtypes, come as they are.
    assert Batches((X, X.double())).first(model).target.dtype == torch.float64
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    assert Batches((X, Y)).first(mixed).args[0].dtype == torch.float32


def test_dicts_and_several_inputs() -> None:
    class Sum(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + 2 * b

    for data in ([{"a": X, "b": X, "labels": Y}], [({"a": X, "b": X}, Y)], [(X, X, Y)], (X, X, Y)):
        batch = Batches(data).first(Sum())
        assert sorted(batch(Sum()).flatten().tolist()) == (3 * X).flatten().tolist()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (7, r"data must be a DataLoader, a data set, or a pair of tensors \(inputs, targets\), got int"),
        (X, "got Tensor"),
        ({"a": X}, "got dict"),
        ("train", "got str"),
        (iter([(X, Y)]), "that can be read more than once, got list_iterator"),
        ([], "data must hold at least one batch, but it is empty"),
        (DataLoader(TensorDataset(X[:0], Y[:0])), "at least one batch, but it is empty"),
        (TensorDataset(X[:0], Y[:0]), "at least one example, but the data set is empty"),
        ((X[:0], Y[:0]), "at least one example, but the tensors are empty"),
        ((X, Y[:5]), "inputs and targets must have equal lengths, got 7 and 5"),
    ],
    ids=named,
)
def test_data_refused(data: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        Batches(data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([X], r"a batch must be a tuple \(inputs, target\) or a dict, got Tensor"),
        ([(X,)], "got tuple"),
        ([{"a": X, "b": Y}], "a dict needs a target named labels, label, targets, target, y, got a, b"),
        ((one for one in ()).__class__, "got type"),
    ],
    ids=["tensor", "single", "dict", "class"],
)
def test_batches_refused(data: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        labels_of(data)


def test_an_empty_stream_is_found_out() -> None:
    class Nothing(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter(())

    with pytest.raises(DataError, match="data must hold at least one batch, but it gave none"):
        labels_of(Nothing())


def test_the_output_among_what_a_model_returns() -> None:
    pair = namedtuple("pair", ["first", "second"])
    for result in (X, (X, Y), [X], {"logits": X}, SimpleNamespace(logits=X), pair(X, Y)):
        assert output_of(result) is X
    with pytest.raises(DataError, match=r"the model must return a tensor, .* got dict: pass loss="):
        output_of({"out": X})


def test_cross_entropy_by_hand() -> None:
    """Two equal scores: log 2. A score of log 3 against 0: -log(3/4)."""
    assert float(default_loss(torch.zeros(1, 2), torch.tensor([0]))) == pytest.approx(np.log(2))
    scores = torch.tensor([[np.log(3), 0.0]])
    assert float(default_loss(scores, torch.tensor([[0]]))) == pytest.approx(np.log(4 / 3))
    assert float(default_loss(scores, torch.tensor([0], dtype=torch.int32))) == pytest.approx(np.log(4 / 3))


def test_squared_error_by_hand() -> None:
    assert float(default_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 0.0]))) == 5.0
    assert float(default_loss(torch.tensor([1.0, 3.0]).bfloat16(), torch.tensor([[0.0], [0.0]]).double())) == 5.0


def test_classes_last_or_second() -> None:
    tokens = torch.randn(2, 5, 3)
    labels = torch.randint(0, 3, (2, 5))
    last, _ = class_scores(tokens, labels)
    second, _ = class_scores(tokens.movedim(-1, 1), labels)
    assert torch.equal(last, second)
    labels[0, 0] = -100
    assert torch.isfinite(default_loss(tokens, labels))


@pytest.mark.parametrize(
    ("output", "target", "text"),
    [
        (
            torch.zeros(4, 3),
            torch.tensor([0, 1, 2, 3]),
            "labels must be 0 to 2 for a model with 3 .* run from 0 to 3",
        ),
        (torch.zeros(4, 3), torch.tensor([-1, 1, 2, 0]), "they run from -1 to 2"),
        (torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), "at least two classes, but the model has one output"),
        (
            torch.zeros(4, 3),
            torch.zeros(5, dtype=torch.int64),
            r"with one axis more.*got targets \(5,\)",
        ),
        (
            torch.zeros(4, 3),
            torch.zeros(4, 2),
            r"the shape of the outputs, got targets \(4, 2\)",
        ),
        (torch.zeros(4), torch.zeros(4, dtype=torch.bool), "must be integer labels or float values, got torch.bool"),
        (torch.zeros(4), ["a"], "must be integer labels or float values, got list"),
    ],
    ids=named,
)
def test_targets_refused(output: torch.Tensor, target: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        default_loss(output, target)
