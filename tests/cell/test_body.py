"""Bodies: the metrics that they must assign, compilation, and the statements that assign a name."""

from __future__ import annotations

import ast

import pytest

from nbcompress.cell import CellBody, CellSource
from nbcompress.cell.body import bound_names, is_read_before_assigned, last_binding
from nbcompress.errors import GoalError, SpaceSyntaxError
from nbcompress.study.goal import Goal

GOAL = Goal.of(maximize=["accuracy"], subject_to=["kilobytes <= 60"])
TEXT = "x = Float(0, 1)\nkilobytes = x\naccuracy = x\n"


def body(source: str, goal: Goal = GOAL) -> CellBody:
    return CellBody(CellSource(source, goal))


def test_space_comes_from_the_declarations() -> None:
    assert list(body(TEXT).space(lambda node: eval(compile(__import__("ast").Expression(node), "", "eval")))) == ["x"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x = Float(0, 1)\naccuracy = x\n", "The cell never assigns 'kilobytes'. A metric is a variable of the body"),
        ("x = Float(0, 1)\nkilobyte = accuracy = x\n", "Did you mean 'kilobyte'\\?"),
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
    assert body(TEXT).metrics_to_hide == {"accuracy", "kilobytes"}
    assert body("x = Float(0, 1)\nkilobytes = 1\naccuracy += x\n").metrics_to_hide == {"kilobytes"}


@pytest.mark.parametrize(
    ("source", "binds"),
    [
        ("m = 1", True),
        ("m += 1", True),
        ("m: float = 1", True),
        ("m: float", False),
        ("a, (m, *b) = x", True),
        ("[m] = x", True),
        ("for m in x: pass", True),
        ("for i in x:\n    m = i", True),
        ("if x:\n    m = 1", True),
        ("with x as m: pass", True),
        ("with x:\n    m = 1", True),
        ("try:\n    m = 1\nexcept E: pass", True),
        ("while x:\n    m = 1", True),
        ("match x:\n    case [m, *_]: pass", True),
        ("match x:\n    case {**m}: pass", True),
        ("print(m := 1)", True),
        ("y = [m := i for i in x]", True),
        ("y = [m for m in x]", False),
        ("import m", True),
        ("from a import b as m", True),
        ("def m(): pass", False),
        ("def f():\n    m = 1", False),
        ("class K:\n    m = 1", False),
        ("f = lambda: (m := 1)", False),
        ("x.m = 1", False),
        ("x[m] = 1", False),
        ("print(m)", False),
    ],
)
def test_binding_forms(source: str, binds: bool) -> None:
    assert ("m" in bound_names(ast.parse(source).body[0])) is binds


def test_the_last_top_level_statement_counts() -> None:
    body = ast.parse("m = 1\nx = 2\nfor i in x:\n    m = i\ny = 3").body
    assert last_binding(body, "m") == 2
    assert last_binding(body, "z") is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("m = 1\nprint(m)", False),
        ("print(m)\nm = 1", True),
        ("m += 1", True),
        ("m = m + 1", True),
        ("if m: m = 1", True),
    ],
)
def test_read_before_bound(source: str, expected: bool) -> None:
    assert is_read_before_assigned(ast.parse(source).body, "m") is expected
