"""What the form of JupyterLab asks the kernel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conftest import Notebook

SETUP = """
import torch
from torch import nn
Net = nn.Linear
old = nn.Linear(8, 3)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
new = nn.Linear(8, 3)
activation = nn.ReLU()
test = (torch.randn(8, 8), torch.randint(0, 3, (8,)))
train = (torch.randn(8, 8), torch.randint(0, 3, (8,)))
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*train))
one_tensor = train[0]
def other(a, b): return 0
def score(net): return 0.5
def evaluate(net, part=train): return 0.5
def keyword(net, *, needed): return 0.5
"""


def ask(notebook: Notebook, call: str) -> Any:
    """Ask as the front end does."""
    expression = f"__import__('nbcompress.magics.insert_form', fromlist=['x']).{call}"
    answer = notebook.shell.user_expressions({"answer": expression})["answer"]
    assert answer["status"] == "ok", answer
    return answer["data"]["application/json"]


def test_the_form_offers_models_data_and_functions(notebook: Notebook) -> None:
    assert ask(notebook, "form_choices()")["models"] == []
    notebook.must(SETUP)
    choices = ask(notebook, "form_choices()")
    assert [item["name"] for item in choices["models"]] == ["model", "new", "old"]
    assert choices["models"][0]["kilobytes"] == (8 * 16 + 16 + 16 * 3 + 3) * 4 / 1000
    assert [item["name"] for item in choices["data"]] == ["train", "test", "loader"]
    assert [item["name"] for item in choices["metrics"]] == ["evaluate", "score"]
    assert "bits" in choices["tries"]


def test_the_kernel_writes_a_cell_that_runs(notebook: Notebook) -> None:
    notebook.must(SETUP)
    request = {"model": "model", "data": "train", "evaluate": "evaluate", "budget": ["2kB"], "trials": 2, "tries": None}
    answer = ask(notebook, f"form_cell({json.dumps(request)!r})")
    assert answer["before"] == ""
    assert answer["cell"].startswith("%%bo_search --trials 2 --maximize accuracy ")
    notebook.must(answer["cell"].replace("%%bo_search", "%%bo_search --panel off", 1))
    assert len(notebook.names["study"].trials) == 2


def test_a_form_that_cannot_be_met_says_why(notebook: Notebook) -> None:
    notebook.must(SETUP)
    request = {"model": "model", "data": None, "evaluate": "evaluate", "budget": ["1B"], "trials": 2}
    assert "cannot be met" in ask(notebook, f"form_cell({json.dumps(request)!r})")["problem"]
    request = {**request, "model": "missing"}
    assert "there is no variable 'missing'" in ask(notebook, f"form_cell({json.dumps(request)!r})")["problem"]
