"""Cards of compressors, footprints and sensitivity, on models of a few weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.measure import compare, footprint, sensitivity
from nbcompress.panels import Card, Series, comparison_card, footprint_card, sensitivity_card

FORMS = {"text/plain", "text/html", "image/png"}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def is_plain(html: str) -> bool:
    return not any(tag in html for tag in ("<style", "<script", "<svg", "onerror="))


def test_before_and_after(model: nn.Module) -> None:
    small = nc.prune(model, amount=0.5)
    scores = {"accuracy": {"before": 0.95, "after": 0.94}}
    card = comparison_card("%prune", compare(model, small), scores=scores, left_out={"0.bias": "it is a bias"})
    assert set(card) == FORMS
    assert is_plain(card["text/html"])
    assert "<td>-0.01</td>" in card["text/html"]
    assert "left out: 0.bias, it is a bias" in card["text/html"]
    assert card["text/plain"].startswith("%prune\n")
    assert "accuracy: before 0.95, after 0.94" in card["text/plain"]
    assert "left out: 0.bias, it is a bias" in card["text/plain"]


def test_before_and_after_with_latency(model: nn.Module) -> None:
    card = comparison_card("%quantize", compare(model, nc.quantize(model, bits=4), torch.randn(1, 16), repeats=8))
    assert "ms a call" in card["text/html"]
    assert "MACs" in card["text/html"]


def test_footprints_side_by_side(model: nn.Module) -> None:
    both = footprint({"teacher": model, "student": nn.Linear(16, 4)})
    card = footprint_card(both, title="%distill", scores={"f": {"teacher": 0.9, "student": 0.8}})
    assert set(card) == FORMS
    assert "Layers of teacher" in card["text/html"]
    assert "<td>0.9</td><td>0.8</td>" in card["text/html"]
    assert set(footprint_card(footprint(model))) == FORMS


def test_what_each_layer_bears(model: nn.Module) -> None:
    found = sensitivity(model, lambda one: float(one[0].weight.abs().sum().detach()))
    card = sensitivity_card(found)
    assert set(card) == FORMS
    assert "prune 0.5" in card["text/html"]


def test_hostile_names_are_text() -> None:
    bad = "<img src=x onerror=alert(1)> $\\frac{ \u202eolleh " + "n" * 10_000
    card = Card(
        bad[:200], ("", bad[:80]), ((bad, "1"),), (bad[:90],), labels=(bad,), series=(Series(bad, (1.0,)),), unit="$_"
    )
    bundle: dict[str, Any] = card.bundle()
    assert "<img src=x" not in bundle["text/html"]
    assert "&lt;img src=x" in bundle["text/html"]
    assert set(bundle) == FORMS
    assert len(bundle["text/html"]) < 150_000
