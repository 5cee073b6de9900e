"""The search cell, as a person types it."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from torch import nn

if TYPE_CHECKING:
    from conftest import Notebook
BODY = "x = Float(0, 1)\nloss = (x - 0.3) ** 2\n"


def cell(options: str, body: str = BODY) -> str:
    return f"%%bo_search --panel off --sampler sobol {options}\n{body}"


def test_a_search_leaves_its_study(notebook: Notebook) -> None:
    ran = notebook.must(cell("--trials 5 --minimize loss --study s"))
    study = notebook.names["study"]
    assert list(study.trials.columns) == ["number", "state", "x", "loss", "seconds"]
    assert list(study.trials.state) == ["complete"] * 5
    assert study.best.values["loss"] == study.trials.loss.min()
    assert "x" not in notebook.names
    assert "loss" not in notebook.names
    assert ran.shown == []
    assert len(ran.printed.splitlines()) == 1


def test_running_it_again_repeats_no_trial(notebook: Notebook) -> None:
    notebook.must("runs = []")
    body = BODY + "runs.append(x)\n"
    notebook.must(cell("--trials 4 --minimize loss --study s", body))
    again = notebook.must(cell("--trials 4 --minimize loss --study s", body))
    assert len(notebook.names["runs"]) == 4
    assert "has its 4 trials already; none was run again" in again.printed
    notebook.must(cell("--trials 6 --minimize loss --study s", body))
    assert len(notebook.names["runs"]) == 6


def test_fresh_begins_the_next_generation(notebook: Notebook) -> None:
    notebook.must(cell("--trials 2 --minimize loss --study s"))
    notebook.must(cell("--trials 2 --minimize loss --study s --fresh"))
    assert notebook.names["study"].name == "s~2"


def test_an_unnamed_study_is_found_again(notebook: Notebook) -> None:
    notebook.must(cell("--trials 2 --minimize loss"))
    first = notebook.names["study"].name
    notebook.must(cell("--trials 2 --minimize loss", BODY + "# a comment\n"))
    assert notebook.names["study"].name == first
    notebook.must(cell("--trials 2 --minimize loss", BODY.replace("0.3", "0.4")))
    assert notebook.names["study"].name != first


def test_a_changed_function_or_model_is_a_line_of_warning(notebook: Notebook) -> None:
    setup = "import torch\nnet = torch.nn.Linear(2, 1)\nk = 3\ndef score(x):\n    return k * x + steepness"
    body = "x = Float(0, 1)\nsteepness = 1\nloss = score(x) + float(net.weight.detach().std())\n"
    line = "--trials 2 --minimize loss --study s"
    notebook.must(setup + "\nsteepness = 9")
    notebook.must(cell(line, body))
    # What the body gives a value itself is not the notebook's.
    notebook.must("steepness = 8")
    assert "was begun with" not in notebook.must(cell(line, body)).printed
    notebook.must("with torch.no_grad(): net.weight.mul_(3)")
    notebook.must("def score(x):\n    return -k * x + steepness")
    printed = notebook.must(cell(line, body)).printed
    for what in ("content of net", "version of score"):
        assert f"was begun with another {what}; its earlier trials were run with that." in printed


def test_a_changed_body_is_one_line_of_warning(notebook: Notebook) -> None:
    notebook.must(cell("--trials 2 --minimize loss --study s"))
    ran = notebook.must(cell("--trials 3 --minimize loss --study s", BODY.replace("0.3", "0.4")))
    assert "was begun with another body" in ran.printed


def test_start_points_come_first_in_order(notebook: Notebook) -> None:
    notebook.must(cell("--trials 3 --minimize loss --study s --start [{'x': 0.25}, {'x': 0.75}]"))
    assert list(notebook.names["study"].trials.x[:2]) == [0.25, 0.75]


def test_constraints_objectives_and_conditions(notebook: Notebook) -> None:
    body = (
        "method = Choice('a', 'b')\nx = Float(0, 1)\n"
        "factor = 1\nif method == 'b':\n    k = Int(2, 8)\n    factor = k\n"
        "kilobytes = 100 * x * factor\naccuracy = x\n"
    )
    options = "--trials 12 --maximize accuracy --minimize kilobytes --subject-to 'kilobytes <= 60'"
    notebook.must(cell(options, body))
    study = notebook.names["study"]
    trials = study.trials
    assert set(trials.state) == {"complete", "infeasible"}
    assert (trials.kilobytes[trials.state == "complete"] <= 60).all()
    assert (trials.kilobytes[trials.state == "infeasible"] > 60).all()
    assert trials.accuracy[trials.state == "infeasible"].isna().all()
    assert trials.k[trials.method == "a"].isna().all()
    assert [objective.metric for objective in study.goal.objectives] == ["accuracy", "kilobytes"]
    assert study.best.number == study.front[0].number


def test_kept_values_are_of_the_best_trial(notebook: Notebook) -> None:
    notebook.names["model"] = nn.Linear(2, 1)
    body = BODY + "small = prune(model, amount=x)\n"
    notebook.must(cell("--trials 4 --minimize loss --keep small --study s", body))
    small = notebook.names["study"].kept["small"]
    assert isinstance(small, nn.Linear)
    kept = sorted(path.name for path in Path("nbcompress.kept").rglob("small.nbz"))
    assert kept == ["small.nbz"]


def test_a_magic_in_the_body_sees_the_trial(notebook: Notebook) -> None:
    notebook.names["model"] = nn.Linear(4, 4)
    body = "x = Float(0.5, 0.9)\nsmall = %prune model --amount x\nloss = (small.weight == 0).float().mean()\n"
    ran = notebook.must(cell("--trials 2 --minimize loss", body))
    assert ran.shown == []
    trials = notebook.names["study"].trials
    assert trials.loss.tolist() == pytest.approx([round(x * 16) / 16 for x in trials.x], abs=0.07)
    text = notebook.refused(cell("--trials 2 --minimize loss --engine process", body))
    assert "%prune, which works under --engine inline only" in text


def test_failed_trials_are_rows_and_the_search_goes_on(notebook: Notebook) -> None:
    body = "x = Int(0, 9)\nif x % 2:\n    raise ValueError(f'odd {x}')\nloss = x\n"
    notebook.must(cell("--trials 10 --minimize loss", body))
    study = notebook.names["study"]
    failed = [trial for trial in study.all_trials if trial.state.value == "failed"]
    assert len(failed) == 5
    assert "line 4, in <module>" in failed[0].failure.traceback
    assert "raise ValueError" in failed[0].failure.traceback


def test_three_equal_failures_end_the_search(notebook: Notebook) -> None:
    ran = notebook.run(cell("--trials 10 --minimize loss", "x = Float(0, 1)\nloss = 1 / 0\n"))
    assert type(ran.error).__name__ == "UsageError"
    text = ran.printed.splitlines()[-1]
    assert "the first three trials failed with the same error" in text
    assert "ZeroDivisionError: division by zero" in text
    assert '", line 3, in <module>\n    loss = 1 / 0\n' in ran.printed
    assert len(notebook.names["study"].trials) == 3


def test_a_long_failure_is_clipped_in_the_sentence(notebook: Notebook) -> None:
    ran = notebook.run(
        cell("--trials 10 --minimize loss", "x = Float(0, 1)\nloss = x\nraise ValueError('no ' * 900)\n")
    )
    assert len(ran.printed.splitlines()[-1]) < 400
    (failure,) = {trial.failure.message for trial in notebook.names["study"].all_trials}
    assert len(failure) > 1000


def test_the_last_trials_of_a_noisy_search_run_the_best_again(notebook: Notebook) -> None:
    body = "import random\nx = Float(0, 1)\nloss = (x - 0.3) ** 2 + random.gauss(0, 0.1)\n"
    notebook.must(cell("--trials 12 --finalists 3 --minimize loss --study s", body))
    trials = notebook.names["study"].all_trials
    assert [trial.params["x"] in [earlier.params["x"] for earlier in trials[:9]] for trial in trials[9:]] == [True] * 3
    assert len(notebook.must("import nbcompress as nc\nnc.finalists(study)").value) == 3


def test_a_background_search_is_not_started_twice_nor_deleted(notebook: Notebook) -> None:
    notebook.must("import threading; go = threading.Event()")
    body = BODY + "go.wait(60)\n"
    notebook.must(cell("--trials 2 --minimize loss --study s --background", body))
    (thread,) = (running for running in threading.enumerate() if running.name == "search s")
    try:
        while not notebook.names["study"].all_trials:
            time.sleep(0.01)
        for line in (cell("--trials 3 --minimize loss --study s", body), "%bo_study s --delete"):
            assert "Study 's' is being searched in this process" in notebook.refused(line)
    finally:
        notebook.names["go"].set()
        thread.join(60)
    assert list(notebook.names["study"].trials.state) == ["complete"] * 2
    notebook.must("%bo_study s --delete")


def test_dry_run_stores_nothing(notebook: Notebook) -> None:
    ran = notebook.must(cell("--trials 10 --minimize loss --dry-run"))
    assert "1 parameters" not in ran.printed
    assert "x = Float(0" in ran.printed
    assert re.search(r"complete after .* s, loss", ran.printed)
    assert "nothing was stored" in ran.printed
    assert list(Path().glob("nbcompress*")) == []


def test_dry_run_shows_the_traceback_with_the_lines_of_the_cell(notebook: Notebook) -> None:
    ran = notebook.must(cell("--trials 10 --minimize loss --dry-run", "x = Float(0, 1)\nloss = {}[x]\n"))
    assert re.search(r'", line 3, in <module>\n +loss = \{\}\[x\]\n', ran.printed)
    assert "\n  KeyError: " in ran.printed


def test_out_names_the_variable(notebook: Notebook) -> None:
    notebook.must(cell("--trials 1 --minimize loss --out mine"))
    assert "study" not in notebook.names
    assert notebook.names["mine"].trials.shape[0] == 1


@pytest.mark.parametrize(
    ("options", "body", "text"),
    [
        ("--minimise loss", BODY, "there is no option --minimise. Did you mean '--minimize'?"),
        ("", BODY, "A search needs at least one objective. Write --maximize NAME or --minimize NAME."),
        ("--minimize los", BODY, "The cell never assigns 'los'. Did you mean 'loss'?"),
        ("--minimize x", BODY, "No name is both a parameter and a metric, but 'x' is; rename one of them."),
        ("--minimize loss", "loss = 1\n", "The cell declares no parameter."),
        ("--minimize loss", "", "the cell has no body"),
        (
            "--minimize loss",
            "x = Float(0, 1\nloss = x\n",
            "line 2, column 10: This is not Python: '(' was never closed.",
        ),
        ("--minimize loss", "x = Float(1, 0)\nloss = x\n", "line 2, column 11: low <= high must hold"),
        ("--minimize loss", "x = Float(0, hihg)\nloss = x\n", "hihg"),
        ("--minimize loss --subject-to 'loss < 1'", BODY, "A constraint reads 'NAME <= NUMBER'"),
        ("--minimize loss --sampler gpp", BODY, "A sampler is one of gp, sobol"),
        ("--minimize loss --acquisition eii", BODY, "got 'eii'. Did you mean 'ei'?"),
        ("--minimize loss --pruner mediam", BODY, "Did you mean 'median'?"),
        (
            "--minimize loss --engine pool",
            BODY,
            "--engine is inline, process or the name of an executor in this notebook, or ray, dask or the address",
        ),
        ("--minimize loss --jobs 2", BODY, "--jobs 2 needs another engine"),
        (
            "--minimize loss --engine process",
            BODY + "lock.locked()",
            "'lock' (a lock) cannot be sent to another process",
        ),
        ("--minimize loss", BODY + "await x\n", "A trial cannot run this"),
        ("--minimize loss --trials 0", BODY, "at least 1 is needed, but got 0."),
        ("--minimize loss --timeout soon", BODY, "A time limit is above 0 and reads like 90s, 10m or 2h"),
        ("--minimize loss --until never", BODY, 'A stop rule reads "no gain N" or "gain < X"'),
        ("--minimize loss --keep smal", BODY + "small = 1", "the cell never assigns 'smal'. Did you mean 'small'?"),
        ("--minimize loss --start [{'y': 1}]", BODY, "'y'"),
        ("--minimize loss --start 3", BODY, "--start is a list of dicts such as [{'x': 0.5}], but got 3."),
        ("--minimize loss --baseline nowhere", BODY, "there is no variable 'nowhere'"),
        ("--minimize loss --baseline 3", BODY, "--baseline is a dict with a number for each metric, but got 3."),
        ("--minimize loss --baseline {'los':3}", BODY, "the cell never assigns 'los'. Did you mean 'loss'?"),
        ("--minimize seconds", BODY, "The metric name 'seconds' is taken"),
        ("--minimize loss --minimize loss", BODY, "The objective 'loss' is given twice."),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(notebook: Notebook, options: str, body: str, text: str) -> None:
    notebook.must("import threading; lock = threading.Lock()")
    line = notebook.refused(f"%%bo_search --panel off {options}\n{body}")
    assert text in line
    assert "%%bo_search" in line
    assert list(Path().glob("nbcompress*")) == []


def test_a_changed_space_names_the_difference(notebook: Notebook) -> None:
    notebook.must(cell("--trials 2 --minimize loss --study s"))
    line = notebook.refused(cell("--trials 2 --minimize loss --study s", BODY.replace("0, 1", "0, 2")))
    assert "'x'" in line or "x" in line
    assert "--fresh" in line


def test_help(notebook: Notebook) -> None:
    assert "--subject-to" in notebook.must("%bo_search -h").printed
    assert "write %%bo_search, with two per cents" in notebook.refused("%bo_search --trials 3")
    assert "--subject-to" in notebook.must("%%bo_search -h\npass").printed


def test_values_of_the_notebook_on_the_line(notebook: Notebook) -> None:
    notebook.must("n, nm, limit, metric = 3, 'digits', 0.5, 'loss'")
    options = "--trials {n} --study $nm-{n} --minimize {metric} --subject-to 'loss <= {limit}' --seed n"
    notebook.must(cell(options))
    study = notebook.names["study"]
    assert (study.name, len(study.trials), str(study.goal)) == ("digits-3", 3, "minimize loss subject to loss <= 0.5")
    assert study.record["search"]["seed"] == 3
    # An expression stays Python.
    notebook.must(cell("--trials 1 --minimize loss --start [{'x':limit}]"))
    assert notebook.names["study"].best.params == {"x": 0.5}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--trials {m}", "%%bo_search: --trials: there is no variable 'm' in this notebook"),
        ("--trials m", "%%bo_search: --trials: there is no variable 'm' in this notebook"),
        ("--study $m", "%%bo_search: --study: there is no variable 'm' in this notebook"),
        ("--study $$m", "--study is a name without the characters $, { and }, but got '$m'."),
        ("--study '{{m}}'", "--study is a name without the characters $, { and }, but got '{m}'."),
    ],
)
def test_a_value_that_is_missing_on_the_line(notebook: Notebook, options: str, text: str) -> None:
    assert text in notebook.refused(cell(f"--minimize loss {options}"))
    assert list(Path().glob("nbcompress*")) == []


def test_the_end_says_where_the_kept_value_is(notebook: Notebook) -> None:
    notebook.names["model"] = nn.Linear(2, 1)
    body = BODY + "small = prune(model, amount=x)\nsize = x\n"
    line = "--trials 4 --minimize loss --keep small"
    printed = notebook.must(cell(line, body)).printed
    assert 'best: study.kept["small"]' in printed
    assert "warning" not in printed
    assert 'best: mine.kept["small"]' in notebook.must(cell(f"{line} --out mine --study s", body)).printed
    stored = notebook.must("%bo_study s").shown[0]
    assert 'best: mine.kept["small"]' in stored["text/plain"]
    saved = notebook.must(cell(line, body).replace("--panel off", "--panel text")).shown[0]
    assert 'best: study.kept["small"]' in saved["text/plain"]
    assert "best: study.kept[&quot;small&quot;]" in saved["text/html"]
    # The notebook's variable of that name is not the one that the search has kept.
    notebook.names["small"] = notebook.names["model"]
    printed = notebook.must(cell(line, body)).printed
    assert "warning: The notebook's own 'small' is as it was before the search" in printed


def test_with_several_objectives_the_end_says_how_to_choose(notebook: Notebook) -> None:
    notebook.names["model"] = nn.Linear(2, 1)
    body = "x = Float(0, 1)\nsmall = prune(model, amount=x)\naccuracy, size = x, x\n"
    line = "--trials 8 --maximize accuracy --minimize size --keep small"
    printed = notebook.must(cell(line, body)).printed
    assert 'best: study.front[0].kept["small"] in accuracy' in printed
    (call,) = re.findall(r"study\.pick\([^)]*\)", printed)
    picked = notebook.must(call).value
    assert isinstance(picked.kept["small"], nn.Linear)
    # The notebook's variable of that name is not the one that the search has kept.
    notebook.names["small"] = notebook.names["model"]
    printed = notebook.must(cell(f"{line} --study t", body)).printed
    assert 'the best trial\'s is study.front[0].kept["small"].' in printed


def test_a_budget_in_milliseconds(notebook: Notebook) -> None:
    notebook.must("import torch\nmodel, example = torch.nn.Linear(4, 2), torch.ones(1, 4)")
    body = "x = Float(0, 1)\nsmall = prune(model, amount=x)\nms = latency_ms(small, example, repeats=3)\nloss = x\n"
    notebook.must(cell("--trials 2 --minimize loss --subject-to 'ms <= 1000'", body))
    assert list(notebook.names["study"].trials.state) == ["complete"] * 2


def test_constraints_relative_to_the_baseline(notebook: Notebook) -> None:
    notebook.must("original = {'accuracy': 0.5, 'watts': 3}")
    body = "x = Float(0, 1)\naccuracy, size = x, x\n"
    line = "--trials 8 --minimize size --subject-to 'accuracy >= baseline - 0.1'"
    notebook.must(cell(f"{line} --baseline original", body))
    study = notebook.names["study"]
    assert str(study.goal) == "minimize size subject to accuracy >= 0.4"
    assert (study.trials.x[study.trials.state == "infeasible"] < 0.4).all()
    assert study.record["baseline"] == {"accuracy": 0.5, "watts": 3.0}
    text = notebook.refused(cell(line, body))
    assert "needs 'accuracy' of the original model. Give it with --baseline {'accuracy': NUMBER}." in text


@pytest.mark.parametrize("engine", ["inline", "process"])
def test_an_interrupt_that_a_body_raises_itself_fails_that_trial(notebook: Notebook, engine: str) -> None:
    body = "x = Int(0, 5)\nif x == 2:\n    raise KeyboardInterrupt\nloss = x\n"
    notebook.must(cell(f"--trials 6 --minimize loss --engine {engine}", body))
    trials = notebook.names["study"].trials
    assert list(trials.state[trials.x == 2]) == ["failed"]
    assert set(trials.state[trials.x != 2]) == {"complete"}


def test_a_trial_of_a_cell_can_be_run_again_with_what_the_body_reaches(notebook: Notebook) -> None:
    notebook.must("offset = 2\nbig = list(range(10))\ndef moved(x):\n    return x + offset\n")
    body = "x = Int(0, 5)\nmodel = [moved(x)]\nloss = model[0]\n"
    notebook.must(cell("--trials 6 --minimize loss --keep model", body))
    study = notebook.names["study"]
    notebook.must("again = study.rerun(int(study.trials.number[study.trials.x == 4].iloc[0]))")
    assert notebook.names["again"].kept["model"] == [6]
    assert "big" not in study.rerunner.make_evaluate.args[2]  # what the body does not read is not kept alive


def test_a_name_of_ours_that_the_notebook_uses_is_named(notebook: Notebook) -> None:
    notebook.must(
        "import torch.nn.utils.prune as prune\nfrom nbcompress import quantize\naccuracy = 0.5\n"
        "def save(x):\n    return x\n"
    )
    body = "x = Float(0, 1)\nprune, quantize, report(other=1)\naccuracy = save(x)\n"
    notebook.must(cell("--trials 2 --maximize accuracy", body))
    warnings = [text for text in notebook.names["study"].warnings if "the notebook's own" in text]
    assert [text.split("'")[1] for text in warnings] == ["prune", "save"]
    assert "delete it or write nbcompress.prune" in warnings[0]


def test_help_of_a_search_cell_by_itself(notebook: Notebook) -> None:
    for alone in ("%%bo_search -h", "%%bo_search --help\n", "%%bo_search -h\n\n"):
        assert "--maximize NAME" in notebook.must(alone).printed
    assert "the cell has no body" in notebook.refused("%%bo_search --minimize loss")
    assert "cell magic" in str(notebook.run("%%capture").error)  # those of others stay as they are


def test_a_value_that_is_no_study_is_not_replaced_without_a_word(notebook: Notebook) -> None:
    notebook.must("study = [1, 2]")
    notebook.must(cell("--trials 1 --minimize loss"))
    (warning,) = notebook.names["study"].warnings
    assert warning.startswith("The notebook's 'study', a list, is replaced by the study of this search")
    notebook.must(cell("--trials 1 --minimize loss --fresh"))
    assert notebook.names["study"].warnings == ()


def test_a_study_shows_its_saved_view_and_only_text_in_a_terminal(notebook: Notebook) -> None:
    notebook.must(cell("--trials 2 --minimize loss"))
    display = notebook.shell.display_formatter
    study = notebook.names["study"]
    display.active_types = ["text/plain"]
    assert set(display.format(study)[0]) == {"text/plain"}
    display.active_types = display.format_types
    shown = display.format(study)[0]
    assert {"text/html", "image/png", "text/plain", "application/vnd.nbcompress.study.v1+json"} <= set(shown)
    notebook.must("%unload_ext nbcompress")
    assert set(display.format(study)[0]) == {"text/plain"}


def test_a_cell_measures_its_winner_on_unseen_data(notebook: Notebook) -> None:
    notebook.must("def unseen(model):\n    return model['x'] / 2\n")
    body = "x = Float(0, 1)\nmodel = {'x': x}\naccuracy = x\n"
    line = "--trials 4 --maximize accuracy --keep model --sampler sobol"
    notebook.must(cell(f"{line} --test unseen --original {{'x':1.0}}", body))
    models = notebook.names["study"].record["test"]["models"]
    assert models["original"]["values"]["accuracy"][0] == 0.5
    assert "--test measures the models that trials keep: name them with --keep" in notebook.refused(
        cell("--trials 4 --maximize accuracy --test unseen", body)
    )
