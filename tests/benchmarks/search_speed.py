"""CPU seconds of one suggestion as the number of known points grows: the six dimensions of Hartmann's function."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from time import process_time

import numpy as np
from problems import PROBLEMS, Problem
from search_peers import PEERS, Unable

# So many suggestions are measured, and the mean counts, since some refit only now and then. The first one, which
# imports and warms up, does not count.
REPEATS = 20


def seconds(problem: Problem, peer: str, n: int) -> float:
    """Mean CPU seconds of a suggestion with `n` known points; half are random, half crowd as a search leaves them.

    Raises:
        Unable: The peer is missing, or learns from its own points alone.
    """
    searcher = PEERS[peer](problem, 0)
    if not hasattr(searcher, "known"):
        raise Unable("learns from its own points alone")
    rng = np.random.default_rng(0)
    space, spread = problem.space, np.resize([1.0, 0.1], n)
    rows = rng.random((n, len(space)))
    rows = (0.35 + spread[:, None] * (rows - 0.35)).clip(0, 1)
    for row in rows:
        point = {name: space[name].from_unit(float(u)) for name, u in zip(space.names, row, strict=True)}
        searcher.known(point, problem.losses(point), problem.slacks(point))
    found = []
    for _ in range(REPEATS + 1):
        start = process_time()
        point = searcher.ask()
        searcher.tell(point, problem.losses(point), problem.slacks(point))
        found.append(process_time() - start)
    return mean(found[1:])


def write_speed(folder: Path, peers: Sequence[str], sizes: Sequence[int]) -> None:
    """Measure every peer that can be told points it did not propose; print and write `speed.csv`."""
    problems = [one for one in PROBLEMS if one.name in ("hartmann6", "zdt1")]
    rows = []
    print(f"{'CPU s a suggestion':24}{'n':>6}" + "".join(f"{peer:>12}" for peer in peers))
    for problem in problems:
        for n in sizes:
            row: dict[str, object] = {"problem": problem.name, "n": n}
            for peer in peers:
                try:
                    row[peer] = seconds(problem, peer, n)
                except Unable as err:
                    row[peer] = str(err)
            rows.append(row)
            cells = "".join(f"{one:12.4f}" if isinstance(one := row[peer], float) else f"{'':>12}" for peer in peers)
            print(f"{problem.name:24}{n:6}{cells}", flush=True)
    with (folder / "speed.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["problem", "n", *peers])
        writer.writeheader()
        writer.writerows(rows)
