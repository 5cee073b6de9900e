"""Where a body binds a name."""

from __future__ import annotations

import ast

import pytest

from nbcompress.cell.bindings import bound_names, is_read_first, last_binding


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
    assert is_read_first(ast.parse(source).body, "m") is expected
