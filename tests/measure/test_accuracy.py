"""Accuracy, flips, loss and perplexity against numbers by hand and against their definitions."""

from __future__ import annotations

import json
from math import comb, inf, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset

from nbcompress.compressors.losses import LossSpec
from nbcompress.errors import DataError, MeasureError
from nbcompress.measure import Accuracy, LanguageLoss, accuracies, accuracy, accuracy_change, compare
from nbcompress.measure.accuracy import scores_on

N = 40
LABELS = torch.arange(N) % 4
# What the model says of each example: the label for the first 30, the next class for the rest.
SAID = torch.where(torch.arange(N) < 30, LABELS, (LABELS + 1) % 4)
SCORES = torch.nn.functional.one_hot(SAID, 4).float()


class Shown(Dataset[tuple[Tensor, Tensor]]):
    """The same examples, one by one."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return SCORES[index], LABELS[index]


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
    assert [(row.label, row.n) for row in found.per_class] == [(label, 10) for label in range(4)]
    assert [row.interval.value for row in found.per_class] == [0.8, 0.8, 0.7, 0.7]
    assert torch.equal(torch.get_rng_state(), state)


class Next(nn.Module):
    """Says the class after the one that the input says."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 1)


class Same(nn.Module):
    """Gives back what comes, and has a weight, so that arrays of doubles come as its floats."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_a_sampler_of_the_users_own_is_obeyed_and_both_models_see_the_same() -> None:
    chosen = DataLoader(TensorDataset(SCORES, LABELS), batch_size=4, sampler=SubsetRandomSampler(range(20, 40)))
    found = accuracies({"identity": nn.Identity(), "same": Same()}, chosen)
    assert found["identity"].n == 20
    assert torch.equal(found["identity"].predictions, found["same"].predictions)


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
    return Accuracy(torch.zeros(len(right), dtype=torch.int64), torch.tensor([0 if hit else 1 for hit in right]))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None)
def test_flips_are_those_of_the_definition(pairs: list[tuple[bool, bool]]) -> None:
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    found = accuracy_change(told(before), told(after))
    assert found.broken == tuple(i for i, (a, b) in enumerate(pairs) if a and not b)
    assert found.mended == tuple(i for i, (a, b) in enumerate(pairs) if b and not a)
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
    assert "30 flipped: 30 now wrong, 0 now right, more than chance explains (McNemar, p < 0.001)" in text
    assert "right before, wrong after: examples 0, 1, 2, 3, 4, 5, 6, 7 and 22 more" in text
    assert "accuracy" in [row[0] for row in found.rows()]
    json.dumps(found.to_json())
    same = compare(nn.Identity(), nn.Identity(), data=(SCORES, LABELS), repeats=0)
    assert "no example flipped" in str(same)
    without = compare(nn.Identity(), nn.Identity(), data=(SCORES, 7 * SCORES), repeats=0)
    assert without.accuracy is None
    assert "no accuracy: accuracy needs integer labels" in str(without)


class Tokens(nn.Module):
    """Says the logarithm of `odds` for one token after the one that it reads, 0 for the other two."""

    def __init__(self, odds: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 3)
        with torch.no_grad():
            self.embedding.weight.copy_(log(odds) * torch.eye(3).roll(1, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens)


IDS = torch.tensor([[0, 1, 2, 0], [1, 2, 0, 1]])


def test_by_hand() -> None:
    """Of odds 3 against 1 and 1: perplexity 5/3; of odds 8: 10/8. Batches count by their tokens."""
    short = IDS.clone()
    short[:, 2:] = -100
    for data, n in (([(IDS, IDS)], 6), ([(IDS, IDS), (IDS, short)], 8), ([(IDS, IDS), (IDS, 0 * IDS - 100)], 6)):
        found = scores_on({"first": Tokens(3), "second": Tokens(8)}, data, LossSpec())
        assert not found.accuracy
        assert [loss.n for loss in found.language.values()] == [n, n]
        assert found.language["first"].loss == pytest.approx(log(5 / 3))
        assert found.language["second"].perplexity == pytest.approx(10 / 8)
    # Unequal losses, weighted: two rows of wrong tokens beside six of right ones.
    wrong = torch.tensor([[0, 2], [1, 0]])
    found = scores_on({"first": Tokens(3)}, [(IDS, IDS), (wrong, wrong)], LossSpec())
    assert found.language["first"].loss == pytest.approx((6 * log(5 / 3) + 2 * log(5)) / 8)


def test_a_comparison_of_language_models() -> None:
    found = compare(Tokens(8), Tokens(3), data=[(IDS, IDS)], repeats=0)
    assert found.accuracy is None
    assert found.rows()[-2:] == [["loss", "0.2231", "0.5108", "+0.2877"], ["perplexity", "1.25", "1.667", "+0.4167"]]
    assert "loss and perplexity on 6 tokens" in found.notes()
    assert json.loads(json.dumps(found.to_json()))["language"]["before"]["perplexity"] == pytest.approx(1.25)
    # Asked for all the same, accuracy is that of the next token.
    assert float(accuracy(Tokens(8), [(IDS, IDS)])) == 1.0


def test_what_cannot_be_told() -> None:
    found = compare(Tokens(8), Tokens(3), data=[(IDS, 0 * IDS - 100)], repeats=0)
    assert found.accuracy is None
    assert found.language is None
    assert LanguageLoss(1e9, 1).perplexity == inf
    with pytest.raises(DataError, match="a language model has loss and perplexity, another model accuracy"):
        scores_on({"first": Tokens(3), "second": nn.Embedding(5, 3)}, [(IDS, IDS.flip(1))], LossSpec())
