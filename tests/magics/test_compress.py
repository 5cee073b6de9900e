"""`%compress` writes a search cell, or runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Notebook

SETUP = """
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 2))
x = torch.randn(60, 32)
part = (x, (x[:, 0] > 0).long())
def score(net):
    with torch.no_grad():
        return float((net(x).argmax(1) == part[1]).float().mean())
"""
LINE = "%compress net --data part --evaluate score --budget 1.5kB --trials 3 --tries weights --tries bits"


def test_it_shows_the_cell_which_runs_as_it_is(notebook: Notebook) -> None:
    notebook.must(SETUP)
    text = notebook.must(LINE).printed.rstrip()
    assert text.startswith('%%bo_search --trials 3 --maximize accuracy --subject-to "kilobytes <= 1.5"')
    notebook.must(text)
    study = notebook.names["study"]
    assert len(study.trials) == 3
    assert study.best.values["kilobytes"] <= 1.5


def test_in_a_notebook_the_cell_is_inserted_below(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook.must(SETUP)
    printed = notebook.must(LINE).printed.rstrip()
    monkeypatch.setattr("nbcompress.magics.base.Output.best_kind", "live")
    monkeypatch.setattr("nbcompress.magics.base.Output.ends_with_last_cell", False)
    inserted: list[str] = []
    monkeypatch.setattr(notebook.shell, "set_next_input", inserted.append)
    ran = notebook.must(LINE)
    assert inserted == [printed]
    assert "The search cell is below" in ran.shown[0]["text/plain"]
    assert "not tried: channels, since it was not asked for" in ran.shown[0]["text/plain"]


def test_run_returns_the_winner(notebook: Notebook) -> None:
    notebook.must(SETUP)
    notebook.must(f"small = {LINE} --run")
    small, study = notebook.names["small"], notebook.names["study"]
    assert notebook.names["score"](small) == pytest.approx(study.best.values["accuracy"])
    assert notebook.names["net"][0].weight.shape == (24, 32)


def test_run_that_is_interrupted_before_its_search_returns_no_older_model(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    notebook.must(SETUP)
    notebook.must("%compress net --data part --evaluate score --budget 2kB --trials 1 --tries bits --run")
    monkeypatch.setattr("nbcompress.magics.search_cell.prepare", interrupted)
    ran = notebook.run(f"small = {LINE} --run")
    assert type(ran.error).__name__ == "UsageError"
    assert "interrupted before its first trial, so there is no model" in ran.printed
    assert "small" not in notebook.names


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("%compress net --data part", "--budget says what the model may cost: --budget 60kB or --budget 5ms."),
        ("%compress net --data part --budget 1parsec", "1parsec"),
        ("%compress net --data part --budget 1kB --evaluate scor", "no variable 'scor' in this notebook. Did you mean"),
        ("%compress net --data part --budget 1kB --tries everything", "everything"),
        ("%compress net --budget 1kB", "The cell needs a metric: give --evaluate or --data."),
        ("%compress net --data part --budget 20B", "--budget cannot be met"),
        ("%compress part --data part --budget 1kB", "model"),
    ],
)
def test_refusals_are_one_line(notebook: Notebook, line: str, text: str) -> None:
    notebook.must(SETUP)
    refused = notebook.refused(line)
    assert refused.startswith("UsageError: %compress: ")
    assert text in refused
