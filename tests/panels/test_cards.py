"""Cards of compressors, footprints and sensitivity, on models of a few weights."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import nbcompress as nc
from nbcompress.measure import compare, footprint, sensitivity
from nbcompress.measure.accuracy import EvaluationScores
from nbcompress.panels import cards
from nbcompress.panels.card_figures import bars_figure, dots_figure
from nbcompress.panels.cards import Card, Drawing, FoldedTable, comparison_card, footprint_card, sensitivity_card

FORMS = {"text/plain", "text/html", "image/png"}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def is_plain(html: str) -> bool:
    return not any(tag in html for tag in ("<style", "<script", "<svg", "onerror="))


def data(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 16, generator=generator), torch.arange(n) % 4


def test_before_and_after(model: nn.Module) -> None:
    small = nc.prune(model, amount=0.5)
    scores = {"accuracy": {"before": 0.95, "after": 0.94}}
    card = comparison_card("%prune", compare(model, small), scores=scores, left_out={"0.bias": "it is a bias"})
    assert set(card) == FORMS
    assert is_plain(card["text/html"])
    assert "<td>-0.01</td>" in card["text/html"]
    assert "left out: 0.bias, it is a bias" in card["text/html"]
    assert card["text/plain"].startswith("%prune\n")
    assert re.search(r"accuracy +0.95 +0.94 +-0.01", card["text/plain"])
    assert "left out: 0.bias, it is a bias" in card["text/plain"]
    assert "Layers\nlayer  size, before  size, after\n" in card["text/plain"]
    assert "ms a call" not in card["text/plain"]


def test_with_data_accuracy_and_flips_are_told_in_every_form(model: nn.Module) -> None:
    found = compare(model, nc.prune(model, amount=0.9), data=data(), repeats=8)
    assert found.accuracy is not None
    card = comparison_card("%prune", found, remarks=["a remark"])
    assert is_plain(card["text/html"])
    for text in (
        "accuracy on 60 examples, with 95 % intervals",
        "now wrong",
        "McNemar",
        "a remark",
        "Accuracy of each class",
    ):
        assert text in card["text/plain"]
        assert text in card["text/html"]
    for name, places in (("Right before, wrong after", found.accuracy.broken),) * bool(found.accuracy.broken):
        table = card["text/html"].split(f"{name} ({len(places)})")[1].split("</table>")[0]
        rows = re.findall(r"<tr>(?:<td[^>]*>\d+</td>){4}</tr>", table)
        assert len(rows) == len(places)
    alt = re.search(r'alt="([^"]+)"', card["text/html"])
    assert alt is not None
    assert alt[1].startswith(
        "Histogram: values of the weights, zero are 0 of 640 before, 576 of 640 after. Dots: accuracy"
    )
    assert "Bars: kilobytes of each layer in the file; before" in alt[1]


def test_two_models_under_their_own_names(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare(model, nc.prune(model, amount=0.9), data=data(), repeats=8)
    assert found.weights is not None
    drawn: list[Figure] = []
    monkeypatch.setattr(cards, "render", lambda draw, dpi: drawn.append(draw()))
    for weights in (found.weights, replace(found.weights, counts={**found.weights.counts, "after": (0,) * 99})):
        comparison_card("%compare", replace(found, weights=weights), names=("model", "small.onnx"))
    legends = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in drawn[0].get_axes()]
    assert legends == [["model", "small.onnx"]] * 3
    # A file of another program shows no weights, so its name is not beside a line that is not there.
    assert [text.get_text() for text in drawn[1].get_axes()[0].get_legend().get_texts()] == ["model"]


def test_many_reasons_fold_away(model: nn.Module) -> None:
    reasons = {f"layer{place}": "because" for place in range(12)}
    card = comparison_card("%prune", compare(model, model), left_out=reasons)
    assert "Left out (12)" in card["text/html"]
    assert "left out: layer0" not in card["text/html"]


def test_what_stands_in_the_place_of_a_layer_counts_for_it() -> None:
    wide = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    card = comparison_card("%factorize", compare(wide, nc.factorize(wide, rank=0.1)))
    table = card["text/plain"].split("Layers\n")[1]
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["0", "2"]
    assert " -" not in table.split("\n", 2)[2]


def test_before_and_after_with_latency(model: nn.Module) -> None:
    card = comparison_card("%quantize", compare(model, nc.quantize(model, bits=4), torch.randn(1, 16), repeats=8))
    for name in ("ms a call", "MACs", "peak memory"):
        assert name in card["text/html"]
        assert name in card["text/plain"]


def test_footprints_side_by_side(model: nn.Module) -> None:
    both = footprint({"teacher": model, "student": nn.Linear(16, 4)})
    card = footprint_card(
        both,
        title="%distill",
        scores={"f": {"teacher": 0.9, "student": 0.8}},
        measured=EvaluationScores({"teacher": nc.accuracy(model, data())}),
    )
    assert set(card) == FORMS
    assert "Layers of teacher" in card["text/html"]
    assert "<td>0.9</td><td>0.8</td>" in card["text/html"]
    assert re.search(r"accuracy +\d+\.\d % \(.*\) +-", card["text/plain"])
    assert "Layers side by side\nlayer        size, teacher  size, student" in card["text/plain"]
    alone = footprint_card(footprint(model))
    assert set(alone) == FORMS
    assert "Layers of Sequential\nlayer    kind  parameters" in alone["text/plain"]


def test_what_each_layer_bears(model: nn.Module) -> None:
    found = sensitivity(model, lambda net: float(net[0].weight.abs().sum().detach()))
    card = sensitivity_card(found)
    assert set(card) == FORMS
    assert "prune 0.5" in card["text/html"]
    assert "Dots: change of the evaluation" in card["text/html"]
    failed = sensitivity_card(sensitivity(model, lambda net: 1.0 if (net[0].weight != 0).all() else 1 / 0, layers="0"))
    assert "at 0.5 failed: it raised ZeroDivisionError" in failed["text/plain"]
    assert "All of them failed." in failed["text/html"]


def test_a_model_with_very_many_layers_stays_small() -> None:
    names = [f"layer{place}" for place in range(900)]
    sizes = (("before", tuple(float(place) for place in range(900))), ("after", (None, *(1.0,) * 899)))
    rows = tuple((name, "1") for name in names)
    for draw in (partial(bars_figure, names, sizes, "kB"), partial(dots_figure, names, sizes, "change")):
        bundle = Card(
            "many", ("layer", "n"), rows[:5], (), (FoldedTable("Layers", ("layer", "n"), rows),), Drawing(draw, "alt")
        ).bundle()
        assert len(bundle["text/html"]) < 250_000
        assert "and 600 more, which are in the result" in bundle["text/html"]
        assert "... and 860 more" in bundle["text/plain"]


def test_hostile_names_are_text() -> None:
    bad = "<img src=x onerror=alert(1)> $\\frac{ \u202eolleh " + "n" * 10_000
    drawing = Drawing(partial(bars_figure, [bad], [(bad, (1.0,))], "$_"), bad)
    card = Card(bad, ("", bad), ((bad, "1"),), (bad,), (FoldedTable(bad, (bad, ""), ((bad, bad),)),), drawing)
    bundle: dict[str, Any] = card.bundle()
    assert "<img src=x" not in bundle["text/html"]
    assert "&lt;img src=x" in bundle["text/html"]
    assert set(bundle) == FORMS
    assert len(bundle["text/html"]) < 150_000
