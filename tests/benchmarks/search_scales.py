"""The scales of the tuning tasks: which loss counts as 0 and which as 1, found by a much longer search.

    python tests/benchmarks/search_scales.py                 all tasks, some minutes
    python tests/benchmarks/search_scales.py "svm wine"      these alone

For every task 256 points of a scrambled Sobol sequence (seed 0) are evaluated; their median loss is 1. From the best
of them 128 random steps follow, .01 to .3 of each range wide, that keep what is better; the lowest loss of all is 0.
Both go to `search_scales.json`, which is kept with the code.
"""

from __future__ import annotations

import json
import sys

import one_thread  # noqa: F401 (before NumPy, which reads it once)

# isort: split
import numpy as np
from problems import Problem, point_at
from scipy.stats import qmc
from tuning_tasks import SCALES, TASKS

N_SPREAD = 256
N_STEPS = 128


def loss_at(problem: Problem, unit: np.ndarray) -> float:
    return problem.losses(point_at(problem.space, unit.tolist()))[0]


def scale(problem: Problem) -> tuple[float, float]:
    """Return the best loss found and the median loss of the spread points."""
    d = len(problem.space)
    units = qmc.Sobol(d, rng=np.random.default_rng(0)).random(N_SPREAD)
    losses = np.array([loss_at(problem, unit) for unit in units])
    best, lowest = units[losses.argmin()], float(losses.min())
    rng = np.random.default_rng(1)
    for _ in range(N_STEPS):
        width = 10.0 ** rng.uniform(-2.0, -0.5)
        # About half of the parameters move, so that a choice can stay while the numbers near it are tuned.
        unit = np.clip(best + width * rng.normal(size=d) * (rng.random(d) < 0.5), 0.0, 1.0)
        loss = loss_at(problem, unit)
        if loss < lowest:
            best, lowest = unit, loss
    return lowest, float(np.median(losses))


def main() -> None:
    names = sys.argv[1:] or [problem.name for problem in TASKS]
    scales = json.loads(SCALES.read_text(encoding="utf-8")) if SCALES.exists() else {}
    for problem in TASKS:
        if problem.name in names:
            scales[problem.name] = scale(problem)
            print(f"{problem.name:28}{scales[problem.name][0]:10.5f}{scales[problem.name][1]:10.5f}", flush=True)
            SCALES.write_text(json.dumps(scales, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
