"""Surrogate, acquisition and noise of a search cell: a fixed word, or a variable of the notebook."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Notebook

BODY = "x = Float(0, 1)\nstd = 0.01\nloss = (x - 0.3) ** 2\n"
NAMES = """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import botorch, gpytorch
rbf = "no kernel: the fixed word wins"
kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.PeriodicKernel())
def improvement(model, X_baseline, X_pending, best_f):
    return botorch.acquisition.LogExpectedImprovement(model, best_f)
"""


def cell(options: str) -> str:
    return f"%%bo_search --panel off --trials 6 --minimize loss --study s --fresh {options}\n{BODY}"


def test_words_and_variables(notebook: Notebook) -> None:
    notebook.must(NAMES)
    for options, recorded in (
        ("--surrogate rbf", {"surrogate": "rbf"}),
        ("--surrogate kernel", {"surrogate": {"object": "ScaleKernel(PeriodicKernel)", "is stored": False}}),
        ("--kernel kernel --mean linear", {"kernel": {"object": "ScaleKernel(PeriodicKernel)", "is stored": False}}),
        ("--acquisition improvement", {"acquisition": {"object": "improvement", "is stored": False}}),
        ("--acquisition mes", {"acquisition": "mes"}),
        ("--noise std", {"noise": [["", "std"]]}),
        ("--noise loss=std", {"noise": [["loss", "std"]]}),
    ):
        notebook.must(cell(options))
        study = notebook.names["study"]
        assert {name: study.record["search"][name] for name in recorded} == recorded
        assert len(study.trials) == 6
        assert ("std" in study.trials) == ("noise" in options)


def test_a_measured_sensitivity(notebook: Notebook) -> None:
    """By metric, of each layer; recorded, and asked again for the predictions of a stored study."""
    notebook.must("layers = list('abcdef')\nweights = {name: 10 * i for i, name in enumerate(layers)}")
    layers = """%%bo_search --panel off --trials 12 --minimize loss --subject-to "kb <= 60" --study s --fresh {}
amount = Float(0, 1, each=layers)
loss = sum(amount.values())
kb = sum(weights[name] * (1 - share) for name, share in amount.items())
"""
    notebook.must(layers.format("--sensitivity \"{'kb': weights}\""))
    study = notebook.names["study"]
    assert study.record["search"]["sensitivity"] == {"kb": {name: 10.0 * i for i, name in enumerate("abcdef")}}
    notebook.must("%bo_study s")
    refused = notebook.refused(layers.format("--sensitivity \"{'size': weights}\""))
    assert "--sensitivity as a dict is by metric (loss, kb), but got 'size'" in refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            "--surrogate matern5",
            "--surrogate is matern52, .* or the name of a variable in this notebook, but got 'mate",
        ),
        ("--surrogate rbf --kernel matern52", "--surrogate holds kernel and mean already, but --kernel is given too"),
        ("--noise sdt", "--noise: the cell never assigns 'sdt'. Did you mean 'std'"),
        ("--noise accuracy=std", r"--noise is of a metric of the search \(loss\), but got 'accuracy'"),
        ("--acquisition kg --maximize std", "--acquisition kg is for one objective, but there are 2"),
    ],
)
def test_what_is_refused(notebook: Notebook, options: str, text: str) -> None:
    assert re.search(text, notebook.refused(cell(options)))
