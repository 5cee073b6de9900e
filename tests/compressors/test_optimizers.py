"""The steps of each optimizer by hand, options that do not belong, factories, and the losses that are kept."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from compress_zoo import ZOO
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compressors.optimizers import OptimizerSpec
from nbcompress.errors import CompressionError

SQUARED = nn.functional.mse_loss
ALL = ("adam", "adamw", "sgd", "momentum", "gd")


def line(start: float = 0.0) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, start)
    return model


def pairs(*numbers: float) -> list[tuple[Tensor, Tensor]]:
    """A batch for each number: input 1, target the number."""
    return [(torch.ones(1, 1), torch.tensor([[number]])) for number in numbers]


def weight_after(model: nn.Linear, data: Any, epochs: int = 1, **options: Any) -> float:
    return float(nc.finetune(model, data, epochs=epochs, lr=0.1, loss=SQUARED, **options).weight.detach())


def test_plain_sgd_has_no_momentum() -> None:
    """The gradient of (w - 1)^2 is 2 (w - 1): steps of 0.2 and 0.2 * 0.8."""
    assert weight_after(line(), pairs(1.0), 2, optimizer="sgd") == pytest.approx(0.36)


def test_momentum_is_nine_tenths() -> None:
    assert weight_after(line(), pairs(1.0), 2, optimizer="momentum") == pytest.approx(0.2 + 0.1 * (0.9 * 2 + 1.6))
    expected = pytest.approx(0.2 + 0.1 * (0.5 * 2 + 1.6))
    assert weight_after(line(), pairs(1.0), 2, optimizer="momentum", momentum=0.5) == expected
    assert weight_after(line(), pairs(1.0), 2, optimizer="sgd", momentum=0.5) == expected


def test_gradient_descent_uses_all_of_the_data_in_each_step() -> None:
    """The mean target of 1, 1 and 4 is 2, so one step goes to 0.4; three steps of SGD go elsewhere."""
    assert weight_after(line(), pairs(1.0, 1.0, 4.0), optimizer="gd") == pytest.approx(0.4)
    assert weight_after(line(), pairs(1.0, 1.0, 4.0), optimizer="sgd") == pytest.approx(0.2 + 0.16 + 0.1 * 2 * 3.64)


def test_gradient_descent_weighs_batches_by_their_labels() -> None:
    """Batches of one and of three examples: as one batch of four. Labels that do not count weigh nothing."""
    torch.manual_seed(0)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, -100, 1])
    model = nn.Linear(3, 2)
    whole = nc.finetune(copy.deepcopy(model), [(x, y)], epochs=3, lr=0.1, optimizer="sgd")
    parts = nc.finetune(copy.deepcopy(model), [(x[:1], y[:1]), (x[1:], y[1:])], epochs=3, lr=0.1, optimizer="gd")
    torch.testing.assert_close(parts.weight, whole.weight)
    assert len(nc.record_of(parts).training[0].step_losses) == 3
    teacher = nn.Linear(3, 2)
    data = ([(x, y)], [(x[:1], y[:1]), (x[1:], y[1:])])
    options: dict[str, Any] = {"epochs": 3, "lr": 0.1, "temperature": 1.0, "alpha": 0.5}
    whole, parts = (
        nc.distill(teacher, model, batches, optimizer=name, **options)
        for batches, name in zip(data, ("sgd", "gd"), strict=True)
    )
    torch.testing.assert_close(parts.weight, whole.weight)


def test_adam_with_options_by_hand() -> None:
    """The first step of Adam is lr * g / (|g| + eps), whatever the betas; g is -2. AdamW first shrinks the weight."""
    assert weight_after(line(), pairs(1.0), optimizer="adam", eps=2.0) == pytest.approx(0.05)
    assert weight_after(line(1.0), pairs(2.0), optimizer="adamw", weight_decay=0.5) == pytest.approx(0.95 + 0.1)
    # Without memory every step is the sign of the gradient.
    data = pairs(1.0, -100.0)
    assert weight_after(line(), data, optimizer="adam", betas=(0.0, 0.0)) == pytest.approx(0.0, abs=1e-6)
    assert weight_after(line(), data, optimizer="adam") != pytest.approx(0.0, abs=1e-3)


def test_a_factory_makes_the_optimizer_and_sets_the_step_size() -> None:
    made = []

    def factory(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(parameters, lr=0.25))
        return made[-1]

    model = nc.finetune(line(), pairs(1.0), epochs=1, optimizer=factory, loss=SQUARED)
    assert float(model.weight.detach()) == pytest.approx(0.5)
    assert nc.record_of(model).training[0].optimizer == "factory"
    # The schedule scales the step size of the factory: 0.25 and half of it.
    model = nc.finetune(line(), pairs(1.0), epochs=2, optimizer=factory, loss=SQUARED, schedule="cosine")
    assert float(model.weight.detach()) == pytest.approx(0.5 + 0.125 * 2 * 0.5)
    assert len(made) == 2


@pytest.mark.parametrize("optimizer", [*ALL, partial(torch.optim.RMSprop, lr=1e-3)])
def test_every_function_that_trains_takes_every_optimizer(optimizer: Any) -> None:
    animal = ZOO["perceptron"]()
    student = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    options: dict[str, Any] = {"data": animal.data, "finetune": 2, "optimizer": optimizer}
    name = optimizer if isinstance(optimizer, str) else "optimizer"
    for small in (
        nc.prune(animal.model, 0.5, **options),
        nc.prune(animal.model, 0.5, granularity="channel", **options),
        nc.quantize(animal.model, 4, **options),
        nc.quantize(animal.model, "auto", budget="2kB", **options),
        nc.cluster(animal.model, 4, **options),
        nc.factorize(animal.model, 0.25, **options),
        nc.distill(animal.model, student, animal.data, epochs=2, optimizer=optimizer),
    ):
        log = nc.record_of(small).training[-1]
        assert log.optimizer == name
        assert len(log.epoch_losses) == 2
        assert log.epoch_ends == ((1, 2) if optimizer == "gd" else (log.epoch_ends[0], 2 * log.epoch_ends[0]))


def test_losses_are_kept_by_step_and_epoch() -> None:
    """Losses of w = 0, 0.2, 0.36 for target 1; the second training goes below the first."""
    model = line()
    options: dict[str, Any] = {"lr": 0.1, "optimizer": "sgd", "loss": SQUARED}
    nc.finetune(model, pairs(1.0, 1.0), epochs=1, **options)
    nc.finetune(model, pairs(1.0), epochs=2, valid=pairs(0.0), patience=9, **options)
    first, second = nc.record_of(model).training
    assert first.step_losses == pytest.approx((1.0, 0.64))
    assert first.epoch_losses == pytest.approx((0.82,))
    assert first.epoch_ends == (2,)
    assert first.valid_losses == ()
    assert second.step_losses == second.epoch_losses == pytest.approx((0.64**2, 0.64**3))
    # The best state by validation is the one before: the log stays whole, also where the model goes back.
    assert second.valid_losses == pytest.approx(((1 - 0.8**3) ** 2, (1 - 0.8**4) ** 2))
    assert float(model.weight.detach()) == pytest.approx(0.36)
    assert nc.record_of(copy.deepcopy(model)).training == (first, second)


def lbfgs(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"optimizer": "sgd", "betas": (0.9, 0.99)}, "betas belongs to optimizer='adam' or optimizer='adamw', got"),
        ({"optimizer": "momentum", "eps": 1e-3}, "eps belongs to optimizer='adam' or optimizer='adamw', got"),
        ({"optimizer": "adam", "momentum": 0.0}, "momentum belongs to optimizer='momentum'"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers from 0 to below 1"),
        ({"betas": 0.9}, "betas must be two numbers from 0 to below 1, got 0.9"),
        ({"eps": 0}, "eps must be a number above 0, got 0"),
        ({"optimizer": torch.optim.SGD, "momentum": 0.5}, "momentum belongs to the optimizers with a name"),
        ({"optimizer": torch.optim.SGD, "lr": 0.5}, "lr=0.5 belongs to the optimizers with a name"),
        ({"optimizer": lambda parameters: None}, "must return a torch.optim.Optimizer, got NoneType"),
        ({"optimizer": lambda parameters: torch.optim.SGD(nn.Linear(2, 2).parameters())}, "must use the parameters"),
        ({"optimizer": lbfgs}, "LBFGS evaluates the loss several times in a step"),
        ({"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters())}, "optimizer must be a name or a function"),
    ],
)
def test_what_does_not_belong_is_refused(options: dict[str, Any], text: str) -> None:
    model = line()
    with pytest.raises(CompressionError, match=text):
        nc.finetune(model, pairs(1.0), loss=SQUARED, **options)
    assert float(model.weight.detach()) == 0.0
    if "must return" not in text and "must use" not in text and "LBFGS" not in text:
        with pytest.raises(CompressionError, match=text):
            nc.quantize(ZOO["perceptron"]().model, **options)


def test_a_spec_checks_itself() -> None:
    assert OptimizerSpec("gd").is_full_batch
    assert OptimizerSpec("adamw").is_scale_free
    with pytest.raises(CompressionError, match="weight_decay must be a number from 0, got -1"):
        OptimizerSpec(weight_decay=-1)
