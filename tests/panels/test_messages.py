"""Points that come from the page."""

from __future__ import annotations

import pytest
from panel_studies import digits_space

from nbcompress.errors import PointError
from nbcompress.panels.messages import parse_limits, parse_point


def test_values_come_by_place() -> None:
    point = parse_point([0.5, 1, 0.01, 1, 12], digits_space())
    assert point == {"amount": 0.5, "bits": 4, "lr": 0.01, "method": "cluster", "clusters": 12}
    assert parse_point([0.5, 1, 0.01, 0, None], digits_space())["method"] == "plain"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, "5 values"),
        ([0.5], "5 values"),
        ({"amount": 0.5}, "5 values"),
        ([0.5, 3, 0.01, 0, None], "got the index 3"),
        ([0.5, -1, 0.01, 0, None], "got the index -1"),
        ([0.5, True, 0.01, 0, None], "got the index True"),
        ([0.5, "4", 0.01, 0, None], "got the index '4'"),
        ([9.0, 1, 0.01, 0, None], "does not reach 9.0"),
        ([0.5, 1, 0.01, 0, 12], "clusters"),
        ([0.5, 1, 0.01, 1, None], "clusters"),
        (["__import__('os')", 1, 0.01, 0, None], "takes numbers"),
    ],
)
def test_anything_else_is_refused(values: object, words: str) -> None:
    with pytest.raises(PointError, match=words):
        parse_point(values, digits_space())


def test_limits_come_by_place() -> None:
    limits = parse_limits([[0.3, 0.9], [0, 2], None, [1], None], digits_space())
    assert limits == {"amount": [0.3, 0.9], "bits": [2, 8], "method": ["cluster"]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, "5 entries"),
        ([None], "5 entries"),
        ([0.5, None, None, None, None], "a list"),
        ([None, [9], *[None] * 3], "index 9"),
    ],
)
def test_other_limits_are_refused(values: object, words: str) -> None:
    with pytest.raises(PointError, match=words):
        parse_limits(values, digits_space())
