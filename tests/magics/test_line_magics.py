"""Line magics in a shell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from nbcompress.magics.base import LineMagic
from nbcompress.magics.compressors import CLUSTER, DISTILL, FACTORIZE, PRUNE, QUANTIZE

if TYPE_CHECKING:
    from conftest import Notebook


@pytest.fixture
def ready(notebook: Notebook) -> Notebook:
    torch.manual_seed(0)
    notebook.names.update(
        model=nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)),
        inputs=torch.randn(32, 8),
        labels=torch.randint(0, 4, (32,)),
        torch=torch,
        nn=nn,
    )
    notebook.must(
        "train = (inputs, labels)\ndef evaluate(net): return (net(inputs).argmax(1) == labels).float().mean()"
    )
    return notebook


def test_a_semicolon_silences_the_result(ready: Notebook) -> None:
    ran = ready.must("%prune model --amount 0.5;")
    assert len(ran.shown) == 1
    assert "Sequential" not in ran.printed


def test_an_amount_may_be_a_variable_and_out_names_the_result(ready: Notebook) -> None:
    ready.must("share = 0.25\nsmall = %prune model --amount share --out other")
    assert ready.names["small"] is ready.names["other"]
    assert sum(int((weight == 0).sum()) for weight in ready.names["small"].parameters() if weight.ndim == 2) == 48


def test_data_in_brackets(ready: Notebook) -> None:
    ready.must("small = %quantize model --bits 4 --data (inputs, labels) --finetune 1 --evaluate evaluate")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("%prune model --amount 1.5", "%prune: --amount must be a number from 0 to 1, got 1.5"),
        ("%prune model", "%prune: prune needs --amount, a share from 0 to 1, or --threshold"),
        ("%prune 3 --amount 0.5", "%prune: MODEL must be a torch.nn.Module, but 3 is an int."),
        ("%prune model --amount 0.5 --layers 1x", "%prune: "),
        ("%prune model --amount 0.5 --finetune 2", "%prune: --finetune 2 needs data to train on: pass --data"),
        ("%prune model --amount 0.5 --layers 0,2", "no layer's name holds a comma. Write --layers 0 --layers 2."),
        ("%quantize model --data (inputs[:, :3], labels)", "Sequential must run on the example, float32[32, 3], but"),
        ("%prune model --amount", "%prune: --amount needs a value. See %prune -h."),
        ("%prune model 0.5", "'0.5' is not expected. Options have names, see %prune -h"),
        ("%prune model --amount 0.5 --lr 0.1", "--lr is the learning rate of --finetune EPOCHS"),
        ("%prune model --amount 0.5 --evaluate accuracy", "model alone: (lambda model: accuracy(model, test))."),
        ("%sensitivity model --evaluate evaluate --levels 3", "--levels must be a list of numbers, got 3"),
        ("%sensitivity model --evaluate (lambda net: 'a')", "as it came, but --evaluate takes a function from model"),
        ("%factorize model --rank 4", "%factorize: --rank is the share of a layer's full rank that is kept"),
        ("%quantize model --bits 9", "%quantize: --bits is an integer from 1 to 8, but got 9"),
        (
            "%quantize model --bits 4 --evaluate 3",
            "takes a function from model to a number, but got an int.",
        ),
        ("%quantize model --bits 4 --evaluate str", "but it returned a str."),
        ("%quantize model --evaluate 1/0", "evaluating 1/0 raised ZeroDivisionError: division by zero"),
        ("%quantize model --evaluate (lambda net: 1 / 0)", "%quantize: --evaluate raised ZeroDivisionError"),
        ("%cluster model --clusters 0", "%cluster: --clusters is an integer from 1 to 65536"),
        ("%distill model model", "%distill: --data is needed"),
        ("%footprint []", "%footprint: there is no model in an empty list."),
        ("%footprint [model, 3]", "%footprint: MODEL must be a torch.nn.Module, but 3 is an int."),
        ("%sensitivity model", "%sensitivity: --evaluate is missing. See %sensitivity -h."),
        ("%bo_study nothing", "%bo_study: "),
        ("%bo_study --delete", "%bo_study: --delete needs the name of a study."),
        ("%bo_report --html x.html", "%bo_report: "),
        ("%bo_report", "%bo_report: --html is missing. See %bo_report -h."),
    ],
)
def test_errors_are_one_line(ready: Notebook, line: str, text: str) -> None:
    assert text in ready.refused(line)


@pytest.mark.parametrize(
    "line", ["%sensitivity model", "%prune model --amount 0.5", "%distill model model --data train"]
)
@pytest.mark.parametrize(
    "text", ["layers=(3, 4) were given", "data must be sorted", "evaluate is off: pass amount='x', or data="]
)
def test_what_the_user_raises_arrives_verbatim(ready: Notebook, line: str, text: str) -> None:
    ready.must(f"def fails(net): raise ValueError({text!r})")
    assert ready.refused(f"{line} --evaluate fails").endswith(f"--evaluate raised ValueError: {text}")


def test_errors_name_options_as_they_were_typed(ready: Notebook) -> None:
    assert "%prune: --layers none* matches no layer" in ready.refused("%prune model --amount 0.5 --layers none*")
    ready.must("import nbcompress as nc\ndef cut(net): return nc.prune(net, 0.5, layers='none*')")
    raised = "--evaluate raised LayerNotFound: layers='none*' matches no layer"
    assert raised in ready.refused("%sensitivity model --evaluate cut")


def test_studies_are_listed_shown_reported_and_deleted(ready: Notebook) -> None:
    ready.must(
        "%%bo_search --panel off --trials 3 --minimize loss --study s --sampler sobol\nx = Float(0, 1)\nloss = x"
    )
    listed = ready.must("%bo_study").shown[0]
    assert "s      3 complete  minimize loss" in listed["text/plain"]
    shown = ready.must("again = %bo_study s").shown[0]
    assert "text/html" in shown
    assert "All 3 trials are done." in shown["text/plain"]
    assert len(ready.names["again"].trials) == 3
    ready.must("%bo_report --html page.html")
    assert Path("page.html").stat().st_size > 10_000
    assert "there is no folder" in ready.refused("%bo_report s --html nowhere/page.html")
    ready.must("%bo_study s --delete")
    assert "No study" in ready.must("%bo_study").shown[0]["text/plain"]


@pytest.mark.parametrize("name", ["prune", "quantize", "cluster", "factorize", "distill", "footprint", "sensitivity"])
def test_help_has_examples(ready: Notebook, name: str) -> None:
    text = ready.must(f"%{name} -h").printed
    assert f"usage: %{name}" in text
    assert "examples:\n" in text


def test_a_card_shows_accuracy_and_flips_where_there_are_labels(ready: Notebook) -> None:
    for line in ("%prune model --amount 0.5", "%quantize model", "%cluster model --clusters 3", "%factorize model"):
        (card,) = ready.must(f"a = {line} --data train").shown
        for form in ("text/plain", "text/html"):
            assert "accuracy on 32 examples, with 95 % intervals" in card[form]
            assert "was trained on" not in card[form]
        assert card["text/plain"].startswith(f"{line} --data train\n")
    (card,) = ready.must("a = %quantize model --data train --finetune 1").shown
    assert "train was trained on: on other data accuracy may be lower" in card["text/plain"]
    assert "was trained on: take other data" not in card["text/plain"]
    of_train = "(lambda net: net(train[0]).sum().item())"
    (card,) = ready.must(f"a = %quantize model --data train --finetune 1 --evaluate {of_train}").shown
    assert f"{of_train} reads train, which was trained on: take other data" in card["text/plain"]
    (card,) = ready.must("a = %distill model model --data train --epochs 1 --control --finetune 1 --layers 0").shown
    assert "without teacher" in card["text/plain"]
    assert "model to distilled: " in card["text/plain"]


def test_an_error_of_the_card_loses_no_result(ready: Notebook) -> None:
    ready.must("calls = []\ndef once(net):\n    calls.append(net)\n    return 1.0 if len(calls) == 1 else 1 / 0")
    ran = ready.must("small = %prune model --amount 0.5 --evaluate once")
    assert "The result is returned, but it could not be measured: --evaluate raised" in ran.shown[0]["text/plain"]
    assert ready.names["small"] is ready.names["calls"][1]


@pytest.mark.parametrize("magic", [PRUNE, QUANTIZE, CLUSTER, FACTORIZE, DISTILL], ids=lambda magic: magic.name)
def test_every_compressor_takes_the_common_options(magic: LineMagic) -> None:
    common = "--layers --data --example --evaluate --finetune --lr --seed --out"
    assert set(common.split()) <= set(magic.parser.options())


def test_public_functions_need_no_import_in_expressions(ready: Notebook) -> None:
    (card,) = ready.must("a = %prune model --amount 0.5 --evaluate (lambda net: accuracy(net, train))").shown
    assert "(lambda net: accuracy(net, train))" in card["text/plain"]
    assert "accuracy" not in ready.names


@pytest.mark.parametrize("as_url", [False, True])
def test_any_study_of_optuna_is_shown_and_reported(notebook: Notebook, as_url: bool) -> None:
    notebook.must(
        "import optuna\noptuna.logging.set_verbosity(optuna.logging.ERROR)\n"
        "theirs = optuna.create_study(storage='sqlite:///mine.db', study_name='their study')\n"
        "theirs.optimize(lambda trial: trial.suggest_float('x', 0, 1), n_trials=3)"
    )
    storage = "sqlite:///mine.db" if as_url else "mine.db"
    assert "by another program" in notebook.must(f"%bo_study --storage {storage}").shown[0]["text/plain"]
    ran = notebook.must(f"read = %bo_study 'their study' --storage {storage}")
    assert "their study" in ran.shown[0]["text/plain"]
    assert len(notebook.names["read"].trials) == 3
    assert notebook.names["read"].best.values["value"] == notebook.names["theirs"].best_value
    notebook.must(f"%bo_report 'their study' --html r.html --storage {storage}")
    assert "their study" in Path("r.html").read_text()
    assert "was not begun by nbcompress" in notebook.refused(
        "%bo_study 'their study' --storage sqlite:///mine.db --delete"
    )
