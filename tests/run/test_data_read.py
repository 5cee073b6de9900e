"""Whether metrics are measured on the examples that models are trained on, found by reading the code."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset, random_split

import nbcompress as nc
from nbcompress import finetune, prune, quantize
from nbcompress.run.data_read import Code, Rows, measured_in_training, rows_of, training_data_read

X, Y = torch.zeros(100, 4), torch.zeros(100, dtype=torch.long)
TRAIN, TEST = (X[:80], Y[:80]), (X[80:], Y[80:])
MEAN = torch.zeros(4)
WHOLE = TensorDataset(X, Y)
LOADER, AGAIN = DataLoader(WHOLE, 8, shuffle=True), DataLoader(WHOLE, 50)
FIRST, SECOND = random_split(WHOLE, [80, 20], torch.Generator().manual_seed(0))
LOADER_1, LOADER_2 = DataLoader(FIRST, 8), DataLoader(SECOND, 8)
SAMPLED_1 = DataLoader(WHOLE, 8, sampler=SubsetRandomSampler(range(80)))
SAMPLED_2 = DataLoader(WHOLE, 8, sampler=SubsetRandomSampler(range(80, 100)))
N = 80
PLACES, OTHERS = np.arange(80), np.arange(80, 100)
HELD = SimpleNamespace(x=X, test=TEST)
TASK, TASKS = "digits", {"digits": (Y.float(), TRAIN, TEST)}


class Pictures(Dataset[Any]):
    """A data set without tensors, as one that reads files."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(4), 0


FILES = Pictures()


def score(model: Any, data: Any) -> float:
    return nc.accuracy(model, data).interval.value


def on_train(model: Any) -> float:
    return float((model(TRAIN[0]).argmax(1) == TRAIN[1]).float().mean())


def on_whole(model: Any) -> float:
    return score(model, (X, Y))


def on_tail(model: Any) -> float:
    n = len(X) - 20
    return float((model(X[n:] - MEAN).argmax(1) == Y[n:]).float().mean())


def on_head(model: Any) -> float:
    return float((model(X[:30, :]).argmax(1) == Y[:30]).float().mean())


def by_loader(model: Any) -> float:
    return sum(float((model(x).argmax(1) == y).float().mean()) for x, y in AGAIN)


def indirect(model: Any) -> float:
    return on_train(model)


def of_shape(model: Any) -> float:
    return float(len(TRAIN[1])) * TRAIN[0].shape[1] + on_test(model)


def on_test(model: Any) -> float:
    return score(model, TEST)


def maker(data: Any) -> Callable[[Any], float]:
    def measure(model: Any) -> float:
        return score(model, data)

    return measure


class Judge:
    def __init__(self, data: Any) -> None:
        self.data = data

    def __call__(self, model: Any) -> float:
        return score(model, self.data)

    def of(self, model: Any) -> float:
        return score(model, self.data)


closed_train, closed_test = maker(TRAIN), maker(TEST)
lambda_train = lambda model: score(model, TRAIN)  # noqa: E731
lambda_test = lambda model: score(model, TEST)  # noqa: E731
partial_train, partial_test = partial(score, data=TRAIN), partial(score, data=TEST)
judge_train, judge_test = Judge(TRAIN), Judge(TEST)


def loop(model: Any, data: Any, valid: Any = None) -> Any:
    """A training loop that also looks at other data."""
    optimizer = torch.optim.SGD(model.parameters())
    x, y = data
    for _ in range(3):
        for start in range(0, len(x), 8):
            loss = torch.nn.functional.cross_entropy(model(x[start : start + 8]), y[start : start + 8])
            loss.backward()
            optimizer.step()
        print(score(model, valid))
    return model


def own_loop(model: Any) -> Any:
    for x, y in LOADER_1:
        step(model, x - MEAN, y)
    print(score(model, TEST))
    return model


def step(model: Any, x: Any, y: Any) -> None:
    torch.nn.functional.cross_entropy(model(x), y).backward()


def fit_and_score(model: Any) -> float:
    own_loop(model)
    return score(model, LOADER_2)


def fit_and_score_alike(model: Any) -> float:
    own_loop(model)
    return score(model, FIRST)


ALIKE = {
    "the same pair": "finetune(small, TRAIN); accuracy = score(small, TRAIN)",
    "a function that reads it": "finetune(small, data=TRAIN); accuracy = on_train(small)",
    "a function behind a function": "finetune(small, TRAIN); accuracy = indirect(small)",
    "a closure": "finetune(small, TRAIN); accuracy = closed_train(small)",
    "a lambda": "finetune(small, TRAIN); accuracy = lambda_train(small)",
    "a partial": "finetune(small, TRAIN); accuracy = partial_train(small)",
    "an object": "finetune(small, TRAIN); accuracy = judge_train(small)",
    "a method": "finetune(small, TRAIN); accuracy = judge_train.of(small)",
    "a view": "finetune(small, (X[:50], Y[:50])); accuracy = on_train(small)",
    "a slice in the function": "finetune(small, TRAIN); accuracy = on_head(small)",
    "all of it": "finetune(small, TRAIN); accuracy = on_whole(small)",
    "the same loader": "finetune(small, AGAIN); accuracy = by_loader(small)",
    "the same data set in another loader": "finetune(small, LOADER); accuracy = by_loader(small)",
    "a loader made in the cell": "data = DataLoader(WHOLE, 8); finetune(small, data); accuracy = score(small, AGAIN)",
    "a data set of files": "finetune(small, DataLoader(FILES)); accuracy = score(small, DataLoader(FILES, 9))",
    "a subset and all": "finetune(small, LOADER_1); accuracy = score(small, AGAIN)",
    "training while quantizing": "small = quantize(small, bits=2, data=TRAIN, finetune=3); accuracy = on_train(small)",
    "in the expression": "finetune(small, TRAIN); accuracy = float((small(TRAIN[0]).argmax(1) == TRAIN[1]).sum())",
    "in steps": "finetune(small, TRAIN); out = small(TRAIN[0]); right = out.argmax(1); accuracy = right.sum()",
    "a loop of one's own": "loop(small, TRAIN, TEST); accuracy = on_train(small)",
    "a loop with steps": "own_loop(small); accuracy = score(small, FIRST)",
    "trained and scored in one": "accuracy = fit_and_score_alike(small)",
    "by indices": "finetune(small, (X[PLACES], Y[PLACES])); accuracy = on_train(small)",
    "an item that is unpacked": "_, fit, check = TASKS[TASK]; finetune(small, fit); accuracy = score(small, fit)",
    "an item of an item": "finetune(small, TASKS[TASK][1]); accuracy = score(small, TRAIN)",
    "an attribute": "finetune(small, (HELD.x, Y)); accuracy = on_test(small)",
}
APART = {
    "two views": "finetune(small, TRAIN); accuracy = on_test(small)",
    "slices of one tensor": "finetune(small, (X[:N], Y[:N])); accuracy = on_tail(small)",
    "constants": "finetune(small, (X[:80] - MEAN, Y[:80])); accuracy = on_tail(small)",
    "a random split": "finetune(small, LOADER_1); accuracy = score(small, LOADER_2)",
    "samplers": "finetune(small, SAMPLED_1); accuracy = score(small, SAMPLED_2)",
    "subsets in the cell": "finetune(small, Subset(WHOLE, PLACES)); accuracy = score(small, Subset(WHOLE, OTHERS))",
    "indices": "finetune(small, (X[PLACES], Y[PLACES])); accuracy = score(small, (X[OTHERS], Y[OTHERS]))",
    "indices made by the trial": "p = torch.randperm(9); finetune(small, X[p[:5]]); accuracy = score(small, X[p[5:]])",
    "its shape alone": "finetune(small, TRAIN); accuracy = of_shape(small)",
    "a closure": "finetune(small, TRAIN); accuracy = closed_test(small)",
    "a lambda": "finetune(small, TRAIN); accuracy = lambda_test(small)",
    "a partial": "finetune(small, TRAIN); accuracy = partial_test(small)",
    "an object": "finetune(small, TRAIN); accuracy = judge_test.of(small) + judge_test(small)",
    "an item": "finetune(small, TRAIN); accuracy = score(small, HELD.test)",
    "a loop that looks at the other data": "loop(small, TRAIN, TEST); accuracy = on_test(small)",
    "another loop": "own_loop(small); accuracy = score(small, LOADER_2)",
    "trained and scored in one": "accuracy = fit_and_score(small)",
    "items that are unpacked": "_, fit, check = TASKS[TASK]; finetune(small, fit); accuracy = score(small, check)",
    "a pair of pairs": "(fit, y), (check, z) = TASKS[TASK][1:]; finetune(small, fit); accuracy = score(small, check)",
    "items of an item": "finetune(small, TASKS[TASK][1]); accuracy = score(small, TASKS[TASK][2])",
    "calibration": "small = prune(small, amount=0.5, criterion='hessian', data=TEST); accuracy = on_test(small)",
}


def sentence(body: str) -> str:
    body = f"small = prune(model, amount=0.5)\n{body}"
    return measured_in_training(Code(ast.parse(body), globals()), ["accuracy"])


@pytest.mark.parametrize("name", ALIKE)
def test_what_is_trained_on_and_measured_is_named(name: str) -> None:
    assert "models are trained on it: on other data they are worse" in sentence(ALIKE[name])


@pytest.mark.parametrize("name", APART)
def test_no_warning_where_the_examples_differ(name: str) -> None:
    assert sentence(APART[name]) == ""


def test_a_function_of_a_search_is_read_like_a_cell() -> None:
    def alike(model: Any) -> dict[str, float]:
        small = quantize(prune(model, amount=0.5), bits=4)
        finetune(small, TRAIN)
        return {"accuracy": on_train(small)}

    def apart(model: Any) -> dict[str, float]:
        small = prune(model, amount=0.5, data=TRAIN, finetune=3)
        return {"accuracy": on_test(small)}

    found, other = Code.of(alike), Code.of(apart)
    assert found is not None
    assert other is not None
    text = measured_in_training(found, ())
    assert text.startswith("'on_train' reads 'TRAIN[0]', which shares examples with 'TRAIN', and models are trained")
    assert measured_in_training(other, ()) == ""


def test_a_search_warns_before_its_first_trial() -> None:
    def trial(amount: float) -> dict[str, float]:
        small = prune(torch.nn.Linear(4, 2), amount=amount)
        finetune(small, TRAIN, epochs=1)
        return {"accuracy": on_train(small)}

    study = nc.search(trial, {"amount": nc.Float(0.1, 0.9)}, maximize="accuracy", trials=1)
    assert [warning for warning in study.warnings if "'on_train' reads 'TRAIN[0]'" in warning]


def test_a_function_without_source_reads_some_of_what_it_names() -> None:
    names = {**globals(), "torch": torch}
    on_train, on_tail = (eval(f"lambda model: model({text})", names) for text in ("TRAIN[0]", "X[80:]"))
    assert training_data_read(on_train, TRAIN, "TRAIN") == "TRAIN"
    assert training_data_read(on_tail, TRAIN, "TRAIN") == ""


def test_rows_of_views_and_subsets() -> None:
    assert [rows.chosen.tolist() for rows in rows_of(Subset(Subset(WHOLE, range(10, 20)), [1, 3]))] == [[11, 13]] * 3
    assert Rows(X[::2]).at(slice(0, 3)).overlap(Rows(X[::2]).at([2]))
    assert not Rows(X).at(slice(0, 3)).overlap(Rows(X[3:]).at(slice(0, 3)))
    assert Rows(X).at(slice(0, 4)).overlap(Rows(X[3:]).at(slice(0, 3)))
    # Which rows are unknown: some of all are surely among all.
    assert Rows(X).at(None).overlap(Rows(X))
    assert Rows(X[:50]).at(None).overlap(Rows(X))
    assert not Rows(X).at(None).overlap(Rows(X[:50]))
    assert not Rows(X).at(None).overlap(Rows(X).at([3]))
