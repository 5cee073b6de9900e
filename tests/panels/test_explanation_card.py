"""The card of an explanation, for images, tokens and tables."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.measure import Explanation
from nbcompress.panels.explanation_card import MAX_EXAMPLES, explanation_card, explanation_figure, shown_examples


def texts(n: int = 6) -> Explanation:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3))
    words = ["<pad>", "a", "$x$", "film", "was", "<b>", "good", "bad", "ы"]
    return nc.explain(model, nc.quantize(model, bits=2), torch.randint(0, 9, (n, 5)), names=words)


def table(n: int = 6, names: list[str] | None = None) -> Explanation:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    return nc.explain(model, nc.prune(model, amount=0.8), torch.randn(n, 12), names=names)


def images(channels: int, x: Tensor | None = None) -> Explanation:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.Flatten(), nn.LazyLinear(2))
    x = torch.rand(3, channels, 8, 8)
    model(x)
    return nc.explain(model, nc.prune(model, amount=0.5), x)


@pytest.mark.parametrize(
    ("make", "kind"),
    [(texts, "Coloured tokens"), (table, "Bars"), (lambda: images(1), "Maps"), (lambda: images(3), "Maps")],
)
def test_every_form_says_how_far_the_models_agree(make: object, kind: str) -> None:
    found: Explanation = make()  # type: ignore[operator]
    card = explanation_card(found)
    assert set(card) == {"text/plain", "text/html", "image/png"}
    assert found.mean_agreement is not None
    said = f"rank correlation on {len(found.inputs)} examples: {found.mean_agreement.value:.2f} ("
    assert said in card["text/plain"]
    assert said in card["text/html"]
    alt = re.search(r'alt="([^"]+)"', card["text/html"])
    assert alt is not None
    assert alt[1].startswith(f"{kind}: which inputs decide, before and after")


def test_flipped_examples_come_first() -> None:
    found = table(40)
    assert 0 < len(found.flipped) < 40
    shown = shown_examples(found)
    assert len(shown) == MAX_EXAMPLES
    n_flipped = min(MAX_EXAMPLES, len(found.flipped))
    assert shown[:n_flipped] == list(found.flipped)[:n_flipped]
    text = explanation_card(found)["text/plain"]
    assert f"{len(found.flipped)} examples with another prediction after" in text
    assert "40 examples, 12 shown" in text


def test_tokens_have_their_texts_and_inputs_their_names() -> None:
    found = texts(1)
    drawn = [text.get_text() for text in explanation_figure(found, [0]).axes[0].texts]
    words = [found.names[token] for token in found.inputs[0].tolist()]
    # Before and after, below the name of the example and beside the names of the models.
    assert [text for text in drawn if text in words] == words * 2
    names = [f"size $ {i}" for i in range(12)]
    axes = explanation_figure(table(2, names), [0, 1]).axes
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert set(labels) <= set(names)
    assert len(labels) == 10
    # The largest attribution stands at the top.
    largest = torch.maximum(table(2).before[0].abs(), table(2).after[0].abs()).argmax()
    assert labels[0] == names[int(largest)]


@pytest.mark.parametrize("names", [["a"] * 11, "abc", 3])
def test_names_that_do_not_fit_are_refused(names: object) -> None:
    with pytest.raises(nc.NbcompressError, match="names must"):
        table(2, names)  # type: ignore[arg-type]
