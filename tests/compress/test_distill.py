from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_zoo import ZOO, assert_promises, perceptron
from torch import nn

from nbcompress.compress import Distillation, distill, finetune, prune, quantize
from nbcompress.compress.distill.apply import soft_loss
from nbcompress.errors import CompressionError, DataError


def small() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 3))


def state(model: nn.Module) -> list[torch.Tensor]:
    return [one.clone() for one in model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_soft_loss_by_hand() -> None:
    """Teacher (3/4, 1/4) at T = 2, student (1/2, 1/2): 4 * (3/4 log 3/2 + 1/4 log 1/2)."""
    told = torch.tensor([[2 * np.log(3), 0.0]])
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert float(soft_loss(torch.zeros(1, 2), told, torch.tensor([0]), 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(soft_loss(told, told, torch.tensor([0]), 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(soft_loss(torch.ones(2, 1), torch.zeros(2, 1), torch.ones(2), 2.0)) == 1.0


def test_teacher_and_student_stay() -> None:
    animal = ZOO["perceptron"]()
    student = small()
    animal.model.train()
    before = state(animal.model), state(student), torch.get_rng_state()
    trained = distill(animal.model, student, animal.data, epochs=2)
    assert same(state(animal.model), before[0])
    assert same(state(student), before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    assert animal.model.training
    assert student.training
    assert trained.training
    assert all(one.grad is None for one in animal.model.parameters())
    assert not same(state(trained), state(student))


def test_only_the_teacher_at_alpha_one() -> None:
    """Labels have no say then."""
    animal = ZOO["perceptron"]()
    x, y = animal.data
    one = distill(animal.model, small(), (x, y), epochs=2, alpha=1.0)
    other = distill(animal.model, small(), (x, (y + 1) % 3), epochs=2, alpha=1.0)
    assert same(state(one), state(other))


def test_no_teacher_at_alpha_zero() -> None:
    animal = ZOO["perceptron"]()
    pair = distill(animal.model, small(), animal.data, epochs=2, alpha=0.0, control=True)
    assert isinstance(pair, Distillation)
    assert same(state(pair.student), state(pair.control))


def test_the_student_comes_near_its_teacher() -> None:
    animal = ZOO["perceptron"]()
    finetune(animal.model, animal.data, epochs=30, lr=0.01)
    pair = distill(animal.model, small(), animal.data, epochs=30, lr=0.02, control=True)
    told = animal.output(animal.model).softmax(1)

    def distance(model: nn.Module) -> float:
        return float((animal.output(model).softmax(1) - told).abs().mean())

    assert distance(pair.student) < distance(small())
    assert distance(pair.student) < distance(pair.control)


def test_a_compressed_student_keeps_its_promises() -> None:
    animal = ZOO["perceptron"]()
    student = quantize(prune(animal.model, 0.7), 3)
    trained = distill(animal.model, student, animal.data, epochs=2, lr=0.01)
    assert_promises(trained)
    zeros = student.get_parameter("0.weight") == 0
    assert bool((trained.get_parameter("0.weight")[zeros] == 0).all())


def test_shapes_are_compared_before_training() -> None:
    animal = ZOO["perceptron"]()
    with pytest.raises(DataError, match=r"outputs of one shape, got \(40, 3\) and \(40, 4\)"):
        distill(animal.model, nn.Sequential(nn.Linear(6, 4)), animal.data)
    with pytest.raises(DataError, match="labels must be 0 to 2"):
        distill(animal.model, perceptron(), (animal.data[0], animal.data[1] + 1))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 0}, "temperature must be a number above 0, got 0"),
        ({"alpha": 1.5}, "alpha must be a number from 0 to 1, got 1.5"),
        ({"epochs": -1}, "epochs must be a whole number from 0, got -1"),
        ({"match": "0:0"}, r"match='0:0' \(features of layers\) is not built yet: leave it out"),
    ],
)
def test_options_refused(options: dict[str, object], text: str) -> None:
    animal = ZOO["perceptron"]()
    with pytest.raises(CompressionError, match=text):
        distill(animal.model, small(), animal.data, **options)  # type: ignore[call-overload]
