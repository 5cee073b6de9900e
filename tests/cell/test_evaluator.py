"""A trial of a cell: its point, its metrics and how it ends; here and in another process."""

from __future__ import annotations

import ast
import pickle
import threading
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from nbcompress.cell import CellBody, CellEvaluator, CellSource
from nbcompress.errors import TransportError
from nbcompress.run import Assignment, Outcome
from nbcompress.run.outcome import pack
from nbcompress.study.goal import Goal, State

GOAL = Goal.of(maximize=["accuracy"], subject_to=["kilobytes <= 60"])


def evaluator(source: str, goal: Goal = GOAL, keep: tuple[str, ...] = (), **names: Any) -> CellEvaluator:
    namespace: dict[str, Any] = {"__name__": "__main__", "torch": torch, "nn": nn, **names}
    setup = namespace.pop("setup", "")
    exec(setup, namespace)
    body = CellBody(CellSource(source, goal))
    space = body.space(lambda node: eval(compile(ast.Expression(node), "<test>", "eval"), namespace))
    return CellEvaluator(body, space, namespace, keep)


def run(source: str, point: dict[str, Any] | None = None, **options: Any) -> Outcome:
    return evaluator(source, **options)(Assignment(0, point or {"x": 0.5}, seed=1))


def test_a_complete_trial() -> None:
    outcome = run("x = Float(0, 1)\nkilobytes = 10\naccuracy = x\nextra = 3")
    assert outcome.state is State.COMPLETE
    assert outcome.values == {"accuracy": 0.5, "kilobytes": 10.0}


def test_grouped_parameters_arrive_as_a_dict() -> None:
    outcome = run(
        "a = Float(0, 1, each=['u', 'v'])\nkilobytes = 1\naccuracy = a['u'] - a['v']",
        {"a[u]": 0.75, "a[v]": 0.25},
    )
    assert outcome.values["accuracy"] == 0.5


def test_a_broken_constraint_ends_the_trial_after_its_binding() -> None:
    reached: list[str] = []
    source = "x = Float(0, 1)\nkilobytes = 100\nreached.append('after')\naccuracy = x"
    outcome = run(source, reached=reached)
    assert outcome.state is State.INFEASIBLE
    assert reached == []
    assert outcome.values == {"kilobytes": 100.0}


def test_the_constraint_is_checked_after_the_last_statement_that_binds_it() -> None:
    source = "x = Float(0, 1)\nkilobytes = 100\nif x:\n    kilobytes = 50\naccuracy = x"
    assert run(source).state is State.COMPLETE


def test_report_without_step_checks_at_once() -> None:
    source = "x = Float(0, 1)\nreport(kilobytes=61)\nkilobytes = accuracy = x"
    assert run(source).state is State.INFEASIBLE


def test_except_exception_cannot_swallow_the_end() -> None:
    source = "x = Float(0, 1)\ntry:\n    report(kilobytes=61)\nexcept Exception:\n    pass\nkilobytes = accuracy = x"
    assert run(source).state is State.INFEASIBLE


def test_a_metric_of_the_notebook_is_not_the_trials() -> None:
    source = "x = Float(0, 1)\nkilobytes = 1\nif x > 2:\n    accuracy = 1"
    outcome = run(source, accuracy=0.99)
    assert outcome.state is State.FAILED
    assert outcome.failure is not None
    assert outcome.failure.kind == "NotAssigned"


def test_a_metric_may_start_from_the_notebooks_value() -> None:
    outcome = run("x = Float(0, 1)\nkilobytes = 1\naccuracy += x", accuracy=1.0)
    assert outcome.values["accuracy"] == 1.5


def test_a_failed_trial_shows_the_line_of_the_cell_and_keeps_its_metrics() -> None:
    outcome = run("x = Float(0, 1)\nkilobytes = 10\naccuracy = 1 / 0\n")
    assert outcome.state is State.FAILED
    assert outcome.values == {"kilobytes": 10.0}
    assert outcome.failure is not None
    assert "line 4, in <module>\n    accuracy = 1 / 0" in outcome.failure.traceback
    assert "nbcompress/" not in outcome.failure.traceback


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "'text'", "None", "torch.ones(2)"])
def test_a_metric_that_is_no_finite_number_fails(value: str) -> None:
    assert run(f"x = Float(0, 1)\nkilobytes = 1\naccuracy = {value}").state is State.FAILED


@pytest.mark.parametrize("value", ["torch.tensor(0.5)", "1", "__import__('numpy').float32(0.5)"])
def test_numbers_of_other_kinds_count(value: str) -> None:
    outcome = run(f"x = Float(0, 1)\nkilobytes = 1\naccuracy = {value}")
    assert outcome.state is State.COMPLETE
    assert type(outcome.values["accuracy"]) is float


def test_modules_are_copies_and_writes_stay_inside() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    source = (
        "x = Float(0, 1)\nkilobytes = 1\nwith torch.no_grad():\n    model.weight.zero_()\naccuracy = total()\nfresh = 1"
    )
    outcome = run(source, model=model, setup="def total(): return model.weight.sum().item()")
    assert outcome.values["accuracy"] == 0
    assert outcome.remarks == ()
    assert torch.equal(model.weight, before)


def test_a_change_of_the_notebooks_model_is_undone_and_named() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    setup = "class Trainer:\n    def hit(self):\n        with torch.no_grad(): model.weight.zero_()"
    outcome = run("x = Float(0, 1)\nTrainer().hit()\nkilobytes = accuracy = 1", model=model, setup=setup)
    assert torch.equal(model.weight, before)
    assert outcome.remarks == (
        "A trial changed 'model' of the notebook; the change was undone. Work on a copy inside the cell.",
    )


def test_library_functions_are_there_and_a_users_name_wins() -> None:
    source = "x = Float(0, 1)\nkilobytes = size_bytes(model)\naccuracy = evaluate(model)"
    outcome = run(source, model=nn.Linear(1, 1), size_bytes=lambda model: 7, setup="def evaluate(m): return 1")
    assert outcome.values["kilobytes"] == 7
    source = "x = Float(0, 1)\nkilobytes = 1\naccuracy = callable(prune) + callable(finetune)"
    assert run(source).values["accuracy"] == 2


def test_kept_values() -> None:
    outcome = run("x = Float(0, 1)\nsmall = [x]\nkilobytes = accuracy = x", keep=("small", "absent"))
    assert outcome.kept == {"small": [0.5]}


def test_the_namespace_is_taken_when_the_search_starts() -> None:
    evaluate = evaluator(
        "x = Float(0, 1)\nkilobytes = 1\naccuracy = offset()", setup="base = 1\ndef offset(): return base"
    )
    before = evaluate(Assignment(0, {"x": 0.0}, 0)).values["accuracy"]
    evaluate._namespace["offset"].__globals__["base"] = 5
    assert evaluate(Assignment(1, {"x": 0.0}, 0)).values["accuracy"] == before == 1


SETUP = """
import functools
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
def helper(): return model.layer.weight.sum()
@torch.no_grad()
def evaluate(net): return (helper() + net.layer.bias.sum()).item()
model = Net()
"""


def test_what_is_sent_to_another_process_gives_the_same_outcome() -> None:
    source = (
        "x = Float(0, 1)\nkilobytes = size_bytes(model) / 1000\n"
        "model.layer.weight.data.fill_(x)\naccuracy = evaluate(model)"
    )
    here = evaluator(source, setup=SETUP, unrelated=threading.Lock())
    there = pickle.loads(pack(here))
    assignment = Assignment(0, {"x": 0.25}, seed=3)
    assert there(assignment).values == here(assignment).values


def test_what_cannot_be_sent_is_named() -> None:
    evaluate = evaluator("x = Float(0, 1)\nkilobytes = accuracy = lock.locked()", lock=threading.Lock())
    with pytest.raises(TransportError, match=r"'lock' \(a lock\) cannot be sent to another process: .*engine inline"):
        pack(evaluate)


def test_a_magic_sees_the_trials_names() -> None:
    from nbcompress.cell import current_globals

    seen: dict[str, Any] = {}

    def look() -> int:
        names = current_globals()
        assert names is not None
        seen["inner"] = names["inner"]
        return 1

    run("x = Float(0, 1)\ninner = x\nkilobytes = accuracy = look()", look=look)
    assert seen == {"inner": 0.5}
    assert current_globals() is None


def test_what_a_body_reads_of_the_notebook_is_told_by_name() -> None:
    source = "x = Float(0, 1)\nkilobytes = 1\naccuracy = score(x)"
    train = torch.arange(3.0)
    found = evaluator(source, setup="def score(x): return x * float(train.sum())", train=train, unread=7)
    assert found.reads()["train"] is train
    assert "unread" not in found.reads()


class Invents(dict[str, Any]):
    """An attribute dict that raises for some names and invents others."""

    def __getattr__(self, name: str) -> Any:
        return Invents() if name == "__wrapped__" else self[name]


@pytest.mark.parametrize("read", ["", "y = config.lr\n"])
def test_what_the_notebook_holds_is_not_asked_for_attributes(read: str) -> None:
    outcome = run(f"x = Float(0, 1)\n{read}kilobytes = 1\naccuracy = x", config=Invents(lr=1), call=mock.call)
    assert outcome.state is State.COMPLETE
