"""Accuracy on real digits, as in the literature: compressed networks stay about as good as the dense one."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from nbcompress.compressors import cluster, finetune, prune, quantize

Data = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def digits() -> tuple[Data, Data]:
    x, y = load_digits(return_X_y=True)
    images, labels = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1300], order[1300:]
    return (images[train], labels[train]), (images[test], labels[test])


@pytest.fixture(scope="module")
def dense(digits: tuple[Data, Data]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    return finetune(model, digits[0], epochs=15)


def accuracy(model: nn.Module, test: Data) -> float:
    with torch.no_grad():
        return float((model.eval()(test[0]).argmax(1) == test[1]).double().mean())


def test_ninety_percent_pruned(dense: nn.Module, digits: tuple[Data, Data]) -> None:
    train, test = digits
    before = accuracy(dense, test)
    assert before > 0.95
    small = prune(dense, 0.9, scope="lamp", data=train, finetune=8)
    assert accuracy(small, test) > before - 0.015
    gradual = prune(dense, 0.9, schedule="gradual", data=train, finetune=8)
    assert accuracy(gradual, test) > before - 0.015


def test_two_bits_trained(dense: nn.Module, digits: tuple[Data, Data]) -> None:
    train, test = digits
    assert accuracy(quantize(dense, 4), test) > accuracy(dense, test) - 0.01
    assert accuracy(quantize(dense, 2, data=train, finetune=5), test) > accuracy(dense, test) - 0.015


def test_eight_shared_values_of_a_pruned_network(dense: nn.Module, digits: tuple[Data, Data]) -> None:
    train, test = digits
    pruned = prune(dense, 0.9, scope="lamp", data=train, finetune=8)
    small = cluster(pruned, 8, data=train, finetune=3)
    assert accuracy(small, test) > accuracy(dense, test) - 0.015


def test_magnitude_is_better_than_chance(dense: nn.Module, digits: tuple[Data, Data]) -> None:
    _, test = digits
    assert accuracy(prune(dense, 0.8), test) > accuracy(prune(dense, 0.8, criterion="random"), test) + 0.1
