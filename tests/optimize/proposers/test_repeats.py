"""Finite spaces: every point once, and a sentence at the end. 10,000 suggestions in all."""

import numpy as np
import pytest

from nbcompress.errors import SpaceExhausted
from nbcompress.optimize import History, proposer
from nbcompress.space import Choice, Float, Int, Space

SPACES = {
    "numbers": {"a": Int(1, 5), "b": Float(0.0, 0.75, step=0.25)},
    "choices": {"bits": Choice(2, 3, 4, 6, 8), "method": Choice("linear", "cluster"), "is_whole": Choice(True, False)},
    "conditional": {
        "method": Choice("prune", "cluster"),
        "amount": Float(0.0, 0.9, step=0.1, when={"method": "prune"}),
        "clusters": Int(2, 11, when={"method": "cluster"}),
    },
    "one of many": {"a": Choice(*range(20))},
}


@pytest.mark.parametrize(("sampler", "n_seeds"), [("gp", 25), ("sobol", 50), ("random", 40), ("grid", 10)])
@pytest.mark.parametrize("name", list(SPACES))
def test_every_point_once(sampler: str, n_seeds: int, name: str) -> None:
    space = Space(SPACES[name])
    assert space.n_points == 20
    losses = np.random.default_rng(0).integers(0, 4, 20).astype(float)
    for seed in range(n_seeds):
        one, history, seen = proposer(sampler, space, n_objectives=1, seed=seed), History.empty(1), set()
        for number in range(20):
            found = one.propose(number, history)
            # Some fail and some are still running: these are known as well.
            status = ("told", "told", "failed", "told", "pending")[number % 5]
            told = [losses[number]] if status == "told" else None
            history = history.adding(found.point, status, told, note=found.note)
            seen.add(tuple(sorted(found.point.items())))
        assert len(seen) == 20
        with pytest.raises(SpaceExhausted, match=r"All 20 points of the space were tried\. Widen a parameter"):
            one.propose(20, history)
