"""Rows and features: the laws that make the kernel valid on every space."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import spaces

from nbcompress.optimize.encoding import ARC_ANGLE, Embedding, SpaceEncoder
from nbcompress.optimize.surrogates.closed_form import ModelSpec, squared_distances
from nbcompress.space import Choice, Float, Int, Space

TREE = Space(
    {
        "method": Choice("plain", "cluster", "low-rank"),
        "clusters": Int(4, 64, log=True, when={"method": "cluster"}),
        "lr": Float(1e-4, 1e-1, log=True),
    }
)
SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def distances(space: Space, points: list) -> np.ndarray:
    embedding = Embedding(SpaceEncoder(space))
    features = embedding.features(embedding.encoder.rows(points))
    return np.sqrt(squared_distances(features, features))


def test_distances_by_hand() -> None:
    plain = {"method": "plain", "lr": 1e-4}
    far = {"method": "plain", "lr": 1e-1}
    few = {"method": "cluster", "clusters": 4, "lr": 1e-4}
    many = {"method": "cluster", "clusters": 64, "lr": 1e-4}
    d = distances(TREE, [plain, far, few, many])
    assert d[0, 1] == pytest.approx(1.0)
    # Another method (1) and active against inactive (1 / angle): the same for every number of clusters.
    assert d[0, 2] == d[0, 3] == pytest.approx(np.sqrt(1 + 1 / ARC_ANGLE**2))
    # Both active, at both ends of the arc: a chord of a quarter circle of radius 1 / angle.
    assert d[2, 3] == pytest.approx(np.sqrt(2) / ARC_ANGLE)


@given(spaces(), st.integers(0, 99), st.sampled_from(["matern52", "rbf"]))
@SLOW
def test_the_kernel_is_positive_semi_definite(space: Space, seed: int, kernel: str) -> None:
    rng = np.random.default_rng(seed)
    embedding = Embedding(SpaceEncoder(space))
    rows = embedding.encoder.from_cube(rng.random((24, len(space))))
    scales = np.exp(rng.normal(size=len(space)))[embedding.owner]
    features = embedding.features(rows) / scales
    K = ModelSpec(kernel).correlation(squared_distances(features, features))[0]
    assert np.linalg.eigvalsh(K).min() > -1e-6
    assert (np.abs(np.diag(K) - 1) < 1e-6).all()


@given(spaces(), st.integers(0, 99))
@SLOW
def test_what_is_inactive_changes_nothing(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    encoder = SpaceEncoder(space)
    embedding = Embedding(encoder)
    rows = encoder.from_cube(rng.random((8, encoder.d)))
    others = np.where(encoder.is_active(rows), rows, encoder.from_cube(rng.random((8, encoder.d))))
    np.testing.assert_array_equal(embedding.features(rows), embedding.features(others))
    assert encoder.keys(rows) == encoder.keys(others)
    assert [encoder.point(row) for row in rows] == [encoder.point(row) for row in others]


@given(spaces(), st.integers(0, 99))
@SLOW
def test_rows_and_points_are_the_same(space: Space, seed: int) -> None:
    encoder = SpaceEncoder(space)
    rows = encoder.from_cube(np.random.default_rng(seed).random((8, encoder.d)))
    points = [encoder.point(row) for row in rows]
    assert [space.check(point) for point in points] == points
    assert encoder.keys(encoder.rows(points)) == encoder.keys(rows)


def test_spread_gives_every_value_its_share() -> None:
    encoder = SpaceEncoder(Space({"bits": Choice(2, 4, 8), "n": Int(1, 5), "word": Choice("a", "b")}))
    even = (np.arange(30_000) + 0.5) / 30_000
    rows = encoder.from_cube(np.stack([even] * 3, axis=1))
    for i, k in enumerate([3, 5, 2]):
        _, counts = np.unique(rows[:, i], return_counts=True)
        assert counts.tolist() == pytest.approx([30_000 / k] * k, abs=1)


def test_changes_of_one_coordinate() -> None:
    encoder = SpaceEncoder(Space({"n": Int(0, 4), "huge": Int(0, 10**6), "x": Float(0, 1)}))
    row = encoder.rows([{"n": 2, "huge": 500_000, "x": 0.25}])[0]
    assert encoder.single_changes(row, 0)[:, 0].tolist() == [0.0, 0.25, 0.75, 1.0]
    points = [encoder.point(other) for other in encoder.single_changes(row, 1)]
    assert {"n": 2, "huge": 500_001, "x": 0.25} in points
    assert {"n": 2, "huge": 0, "x": 0.25} in points


def test_the_gradient_is_pulled_back() -> None:
    embedding = Embedding(SpaceEncoder(TREE))
    row = embedding.encoder.rows([{"method": "cluster", "clusters": 16, "lr": 1e-2}])[0]
    active = embedding.encoder.is_active(row[None])[0]
    gradient = np.random.default_rng(0).normal(size=embedding.n_features)
    numeric = np.zeros(3)
    for i in (1, 2):
        step = np.zeros(3)
        step[i] = 1e-6
        ahead, behind = (embedding.features(moved[None], active[None])[0] for moved in (row + step, row - step))
        numeric[i] = gradient @ (ahead - behind) / 2e-6
    np.testing.assert_allclose(embedding.pull_back(row[None], active[None], gradient[None])[0], numeric, atol=1e-8)


@pytest.mark.parametrize("when", [None, {"kind": "b"}])
def test_features_do_not_grow_with_the_options(when: dict[str, str] | None) -> None:
    """17,576 options; all are far from each other, and each is found again."""
    options = [f"option {i}" for i in range(17576)]
    space = Space({"kind": Choice("a", "b"), "name": Choice(*options, when=when), "x": Float(0.0, 1.0)})
    encoder = SpaceEncoder(space)
    embedding = Embedding(encoder)
    assert embedding.n_features < 200
    rows = encoder.rows([{"kind": "b", "name": options[i], "x": 0.5} for i in range(0, 17576, 100)])
    features = embedding.features(rows)
    distances = np.linalg.norm(features[:, None] - features, axis=2)
    others = distances[~np.eye(len(rows), dtype=bool)]
    assert 0.6 < others.min() < 0.99 < others.max() < 1.4
    assert others.mean() == pytest.approx(1.0, abs=0.02)
    if when is not None:
        inactive = embedding.features(encoder.rows([{"kind": "a", "x": 0.5}]))[:, embedding.owner == 1]
        active = features[:, embedding.owner == 1]
        np.testing.assert_allclose(np.linalg.norm(active - inactive, axis=1), np.sqrt(0.5))


def test_known_points_of_a_longer_history_share_their_keys_and_keep_apart() -> None:
    space = Space({"kind": Choice("a", "b"), "n": Int(0, 9)})
    encoder = SpaceEncoder(space)
    points = [{"kind": "a", "n": 1}, {"kind": "b", "n": 1}, {"kind": "a", "n": 1}, {"kind": "a", "n": 2}]
    keys = encoder.keys(encoder.rows(points))
    short = encoder.known_points(points[:2], encoder.rows(points[:2]))
    whole = encoder.known_points(points, encoder.rows(points))
    assert (len(short), len(whole)) == (2, 3)
    assert [key in short for key in keys] == [True, True, True, False]
    assert all(key in whole for key in keys)
    other = encoder.known_points(points[3:], encoder.rows(points[3:]))
    assert (len(other), keys[0] in other, keys[3] in other) == (1, False, True)
    assert len(encoder.known_points([], encoder.rows([]))) == 0
