"""Losses of sequences: inputs and targets with their lengths, in everything that trains and scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nbcompress as nc
from nbcompress.compressors.data import Batch, Batches
from nbcompress.errors import CompressionError, DataError


class Recogniser(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hear, self.say = nn.Conv1d(4, width, 3, padding=1), nn.Linear(width, 5)

    def forward(self, sounds: Tensor, lengths: Tensor) -> Tensor:
        assert lengths.shape == sounds.shape[:1]
        return self.say(torch.relu(self.hear(sounds.transpose(1, 2))).transpose(1, 2)).log_softmax(-1)


class WithLengths(Recogniser):
    """Returns the lengths beside the outputs."""

    def forward(self, sounds: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(sounds, lengths), lengths


def ctc(output: Tensor, target: Any, inputs: Any) -> Tensor:
    (letters, n_letters), (_, lengths) = target, inputs
    return functional.ctc_loss(output.transpose(0, 1), letters, lengths, n_letters)


def ctc_of_both(output: tuple[Tensor, Tensor], target: Any) -> Tensor:
    return functional.ctc_loss(output[0].transpose(0, 1), target[0], output[1], target[1])


def batches(n: int = 3) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    sounds, letters = torch.randn(n, 4, 12, 4, generator=generator), torch.randint(1, 5, (n, 4, 3), generator=generator)
    lengths, n_letters = torch.tensor([12, 11, 9, 8]), torch.tensor([3, 2, 2, 1])
    return [((sounds[i], lengths), (letters[i], n_letters)) for i in range(n)]


def test_a_loss_gets_the_inputs_if_it_asks_for_them() -> None:
    first, second = (
        nc.finetune(Recogniser(), batches(), loss=ctc),
        nc.finetune(WithLengths(), batches(), loss=ctc_of_both),
    )
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    losses = nc.record_of(first).training[-1].epoch_losses
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "data",
    [
        [(sounds, lengths, target) for (sounds, lengths), target in batches()],
        [{"sounds": sounds, "lengths": lengths, "labels": target} for (sounds, lengths), target in batches()],
    ],
    ids=["flat", "dict"],
)
def test_inputs_come_as_the_batch_holds_them(data: list[Any]) -> None:
    def loss(output: Tensor, target: Any, inputs: Any) -> Tensor:
        parts = (inputs["sounds"], inputs["lengths"]) if isinstance(inputs, dict) else inputs
        return ctc(output, target, parts)

    wanted = nc.finetune(Recogniser(), batches(), epochs=1, loss=ctc)
    found = nc.finetune(Recogniser(), data, epochs=1, loss=loss)
    assert all(torch.equal(a, b) for a, b in zip(wanted.parameters(), found.parameters(), strict=True))


def test_one_input_comes_alone() -> None:
    seen = []

    def loss(output: Tensor, target: Tensor, inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return functional.cross_entropy(output, target)

    nc.finetune(nn.Linear(4, 3), (torch.ones(6, 4), torch.arange(6) % 3), epochs=1, loss=loss)
    assert seen[0].shape == (6, 4)


def test_compressors_and_distillation_take_sequences() -> None:
    model, data = Recogniser(), batches()
    nc.prune(model, amount=0.5, criterion="gradient", data=data, loss=ctc, finetune=1)
    nc.quantize(model, bits=4, data=data, loss=ctc, finetune=1)
    for keywords in ({"alpha": 0.5, "loss": ctc}, {"alpha": 1.0}, {"alpha": 0.5, "loss": ctc, "targets": "hard"}):
        student = nc.distill(model, Recogniser(4), data, epochs=2, **keywords)  # type: ignore[call-overload]
        log = nc.record_of(student).training[-1]
        assert log.epoch_losses[-1] < log.epoch_losses[0]
    # The targets do not count at alpha=1, so all positions are compared.
    both = nc.distill(WithLengths(), WithLengths(4), data, epochs=1, alpha=1)
    alone = nc.distill(Recogniser(), Recogniser(4), [(inputs,) for inputs, _ in data], epochs=1, alpha=1)
    assert all(torch.equal(a, b) for a, b in zip(both.parameters(), alone.parameters(), strict=True))


def test_gradient_descent_weighs_batches_by_their_examples() -> None:
    (sounds, lengths), (letters, n_letters) = batches(1)[0]

    def part(rows: slice) -> Any:
        return (sounds[rows], lengths[rows]), (letters[rows], n_letters[rows])

    whole = nc.finetune(Recogniser(), [part(slice(0, 4))], epochs=1, loss=ctc, optimizer="gd", lr=0.1)
    parts = [part(slice(0, 3)), part(slice(3, 4))]
    split = nc.finetune(Recogniser(), parts, epochs=1, loss=ctc, optimizer="gd", lr=0.1)
    for a, b in zip(whole.parameters(), split.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_number_of_examples_is_not_that_of_letters_in_one_row() -> None:
    batch = Batch(((torch.zeros(4, 12), torch.ones(4)),), {}, (torch.ones(9), torch.ones(4)))
    assert batch.n_examples == 4
    assert Batch((), {}, (torch.ones(5),)).n_examples == 5
    assert Batches(batches()).first(Recogniser()).n_examples == 4


def test_what_a_loss_cannot_need_is_refused_before_training() -> None:
    with pytest.raises(
        CompressionError, match=r"also needs input_lengths, target_lengths: .* lambda output, target, in"
    ):
        nc.finetune(Recogniser(), batches(), loss=nn.CTCLoss())
    with pytest.raises(CompressionError, match="also needs vocabulary: write a function that calls it"):
        nc.finetune(Recogniser(), batches(), loss=lambda output, target, vocabulary: output.sum())
    with pytest.raises(DataError, match="got tuple: convert them, or pass loss="):
        nc.finetune(Recogniser(), batches())
    with pytest.raises(DataError, match="one tensor, got tuple: measure such a model by a function of your own"):
        nc.accuracy(Recogniser(), batches(), loss=ctc)
    # Losses of torch with further arguments that have defaults stay losses of two.
    nc.finetune(nn.Linear(4, 3), (torch.ones(6, 4), torch.arange(6) % 3), epochs=1, loss=functional.cross_entropy)
