"""The acquisition optimizer: its starts and its bounds."""

import numpy as np
import pytest

from nbcompress.optimize import History
from nbcompress.optimize.acquisition_optimizer import optimize_acquisition
from nbcompress.optimize.candidates import UntriedPoints, UntriedPointsWithin
from nbcompress.optimize.encoding import Embedding, SpaceEncoder
from nbcompress.optimize.history import Array
from nbcompress.optimize.proposers.baselines import shifted_rows
from nbcompress.optimize.protocol import random_generator
from nbcompress.space import Choice, Float, Int, Space

MIXED = Space({"x": Float(0.0, 1.0), "n": Int(1, 4), "kind": Choice("a", "b")})
CONDITIONAL = Space({"kind": Choice("a", "b"), "x": Float(0.0, 1.0, when={"kind": "a"})})
FINITE = Space({"n": Int(1, 4), "kind": Choice("a", "b")})


@pytest.mark.parametrize("seed", range(5))
def test_shifted_rows_are_even(seed: int) -> None:
    """Every 1024th of an axis holds one of 1024 points, every value its share; another stream, another shift."""
    rows = shifted_rows(SpaceEncoder(MIXED), random_generator(seed, 0), 1024)
    assert (np.bincount((rows[:, 0] * 1024).astype(int), minlength=1024) == 1).all()
    for i, k in ((1, 4), (2, 2)):
        assert np.unique(rows[:, i], return_counts=True)[1].tolist() == [1024 // k] * k
    pairs = np.unique((rows[:, :2] * [32, 3]).astype(int), axis=0, return_counts=True)[1]
    assert pairs.tolist() == [8] * 128
    assert (rows == shifted_rows(SpaceEncoder(MIXED), random_generator(seed, 0), 1024)).all()
    assert (rows != shifted_rows(SpaceEncoder(MIXED), random_generator(seed, 1), 1024)).any()


@pytest.mark.parametrize("space", [MIXED, CONDITIONAL, FINITE])
def test_known_rows_are_left_out(space: Space) -> None:
    encoder = SpaceEncoder(space)
    rows = shifted_rows(encoder, random_generator(0, 0), 64)
    history = History.empty(1)
    for row in rows[:3]:
        history = history.with_point(encoder.point(row))
    known = set(encoder.keys(rows[:3]))
    kept = UntriedPoints(encoder, history).keep(rows)
    np.testing.assert_array_equal(kept, [row for row in rows if encoder.keys(row[None])[0] not in known])
    assert len(kept) < 64


def test_the_optimizer_stays_within_ranges() -> None:
    """The slope leads out of the ranges: the best point inside lies on their edge, not at the start."""
    space = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
    embedding = Embedding(SpaceEncoder(space))

    class Slope:
        def score(self, features: Array) -> Array:
            return np.asarray(features.sum(1))

        def score_with_gradients(self, features: Array) -> tuple[Array, Array]:
            return self.score(features), np.ones_like(features)

    untried = UntriedPointsWithin(embedding.encoder, History.empty(1), {"x": [0.2, 0.4], "y": [0.0, 0.7]})
    row, score = optimize_acquisition(embedding, Slope(), untried, random_generator(0, 0), np.empty((0, 2)))
    np.testing.assert_allclose(row, [0.4, 0.7], atol=1e-9)
    assert score == pytest.approx(1.1)
