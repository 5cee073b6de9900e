"""The card of an explanation, for images, tokens and tables."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.measure import Explanation
from nbcompress.panels.explanation_card import (
    MAX_EXAMPLES,
    explain_flips,
    explanation_card,
    explanation_figure,
    flips_table,
    shown_examples,
)


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
    [(texts, "Coloured tokens"), (table, "Bars"), (lambda: images(3), "Maps")],
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
    # The bars of both models share an axis and have no colour for a sign.
    assert ("on its own scale" in alt[1], "red counts" in alt[1]) == (kind != "Bars",) * 2


def test_flipped_examples_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbcompress.panels.cards.render", lambda *_args, **_keywords: None)
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


def flipping() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    x = torch.randn(200, 12)
    return model, nc.prune(model, amount=0.8), x, model(x).argmax(1)


def test_flipped_examples_of_data_are_explained_under_their_numbers() -> None:
    model, small, x, labels = flipping()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=7, shuffle=True)
    for data in ((x, labels), loader, [{"input": x[:100], "y": labels[:100]}, {"input": x[100:], "y": labels[100:]}]):
        change = nc.compare(model, small, data=data, repeats=0).accuracy
        assert change is not None
        found = explain_flips(model, small, data, change, seconds=1e9)
        assert found is not None
        assert found.numbers == change.broken[:4]
        assert torch.equal(found.inputs, x[list(found.numbers)])
        rows = flips_table(found).rows
        assert [row[0] for row in rows] == [str(number) for number in found.numbers]
    assert explain_flips(model, small, data, change, seconds=0) is None


def test_what_cannot_be_explained_is_left_out_of_a_card() -> None:
    model, small, x, labels = flipping()
    change = nc.compare(model, small, data=(x, labels), repeats=0).accuracy
    assert change is not None
    # Other examples than those that were measured.
    assert explain_flips(model, small, (x.flip(0), labels), change, seconds=1e9) is None
    same = nc.compare(model, model, data=(x, labels), repeats=0).accuracy
    assert same is not None
    assert explain_flips(model, model, (x, labels), same, seconds=1e9) is None
    rounded = [nn.Sequential(nn.Flatten(), *[part]) for part in (model, small)]
    for part in rounded:
        part.register_forward_pre_hook(lambda _module, args: (args[0].round(),))
    change = nc.compare(*rounded, data=(x, labels), repeats=0).accuracy
    assert change is not None
    assert change.broken
    assert explain_flips(*rounded, (x, labels), change, seconds=1e9) is None
