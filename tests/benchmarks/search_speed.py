"""CPU seconds of one suggestion as the number of known points grows: one objective, two and three."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from time import process_time

import numpy as np
from problems import PROBLEMS, Problem, point_at
from search_peers import PEERS, Searcher, Unable

PROBLEMS_MEASURED = ("hartmann6", "zdt1", "dtlz2")
# The result is the mean of so many suggestions, since some peers refit only sometimes. The first one, which imports and
# warms up, is left out.
REPEATS = 20
# A peer that has used so many CPU seconds at one size is asked no more than three times.
ENOUGH = 10.0


def told(problem: Problem, peer: str, n: int) -> Searcher:
    """Return a searcher that knows `n` points: half are random, half are close together as after a search.

    Raises:
        Unable: The peer is missing, or learns only from points that it proposed.
    """
    searcher = PEERS[peer](problem, 0)
    if not hasattr(searcher, "known"):
        raise Unable("learns from its own points alone")
    rng = np.random.default_rng(0)
    rows = rng.random((n, len(problem.space)))
    rows = (0.35 + np.resize([1.0, 0.1], n)[:, None] * (rows - 0.35)).clip(0, 1)
    for row in rows:
        point = point_at(problem.space, row.tolist())
        searcher.known(point, problem.losses(point), problem.slacks(point))
    return searcher


def suggest(searcher: Searcher, problem: Problem) -> float:
    """Ask for a point and tell what it gives; return CPU seconds."""
    start = process_time()
    point = searcher.ask()
    searcher.tell(point, problem.losses(point), problem.slacks(point))
    return process_time() - start


def seconds(problem: Problem, searchers: dict[str, Searcher]) -> dict[str, float]:
    """Mean CPU seconds of a suggestion. The peers take turns, so that other load on the machine affects all of them."""
    for searcher in searchers.values():
        suggest(searcher, problem)
    found: dict[str, list[float]] = {peer: [] for peer in searchers}
    for _ in range(REPEATS):
        for peer, searcher in searchers.items():
            if len(found[peer]) < 3 or sum(found[peer]) < ENOUGH:
                found[peer].append(suggest(searcher, problem))
    return {peer: mean(times) for peer, times in found.items()}


def write_speed(folder: Path, peers: Sequence[str], sizes: Sequence[int]) -> None:
    """Measure every peer that can be told points it did not propose; print and write `speed.csv`."""
    rows = []
    for problem in (problem for problem in PROBLEMS if problem.name in PROBLEMS_MEASURED):
        for n in sizes:
            searchers = {}
            for peer in peers:
                try:
                    searchers[peer] = told(problem, peer, n)
                except Unable as err:
                    print(f"{peer}: {problem.name}: {err}")
            for peer, taken in seconds(problem, searchers).items():
                rows.append({"problem": problem.name, "n": n, "peer": peer, "cpu_s": taken})
                print(f"{problem.name:12}{n:6} {peer:12}{taken:9.4f}", flush=True)
    with (folder / "speed.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["problem", "n", "peer", "cpu_s"])
        writer.writeheader()
        writer.writerows(rows)
