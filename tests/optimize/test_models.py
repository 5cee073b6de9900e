"""The values that the models of a history are fitted to."""

from __future__ import annotations

import numpy as np

from nbcompress.optimize import History
from nbcompress.optimize.encoding import Embedding, SpaceEncoder
from nbcompress.optimize.models import FittedModels
from nbcompress.optimize.surrogates.closed_form import ModelSpec
from nbcompress.space import Float, Space

SPACE = Space({"x": Float(0.0, 1.0)})


def told(losses: list[tuple[float, ...]]) -> list[np.ndarray]:
    """Return the values that the model of each loss holds, in the units of the losses."""
    history = History.empty(len(losses[0]))
    for i, row in enumerate(losses):
        history = history.with_point({"x": i / len(losses)}, "told", row)
    models = FittedModels.fit(history, Embedding(SpaceEncoder(SPACE)), ModelSpec())
    objectives = [models.objectives[j] for j in range(len(losses[0]))]
    return [model.untransform(model.y, np.zeros(model.n))[0] for model in objectives]


def test_a_penalty_counts_as_bad_and_no_more() -> None:
    np.testing.assert_allclose(told([(1.0,), (2.0,), (1e9,), (3.0,), (1.5,)])[0], [1.0, 2.0, 5.0, 3.0, 1.5])


def test_the_end_of_a_front_is_no_penalty() -> None:
    """It costs 1,000, far beyond the others, and is the best in the first loss; 1e6 is as bad there, and beaten."""
    first, second = told([(4.0, 1.0), (3.0, 2.0), (5.0, 2.5), (2.0, 3.0), (0.5, 1000.0), (3.0, 2.8), (4.0, 1e6)])
    np.testing.assert_allclose(first, [4.0, 3.0, 5.0, 2.0, 0.5, 3.0, 4.0])
    np.testing.assert_allclose(second, [1.0, 2.0, 2.5, 3.0, 1000.0, 2.8, 1999.0])
