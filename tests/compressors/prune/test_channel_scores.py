"""Scores of channels: mutual information, gradients and activations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_zoo import ZOO
from torch import Tensor, nn

from nbcompress.compressors import prune, record_of
from nbcompress.compressors.coupling import ChannelGroup, find_dependencies, trace
from nbcompress.compressors.inputs import inputs_from_example
from nbcompress.compressors.losses import LossSpec
from nbcompress.compressors.prune.activation_scores import unit_activations
from nbcompress.compressors.prune.channel_scores import (
    activation_scores,
    energy_scores,
    equal_frequency_bins,
    magnitude_scores,
    mutual_information,
    mutual_information_scores,
    removal_redundancy,
    taylor_scores,
    winner_scores,
)
from nbcompress.errors import DataError


def groups_of(model: nn.Module, example: Tensor) -> tuple[ChannelGroup, ...]:
    return find_dependencies(model, trace(model, inputs_from_example(example))).groups


def test_information_by_hand() -> None:
    """Two bins that determine the label: log 2, plus (2 - 1 + 2 - 1 - (2 - 1)) / 2n = 1/8 for 4 examples."""
    values, labels = np.array([0.0, 0.0, 1.0, 1.0]), np.array([5, 5, 7, 7])
    assert mutual_information(values, labels, 2) == pytest.approx(np.log(2) + 1 / 8)
    # Independent: 0, plus (1 + 1 - 3) / 8.
    assert mutual_information(values, np.array([5, 7, 5, 7]), 2) == pytest.approx(-1 / 8)
    assert mutual_information(np.zeros(4), labels, 2) == pytest.approx(0.0)


def test_information_of_a_channel_with_noise() -> None:
    """A bit that is flipped with probability 0.1: log 2 - H(0.1)."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 20000)
    flipped = labels ^ (generator.random(20000) < 0.1)
    exact = np.log(2) + 0.1 * np.log(0.1) + 0.9 * np.log(0.9)
    assert mutual_information(flipped.astype(float), labels) == pytest.approx(exact, abs=0.01)
    # Without information the correction takes the bias away.
    found = [mutual_information(generator.random(500), generator.integers(0, 10, 500)) for _ in range(50)]
    assert abs(np.mean(found)) < 0.01


def test_bins_of_equal_frequency() -> None:
    assert equal_frequency_bins(np.array([5.0, 1.0, 3.0, 2.0]), 2).tolist() == [1, 0, 1, 0]
    # Equal values stay together, wherever the edge would fall.
    assert equal_frequency_bins(np.array([0.0, 0.0, 0.0, 0.0, 1.0]), 2).tolist() == [0, 0, 0, 0, 1]
    assert equal_frequency_bins(np.arange(9.0), 3).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def two_layers() -> nn.Sequential:
    """Units relu(x1), relu(2 x2), relu(-x1), read with weights 1, 1 and 10."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 1.0, 10.0]]))
    return model


X = torch.tensor([[1.0, 1.0], [2.0, -1.0], [3.0, 1.0], [-2.0, -1.0]])


def test_activations_by_hand() -> None:
    """After the activation function: 1 2 3 0, 2 0 2 0 and 0 0 0 2."""
    model = two_layers()
    groups = groups_of(model, X)
    found, targets = unit_activations(model, groups, [(X, torch.arange(4))], 0, of=lambda x: x)
    assert found[0] is not None
    assert found[0].T.tolist() == [[1, 2, 3, 0], [2, 0, 2, 0], [0, 0, 0, 2]]
    assert torch.equal(torch.cat(targets), torch.arange(4))  # type: ignore[arg-type]
    scores = activation_scores(model, groups, [(X, torch.arange(4))], 0)[0]
    assert list(scores) == [1.5, 1.0, 0.5]
    small = prune(model, 0.3, granularity="channel", criterion="activation", data=(X, torch.zeros(4, 1)))
    assert small.get_parameter("2.weight").tolist() == [[1.0, 1.0]]


def test_taylor_by_hand() -> None:
    """One example (1, 1): outputs 1 + 2 + 0 = 3, target 0, slope 6. In both layers: 6 a_i w_i."""
    model = two_layers()
    data = (X[:1], torch.zeros(1, 1))
    scores = taylor_scores(model, groups_of(model, X), data, 0, LossSpec(nn.functional.mse_loss))[0]
    assert scores.tolist() == [pytest.approx(12.0), pytest.approx(24.0), 0.0]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_information_chooses_the_unit_that_knows() -> None:
    """The label is the sign of x2: only the second unit shows it, though the third has the largest weights."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator)
    data = (x, (x[:, 1] > 0).long())
    model = two_layers()
    model[2] = nn.Linear(3, 2)
    small = prune(model, 0.6, granularity="channel", criterion="mutual-information", data=data)
    assert small.get_parameter("0.weight").tolist() == [[0.0, 2.0]]
    # Numbers as targets are put into bins.
    small = prune(model, 0.6, granularity="channel", criterion="mutual-information", data=(x, x[:, 1]))
    assert small.get_parameter("0.weight").tolist() == [[0.0, 2.0]]


@pytest.mark.parametrize("criterion", ["gradient", "activation", "mutual-information"])
def test_channels_by_data(criterion: str) -> None:
    """Convolutions, also a depthwise one: the cut model is equivalent, and the same for the same seed."""
    animal = ZOO["convolutional"]()
    state = [tensor.clone() for tensor in animal.model.state_dict().values()]
    random_state = torch.get_rng_state()
    options = {"granularity": "channel", "criterion": criterion, "data": animal.data}
    once, twice = (prune(animal.model, 0.5, **options) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(a, b) for a, b in zip(state, animal.model.state_dict().values(), strict=True))
    assert once.get_parameter("0.weight").shape == (4, 2, 3, 3)
    assert once.get_parameter("4.weight").shape == (6, 4, 1, 1)
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))
    assert animal.output(once).shape == (40, 3)
    everywhere = prune(animal.model, 0.3, scope="global", **options)  # type: ignore[arg-type]
    assert sum(everywhere.get_parameter(name).shape[0] for name in ("0.weight", "4.weight")) == 14


def test_scores_of_every_group_are_finite() -> None:
    for name in ("perceptron", "convolutional"):
        animal = ZOO[name]()
        groups = groups_of(animal.model.eval(), animal.example)
        for found in (
            taylor_scores(animal.model, groups, animal.data, 0),
            activation_scores(animal.model, groups, animal.data, 0),
            mutual_information_scores(animal.model, groups, animal.data, 0),
            magnitude_scores(animal.model, groups),
        ):
            for group, score in zip(groups, found, strict=True):
                assert isinstance(score, np.ndarray)
                assert score.shape == (len(group.units),)
                assert np.isfinite(score).all()


class TwiceUsed(nn.Module):
    """The middle layers run twice for a batch; their sum is read once at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for _ in range(2):
            x = x + self.inner(torch.relu(self.middle(x)))
        return self.last(x)


def test_what_runs_twice_gives_no_row_for_each_example() -> None:
    model = TwiceUsed()
    data = (torch.randn(30, 4), torch.randint(0, 3, (30,)))
    small = prune(model, 0.5, granularity="channel", criterion="mutual-information", data=data)
    assert (
        record_of(small).left_out["middle.weight"] == "its layer does not give one row of activations for each example"
    )
    # The mean over all runs is a score as good as any.
    assert prune(model, 0.5, granularity="channel", criterion="activation", data=data).get_parameter(
        "middle.weight"
    ).shape == (4, 4)


def test_recurrent_units_have_no_activation_to_see() -> None:
    animal = ZOO["recurrent"]()
    small = prune(animal.model, 0.5, granularity="channel", criterion="activation", data=animal.data)
    assert record_of(small).left_out["embedding.weight"].startswith("no linear layer or convolution takes or gives")


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (torch.zeros(40, 2), r"needs one label for each example, got targets of shape \(40, 2\)"),
        (torch.full((40,), torch.nan), "needs finite targets, but some are NaN or infinite"),
    ],
)
def test_labels_refused(target: Tensor, text: str) -> None:
    animal = ZOO["perceptron"]()
    with pytest.raises(DataError, match=text):
        prune(animal.model, 0.5, granularity="channel", criterion="mutual-information", data=(animal.data[0], target))


def test_activations_must_be_finite() -> None:
    animal = ZOO["perceptron"]()
    x = animal.data[0].clone()
    x[3] = torch.inf
    loader = [(animal.data[0], animal.data[1]), (x, animal.data[1])]
    with pytest.raises(DataError, match=r"activations must be finite, but those around '0.weight' hold NaN"):
        prune(animal.model, 0.5, granularity="channel", criterion="activation", data=loader)


def three_units() -> nn.Sequential:
    """Units relu(x1), relu(x2) and relu(x3), read with weight 1."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[2].weight.copy_(torch.ones(1, 3))
    return model


def test_energy_and_winner_by_hand() -> None:
    """Activations 3 0 0, 1 2 2 and 1 2 0: squares sum to 11, 8 and 4.

    The first wins once with 9. In the second example the others are equal, and both count: 4 + 4 and 4.
    """
    x = torch.tensor([[3.0, -1.0, 0.0], [1.0, 2.0, 2.0], [1.0, 2.0, -5.0]])
    model, data = three_units(), [(x, torch.zeros(3))]
    groups = groups_of(model, x)
    assert list(energy_scores(model, groups, data, 0)[0]) == [11.0, 8.0, 4.0]
    assert list(winner_scores(model, groups, data, 0)[0]) == [9.0, 8.0, 4.0]
    # The mean absolute activation ranks the first unit above the second, too, but by less: 5, 4 and 2 thirds.
    assert list(activation_scores(model, groups, data, 0)[0]) == pytest.approx([5 / 3, 4 / 3, 2 / 3])


def test_winner_looks_at_every_position() -> None:
    """Two channels on an image of two pixels: 2 and 0 against 1 and 1. Averaged first, neither would be larger."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2)[:, :, None, None])
    x = torch.tensor([[[[2.0, 0.0]], [[1.0, 1.0]]]])
    groups = groups_of(model, x)
    # The first has 4 at one of two positions, the second 1 at the other.
    assert list(winner_scores(model, groups, [(x, torch.zeros(1))], 0)[0]) == [2.0, 0.5]
    assert list(energy_scores(model, groups, [(x, torch.zeros(1))], 0)[0]) == [2.0, 1.0]


def test_of_two_equal_units_exactly_one_is_redundant() -> None:
    """Two bins of a fair coin: log 2 + 1/8. Units 0 and 1 are equal, 2 is independent, 3 is constant."""
    values = np.array([[0.0, 0.0, 0.0, 7.0], [0.0, 0.0, 1.0, 7.0], [1.0, 1.0, 0.0, 7.0], [1.0, 1.0, 1.0, 7.0]])
    entropy = np.log(2) + 1 / 8
    # Of the independent pair: four cells, log 4 + 3/8, so that the estimate is below zero.
    independent = (2 * entropy - (np.log(4) + 3 / 8)) / entropy
    redundancy = removal_redundancy(values)
    assert redundancy == pytest.approx([1.0, independent, 0.0, 1.0]) or redundancy == pytest.approx(
        [1.0, 0.0, independent, 1.0]
    )


def test_redundancy_is_computed_again_after_each_removal() -> None:
    """Three equal units and a pair: two of the three go, and one of the pair, before anything else."""
    generator = np.random.default_rng(0)
    a, b, c = generator.random((3, 400))
    redundancy = removal_redundancy(np.stack([a, b, a, c, b, a], 1))
    assert sorted(np.flatnonzero(redundancy > 0.99).tolist()) == [0, 1, 2]
    assert max(redundancy[3:]) < 0.2


def test_a_coarse_copy_is_redundant_and_its_original_is_not() -> None:
    """A sign says nothing that the number does not say, but the number says more than its sign."""
    values = np.random.default_rng(1).normal(size=2000)
    redundancy = removal_redundancy(np.stack([values, np.sign(values)], 1))
    assert redundancy[1] > 0.95
    assert redundancy[0] == 0.0


def test_equal_channels_are_cut_by_redundancy() -> None:
    """Unit 1 copies unit 0 and has the largest weights, so magnitude would keep both."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 2 * model[0].weight[0], 2 * model[0].bias[0]
        model[2].weight[:, :2] *= 5
    x = torch.randn(500, 6)
    small = prune(model, 0.2, granularity="channel", criterion="redundancy", data=(x, torch.zeros(500)))
    kept = record_of(small).kept_indices["0"].tolist()
    assert kept in ([1, 2, 3, 4], [0, 2, 3, 4])
    by_size = prune(model, 0.2, granularity="channel", example=x[:1])
    assert {0, 1} <= set(record_of(by_size).kept_indices["0"].tolist())


def test_redundancy_needs_two_examples() -> None:
    with pytest.raises(DataError, match=r"'redundancy' compares examples, so it needs at least 2, got 1"):
        prune(three_units(), 0.4, granularity="channel", criterion="redundancy", data=[(X[:1, :1].repeat(1, 3), X[:1])])
