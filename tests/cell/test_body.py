"""A body, read and compiled once."""

from __future__ import annotations

import pytest

from nbcompress.cell import CellBody, Origin
from nbcompress.errors import GoalError, SpaceSyntaxError
from nbcompress.study.goal import Goal

GOAL = Goal.of(maximize=["accuracy"], subject_to=["kilobytes <= 60"])
TEXT = "x = Float(0, 1)\nkilobytes = x\naccuracy = x\n"


def body(source: str, goal: Goal = GOAL) -> CellBody:
    return CellBody(Origin(source, goal))


def test_space_comes_from_the_declarations() -> None:
    assert list(body(TEXT).space(lambda node: eval(compile(__import__("ast").Expression(node), "", "eval")))) == ["x"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x = Float(0, 1)\naccuracy = x\n", "The cell never assigns 'kilobytes'. A metric is a variable of the body"),
        ("x = Float(0, 1)\nkilobyte = accuracy = x\n", "Did you mean 'kilobyte'\\?"),
        (
            "kilobytes = Float(0, 1)\naccuracy = 1\n",
            "'kilobytes' is a parameter of this cell and cannot be a metric too",
        ),
        ("x = Float(0, 1)\ndef kilobytes(): pass\naccuracy = x\n", "never assigns 'kilobytes'"),
    ],
)
def test_metrics_must_be_assigned(source: str, text: str) -> None:
    with pytest.raises(GoalError, match=text):
        body(source)


def test_what_the_compiler_refuses_has_a_place() -> None:
    with pytest.raises(SpaceSyntaxError, match="line 5"):
        body(TEXT + "return 1\n")


def test_digest_ignores_layout_and_comments() -> None:
    assert body(TEXT).digest == body("# why\n\nx = Float(0,\n  1)\nkilobytes = x\naccuracy = x").digest
    assert body(TEXT).digest != body(TEXT.replace("accuracy = x", "accuracy = -x")).digest


def test_magics_are_named() -> None:
    text = TEXT + "get_ipython().run_line_magic('prune', 'model')\nget_ipython().system('ls')\n"
    assert body(text).magics == ("%prune", "!ls")


def test_metrics_of_the_notebook_are_hidden_unless_read_first() -> None:
    assert body(TEXT).hidden == {"accuracy", "kilobytes"}
    assert body("x = Float(0, 1)\nkilobytes = 1\naccuracy += x\n").hidden == {"kilobytes"}
