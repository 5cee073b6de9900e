"""Loss and perplexity by hand."""

from __future__ import annotations

import json
from math import inf, log

import pytest
import torch
from torch import Tensor, nn

from nbcompress.compress.losses import LossSpec
from nbcompress.errors import DataError
from nbcompress.measure import LanguageLoss, accuracy, compare
from nbcompress.measure.scores import scores_on


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
        found = scores_on({"one": Tokens(3), "other": Tokens(8)}, data, LossSpec())
        assert not found.accuracy
        assert [one.n for one in found.language.values()] == [n, n]
        assert found.language["one"].loss == pytest.approx(log(5 / 3))
        assert found.language["other"].perplexity == pytest.approx(10 / 8)
    # Unequal losses, weighted: two rows of wrong tokens beside six of right ones.
    wrong = torch.tensor([[0, 2], [1, 0]])
    found = scores_on({"one": Tokens(3)}, [(IDS, IDS), (wrong, wrong)], LossSpec())
    assert found.language["one"].loss == pytest.approx((6 * log(5 / 3) + 2 * log(5)) / 8)


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
        scores_on({"one": Tokens(3), "other": nn.Embedding(5, 3)}, [(IDS, IDS.flip(1))], LossSpec())
