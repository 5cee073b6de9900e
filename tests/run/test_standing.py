"""How trials stand among others: layers of fronts, after equally many reports."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nbcompress.run.standing import Showing, aspects_of, n_ahead
from nbcompress.study import Goal, is_unbeaten

GOAL = Goal.of(maximize=["accuracy"], minimize=["size"], subject_to=["seconds_each <= 2"])
ASPECTS = aspects_of(GOAL)


def test_curves_hold_the_best_so_far_and_constraints_count_when_broken() -> None:
    reports = {"accuracy": {0: 0.5, 2: 0.4, 1: 0.7}, "seconds_each": {0: 3.0, 1: 1.0}}
    showing = Showing.of(ASPECTS, reports, {"size": 4.0})
    assert showing.curves == ((-0.5, -0.7, -0.7), (), (1.0, 0.0))
    assert showing.known == (None, 4.0, None)
    assert showing.n_reports == 3


def test_only_rivals_that_got_as_far_and_show_the_same_are_compared() -> None:
    own = Showing.of(ASPECTS, {"accuracy": {0: 0.5, 1: 0.6}}, {"size": 4.0})
    short = Showing.of(ASPECTS, {"accuracy": {0: 0.9}}, {"size": 1.0})
    unsized = Showing.of(ASPECTS, {"accuracy": {0: 0.9, 1: 0.9}}, {})
    whole = Showing.of(ASPECTS, {"accuracy": {0: 0.1, 1: 0.2, 2: 0.9}}, {"size": 8.0, "seconds_each": 1.0})
    assert own.beside([short, unsized, whole]) == ([-0.6, 4.0], [[-0.2, 8.0]])


numbers = st.integers(0, 4).map(float)
rows = st.integers(1, 3).flatmap(lambda m: arrays(float, st.tuples(st.integers(1, 8), st.just(m)), elements=numbers))


@given(rows)
def test_layers(table: np.ndarray) -> None:
    own, rivals = table[0].tolist(), table[1:].tolist()
    ahead = n_ahead(own, rivals)
    assert (ahead == 0) == bool(is_unbeaten(table)[0])
    if table.shape[1] == 1:
        assert ahead == sum(one < own for one in rivals)
    # A rival that everything beats changes nothing.
    assert n_ahead(own, [*rivals, [9.0] * len(own)]) == ahead
