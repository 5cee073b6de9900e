"""Every criterion of pruning on handwritten digits: accuracy of a 64-300-100-10 network at 90 and 95 % sparsity.

Each seed has its own split (1297 digits to train on, 500 to test), its own start of the network and its own order of
batches; the dense network learns for 30 epochs. Then it is pruned one-shot and trained for 5 epochs. The table
shows the mean accuracy over seeds, right after pruning and after training. Each criterion has its default scope:
`activation` takes the share from each output, the others from all layers together. Channels are cut by half and by
three quarters, since no network works with 5 % of its neurons.

    python tests/benchmarks/criteria.py [--seeds 5] [--only channels] [--smoke]
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import mean

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
from digits import accuracy, digits, perceptron
from records import conditions
from torch import nn

import nbcompress as nc
from nbcompress.choices import CHANNEL_CRITERIA, WEIGHT_CRITERIA


def recipes() -> dict[str, tuple[partial[nn.Module], partial[nn.Module]]]:
    """Two amounts of each way to prune, by name."""
    found = {}
    for criterion in WEIGHT_CRITERIA:
        found[criterion] = tuple(partial(nc.prune, amount=amount, criterion=criterion) for amount in (0.9, 0.95))
    for criterion in ("magnitude", "hessian"):
        options = {"criterion": criterion, "scope": "lamp"}
        found[f"{criterion}, lamp"] = tuple(partial(nc.prune, amount=amount, **options) for amount in (0.9, 0.95))
    for criterion in CHANNEL_CRITERIA:
        options = {"granularity": "channel", "criterion": criterion}
        found[f"channels, {criterion}"] = tuple(partial(nc.prune, amount=amount, **options) for amount in (0.5, 0.75))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="one seed, two epochs")
    parser.add_argument("--only", default="", help="only the rows whose name begins with this")
    options = parser.parse_args()
    seeds, epochs, tuning = (range(1), 2, 1) if options.smoke else (range(options.seeds), 30, 5)
    print(f"{conditions()}; {len(seeds)} seeds")
    scores: dict[str, list[list[float]]] = {}
    dense: list[float] = []
    for seed in seeds:
        train, test = digits(seed)
        model = nc.finetune(perceptron(seed), train, epochs=epochs, seed=seed)
        dense.append(accuracy(model, test))
        for name, prunes in recipes().items():
            if not name.startswith(options.only):
                continue
            row = []
            for prune in prunes:
                small = prune(model, data=train, seed=seed)
                row.append(accuracy(small, test))
                row.append(accuracy(nc.finetune(small, train, epochs=tuning, seed=seed), test))
            scores.setdefault(name, []).append(row)
    print(f"dense {mean(dense):.1f} % of the test digits")
    print(f"{'weights':30}{'90 %':>8}{'tuned':>8}{'95 %':>8}{'tuned':>8}")
    for name, rows in scores.items():
        if name == f"channels, {CHANNEL_CRITERIA[0]}":
            print(f"{'channels':30}{'50 %':>8}{'tuned':>8}{'75 %':>8}{'tuned':>8}")
        print(f"{name:30}" + "".join(f"{mean(column):8.1f}" for column in zip(*rows, strict=True)), flush=True)


if __name__ == "__main__":
    main()
