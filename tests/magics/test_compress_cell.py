"""The written cell runs as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nbcompress.cell.compress_cell import CellNames, compress_cell

if TYPE_CHECKING:
    from conftest import Notebook

SETUP = """
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 16), nn.ReLU(), nn.Linear(16, 3))
part = (torch.randn(16, 1, 8, 8), torch.randint(0, 3, (16,)))
def accuracy(net):
    with torch.no_grad():
        return float((net(part[0]).argmax(1) == part[1]).float().mean())
"""


@pytest.mark.parametrize(
    ("budget", "evaluate"),
    [(["3kB", "50ms"], "accuracy"), ("3kB", None)],
    ids=["a function called accuracy", "no function"],
)
def test_a_written_cell_runs_and_its_first_trials_are_feasible(
    notebook: Notebook, budget: object, evaluate: str | None
) -> None:
    notebook.must(SETUP)
    if evaluate is None:
        notebook.must("del accuracy")
    names = CellNames("net", evaluate, "part")
    cell = compress_cell(
        notebook.names["net"],
        budget,
        names=names,
        data=notebook.names["part"],
        trials=4,
        namespace=notebook.names,
        tries=["channels", "weights", "bits", "training"],
    )
    notebook.must(cell.text.replace("%%bo_search", "%%bo_search --panel off --sampler sobol --study s", 1))
    study = notebook.names["study"]
    assert list(study.trials.state[: len(cell.start)]) == ["complete"] * len(cell.start)
    assert study.best.values["kilobytes"] <= 3
    assert 0 <= study.best.values["accuracy"] <= 1
    assert study.record["baseline"]["accuracy"] >= 0
    assert study.best.kept["small"](notebook.names["part"][0]).shape == (16, 3)
