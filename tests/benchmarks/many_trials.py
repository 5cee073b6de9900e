"""Searches of many trials: what a trial and a suggestion cost, and what is lost by learning from a subset.

    python tests/benchmarks/many_trials.py overhead [N ...]     CPU milliseconds of our own per trial, for each storage
    python tests/benchmarks/many_trials.py suggest [N ...]      CPU seconds of a suggestion of `gp`, and its memory
    python tests/benchmarks/many_trials.py pending [N ...]      the same while 64 trials run
    python tests/benchmarks/many_trials.py subset               scores with the best share of a subset varied
    python tests/benchmarks/many_trials.py workers [PEER ...] [SEED ...]    scores by workers, against Optuna

Trials are simulated: a point is told as soon as a worker would be free. `workers` appends each search to
`results/workers.jsonl` and leaves out those that are there, so it can be stopped at any time; at the end it prints the
medians.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import search_peers
from problems import PROBLEMS, Problem

import nbcompress as nc
from nbcompress.optimize import models
from nbcompress.optimize.encoding import SpaceEncoder
from nbcompress.optimize.history import History, Proposal
from nbcompress.optimize.proposers.gp import GaussianProcessProposer

# A cost is the mean of so many trials or suggestions.
WINDOW = 50
# For `subset`: searches of so many trials, with as many points as the surrogate may learn from.
SUBSET_TRIALS, SUBSET_POINTS, SUBSET_SEEDS = 300, 80, 3
SUBSET_PROBLEMS = ("hartmann6", "ackley5", "mixed", "constrained", "zdt1")
WORKER_TRIALS, WORKERS, WORKER_SEEDS = 100, (1, 2, 4, 8, 16, 64), 10
WORKER_PEERS = ("ours", "optuna tpe", "optuna gp", "random")
WORKER_RUNS = Path(__file__).parent / "results" / "workers.jsonl"
WORKER_PROBLEMS = ("branin", "hartmann6", "mixed")


def overhead(sizes: list[int]) -> None:
    """Print the CPU milliseconds of our own per trial before each size, with random points."""
    for kind in ("memory", "journal", "sqlite"):
        with tempfile.TemporaryDirectory() as folder:
            storages = {"memory": None, "journal": f"{folder}/a.journal", "sqlite": f"sqlite:///{folder}/a.db"}
            marks: list[float] = []

            def body(x: float, y: float, marks: list[float] = marks) -> dict[str, float]:
                marks.append(process_time())
                return {"loss": x * x + y}

            where = {} if storages[kind] is None else {"storage": storages[kind], "study": "s"}
            space = {"x": nc.Float(-1, 1), "y": nc.Float(0, 1)}
            nc.search(body, space, minimize="loss", trials=max(sizes), sampler="random", **where)
            costs = {n: 1000 * (marks[n - 1] - marks[n - 1 - WINDOW]) / WINDOW for n in sizes}
            print(kind, ", ".join(f"{n}: {cost:.2f} ms" for n, cost in costs.items()), flush=True)
            if kind == "journal":
                print(f"journal {Path(f'{folder}/a.journal').stat().st_size / max(sizes):.0f} bytes a trial")


def random_history(problem: Problem, n: int, n_pending: int) -> History:
    """Return a history of random points; the last ones are pending."""
    encoder, rng = SpaceEncoder(problem.space), np.random.default_rng(0)
    points = tuple(encoder.point(row) for row in encoder.from_cube(rng.random((n + n_pending, encoder.d))))
    losses = np.array([problem.losses(point) for point in points])
    losses[n:] = np.nan
    return History(points, losses, status=("told",) * n + ("pending",) * n_pending)


def suggest(sizes: list[int], n_pending: int = 0) -> None:
    """Print the CPU seconds of the first suggestion, of those that follow, and of the longest of these."""
    for name in ("hartmann6", "mixed"):
        problem = next(problem for problem in PROBLEMS if problem.name == name)
        for n in sizes:
            history = random_history(problem, n, n_pending)
            proposer = GaussianProcessProposer(problem.space, len(history.losses.T))
            costs = []
            for _ in range(1 + WINDOW):
                start = process_time()
                proposal = proposer.propose(len(history), history)
                costs.append(process_time() - start)
                history = history.with_point(proposal.point, "told", problem.losses(proposal.point), note=proposal.note)
            # A refit comes when the study has grown by a twentieth.
            start = process_time()
            proposer.propose(len(history), random_refit(problem, history, proposal))
            refit = process_time() - start
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{name} n = {n}, {n_pending} pending: first {costs[0]:.2f} s, median {median(costs[1:]):.2f} s, "
                f"with a refit {refit:.2f} s, largest memory so far {memory:.0f} MB",
                flush=True,
            )


def random_refit(problem: Problem, history: History, proposal: Proposal) -> History:
    """Return a history that is a tenth longer, so that hyperparameters are fitted again from the last ones."""
    more = random_history(problem, len(history) // 10 + 1, 0)
    return History(
        (*history.points, *more.points),
        np.vstack([history.losses, more.losses]),
        status=(*history.status, *more.status),
        notes=(*history.notes, *more.notes[:-1], proposal.note),
    )


def run(problem: Problem, n_trials: int, seed: int, workers: int = 1) -> float:
    """Return the score of a simulated search with so many trials at a time; each takes about equally long."""
    first = problem.losses(SpaceEncoder(problem.space).point(SpaceEncoder(problem.space).center()))
    history = History.empty(len(first), problem.n_slacks)
    proposer = GaussianProcessProposer(problem.space, len(first), problem.n_slacks, seed)
    rng = np.random.default_rng(seed)
    for number in range(n_trials + workers):
        pending = [i for i, status in enumerate(history.status) if status == "pending"]
        if pending and (len(pending) == workers or number >= n_trials):
            i = int(rng.choice(pending))
            history = with_result(history, i, problem)
        if number < n_trials:
            proposal = proposer.propose(number, history)
            history = history.with_point(proposal.point, note=proposal.note)
    while "pending" in history.status:
        history = with_result(history, history.status.index("pending"), problem)
    losses = [problem.losses(point) for point in history.points]
    return problem.scores(losses, [problem.slacks(point) for point in history.points])[-1]


def with_result(history: History, i: int, problem: Problem) -> History:
    """Return the history with the result of point `i`."""
    losses, slacks, status = history.losses.copy(), history.slacks.copy(), list(history.status)
    losses[i], slacks[i], status[i] = problem.losses(history.points[i]), problem.slacks(history.points[i]), "told"
    return History(history.points, losses, slacks, tuple(status), history.notes)


def compare_subsets() -> None:
    """Print the median score with all points and with subsets of which a share are the best ones."""
    for name in SUBSET_PROBLEMS:
        problem = next(problem for problem in PROBLEMS if problem.name == name)
        found = {}
        for share in (None, 0.0, 0.5, 0.75, 1.0):
            models.MAX_POINTS = 10**9 if share is None else SUBSET_POINTS
            models.BEST_SHARE = share or 0.0
            found[share] = median(run(problem, SUBSET_TRIALS, seed) for seed in range(SUBSET_SEEDS))
        print(name, {"all" if share is None else share: f"{score:.3g}" for share, score in found.items()}, flush=True)


def run_optuna(problem: Problem, n_trials: int, seed: int, workers: int, sampler: str) -> float:
    """As `run`, by a sampler of Optuna; TPE takes running trials for bad ones (constant liar)."""
    import optuna

    peer = search_peers.Optuna(problem, seed, sampler)
    if sampler == "tpe":
        with search_peers.quiet():
            peer.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    rng = np.random.default_rng(seed)
    running: list[tuple[object, dict[str, object]]] = []
    points: list[dict[str, object]] = []
    for number in range(n_trials + workers):
        if running and (len(running) == workers or number >= n_trials):
            peer.trial, point = running.pop(int(rng.integers(len(running))))
            peer.tell(point, problem.losses(point), problem.slacks(point))
        if number < n_trials:
            points.append(dict(peer.ask()))
            running.append((peer.trial, points[-1]))
    return problem.scores([problem.losses(point) for point in points], [problem.slacks(point) for point in points])[-1]


def score(problem: Problem, peer: str, seed: int, workers: int) -> float:
    if peer == "ours":
        return run(problem, WORKER_TRIALS, seed, workers)
    if peer.startswith("optuna"):
        return run_optuna(problem, WORKER_TRIALS, seed, workers, peer.split()[1])
    encoder, rng = SpaceEncoder(problem.space), np.random.default_rng(seed)
    points = [encoder.point(row) for row in encoder.from_cube(rng.random((WORKER_TRIALS, encoder.d)))]
    return problem.scores([problem.losses(point) for point in points], [problem.slacks(point) for point in points])[-1]


def compare_workers(seeds: list[int], peers: list[str]) -> None:
    """Run what is missing, one seed of everything after the other, and print the median scores of all peers."""
    WORKER_RUNS.parent.mkdir(exist_ok=True)
    runs = [json.loads(line) for line in WORKER_RUNS.read_text().splitlines()] if WORKER_RUNS.exists() else []
    found = {(line["problem"], line["peer"], line["workers"], line["seed"]): line["score"] for line in runs}
    for seed in seeds:
        for name, workers, peer in itertools.product(WORKER_PROBLEMS, WORKERS, peers):
            key = (name, peer, workers, seed)
            if key not in found:
                problem = next(problem for problem in PROBLEMS if problem.name == name)
                found[key] = score(problem, peer, seed, workers)
                line = {"problem": name, "peer": peer, "workers": workers, "seed": seed, "score": found[key]}
                with WORKER_RUNS.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    for name, peer in itertools.product(WORKER_PROBLEMS, WORKER_PEERS):
        by_workers = {n: [s for (p, q, w, _), s in found.items() if (p, q, w) == (name, peer, n)] for n in WORKERS}
        medians = ", ".join(f"{n}: {median(scores):.3g} ({len(scores)})" for n, scores in by_workers.items() if scores)
        print(f"{name}, {peer}: {medians}", flush=True)


def main() -> None:
    what, sizes = sys.argv[1], [int(text) for text in sys.argv[2:] if text.isdigit()]
    if what == "overhead":
        overhead(sizes or [100, 250, 1000, 3000, 10_000])
    elif what in ("suggest", "pending"):
        suggest(sizes or [200, 1000, 2000, 5000, 10_000, 100_000], 64 if what == "pending" else 0)
    elif what == "subset":
        compare_subsets()
    elif what == "workers":
        peers = [peer for peer in WORKER_PEERS if peer in sys.argv[2:]]
        compare_workers(sizes or list(range(WORKER_SEEDS)), peers or list(WORKER_PEERS))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
