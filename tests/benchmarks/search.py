"""How good suggestions are and what they cost: 40 trials on every problem, paired seeds, against the peers.

    python tests/benchmarks/search.py --smoke                 two problems, two seeds, 12 trials: does it run?
    python tests/benchmarks/search.py                         everything that is installed, 10 seeds
    python tests/benchmarks/search.py --peers ours optuna-gp --problems hartmann6 levy4 --seeds 20:30
    python tests/benchmarks/search.py --speed                 CPU seconds a suggestion at n = 10 .. 1000
    python tests/benchmarks/search.py --report                tables and figure from the runs so far

Every run is one line of `results/runs.jsonl`; a run that is there is not repeated (`--again ours` forgets a peer's).
The report goes to `results/`: `scores.csv`, `ranks.csv`, `report.txt`, `curves.png`, `speed.csv`.
Scores are regrets, or for fronts the missing share of the hypervolume: less is better, 0 is perfect. One thread.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import process_time

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
from problems import PROBLEMS, Problem
from search_peers import PEERS, Unable
from search_report import write_report
from search_speed import write_speed
from tuning_tasks import TASKS

RESULTS = Path(__file__).parent / "results"
ALL = (*PROBLEMS, *TASKS)
SMOKE = ("branin", "conditional")


def run(problem: Problem, peer: str, seed: int, n: int) -> dict[str, object]:
    """Search once; return what a line of the runs holds.

    Raises:
        Unable: The peer is missing, or cannot search this problem.
    """
    searcher = PEERS[peer](problem, seed)
    losses, slacks, seconds = [], [], []
    for _ in range(n):
        start = process_time()
        point = searcher.ask()
        seconds.append(process_time() - start)
        losses.append(problem.losses(point))
        slacks.append(problem.slacks(point))
        start = process_time()
        searcher.tell(point, losses[-1], slacks[-1])
        seconds[-1] += process_time() - start
    return {
        "problem": problem.name,
        "group": problem.group,
        "peer": peer,
        "seed": seed,
        "n": n,
        "scores": problem.scores(losses, slacks),
        "cpu_s": sum(seconds[10:]) / max(1, n - 10),
    }


def read(path: Path) -> Iterator[dict[str, object]]:
    if path.exists():
        yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def search_all(
    path: Path, problems: Sequence[Problem], peers: Sequence[str], seeds: Sequence[int], n: int
) -> dict[str, set[str]]:
    """Run what is missing; return for each peer why it did not run."""
    done = {(one["problem"], one["peer"], one["seed"], one["n"]) for one in read(path)}
    unable: dict[str, set[str]] = {}
    for seed in seeds:
        for problem in problems:
            for peer in peers:
                if (problem.name, peer, seed, n) in done:
                    continue
                try:
                    line = run(problem, peer, seed, n)
                except Unable as err:
                    unable.setdefault(peer, set()).add(f"{problem.name}: {err}")
                    continue
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{problem.name:24}{peer:12}seed {seed:<3}{line['scores'][-1]:.3g}", file=sys.stderr, flush=True)
    return unable


def forget(path: Path, peers: Sequence[str], problems: Sequence[str]) -> None:
    kept = [json.dumps(one) for one in read(path) if one["peer"] not in peers or one["problem"] not in problems]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def seeds_of(text: str) -> range:
    low, _, high = text.partition(":")
    return range(int(low), int(high)) if high else range(int(low))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few short searches by whoever is installed")
    parser.add_argument("--speed", action="store_true", help="measure CPU seconds a suggestion instead")
    parser.add_argument("--report", action="store_true", help="run nothing, report what was run")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="PEER")
    parser.add_argument("--problems", nargs="+", default=[one.name for one in ALL], metavar="NAME", help="or groups")
    parser.add_argument("--seeds", type=seeds_of, default=range(10), help="10 or 20:30")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--again", nargs="+", default=[], metavar="PEER", help="forget the runs of these first")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    folder: Path = options.results / "smoke" if options.smoke else options.results
    folder.mkdir(parents=True, exist_ok=True)
    if options.speed:
        write_speed(folder, options.peers, (10, 40) if options.smoke else (10, 40, 100, 300, 1000))
        return
    names = SMOKE if options.smoke else options.problems
    problems = [one for one in ALL if one.name in names or one.group in names]
    seeds, n = (range(2), 12) if options.smoke else (options.seeds, options.trials)
    path = folder / "runs.jsonl"
    if options.again:
        forget(path, options.again, [one.name for one in problems])
    unable = {} if options.report else search_all(path, problems, options.peers, seeds, n)
    lines = [one for one in read(path) if one["n"] == n and one["seed"] in seeds and one["peer"] in options.peers]
    print(write_report(folder, lines, [one.name for one in problems], unable))


if __name__ == "__main__":
    main()
