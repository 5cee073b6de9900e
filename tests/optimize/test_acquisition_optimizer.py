"""What the search for the next point starts from."""

import numpy as np
import pytest

from nbcompress.optimize import History
from nbcompress.optimize.acquisition_optimizer import CandidateSearch, Effort
from nbcompress.optimize.encoding import Axes, Embedding
from nbcompress.optimize.history import Array
from nbcompress.optimize.narrowing import UnseenWithin
from nbcompress.optimize.proposers.baselines import shifted_rows
from nbcompress.optimize.protocol import Unseen, generator
from nbcompress.space import Choice, Float, Int, Space

MIXED = Space({"x": Float(0.0, 1.0), "n": Int(1, 4), "kind": Choice("a", "b")})
CONDITIONAL = Space({"kind": Choice("a", "b"), "x": Float(0.0, 1.0, when={"kind": "a"})})
FINITE = Space({"n": Int(1, 4), "kind": Choice("a", "b")})


@pytest.mark.parametrize("seed", range(5))
def test_shifted_rows_are_even(seed: int) -> None:
    """Every 1024th of an axis holds one of 1024 points, every value its share; another stream, another shift."""
    rows = shifted_rows(Axes(MIXED), generator(seed, 0), 1024)
    assert (np.bincount((rows[:, 0] * 1024).astype(int), minlength=1024) == 1).all()
    for i, k in ((1, 4), (2, 2)):
        assert np.unique(rows[:, i], return_counts=True)[1].tolist() == [1024 // k] * k
    pairs = np.unique((rows[:, :2] * [32, 3]).astype(int), axis=0, return_counts=True)[1]
    assert pairs.tolist() == [8] * 128
    assert (rows == shifted_rows(Axes(MIXED), generator(seed, 0), 1024)).all()
    assert (rows != shifted_rows(Axes(MIXED), generator(seed, 1), 1024)).any()


@pytest.mark.parametrize("space", [MIXED, CONDITIONAL, FINITE])
def test_known_rows_are_left_out(space: Space) -> None:
    axes = Axes(space)
    rows = shifted_rows(axes, generator(0, 0), 64)
    history = History.empty(1)
    for row in rows[:3]:
        history = history.adding(axes.point(row))
    known = set(axes.keys(rows[:3]))
    kept = Unseen(axes, history).keep(rows)
    np.testing.assert_array_equal(kept, [row for row in rows if axes.keys(row[None])[0] not in known])
    assert len(kept) < 64


def test_a_climb_stays_within_limits() -> None:
    """The slope leads out of the limits: the best point inside lies on their edge, not where the climb began."""
    space = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
    embedding = Embedding(Axes(space))

    class Slope:
        def score(self, features: Array) -> Array:
            return np.asarray(features.sum(1))

        def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
            return self.score(features), np.ones_like(features)

    unseen = UnseenWithin(embedding.axes, History.empty(1), {"x": [0.2, 0.4], "y": [0.0, 0.7]})
    row, score = CandidateSearch(embedding, Slope(), unseen, generator(0, 0), Effort()).best(np.empty((0, 2)))
    np.testing.assert_allclose(row, [0.4, 0.7], atol=1e-9)
    assert score == pytest.approx(1.1)
