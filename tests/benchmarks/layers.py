"""Searches with settings for every layer under a hard budget, against peers and the best setting shared by all layers.

    python tests/benchmarks/layers.py --smoke                     one problem, one seed, 12 trials: does it run?
    python tests/benchmarks/layers.py                             every problem and peer, seeds 0 to 9, 40 trials
    python tests/benchmarks/layers.py --peers ours --problems "network 14" --seeds 100:103
    python tests/benchmarks/layers.py --report                    tables from the runs so far

`uniform` is what a person would do by hand: all layers share bits and amount, on a grid of as many points as there are
trials. `uniform, fine` is the same grid with 1,000 points, which are 200 amounts for each number of bits. `measured` is
ours with `sensitivity=`: by how much the error grows and the size falls if one layer alone is pruned as far as
possible. These measurements, one for each layer, need no tuning and are not counted as trials. The problems are in
`layer_problems.py`; `layers30` and `pruned layers`, without a budget, are those of `search.py`, and their peers are
taken from its kept runs. Every run is one line of `results/layers.jsonl`; a run that is there is not repeated, and
`--again ours` removes those of a peer. Scores are errors above the best (formulas), errors (networks) or the missing
share of the hypervolume (fronts): less is better. One thread.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import pandas as pd
from layer_problems import BITS, LAYER_PROBLEMS, MOST
from problems import PROBLEMS, Problem
from pruned_layers import PRUNED_LAYERS
from search import begin, forget, inabilities, read, search_all, seeds_of
from search_peers import PEERS, Ours, Unable
from search_tables import OURS, duel, scored, wide_of

from nbcompress.optimize import proposer
from nbcompress.space import Choice, Point

RESULTS = Path(__file__).parent / "results"
WITHOUT_BUDGET = tuple(p for p in (*PROBLEMS, PRUNED_LAYERS) if p.name in ("layers30", "pruned layers"))
ALL = (*LAYER_PROBLEMS, *WITHOUT_BUDGET)
COMPARED = (OURS, "measured", "uniform", "optuna-gp", "optuna-tpe", "ax", "random")
FINE = 1000


class Uniform:
    """All layers share a value: a grid over the options of the choices and amounts that are spread over their range.

    The seed moves the amounts by a part of their distance, so that seeds differ as people do.
    """

    def __init__(self, problem: Problem, seed: int, n: int) -> None:
        self.points = uniform_points(problem, n, np.random.default_rng(seed).random())
        self.asked = 0

    def ask(self) -> Point:
        self.asked += 1
        return self.points[(self.asked - 1) % len(self.points)]

    def tell(self, point: Point, losses: tuple[float, ...], slacks: tuple[float, ...]) -> None:
        """Nothing is learned."""


class Measured(Ours):
    """Ours, with what was measured of each layer before."""

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        m, k = problem.n_objectives, problem.n_slacks
        self.proposer = proposer(
            "gp", problem.space, n_objectives=m, n_constraints=k, seed=seed, sensitivity=measured(problem)
        )


def measured(problem: Problem) -> dict[str, dict[str, float]]:
    """Return the sensitivity of error and size to each layer."""
    if not problem.n_slacks:
        raise Unable("no constraint")
    names, space = problem.space.groups["amount"], problem.space
    dense: Point = {name: max(BITS) if isinstance(space[name], Choice) else 0.0 for name in space.names}
    error, size = problem.losses(dense)[0], problem.slacks(dense)[0]
    found: dict[str, dict[str, float]] = {"loss 0": {}, "slack 0": {}}
    for name in names:
        label, alone = name[len("amount[") : -1], {**dense, name: MOST}
        found["loss 0"][label] = max(0.0, problem.losses(alone)[0] - error)
        found["slack 0"][label] = size - problem.slacks(alone)[0]
    return found | ({"loss 1": found["slack 0"]} if problem.n_objectives > 1 else {})


def uniform_points(problem: Problem, n: int, shift: float) -> list[Point]:
    """Return about `n` points where all layers share a value; there is at most one choice, and one number."""
    space = problem.space
    options: Sequence[object] = (None,)
    for members in space.groups.values():
        parameter = space[members[0]]
        if isinstance(parameter, Choice):
            options = parameter.options
    n_amounts = n // len(options)
    units = (np.arange(n_amounts) + shift) / n_amounts
    return [
        {name: option if isinstance(space[name], Choice) else space[name].from_unit(float(u)) for name in space.names}
        for option in options
        for u in units
    ]


def best_uniform(problem: Problem) -> float:
    """Return the score of a fine grid of shared settings."""
    points = uniform_points(problem, FINE, 0.5)
    feasible = [point for point in points if all(slack <= 0 for slack in problem.slacks(point))]
    return problem.scores([problem.losses(point) for point in feasible], [()] * len(feasible))[-1]


def table_of(lines: Sequence[Mapping[str, object]], problems: Sequence[Problem], at: int) -> pd.DataFrame:
    """Return for each problem and peer the median score after `at` trials, and how it compares with ours."""
    runs = scored(lines, problems)
    runs["score"] = [scores[min(at, len(scores)) - 1] for scores in runs.scores]
    rows = []
    for problem in problems:
        of_problem = runs[runs.problem == problem.name]
        if of_problem.empty:
            continue
        wide = wide_of(of_problem)
        for peer in (name for name in COMPARED if name in wide):
            found = wide[peer].dropna()
            row = {"problem": problem.name, "peer": peer, "seeds": len(found), "median": found.median()}
            row |= {"feasible": int(np.isfinite(found).sum()), "worst": found.max()}
            cpu = of_problem.loc[of_problem.peer == peer, "cpu_s"].median()
            rows.append(row | {"cpu_s": cpu} | duel(finite(wide), peer))
    return pd.DataFrame(rows)


def finite(wide: pd.DataFrame) -> pd.DataFrame:
    """Replace infinite scores, of searches without a feasible trial, by one worse than all others: ranks count them."""
    worst = wide[np.isfinite(wide)].max(axis=None)
    return wide.replace(math.inf, 2.0 * worst + 1.0)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a short search by everybody")
    parser.add_argument("--report", action="store_true", help="run nothing, report what was run")
    parser.add_argument("--peers", nargs="+", default=list(COMPARED), metavar="PEER")
    parser.add_argument("--problems", nargs="+", default=[problem.name for problem in ALL], metavar="NAME")
    parser.add_argument("--seeds", type=seeds_of, default=range(10), help="10 or 20:30")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--at", type=int, nargs="+", default=[24, 40], help="report scores after so many trials")
    parser.add_argument("--again", nargs="+", default=[], metavar="PEER", help="forget the runs of these first")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    given = options()
    names = ["formula 12, bits"] if given.smoke else given.problems
    seeds, n = (range(1), 12) if given.smoke else (given.seeds, given.trials)
    problems = [problem for problem in ALL if problem.name in names]
    folder: Path = given.results / "smoke" if given.smoke else given.results
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "layers.jsonl"
    PEERS["measured"] = Measured
    PEERS["uniform"] = lambda problem, seed: Uniform(problem, seed, n)
    begin(path)
    if given.again:
        forget(path, given.again, [problem.name for problem in problems])
    if not given.report:
        search_all(path, problems, given.peers, seeds, n, inabilities(problems, given.peers))
    lines = [run for run in read(path) if run["n"] == n and run["seed"] in seeds and run["peer"] in COMPARED]
    for at in given.at:
        table = table_of(lines, problems, at)
        table.to_csv(folder / f"layers_{at}.csv", index=False)
        print(f"After {at} trials\n{table.to_string(index=False, float_format='{:.3g}'.format)}\n")
    for problem in problems:
        print(f"uniform, fine: {problem.name:24}{best_uniform(problem):.3g}")


if __name__ == "__main__":
    main()
