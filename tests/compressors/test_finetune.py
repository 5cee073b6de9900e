from __future__ import annotations

import random
from collections.abc import Iterator
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from compress_zoo import ZOO, assert_constraints, perceptron
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nbcompress.compressors import cluster, finetune, prune, quantize, record_of
from nbcompress.compressors.modes import seeded
from nbcompress.errors import CompressionError, DataError

# Of targets that happen to be 0 or 1, which would be taken for labels.
SQUARED = nn.functional.mse_loss


def line() -> tuple[nn.Linear, tuple[Tensor, Tensor]]:
    """One weight, no bias: y = w x with w = 0 and one example x = 1, y = 1."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model, (torch.tensor([[1.0]]), torch.tensor([[1.0]]))


def test_a_step_by_hand() -> None:
    """The gradient of (w - 1)^2 at 0 is -2. SGD moves by 0.1 * 2, then momentum adds 0.9 of that."""
    model, data = line()
    finetune(model, data, epochs=1, lr=0.1, optimizer="sgd", loss=SQUARED)
    assert float(model.weight.detach()) == pytest.approx(0.2)
    model, data = line()
    finetune(model, data, epochs=2, lr=0.1, optimizer="sgd", momentum=0.9, loss=SQUARED)
    assert float(model.weight.detach()) == pytest.approx(0.2 + 0.1 * (0.9 * 2 + 2 * 0.8))
    model, data = line()
    finetune(model, data, epochs=1, lr=0.1, loss=SQUARED)
    assert float(model.weight.detach()) == pytest.approx(0.1)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "momentum", "gd"])
def test_optimizers_by_name(optimizer: str) -> None:
    model, data = line()
    losses: list[float] = []
    finetune(model, data, 60, 0.05, optimizer, loss=SQUARED, on_epoch=lambda epoch, loss: losses.append(loss))
    assert losses[0] == 1.0
    assert losses[-1] < 0.3


def test_a_shared_value_moves_by_all_its_members() -> None:
    """Two weights share the value 1; inputs 1 and 2, target 0: gradients 2 * 3 * 1 and 2 * 3 * 2."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    small = cluster(model, 1)
    data = (torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0]]))
    finetune(small, data, epochs=1, lr=0.01, optimizer="sgd", loss=SQUARED)
    # Plain descent takes the mean of the two gradients, 9.
    assert small.get_parameter("weight").tolist() == [[pytest.approx(0.91, abs=1e-3)] * 2]
    small = cluster(model, 1)
    finetune(small, data, epochs=1, lr=0.01, loss=SQUARED)
    assert small.get_parameter("weight").tolist() == [[pytest.approx(0.99, abs=1e-3)] * 2]


def test_equal_seeds_give_equal_models() -> None:
    animal = ZOO["convolutional"]()
    results = []
    for seed in (1, 1, 2):
        model = quantize(animal.model, 4)
        finetune(model, animal.data, epochs=2, batch_size=8, seed=seed)
        results.append(model.state_dict())
    first, same, other = results
    assert all(torch.equal(a, b) for a, b in zip(first.values(), same.values(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.values(), other.values(), strict=True))


def test_loaders_with_generators_of_their_own() -> None:
    animal = ZOO["perceptron"]()
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(*animal.data), 8, shuffle=True, generator=generator)
    state = generator.get_state()
    results = []
    for _ in range(2):
        model = prune(animal.model, 0.5)
        results.append(finetune(model, loader, epochs=2).state_dict())
    assert torch.equal(generator.get_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values(), strict=True))


def test_the_mode_comes_back() -> None:
    animal = ZOO["convolutional"]()
    animal.model.train()
    animal.model[1].eval()
    modes = [module.training for module in animal.model.modules()]
    seen: list[list[bool]] = []
    finetune(
        animal.model,
        animal.data,
        1,
        on_epoch=lambda epoch: seen.append([module.training for module in animal.model.modules()]),
    )
    assert [module.training for module in animal.model.modules()] == modes
    assert seen == [modes]


def test_a_frozen_part_stays_frozen_though_on_epoch_changes_the_mode() -> None:
    animal = ZOO["convolutional"]()
    animal.model.train()
    norm = animal.model[1].eval()
    before = norm.running_mean.clone()
    finetune(animal.model, animal.data, 3, on_epoch=lambda epoch: animal.model.eval())
    assert torch.equal(norm.running_mean, before)
    assert animal.model.training
    assert not norm.training


class Backboned(nn.Module):
    """A backbone with statistics in layers with and without parameters, and a head with some."""

    def __init__(self) -> None:
        super().__init__()
        plain = nn.BatchNorm1d(6, affine=False)
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), plain, nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))  # type: ignore[no-any-return]


BATCHES = (3 + torch.randn(40, 4), torch.arange(40) % 3)


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Parts whose running statistics changed."""
    after = model.state_dict()
    return {name.split(".")[0] for name in before if "running" in name and not torch.equal(after[name], before[name])}


def test_a_part_in_evaluation_mode_stays_in_it() -> None:
    torch.manual_seed(0)
    model = Backboned().train()
    model.backbone.eval()
    modes: list[bool] = []
    model.backbone[4].register_forward_pre_hook(lambda module, _: modes.append(module.training))
    before = deepcopy(model.state_dict())
    finetune(model, BATCHES, epochs=2)
    assert moved(model, before) == {"head"}
    assert set(modes) == {False}
    assert (model.training, model.backbone.training, model.head[1].training) == (True, False, True)
    # In evaluation mode as a whole it was measured, and says nothing about its parts.
    finetune(model.eval(), BATCHES, epochs=1)
    assert moved(model, before) == {"backbone", "head"}


@pytest.mark.parametrize("is_training", [True, False])
def test_statistics_of_frozen_parameters_stay(is_training: bool) -> None:
    torch.manual_seed(0)
    model = Backboned().train(is_training)
    model.backbone.requires_grad_(False)
    x, before = torch.randn(5, 4), deepcopy(model.state_dict())
    finetune(model, BATCHES, epochs=2)
    assert moved(model, before) == {"head"}
    other = Backboned().train(is_training)
    other.load_state_dict(before)
    assert torch.equal(model.eval().backbone(x), other.eval().backbone(x))


def test_on_epoch_in_its_forms() -> None:
    animal = ZOO["perceptron"]()
    calls: list[object] = []

    def with_loss(epoch: int, loss: float) -> None:
        calls.append((epoch, loss > 0))

    def with_default(epoch: int, model: object = None) -> None:
        calls.append((epoch, model))

    def optional_loss(epoch: int, loss: float | None = None) -> None:
        calls.append((epoch, loss is not None))

    for call in (calls.append, with_loss, with_default, optional_loss, lambda epoch: calls.append(-epoch)):
        finetune(animal.model, animal.data, 2, on_epoch=call)
    assert calls == [1, 2, (1, True), (2, True), (1, None), (2, None), (1, True), (2, True), -1, -2]
    for wrong in (lambda: None, lambda a, b, c: None):
        with pytest.raises(CompressionError, match="on_epoch is called with the epoch, or the epoch and the loss"):
            finetune(animal.model, animal.data, 1, on_epoch=wrong)
    with pytest.raises(CompressionError, match="on_epoch must be a function of the epoch, got int"):
        finetune(animal.model, animal.data, 1, on_epoch=3)  # type: ignore[arg-type]


def test_constraints_hold_in_every_epoch() -> None:
    animal = ZOO["perceptron"]()
    for model in (
        quantize(prune(animal.model, 0.5), 2),
        cluster(prune(animal.model, 0.5), 4),
        quantize(cluster(animal.model, 8), 3),
    ):
        finetune(model, animal.data, 3, lr=0.01, on_epoch=lambda epoch, model=model: assert_constraints(model))


class Ended(BaseException):
    """As a trial ends."""


def test_an_end_from_outside_keeps_what_is_trained() -> None:
    animal = ZOO["perceptron"]()
    model = quantize(prune(animal.model, 0.5), 3)
    before = model.get_parameter("0.weight").detach().clone()
    model.eval()

    def end(epoch: int) -> None:
        if epoch == 2:
            raise Ended

    with pytest.raises(Ended):
        finetune(model, animal.data, 5, lr=0.05, on_epoch=end)
    assert not torch.equal(model.get_parameter("0.weight"), before)
    assert not model.training
    assert_constraints(model)


def test_an_interrupt_within_an_epoch_keeps_constraints() -> None:
    animal = ZOO["perceptron"]()
    model = cluster(animal.model, 4)
    n_calls = 0

    def loss(output: Tensor, target: Tensor) -> Tensor:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 4:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(output, target)

    with pytest.raises(KeyboardInterrupt):
        finetune(model, animal.data, 5, lr=0.05, batch_size=8, loss=loss)
    assert_constraints(model)


def test_an_error_undoes() -> None:
    animal = ZOO["convolutional"]()
    model = quantize(animal.model, 4)
    before, record = {name: tensor.clone() for name, tensor in model.state_dict().items()}, record_of(model)

    def fail(epoch: int) -> None:
        raise LookupError("from the user's function")

    with pytest.raises(LookupError):
        finetune(model, animal.data, 2, lr=0.05, on_epoch=fail)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert record_of(model) == record


def test_divergence_names_the_epoch_and_undoes() -> None:
    animal = ZOO["perceptron"]()
    model = prune(animal.model, 0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    epochs: list[int] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return output.sum() * (float("nan") if epochs == [1] else 1.0)

    with pytest.raises(CompressionError, match="training diverged: the loss is nan in epoch 2; use a smaller lr"):
        finetune(model, animal.data, 3, loss=loss, on_epoch=epochs.append)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for make in (lambda: quantize(animal.model, 2), lambda: cluster(animal.model, 3), lambda: prune(animal.model, 0.2)):
        model = make()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(CompressionError, match="training diverged"):
            finetune(model, animal.data, 5, lr=1e30, optimizer="sgd")
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": -1}, "epochs is an integer of at least 0, but got -1"),
        ({"lr": 0}, "lr must be a number above 0, got 0"),
        ({"lr": float("nan")}, "lr must be a number above 0, got nan"),
        (
            {"optimizer": "adamm"},
            "optimizer must be one of adam, adamw, sgd, momentum, gd, got 'adamm'. Did you mean 'adam'",
        ),
        (
            {"momentum": 0.9},
            "momentum belongs to optimizer='momentum', optimizer='sgd' or optimizer='gd', got momentum with 'adam'",
        ),
        ({"optimizer": "sgd", "momentum": 2}, "momentum must be a number from 0 to 1, got 2"),
        ({"batch_size": 0}, "batch_size is an integer of at least 1, but got 0"),
        ({"seed": -1}, "seed is an integer from 0 to 9223372036854775807, but got -1"),
        ({"schedule": "cosin"}, "schedule must be one of constant, cosine, got 'cosin'. Did you mean 'cosine'"),
        ({"patience": 0, "valid": [1]}, "patience is an integer of at least 1, but got 0"),
        ({"patience": 2}, "patience= stops training early and needs valid= too: pass both, or neither"),
        ({"valid": [1]}, "valid= stops training early and needs patience= too: pass both, or neither"),
        ({"patience": 2, "valid": []}, "data must hold at least one batch, but it is empty"),
        ({"progress": 3}, "progress must be True, False or a function of the share that is done, got int"),
        ({"weight_decay": -1}, "weight_decay must be a number from 0, got -1"),
        ({"loss": lambda output, target: output}, r"the loss must be a tensor with one number, got shape \(40, 3\)"),
        ({"loss": lambda output, target: 1.0}, "the loss must be a tensor with one number, got float"),
    ],
)
def test_options_refused(options: dict[str, object], text: str) -> None:
    animal = ZOO["perceptron"]()
    with pytest.raises(CompressionError, match=text):
        finetune(animal.model, animal.data, **options)  # type: ignore[arg-type]


def test_cosine_by_hand() -> None:
    """Over four epochs the step size is 1, (1 + cos 45) / 2, 1/2 and (1 - cos 45) / 2 of lr; a batch is an epoch."""
    model, data = line()
    seen: list[float] = []
    options = {"epochs": 4, "lr": 0.1, "optimizer": "sgd", "momentum": 0.0, "loss": SQUARED}
    finetune(model, data, schedule="cosine", on_epoch=lambda _: seen.append(float(model.weight.detach())), **options)  # type: ignore[arg-type]
    weight, expected = 0.0, []
    for share in (1.0, 0.8535534, 0.5, 0.1464466):
        weight -= 0.1 * share * 2 * (weight - 1)
        expected.append(weight)
    assert seen == pytest.approx(expected, rel=1e-5)


def test_early_stop_restores_the_best() -> None:
    """Training to 1, validation at 0.5: steps of 0.2 (1 - w) pass it, and after two more epochs it is enough."""
    model, data = line()
    valid = (torch.tensor([[1.0]]), torch.tensor([[0.5]]))
    seen: list[float] = []
    options = {"epochs": 50, "lr": 0.1, "optimizer": "sgd", "momentum": 0.0, "loss": SQUARED}
    finetune(
        model,
        data,
        valid=valid,
        patience=2,
        on_epoch=lambda _: seen.append(float(model.weight.detach())),
        **options,  # type: ignore[arg-type]
    )
    assert seen == pytest.approx([0.2, 0.36, 0.488, 0.5904, 0.67232])
    assert float(model.weight.detach()) == pytest.approx(0.488)


def test_the_start_may_be_the_best() -> None:
    animal = ZOO["convolutional"]()
    model = quantize(prune(animal.model, 0.5), 4)
    before, record = {name: tensor.clone() for name, tensor in model.state_dict().items()}, record_of(model)
    x, _ = animal.data
    with torch.no_grad():
        said = model.eval()(x).argmax(1)
    model.train()
    finetune(model, (x, (said + 1) % 3), 9, lr=0.05, valid=(x, said), patience=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert record_of(model) == record
    assert model.training


@pytest.mark.parametrize("animal", ["perceptron", "convolutional", "tied", "bfloat16"])
def test_early_stop_keeps_constraints(animal: str) -> None:
    subject = ZOO[animal]()
    for make in (lambda m: quantize(prune(m, 0.5), 3), lambda m: cluster(m, 5)):
        results = []
        for _ in range(2):
            model = make(subject.model)
            finetune(model, subject.data, 6, lr=0.02, valid=subject.data, patience=1, schedule="cosine")
            assert_constraints(model)
            results.append(list(model.state_dict().values()))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_validation_does_not_disturb_training() -> None:
    """Dropout and the order of batches are what they are without it."""
    animal = ZOO["convolutional"]()
    plain, watched = deepcopy(animal.model), deepcopy(animal.model)
    seen: list[list[Tensor]] = [[], []]
    for model, noted in zip((plain, watched), seen, strict=True):
        options = {"valid": animal.data, "patience": 9} if model is watched else {}
        note = partial(lambda model, noted, _: noted.append(model[0].weight.detach().clone()), model, noted)
        finetune(model, animal.data, 3, on_epoch=lambda epoch, note=note: note(epoch), batch_size=8, **options)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_progress() -> None:
    animal = ZOO["perceptron"]()
    done: list[float] = []
    finetune(animal.model, animal.data, 2, batch_size=20, progress=done.append)
    assert done == [0.25, 0.5, 0.75, 1.0]
    # A lone last example joins the batch before.
    done.clear()
    finetune(animal.model, animal.data, 1, batch_size=13, progress=done.append)
    assert done == pytest.approx([1 / 3, 2 / 3, 1.0])

    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return zip(*animal.data, strict=True)

    done.clear()
    finetune(animal.model, Stream(), 4, batch_size=20, progress=done.append)
    assert done == [0.25, 0.5, 0.75, 1.0]
    done.clear()
    finetune(animal.model, animal.data, 40, lr=1.0, valid=animal.data, patience=1, progress=done.append)
    assert len(done) < 40
    assert done[-1] == 1.0


def test_no_epochs_change_nothing() -> None:
    animal = ZOO["perceptron"]()
    model = quantize(animal.model, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    finetune(model, animal.data, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_nothing_to_train() -> None:
    animal = ZOO["perceptron"]()
    animal.model.requires_grad_(False)
    with pytest.raises(CompressionError, match="no parameter of the model requires a gradient"):
        finetune(animal.model, animal.data)


def test_empty_data() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        finetune(perceptron(), [])


def test_within_no_grad() -> None:
    model, data = line()
    with torch.no_grad():
        finetune(model, data, 1, 0.1, loss=SQUARED)
    assert float(model.weight.detach()) == pytest.approx(0.1)


def test_versions_tell_of_the_change() -> None:
    """What compares tensors by version, as a search does with the notebook's modules, sees fine-tuning."""
    animal = ZOO["perceptron"]()
    model = quantize(animal.model, 4)
    versions = [parameter._version for parameter in model.parameters()]
    finetune(model, animal.data, 1)
    assert all(parameter._version > before for parameter, before in zip(model.parameters(), versions, strict=True))


def test_randomness_is_put_back() -> None:
    states = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[union-attr]
    with seeded(3):
        drawn = (torch.rand(1).item(), np.random.rand(), random.random())
    with seeded(3):
        assert drawn == (torch.rand(1).item(), np.random.rand(), random.random())
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[union-attr]
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]


def test_complex_parameters_are_trained_too() -> None:
    class Turning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Parameter(torch.ones(3, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.turn).real

    model = Turning()
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    finetune(model, (x, 2 * x), epochs=150, lr=0.05)
    assert torch.allclose(model.turn.real, torch.full((3,), 2.0), atol=0.1)


def test_a_loss_that_is_no_function_is_refused() -> None:
    animal = ZOO["perceptron"]()
    with pytest.raises(CompressionError, match="loss must be a function of what the model returns"):
        finetune(animal.model, animal.data, loss=3)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_taken() -> None:
    model, data = nn.Linear(4, 2), (torch.randn(16, 4), torch.randint(0, 2, (16,)))
    weights = []
    for kind in (int, np.int64):
        trained = finetune(deepcopy(model), data, epochs=kind(2), lr=np.float32(0.1), batch_size=kind(4), seed=kind(7))
        weights.append(trained.weight)
    assert torch.equal(*weights)
    for compress in (quantize, prune, cluster):
        option = {"amount": np.float32(0.5)} if compress is prune else {}
        compress(model, data=data, finetune=np.int64(1), seed=np.int64(3), **option)
