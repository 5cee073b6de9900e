"""Quality and cost of suggestions: 40 trials on every problem, paired seeds, against other libraries.

    python tests/benchmarks/search.py --smoke                 three problems, one seed, 12 trials: does it run?
    python tests/benchmarks/search.py                         everything that is installed, 10 seeds
    python tests/benchmarks/search.py --peers ours optuna-gp --problems hartmann6 levy4 --seeds 20:30
    python tests/benchmarks/search.py --speed                 CPU seconds a suggestion at n = 10 .. 1000
    python tests/benchmarks/search.py --report                tables and figures from the runs so far
    python tests/benchmarks/search.py --keep                  keep the runs so far in `search_runs.jsonl.gz`

Every run is one line of `results/runs.jsonl`. A run that is there is not repeated; `--again ours` removes those of a
peer. The runs of the peers do not depend on us, and some take hours. So a folder without runs begins with the kept ones
from `search_runs.jsonl.gz`, which the tables in `docs/benchmarks.md` were made from. The report goes to `results/`: see
`search_report.py`. Scores are regrets, or for fronts the missing share of the hypervolume: less is better, 0 is
perfect. One thread.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
from problems import PROBLEMS, Problem
from pruned_layers import PRUNED_LAYERS
from search_peers import PEERS, Unable
from search_report import write_report
from search_speed import write_speed
from search_tables import OURS
from tuning_tasks import TASKS

RESULTS = Path(__file__).parent / "results"
KEPT = Path(__file__).with_name("search_runs.jsonl.gz")
# More digits than any difference that counts, in a file that is committed.
KEPT_DIGITS = 10
ALL = (*PROBLEMS, PRUNED_LAYERS, *TASKS)
SMOKE = ("branin", "conditional", "elastic diabetes")
# For each peer the problems that it cannot search, and why.
Unabilities = dict[str, dict[str, str]]
SIZES = (10, 30, 100, 300, 1000)


def run(problem: Problem, peer: str, seed: int, n: int) -> dict[str, object]:
    """Search once; return what a line of the runs holds."""
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
        "peer": peer,
        "seed": seed,
        "n": n,
        "losses": losses,
        "slacks": slacks,
        "cpu_s": sum(seconds[10:]) / max(1, n - 10),
    }


def read(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def begin(path: Path) -> None:
    """Write the runs of peers that were kept, unless there are runs already."""
    if path.exists() or not KEPT.exists():
        return
    lines = gzip.decompress(KEPT.read_bytes()).decode("utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["peer"] != OURS]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def keep(path: Path) -> None:
    """Keep the runs so far, the same bytes for the same runs."""

    def rounded(rows: list[list[float]]) -> list[list[float]]:
        return [[float(f"{value:.{KEPT_DIGITS}g}") for value in row] for row in rows]

    lines = [run | {name: rounded(run[name]) for name in ("losses", "slacks")} for run in read(path)]
    lines.sort(key=lambda line: (line["problem"], line["peer"], line["seed"], line["n"]))
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    KEPT.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))


def inabilities(problems: Sequence[Problem], peers: Sequence[str]) -> Unabilities:
    """Return for each peer the problems that it cannot search, and why."""
    unable: Unabilities = {}
    for peer in peers:
        for problem in problems:
            try:
                PEERS[peer](problem, 0)
            except Unable as err:
                unable.setdefault(peer, {})[problem.name] = str(err)
    return unable


def search_all(
    path: Path, problems: Sequence[Problem], peers: Sequence[str], seeds: Sequence[int], n: int, unable: Unabilities
) -> None:
    """Run what is missing, seed by seed. Every run is written when it ends, so the script can be stopped."""
    done = {(run["problem"], run["peer"], run["seed"], run["n"]) for run in read(path)}
    for seed in seeds:
        for problem in problems:
            for peer in peers:
                if (problem.name, peer, seed, n) in done or problem.name in unable.get(peer, {}):
                    continue
                start = process_time()
                line = run(problem, peer, seed, n)
                took = process_time() - start
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{problem.name:24}{peer:12}seed {seed:<3}{took:6.1f} CPU s", file=sys.stderr, flush=True)


def forget(path: Path, peers: Sequence[str], problems: Sequence[str]) -> None:
    kept = [json.dumps(run) for run in read(path) if run["peer"] not in peers or run["problem"] not in problems]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def seeds_of(text: str) -> range:
    low, _, high = text.partition(":")
    return range(int(low), int(high)) if high else range(int(low))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few short searches by whoever is installed")
    parser.add_argument("--speed", action="store_true", help="measure CPU seconds a suggestion instead")
    parser.add_argument("--report", action="store_true", help="run nothing, report what was run")
    parser.add_argument("--keep", action="store_true", help="keep the runs so far beside this script")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="PEER")
    parser.add_argument(
        "--problems", nargs="+", default=[problem.name for problem in ALL], metavar="NAME", help="or groups"
    )
    parser.add_argument("--seeds", type=seeds_of, default=range(10), help="10 or 20:30")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--again", nargs="+", default=[], metavar="PEER", help="forget the runs of these first")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    given = options()
    folder: Path = given.results / "smoke" if given.smoke else given.results
    folder.mkdir(parents=True, exist_ok=True)
    if given.speed:
        write_speed(folder, given.peers, (10, 40) if given.smoke else SIZES)
        return
    names = SMOKE if given.smoke else given.problems
    problems = [problem for problem in ALL if problem.name in names or problem.group in names]
    seeds, n = (range(1), 12) if given.smoke else (given.seeds, given.trials)
    path = folder / "runs.jsonl"
    if given.keep:
        keep(path)
        return
    if not given.smoke:
        begin(path)
    if given.again:
        forget(path, given.again, [problem.name for problem in problems])
    unable = inabilities(problems, given.peers)
    if not given.report:
        search_all(path, problems, given.peers, seeds, n, unable)
    lines = [run for run in read(path) if run["n"] == n and run["seed"] in seeds and run["peer"] in given.peers]
    print(write_report(folder, lines, problems, unable))


if __name__ == "__main__":
    main()
