"""The process for families: gradients, joint predictions, leave-one-out, conditioning, and what it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nbcompress.optimize.encoding import Embedding, SpaceEncoder
from nbcompress.optimize.proposers.families import Families
from nbcompress.optimize.surrogates.closed_form import ModelSpec
from nbcompress.optimize.surrogates.members import MemberFit, MemberProcess, prior_weights
from nbcompress.space import Choice, Float, Space

LAYERS = list("abcdef")
SPACE = Space(
    {
        "bits": Choice(2, 3, 4, 6, 8, each=LAYERS),
        "kind": Choice("x", "y", each=LAYERS[:5]),
        "amount": Float(0.0, 1.0, each=LAYERS),
        "lr": Float(0.0, 1.0),
    }
)
WEIGHTS = np.array([1.0, 5.0, 2.0, 4.0, 3.0, 1.0]) / 16


def parts(space: Space = SPACE) -> tuple[Embedding, SpaceEncoder, MemberFit]:
    families = Families(space)
    embedding, shared = (Embedding(SpaceEncoder(s)) for s in (space, families.shared_space))
    members = families.member_fit(embedding, shared)
    assert members is not None
    return embedding, shared.encoder, members


def fitted(
    n_shared: int = 12, n_others: int = 10, sensitivity: np.ndarray | None = None
) -> tuple[Embedding, MemberProcess]:
    embedding, shared, members = parts()
    rng = np.random.default_rng(0)
    families = Families(SPACE)
    points = [families.spread(shared.point(row)) for row in shared.from_cube(rng.random((n_shared, shared.d)))]
    rows = np.vstack([embedding.encoder.rows(points), embedding.encoder.from_cube(rng.random((n_others, len(SPACE))))])
    features = embedding.features(rows)
    values = np.sin(3 * features).sum(1) + (features * np.arange(features.shape[1]) % 3).sum(1)
    process = members.fit(ModelSpec(), features, values, [], log_tail=False, width=0.8, sensitivity=sensitivity)
    return embedding, process


@pytest.mark.parametrize("weights", [np.full(6, 1 / 6), WEIGHTS], ids=["equal", "measured"])
def test_gradients(weights: np.ndarray) -> None:
    embedding, process = fitted()
    process = replace(process, weights=weights)
    rng = np.random.default_rng(1)
    X = rng.random((4, embedding.n_features))
    mean, std, by_mean, by_std = process.predict_with_gradients(X)
    np.testing.assert_allclose(np.stack([mean, std]), process.predict(X), rtol=1e-9)
    np.testing.assert_allclose(mean, process.predict_mean(X), rtol=1e-9)
    step = 1e-6
    for j in range(X.shape[1]):
        moved = np.zeros_like(X)
        moved[:, j] = step
        above, below = process.predict(X + moved), process.predict(X - moved)
        np.testing.assert_allclose((above[0] - below[0]) / (2 * step), by_mean[:, j], atol=1e-5)
        np.testing.assert_allclose((above[1] - below[1]) / (2 * step), by_std[:, j], atol=1e-5)


def test_joint_predictions_and_conditioning() -> None:
    embedding, process = fitted()
    X = np.random.default_rng(2).random((5, embedding.n_features))
    mean, covariance = process.joint(X, observation_noise=False)
    np.testing.assert_allclose(mean, process.predict_mean(X), rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), process.predict(X)[1], rtol=1e-6)
    with_noise = process.joint(X)[1] - covariance
    np.testing.assert_allclose(with_noise, process.variances[3] * np.eye(5), atol=1e-12)
    conditioned = process.condition_on_mean(X[:2])
    assert conditioned.n == process.n + 2
    np.testing.assert_allclose(conditioned.predict_mean(X), mean, atol=1e-6)
    assert (conditioned.predict(X[:2])[1] < 0.5 * process.predict(X[:2])[1]).all()
    assert process.condition_on_mean(X[:0]) is process


def test_leave_one_out() -> None:
    _, process = fitted()
    mean, std = process.leave_one_out()
    for i in (0, 7, process.n - 1):
        rest = np.arange(process.n) != i
        without = MemberProcess(
            process.maps, process.shared, process.variances, process.features[rest], process.y[rest],
            process.outcome_transform, process.weights,
        )  # fmt: skip
        m, c = without.joint(process.features[[i]])
        np.testing.assert_allclose([mean[i], std[i]], [m[0], np.sqrt(c[0, 0])], rtol=1e-6)


def test_members_of_points() -> None:
    """Each name gives its own values; a family without it gives the mean, and a parameter of its own itself."""
    embedding, shared, members = parts()
    point = {"bits[a]": 2, **{f"bits[{n}]": 8 for n in LAYERS[1:]}, **{f"kind[{n}]": "x" for n in LAYERS[:5]}}
    point |= {"kind[b]": "y", **{f"amount[{n}]": i / 10 for i, n in enumerate(LAYERS)}, "lr": 0.25}
    found = members.maps.members(embedding.features(embedding.encoder.rows([point])))[0]
    high = np.sqrt(0.5)
    assert shared.names == ("bits", "kind", "amount", "lr")
    np.testing.assert_allclose(found[0], [0, high, 0, 0, 0.25])
    np.testing.assert_allclose(found[1], [1, 0, high, 0.1, 0.25])
    np.testing.assert_allclose(found[5], [1, 0.8 * high, 0.2 * high, 0.5, 0.25])


def test_a_sum_over_members_is_learned_from_few_points() -> None:
    """The size of a network: seven trials with shared values, six others, and unknown weights of the layers."""
    space = Space({"amount": Float(0.0, 1.0, each=LAYERS)})
    embedding, _, members = parts(space)
    rng = np.random.default_rng(0)
    X = np.vstack([np.repeat(np.linspace(0, 1, 7)[:, None], 6, axis=1), rng.random((6, 6))])
    new = rng.random((200, 6))

    def size(x: np.ndarray) -> np.ndarray:
        return np.asarray(((1 - x) ** 2) @ WEIGHTS)

    process = members.fit(ModelSpec(), X, size(X), [], log_tail=False, width=0.8)
    mean, std = process.untransform(*process.predict(new))
    wrong = np.abs(mean - size(new))
    assert wrong.mean() < 0.1 * size(new).std()
    assert (wrong < 1.96 * std).mean() > 0.8
    assert embedding.n_features == 6


def test_prior_weights() -> None:
    """Powers 0, 1/2 and 1, which add up to 1; a thousandth of the mean at least."""
    for found, wanted in zip(
        prior_weights(3, np.array([4.0, 1.0, 16.0])),
        ([1 / 3] * 3, [2 / 7, 1 / 7, 4 / 7], [4 / 21, 1 / 21, 16 / 21]),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted)
    np.testing.assert_allclose(prior_weights(2, np.array([0.0, 2.0]))[2], [0.001 / 2.001, 2 / 2.001])
    for unknown in (None, np.zeros(4)):
        (alone,) = prior_weights(4, unknown)
        np.testing.assert_array_equal(alone, np.full(4, 0.25))


def test_a_measured_sensitivity_tells_the_weights() -> None:
    """Trials that share values do not tell one layer from another; a measurement does, unless trials contradict it."""
    space = Space({"amount": Float(0.0, 1.0, each=LAYERS)})
    _, _, members = parts(space)
    rng = np.random.default_rng(0)
    new = rng.random((200, 6))
    X = np.vstack([np.repeat(np.linspace(0, 1, 7)[:, None], 6, axis=1), rng.random((3, 6))])
    size = lambda x: ((1 - x) ** 2) @ WEIGHTS  # noqa: E731

    def wrong(sensitivity: np.ndarray | None) -> tuple[float, np.ndarray]:
        process = members.fit(ModelSpec(), X, size(X), [], log_tail=False, width=0.8, sensitivity=sensitivity)
        return float(np.abs(process.untransform(*process.predict(new))[0] - size(new)).mean()), process.weights

    without = wrong(None)[0]
    for power in (1.0, 2.0):  # of which the powers 1 and 1/2 are taken, in any unit
        error, weights = wrong(30.0 * WEIGHTS**power)
        assert error < 0.1 * without
        np.testing.assert_allclose(weights, WEIGHTS)
    error, weights = wrong(1.0 / WEIGHTS**2)
    np.testing.assert_array_equal(weights, np.full(6, 1 / 6))
    assert error == without


def test_too_few_shared_points() -> None:
    _, _, members = parts()
    assert not members.is_enough(np.random.default_rng(0).random((5, members.maps.maps.shape[1])))
    assert members.is_enough(fitted(3)[1].features)
