"""When a search counts as standing on a plateau, and what it does then."""

from __future__ import annotations

import math

import pytest

from nbcompress.optimize import History, proposer
from nbcompress.optimize.plateau import n_repeats, should_leave
from nbcompress.optimize.proposers import gp as gp_module
from nbcompress.space import Float, Space

SPACE = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})


def known(*losses: float | tuple[float, ...], limit: float | None = None) -> History:
    rows = [one if isinstance(one, tuple) else (one,) for one in losses]
    history = History.empty(len(rows[0]), 0 if limit is None else 1)
    for i, row in enumerate(rows):
        slacks = None if limit is None else [row[0] - limit]
        history = history.adding({"x": i / len(rows), "y": 0.5}, "told", row, slacks)
    return history


@pytest.mark.parametrize(
    ("losses", "repeats"),
    [
        ((), 0),
        ((3.0, 2.0, 1.0), 0),
        ((1.0, 1.0, 2.0, 1.0), 2),
        # Equal losses that something beats say nothing of the best.
        ((2.0, 2.0, 2.0, 1.0), 0),
        # Long ago: six trials later nothing came to it again.
        ((1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), 0),
        ((0.0, -0.0), 1),
        # Almost equal is a slope.
        ((1.0, 1.0 - 1e-15), 0),
        # A point of a front is repeated only by one with the same losses in all.
        (((1.0, 2.0), (2.0, 1.0), (1.0, 2.0), (1.0, 3.0)), 1),
        ((math.nan, math.nan, 1.0), 0),
    ],
)
def test_repeats_of_the_best(losses: tuple[float, ...], repeats: int) -> None:
    assert n_repeats(known(*losses) if losses else History.empty(1)) == repeats


def test_what_breaks_a_constraint_does_not_count() -> None:
    assert n_repeats(known(5.0, 5.0, 5.0, 7.0, limit=4.0)) == 0
    assert n_repeats(known(3.0, 3.0, 5.0, 5.0, limit=4.0)) == 1


def test_every_other_trial_leaves_it() -> None:
    history = known(*[1.0] * 10)
    assert [should_leave(number, history) for number in range(10, 14)] == [True, False, True, False]
    assert not should_leave(10, known(*[float(i) for i in range(10)]))


def test_the_trial_that_leaves_says_so() -> None:
    history = known(*[2.0] * 4, *[1.0] * 6)
    gp = proposer("gp", SPACE, n_objectives=1, seed=3)
    leaving = gp.propose(10, history)
    assert leaving.reason == "drawn at random, since 5 of the latest trials only repeat the best value"
    assert leaving == gp.propose(10, history)
    assert gp.propose(11, history).reason.startswith("expected gain")


def test_a_low_step_in_a_corner_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three levels, the lowest in a tenth of the square: what a smooth process expects in between never comes."""

    def n_found() -> int:
        found = 0
        for seed in range(8):
            gp, history = proposer("gp", SPACE, n_objectives=1, seed=seed), History.empty(1)
            for number in range(30):
                point = gp.propose(number, history).point
                x, y = float(point["x"]), float(point["y"])  # type: ignore[arg-type]
                history = history.adding(point, "told", [0.0 if max(x, y) < 0.3 else 1.0 if x > 0.5 else 2.0])
            found += bool(history.losses.min() == 0.0)
        return found

    with_leaving = n_found()
    monkeypatch.setattr(gp_module, "should_leave", lambda number, history: False)
    assert with_leaving > n_found()
