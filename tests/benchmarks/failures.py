"""Trials that fail: by chance, by their point, or by some of both.

Each problem is a quadratic whose optimum the seed draws, and a rule that says which trials fail. On a slope the loss is
the sum of the parameters instead, which falls on beyond the edge of failure. A search of 40 trials minimizes it with
the sampler `gp`; the regret is by how much the best trial that did not fail is above the optimum. Where the point
decides, `beyond` counts the trials from the 16th on that lie more than 0.2 beyond the edge. Each search is one line of
`results/failures.jsonl` (or of another file, `--name`), and is not run again.

    python tests/benchmarks/failures.py [--seeds 10] [--name failures] [--smoke]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import mean, median

import numpy as np
import one_thread  # noqa: F401 (NumPy was loaded, but a search reads it once more)
from records import Runs, conditions

import nbcompress as nc

Point = Mapping[str, float]
Fails = Callable[[Point, np.random.Generator], bool]
SQUARE = {"x": nc.Float(0.0, 1.0), "y": nc.Float(0.0, 1.0)}
FOUR = {f"x{place}": nc.Float(0.0, 1.0) for place in range(4)}
WITH_OPTION = {"x": nc.Float(0.0, 1.0), "option": nc.Choice("a", "b", "c", "d")}
SIX = {f"x{place}": nc.Float(0.0, 1.0) for place in range(6)}


# How far beyond the edge a trial counts, and from which trial on.
BEYOND, LATER = 0.2, 15


def quadratic(point: Point, best: Point) -> float:
    loss = sum((point[name] - value) ** 2 for name, value in best.items())
    return loss + (0.1 * (point["option"] != "b") if "option" in point else 0.0)


def slope(point: Point, best: Point) -> float:
    """Above the best sum, one fifth for each parameter."""
    return sum(point.values()) - 0.4 * len(point)


@dataclass(frozen=True)
class Problem:
    """A loss with its optimum at `best`, the rule by which trials fail, and how far a point is beyond the edge."""

    space: Mapping[str, nc.Float | nc.Choice]
    best: Callable[[np.random.Generator], Point]
    fails: Fails
    beyond: Callable[[Point], float] = lambda point: 0.0
    loss: Callable[[Point, Point], float] = quadratic


def anywhere(rng: np.random.Generator) -> Point:
    x, y = rng.uniform(0.2, 0.8, 2)
    return {"x": x, "y": y}


def below_half(rng: np.random.Generator) -> Point:
    """In the half of small x, away from its edge."""
    x, y = rng.uniform(0.1, 0.4), rng.uniform(0.2, 0.8)
    return {"x": x, "y": y}


def on_line(rng: np.random.Generator) -> Point:
    """On the line x + y = 1."""
    x = rng.uniform(0.2, 0.8)
    return {"x": x, "y": 1.0 - x}


def on_hyperbola(rng: np.random.Generator) -> Point:
    """On x y = 0.2."""
    x = rng.uniform(0.3, 0.7)
    return {"x": x, "y": 0.2 / x}


def beside_option(rng: np.random.Generator) -> Point:
    return {"x": rng.uniform(0.1, 0.4)}


def nowhere(rng: np.random.Generator) -> Point:
    """Of a slope: the optimum is the whole edge."""
    return {}


def six(rng: np.random.Generator) -> Point:
    return {name: rng.uniform(0.1, 0.4) for name in SIX}


def plane(limit: float, *names: str) -> Callable[[Point], float]:
    """How far the sum of some parameters is above a limit."""
    return lambda point: sum(point[name] for name in names) - limit


def below_sum(point: Point) -> float:
    return 0.4 * len(point) - sum(point.values())


def plain(
    space: Mapping[str, nc.Float | nc.Choice],
    best: Callable[[np.random.Generator], Point],
    beyond: Callable[[Point], float],
    *,
    coin: float = 0.0,
    loss: Callable[[Point, Point], float] = quadratic,
) -> Problem:
    """Every point beyond the edge fails, and others with the probability `coin`."""
    return Problem(space, best, lambda p, rng: beyond(p) > 0 or (coin > 0 and rng.random() < coin), beyond, loss)


PROBLEMS = {
    "a coin, at a third": Problem(SQUARE, anywhere, lambda p, rng: rng.random() < 1 / 3),
    "a coin, at a half": Problem(SQUARE, anywhere, lambda p, rng: rng.random() < 1 / 2),
    "a half-plane, the optimum on its edge": plain(SQUARE, on_line, plane(1.0, "x", "y")),
    "this half-plane, and a coin at a quarter": plain(SQUARE, on_line, plane(1.0, "x", "y"), coin=0.25),
    "below a hyperbola, the optimum on it": plain(SQUARE, on_hyperbola, lambda p: 0.2**0.5 - (p["x"] * p["y"]) ** 0.5),
    "an option, and half of a range": plain(
        WITH_OPTION, beside_option, lambda p: 1.0 if p["option"] == "a" else p["x"] - 0.5
    ),
    "half of a range, the optimum elsewhere": plain(SQUARE, below_half, plane(0.5, "x")),
    "6 parameters, a sum of two too large": plain(SIX, six, plane(0.8, "x0", "x1")),
    "a slope of 2": plain(SQUARE, nowhere, below_sum, loss=slope),
    "a slope of 2, and a coin at a quarter": plain(SQUARE, nowhere, below_sum, coin=0.25, loss=slope),
    "a slope of 4": plain(FOUR, nowhere, below_sum, loss=slope),
}


def searched(problem: Problem, seed: int, trials: int) -> dict[str, float]:
    """Search once: the regret, the share of trials that failed, and the seconds of CPU."""
    rng = np.random.default_rng(1000 + seed)
    best = problem.best(rng)
    optimizer = nc.Optimizer(problem.space, seed=seed)
    losses, since, beyond = [np.inf], time.process_time(), 0
    for number in range(trials):
        point = optimizer.ask()[0]
        loss = problem.loss(point, best)
        is_failed = problem.fails(point, rng)
        beyond += number >= LATER and problem.beyond(point) > BEYOND
        optimizer.tell(point, None if is_failed else loss)
        if not is_failed:
            losses.append(loss)
    return {
        "regret": min(losses),
        "beyond": beyond,
        "failed": 1 - (len(losses) - 1) / trials,
        "seconds": time.process_time() - since,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--name", default="failures", help="of the file of results")
    parser.add_argument("--smoke", action="store_true", help="one seed, 12 trials")
    options = parser.parse_args()
    seeds, trials = (1, 12) if options.smoke else (options.seeds, 40)
    print(f"{conditions()}; {seeds} seeds, {trials} trials")
    runs = Runs("failures_smoke" if options.smoke else options.name, is_fresh=options.smoke)
    for name, problem in PROBLEMS.items():
        rows = [runs.get(f"{name}, seed {seed}", partial(searched, problem, seed, trials)) for seed in range(seeds)]
        regrets = [row["regret"] for row in rows]
        logarithm = mean(np.log10(np.maximum(regrets, 1e-12)))
        print(
            f"{name:44}median {median(regrets):.1e}, worst {max(regrets):.1e}, log10 {logarithm:5.1f}, "
            f"failed {mean(row['failed'] for row in rows):.0%}, beyond {sum(row['beyond'] for row in rows)}, "
            f"{mean(row['seconds'] for row in rows):.1f} s"
        )


if __name__ == "__main__":
    main()
