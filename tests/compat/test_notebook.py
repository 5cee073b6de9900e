"""An old script in a notebook gains the panel."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels import kernel

MIME = "application/vnd.nbcompress.study.v1+json"


@pytest.mark.kernel
def test_a_notebook_shows_the_study(tmp_path: Path) -> None:
    with kernel(tmp_path) as one:
        reply = one.must(
            "from nbcompress.compat import BayesianOptimization, gp_minimize\n"
            "res = gp_minimize(lambda x: x[0] ** 2, [(-1.0, 1.0)], n_calls=10, random_state=0, verbose=True)"
        )
        last = reply.bundles[-1]
        assert last[MIME]["ending"].startswith("All 10 trials are done.")
        assert "<table" in last["text/html"]
        assert "call 1" not in reply.text  # the panel says it
        off = one.must(
            "optimizer = BayesianOptimization(lambda x: x, {'x': (0, 1)}, random_state=0, panel=False)\n"
            "optimizer.maximize(2, 2)"
        )
        assert off.bundles == []
        assert off.text.count("call ") == 4
        drawn = one.must(
            "from nbcompress.compat.hyperopt import Trials, fmin, hp, tpe\n"
            "space = hp.choice('kind', [('line', hp.uniform('a', 0, 1)), ('flat', 2)])\n"
            "best = fmin(lambda drawn: drawn[1], space, algo=tpe.suggest, max_evals=6, rstate=0)"
        )
        assert drawn.bundles[-1][MIME]["ending"].startswith("All 6 trials are done.")
        assert "flat" in drawn.bundles[-1]["text/html"]
        assert "call 1" not in drawn.text
