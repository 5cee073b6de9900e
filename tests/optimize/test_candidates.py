"""Searching within a part of the space: narrowed ranges and fixed parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbcompress.errors import PointError
from nbcompress.optimize import History, proposer
from nbcompress.optimize.candidates import NOTE, ranges_text
from nbcompress.optimize.proposers.gp import GaussianProcessProposer
from nbcompress.space import Choice, Float, Int, Point, Space

SPACE = Space(
    {
        "x": Float(0, 1),
        "lr": Float(1e-4, 1e-1, log=True),
        "kind": Choice("plain", "deep", "wide"),
        "depth": Int(1, 8, when={"kind": "deep"}),
        "bits": Choice(2, 4, 8),
    }
)
RANGES: dict[str, list[Any]] = {"x": [0.6, 0.8], "kind": ["deep", "wide"], "bits": [4], "depth": [3, 5]}


def made(space: Space = SPACE) -> GaussianProcessProposer:
    gp = proposer("gp", space, n_objectives=1)
    assert isinstance(gp, GaussianProcessProposer)
    return gp


def loss(point: Point) -> float:
    return float((point["x"] - 0.2) ** 2 + 0.1 * (point.get("depth") or 0) + point["bits"] / 10)  # type: ignore[operator]


def grown(gp: GaussianProcessProposer, history: History, n: int) -> tuple[History, list[str]]:
    reasons = []
    for _ in range(n):
        found = gp.propose(len(history), history)
        reasons.append(found.reason)
        history = history.with_point(found.point, "told", [loss(found.point)], note=found.note)
    return history, reasons


def is_within(point: Point) -> bool:
    return (
        0.6 <= point["x"] <= 0.8  # type: ignore[operator]
        and point["kind"] in ("deep", "wide")
        and point["bits"] == 4
        and point.get("depth", 4) in (3, 4, 5)
    )


@pytest.mark.parametrize("before", [0, 3, 12])
def test_proposals_keep_within_the_ranges_and_say_so(before: int) -> None:
    gp = made()
    history, _ = grown(gp, History.empty(1), before)
    assert all(NOTE not in note for note in history.notes)
    gp.narrowing.narrow_to(RANGES)
    history, reasons = grown(gp, history, 8)
    assert all(is_within(point) for point in history.points[before:])
    assert len({tuple(point.items()) for point in history.points}) == len(history)
    assert all("within x from 0.6 to 0.8, kind deep or wide, bits 4, depth from 3 to 5" in reason for reason in reasons)
    assert all(note[NOTE] == RANGES for note in history.notes[before:])


def test_a_resumed_search_goes_on_within_the_same_ranges() -> None:
    gp = made()
    history, _ = grown(gp, History.empty(1), 10)
    gp.narrowing.narrow_to(RANGES)
    history, _ = grown(gp, history, 2)
    unbroken, _ = grown(gp, history, 3)
    resumed, _ = grown(made(), History.from_json(history.to_json()), 3)
    assert resumed.points == unbroken.points


def test_the_whole_space_comes_back_and_stays_over_a_restart() -> None:
    gp = made()
    gp.narrowing.narrow_to(RANGES)
    history, _ = grown(gp, History.empty(1), 10)
    gp.narrowing.narrow_to({})
    history, reasons = grown(gp, history, 6)
    assert not all(is_within(point) for point in history.points[10:])
    assert not any("within x" in reason for reason in reasons)
    assert made().narrowing.current(history) == {}


def test_ranges_that_are_used_up_are_given_up() -> None:
    space = Space({"a": Int(1, 4), "kind": Choice("plain", "deep")})
    gp = made(space)
    gp.narrowing.narrow_to({"a": [2, 3], "kind": ["deep"]})
    history = History.empty(1)
    reasons = []
    for _ in range(4):
        found = gp.propose(len(history), history)
        reasons.append(found.reason)
        history = history.with_point(found.point, "told", [float(found.point["a"])], note=found.note)  # type: ignore[arg-type]
    assert [point["a"] for point in history.points[:2]] in ([2, 3], [3, 2])
    assert "every point within a from 2 to 3, kind deep was tried" in reasons[2]
    assert gp.narrowing.current(history) == {}


def test_without_ranges_nothing_changes() -> None:
    plain, cleared = made(), made()
    cleared.narrowing.narrow_to({})
    assert grown(plain, History.empty(1), 12)[0].points == grown(cleared, History.empty(1), 12)[0].points


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({"y": [0, 1]}, "no parameter 'y'"),
        ({"x": [0.5]}, "lowest and a highest"),
        ({"x": [0.8, 0.6]}, "lowest and a highest"),
        ({"x": [0.5, 2.0]}, "does not reach 2.0"),
        ({"kind": []}, "At least one option of 'kind' must remain"),
        ({"kind": ["round"]}, "no option"),
    ],
)
def test_other_ranges_are_refused(ranges: dict[str, list[Any]], words: str) -> None:
    with pytest.raises(PointError, match=words):
        made().narrowing.narrow_to(ranges)


def test_words() -> None:
    assert ranges_text({"x": [0.5, 0.5], "lr": [1e-3, 1e-2]}, SPACE) == "x 0.5, lr from 0.001 to 0.01"
    assert np.isfinite(loss({"x": 0.1, "bits": 2}))
