"""What early stopping with two objectives saves and costs: accuracy against kilobytes of a small net on digits.

    python tests/benchmarks/early_stopping.py --smoke             one seed, 12 trials, 9 epochs: does it run?
    python tests/benchmarks/early_stopping.py                     every pruner, seeds 0 to 4
    python tests/benchmarks/early_stopping.py --pruners asha --seeds 100:102

A trial makes a net with one or two hidden layers, reports its size without a step, and then its accuracy after every
epoch on 500 images that it is not trained on. Searches with a pruner have the same seed, number of trials and options
as those without. Given are the training steps (epochs of all trials) as a share of those without a pruner, and the
hypervolume of the complete trials as a share of it, both paired by seed. The reference point is an accuracy of 0.5 and
32.768 kB: what is worse in either adds nothing. What stopped trials tell the surrogate and where the rungs begin was
chosen on seeds 100 to 109, how many go on from the first on 100 to 105.

Measured (40 trials of 27 epochs): on seeds 0 to 4 asha takes 0.50 of the steps (median) and keeps 1.000 of the
hypervolume; on seeds 5 to 14 it is 0.53 and 1.000; on all fifteen 0.51 and 1.000 (mean 0.995, 0.974 to 1.017).

Every search is one line of `results/early_stopping.jsonl`; one that is there is not repeated. The table goes to
`results/early_stopping.csv`. One thread.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from digits import digits
from torch import nn

import nbcompress as nc
from nbcompress.choices import PRUNERS

RESULTS = Path(__file__).parent / "results"
REFERENCE = {"accuracy": 0.5, "kilobytes": 32.768}
SPACE = {
    "width": nc.Int(4, 96, log=True),
    "depth": nc.Choice(1, 2),
    "lr": nc.Float(1e-4, 1e-1, log=True),
    "dropout": nc.Float(0.0, 0.6),
    "batch_size": nc.Choice(32, 64, 128, 256),
}


class Trial:
    """Trains one net; called with a point."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.train, self.test = digits(0)

    def __call__(self, width: int, depth: int, lr: float, dropout: float, batch_size: int) -> dict[str, float]:
        hidden: list[nn.Module] = [nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout)]
        if depth == 2:
            hidden += [nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout)]
        net = nn.Sequential(*hidden, nn.Linear(width, 10))
        nc.report(kilobytes=nc.size_bytes(net) / 1000)

        def after(epoch: int, *_: object) -> None:
            nc.report(accuracy=self.accuracy(net), step=epoch)

        seed = int(torch.randint(2**31, ()))
        nc.finetune(net, self.train, epochs=self.epochs, lr=lr, batch_size=batch_size, on_epoch=after, seed=seed)
        return {"accuracy": self.accuracy(net)}

    def accuracy(self, net: nn.Module) -> float:
        x, y = self.test
        was_training = net.training
        with torch.no_grad():
            right = float((net.eval()(x).argmax(1) == y).float().mean())
        net.train(was_training)
        return right


def searched(trial: Trial, pruner: str, seed: int, trials: int) -> dict[str, object]:
    """Search once; return what a line of the results holds."""
    goal = {"maximize": "accuracy", "minimize": "kilobytes"}
    study = nc.search(trial, SPACE, trials=trials, pruner=pruner, seed=seed, **goal)
    return {
        "pruner": pruner,
        "seed": seed,
        "trials": trials,
        "epochs": trial.epochs,
        "steps": sum(len(trial.reports.get("accuracy", ())) for trial in study.all_trials),
        "stopped": sum(trial.state == "stopped" for trial in study.all_trials),
        "hypervolume": study.hypervolume(REFERENCE),
    }


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def search_all(path: Path, pruners: Sequence[str], seeds: Sequence[int], trials: int, epochs: int) -> None:
    done = {(run["pruner"], run["seed"], run["trials"], run["epochs"]) for run in read(path)}
    trial = Trial(epochs)
    for seed in seeds:
        for pruner in pruners:
            if (pruner, seed, trials, epochs) not in done:
                line = searched(trial, pruner, seed, trials)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(line, file=sys.stderr, flush=True)


def table(path: Path, seeds: Sequence[int], trials: int, epochs: int) -> list[dict[str, object]]:
    """Return a row for each pruner: medians of the shares, paired by seed, and their ranges."""
    lines = [run for run in read(path) if (run["trials"], run["epochs"]) == (trials, epochs)]
    by = {(line["pruner"], line["seed"]): line for line in lines}
    rows: list[dict[str, object]] = []
    for pruner in PRUNERS:
        pairs = [
            (by[pruner, seed], by["none", seed]) for seed in seeds if {(pruner, seed), ("none", seed)} <= by.keys()
        ]
        if not pairs:
            continue
        row: dict[str, object] = {"pruner": pruner, "seeds": len(pairs)}
        for what in ("steps", "hypervolume"):
            shares = [float(str(pruned[what])) / float(str(plain[what])) for pruned, plain in pairs]
            row[what] = f"{statistics.median(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})"
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--pruners", nargs="+", default=list(PRUNERS), choices=PRUNERS)
    parser.add_argument("--seeds", default="5", help="N or LOW:HIGH")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=27)
    options = parser.parse_args()
    if options.smoke:
        options.seeds, options.trials, options.epochs = "1", 12, 9
    low, _, high = options.seeds.partition(":")
    seeds = range(int(low), int(high)) if high else range(int(low))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("early_stopping_smoke.jsonl" if options.smoke else "early_stopping.jsonl")
    search_all(path, list(dict.fromkeys(["none", *options.pruners])), seeds, options.trials, options.epochs)
    rows = table(path, seeds, options.trials, options.epochs)
    with (RESULTS / "early_stopping.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["pruner", "seeds", "steps", "hypervolume"])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
