from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import nbcompress as nc
from nbcompress.compressors import distill, finetune, prune, quantize, record_of
from nbcompress.compressors.data import Batches
from nbcompress.errors import CompressionError, DataError

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
    "data", [(X, Y), (X.numpy(), Y.numpy()), TensorDataset(X, Y)], ids=lambda data: type(data).__name__
)
def test_what_is_not_in_batches_is_shuffled(data: object) -> None:
    torch.manual_seed(0)
    once, again = labels_of(data), labels_of(data)
    assert sorted(chain(*once)) == Y.tolist()
    assert once != again
    torch.manual_seed(0)
    assert labels_of(data) == once


def test_a_lone_last_example_joins_the_batch_before() -> None:
    assert [len(labels) for labels in labels_of((X, Y))] == [3, 4]
    assert [len(labels) for labels in labels_of((X[:1], Y[:1]))] == [1]


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
        (7, r"data must be a DataLoader, a data set, a list of batches, or a tuple of tensors .*, got int"),
        (
            [X, X],
            r"a list of 2 tensors, which .*: write \(x1, targets\) for the former and \[\(batch,\), \.\.\.\]",
        ),
        ([X.numpy(), Y.numpy()], "a list of 2 tensors"),
        ([X, X, Y], r"a list of 3 tensors, .* write \(x1, x2, targets\)"),
        (({"a": X}, Y), r"a tuple of dict and tensor, which .*: write \[\(inputs, target\)\] for one batch"),
        (((X, X), Y), "a tuple of tuple and tensor"),
        (X[:0], "at least one example, but the tensors are empty"),
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
        ([7], r"a batch must be a tuple \(inputs, target\) or a dict, got int"),
        ([()], "got an empty tuple"),
        (dict, "got type"),
    ],
    ids=["number", "empty", "class"],
)
def test_batches_refused(data: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        labels_of(data)


WITHOUT_TARGETS = [
    [X],
    [(X,)],
    [{"input": X}],
    DataLoader(TensorDataset(X), 4),
    X,
    (X,),
    X.numpy(),
    [X[:3], X[3:5], X[5:]],
]


UNLABELED_NAMES = ["list", "single", "dict", "loader", "tensor", "tuple", "array", "batches"]


@pytest.mark.parametrize("data", WITHOUT_TARGETS, ids=UNLABELED_NAMES)
def test_inputs_alone_serve_where_targets_are_not_needed(data: object) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 7))
    labeled = DataLoader(TensorDataset(X, Y), 4) if isinstance(data, DataLoader) else [(X, Y)]
    uses: list[Callable[[object], nn.Module]] = [
        lambda data: prune(model, amount=0.5, criterion="activation", data=data),
        lambda data: prune(model, amount=0.5, criterion="hessian", data=data),
        lambda data: prune(model, amount=0.5, granularity="channel", criterion="activation", data=data),
        lambda data: quantize(model, activations="static", data=data),
    ]
    for compress in uses:
        unlabeled_model, other = compress(data), compress(labeled)
        assert record_of(unlabeled_model).activations == record_of(other).activations
        for got, wanted in zip(unlabeled_model.parameters(), other.parameters(), strict=True):
            assert torch.equal(got, wanted)


def test_batches_in_a_list_are_all_inputs() -> None:
    ranges = [
        record_of(quantize(nn.Linear(2, 2), activations="static", data=data)).activations
        for data in (X, [X[:3], X[3:5], X[5:]], [(X[:3],), (X[3:],)], (X, Y))
    ]
    assert ranges.count(ranges[0]) == len(ranges)


class Pair(nn.Module):
    """Takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 7)

    def forward(self, a: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        return self.layer(a if b is None else a + b)


class TakesPair(Pair):
    """Takes two inputs as one tuple."""

    def forward(self, pair):  # type: ignore[no-untyped-def]
        return super().forward(*pair)


class Unclear(Pair):
    """Takes two inputs, which its signature does not say."""

    def forward(self, a, b=None):  # type: ignore[no-untyped-def]
        return super().forward(a, b)


class TakesPairAndScale(Pair):
    """Takes two inputs as one tuple, and another input that may be left out."""

    def forward(self, pair, scale=1.0):  # type: ignore[no-untyped-def]
        return super().forward(*pair) * scale


@pytest.mark.parametrize(
    "wrap",
    [lambda model: model, lambda model: torch.compile(model, backend="eager"), nn.DataParallel],
    ids=["as is", "compiled", "parallel"],
)
def test_names_that_forward_does_not_take_are_left_out(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = wrap(Pair())
    batch = Batches([{"a": X, "b": X, "index": Y, "labels": Y}]).first(model)
    assert batch.arguments_for(model)[1].keys() == {"a", "b"}
    # Each model takes its own: the inputs of a teacher are not those of its student.
    assert batch.arguments_for(nn.Linear(2, 2))[1] == {}


def test_models_with_extra_keys_train_and_are_measured() -> None:
    data = [{"a": X, "b": X, "index": Y, "labels": Y}]
    small = quantize(prune(Pair(), 0.5, criterion="gradient", data=data), activations="static", data=data, finetune=1)
    assert record_of(small).activations
    assert nc.accuracy(small, data).n == 7


@pytest.mark.parametrize(
    "model", [Pair(), TakesPair(), Unclear(), TakesPairAndScale()], ids=lambda model: type(model).__name__
)
def test_inputs_in_a_tuple_of_their_own(model: nn.Module) -> None:
    data = [((X, X), Y), [[X.numpy(), X], Y]]
    torch.manual_seed(0)
    outputs = [batch(model) for batch in Batches(data).for_model(model)]
    assert torch.equal(outputs[0], model.layer(X + X))  # type: ignore[operator]
    assert torch.equal(outputs[0], outputs[1])
    before = model.layer.weight.clone()  # type: ignore[union-attr]
    finetune(model, data)
    assert not torch.equal(model.layer.weight, before)  # type: ignore[union-attr]


def test_a_tuple_that_the_model_cannot_read() -> None:
    with pytest.raises(DataError, match=r"one by one are written \(input, input, target\)"):
        Batches([((X, X), Y)]).first(nn.Linear(2, 7))(nn.Linear(2, 7))
    model = Unclear().train()
    with pytest.raises(DataError, match=r"Unclear must run on the data, .* but raised RuntimeError: mat1 and mat2"):
        Batches([((X[:, :1], X[:, :1]), Y)]).first(model)(model)
    assert model.training


@pytest.mark.parametrize("data", WITHOUT_TARGETS, ids=UNLABELED_NAMES)
def test_inputs_alone_are_refused_where_targets_are_needed(data: object) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 7))
    before = [parameter.clone() for parameter in model.parameters()]
    uses: list[Callable[[], nn.Module]] = [
        lambda: finetune(model, data),
        lambda: quantize(model, data=data, finetune=1),
        lambda: prune(model, amount=0.5, criterion="gradient", data=data),
        lambda: distill(model, model, data),
    ]
    for train in uses:
        with pytest.raises(DataError, match=r"targets are needed here, and the data has none: .* or a dict with a"):
            train()
    for parameter, values in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, values)


def test_data_on_which_the_model_fails_is_named() -> None:
    model = nn.Linear(3, 7)
    text = r"Linear must run on the data, float32\[7, 2\], but raised RuntimeError: mat1 and mat2 shapes"
    uses: list[Callable[[], nn.Module]] = [
        lambda: finetune(model, (X, Y)),
        lambda: distill(model, model, (X, Y)),
        lambda: quantize(model, activations="static", data=(X, Y)),
    ]
    for use in uses:
        with pytest.raises(DataError, match=text):
            use()
    with pytest.raises(
        DataError, match=r"the data, wrong=float32\[7, 2\], but raised .* forward does not take 'wrong'"
    ):
        finetune(nn.Linear(2, 7), [{"wrong": X, "labels": Y}])


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True])
def test_seeds_that_no_generator_takes(seed: object) -> None:
    with pytest.raises(CompressionError, match="seed is an integer from 0 to 9223372036854775807, but got"):
        finetune(nn.Linear(2, 7), (X, Y), seed=seed)  # type: ignore[arg-type]


def test_an_empty_stream_is_found_out() -> None:
    class Nothing(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter(())

    with pytest.raises(DataError, match="data must hold at least one batch, but it gave none"):
        labels_of(Nothing())
