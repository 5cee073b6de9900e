"""Accuracy by hand, examples told by their place, and flips against the definition."""

from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset

from nbcompress.errors import DataError, MeasureError
from nbcompress.measure import Accuracy, accuracies, accuracy, accuracy_change, compare

N = 40
LABELS = torch.arange(N) % 4
# What the model says of each example: the label for the first 30, the next class for the rest.
SAID = torch.where(torch.arange(N) < 30, LABELS, (LABELS + 1) % 4)
SCORES = torch.nn.functional.one_hot(SAID, 4).float()


class Shown(Dataset[tuple[Tensor, Tensor]]):
    """The same examples, one by one."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return SCORES[place], LABELS[place]


FORMS = {
    "tensors": (SCORES, LABELS),
    "arrays": (SCORES.double().numpy(), LABELS.numpy()),
    "column of labels": (SCORES, LABELS[:, None]),
    "data set": TensorDataset(SCORES, LABELS),
    "data set of one's own": Shown(),
    "loader": DataLoader(TensorDataset(SCORES, LABELS), batch_size=7),
    "shuffled loader": DataLoader(TensorDataset(SCORES, LABELS), batch_size=7, shuffle=True),
    "list of batches": [(SCORES[:9], LABELS[:9]), (SCORES[9:], LABELS[9:])],
    "list of dicts": [{"input": SCORES, "labels": LABELS}],
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_data_in_its_order(name: str) -> None:
    state = torch.get_rng_state()
    found = accuracy(nn.Identity() if name != "arrays" else Same(), FORMS[name])
    assert found.is_right.tolist() == [place < 30 for place in range(N)]
    assert float(found) == found.interval.value == 30 / N
    assert [(one.label, one.n) for one in found.per_class] == [(label, 10) for label in range(4)]
    assert [one.interval.value for one in found.per_class] == [0.8, 0.8, 0.7, 0.7]
    assert torch.equal(torch.get_rng_state(), state)


class Next(nn.Module):
    """Says the class after the one that the input says."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 1)


class Same(nn.Module):
    """Gives back what comes, and has a weight, so that arrays of doubles come as its floats."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.one


def test_a_sampler_of_the_users_own_is_obeyed_and_both_models_see_the_same() -> None:
    chosen = DataLoader(TensorDataset(SCORES, LABELS), batch_size=4, sampler=SubsetRandomSampler(range(20, 40)))
    found = accuracies({"one": nn.Identity(), "two": Same()}, chosen)
    assert found["one"].n == 20
    assert torch.equal(found["one"].predictions, found["two"].predictions)


def test_what_carries_no_label_is_not_counted_but_keeps_its_place() -> None:
    labels = LABELS.clone()
    labels[::2] = -100
    found = accuracy(nn.Identity(), (SCORES, labels))
    assert (found.n, found.interval.value) == (20, 15 / 20)
    change = accuracy_change(found, accuracy(Next(), (SCORES, labels)))
    assert change.broken == tuple(range(1, 30, 2))


def test_a_class_for_every_token() -> None:
    tokens = SCORES.reshape(8, 5, 4)
    assert accuracy(nn.Identity(), (tokens, LABELS.reshape(8, 5))).n == N


def test_nan_names_no_class() -> None:
    broken = SCORES.clone()
    broken[0] = torch.nan
    assert accuracy(nn.Identity(), (broken, LABELS)).predictions[0] == -1


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ((SCORES, 7 * SCORES), "accuracy needs integer labels, or targets of 0 and 1, got targets of torch.float32"),
        ((SCORES, LABELS + 4), "labels must be 0 to 3"),
        ((SCORES, torch.full((N,), -100)), "all labels are -100"),
        ((SCORES[:0], LABELS[:0]), "at least one example"),
        (3, "data must be a DataLoader"),
    ],
)
def test_data_that_does_not_fit(data: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        accuracy(nn.Identity(), data)


def test_a_model_that_fails_is_named() -> None:
    with pytest.raises(MeasureError, match="Linear must run on the example, float32"):
        accuracy(nn.Linear(3, 4), (SCORES, LABELS))


def test_time_may_run_out() -> None:
    found = accuracies({"model": nn.Identity()}, FORMS["loader"], seconds=0.0)["model"]
    assert (found.n, found.is_part) == (7, True)
    assert "of the first examples" in str(found)


def told(right: list[bool]) -> Accuracy:
    return Accuracy(torch.zeros(len(right), dtype=torch.int64), torch.tensor([0 if one else 1 for one in right]))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None)
def test_flips_are_those_of_the_definition(pairs: list[tuple[bool, bool]]) -> None:
    before, after = [one for one, _ in pairs], [two for _, two in pairs]
    found = accuracy_change(told(before), told(after))
    assert found.broken == tuple(i for i, (one, two) in enumerate(pairs) if one and not two)
    assert found.mended == tuple(i for i, (one, two) in enumerate(pairs) if two and not one)
    assert found.change.value == pytest.approx(sum(after) / len(pairs) - sum(before) / len(pairs))
    assert -1 <= found.change.low <= found.change.value <= found.change.high <= 1
    n, fewer = len(found.broken) + len(found.mended), min(len(found.broken), len(found.mended))
    tail = sum(comb(n, k) for k in range(fewer + 1)) / 2**n
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))


def test_the_interval_of_a_change_covers_the_truth() -> None:
    draws, generator = 600, np.random.default_rng(0)
    up, down, n = 0.06, 0.12, 200
    hits = 0
    for _ in range(draws):
        kind = generator.choice(3, size=n, p=[up, down, 1 - up - down])
        found = accuracy_change(told((kind != 0).tolist()), told((kind != 1).tolist())).change
        hits += found.low <= up - down <= found.high
    # Three standard errors of a share of .95 in 600 draws.
    assert abs(hits / draws - 0.95) < 3 * (0.95 * 0.05 / draws) ** 0.5


def test_other_data_cannot_be_compared() -> None:
    with pytest.raises(MeasureError, match="on the same data"):
        accuracy_change(told([True]), told([True, False]))


def test_a_comparison_with_labels() -> None:
    found = compare(nn.Identity(), Next(), data=(SCORES, LABELS), repeats=0)
    assert found.accuracy is not None
    assert (len(found.accuracy.broken), len(found.accuracy.mended)) == (30, 0)
    text = str(found)
    assert "30 flipped: 30 broken, 0 mended, more than chance explains (McNemar, p < 0.001)" in text
    assert "right before, wrong after: examples 0, 1, 2, 3, 4, 5, 6, 7 and 22 more" in text
    assert "accuracy" in [row[0] for row in found.rows()]
    json.dumps(found.to_json())
    same = compare(nn.Identity(), nn.Identity(), data=(SCORES, LABELS), repeats=0)
    assert "no example flipped" in str(same)
    without = compare(nn.Identity(), nn.Identity(), data=(SCORES, 7 * SCORES), repeats=0)
    assert without.accuracy is None
    assert "no accuracy: accuracy needs integer labels" in str(without)
