"""How much a search flatters its winner: forty trials on noisy data, then `--test` on data that no trial saw.

A tenth of all labels of the handwritten digits is wrong. A 64-300-100-10 network learns from 700 of them. Forty trials
prune, quantize and train it, and are judged by the accuracy on few other digits (100 or 300). `test=` measures the
winner and the dense network once on the rest (797 or 597). Of the trials that were not chosen, the difference between
both accuracies shows that the validation digits alone flatter nobody: choosing does. Each search is one line of
`results/flattering.jsonl`, and is not run again.

    python tests/benchmarks/flattering.py [--seeds 10] [--smoke]
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import mean

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from digits import Data, accuracy, perceptron
from records import Runs, conditions, interval_text
from sklearn.datasets import load_digits
from torch import nn

import nbcompress as nc

N_TRAIN = 700
SIZES = (100, 300)
SPACE = {
    "amount": nc.Float(0.5, 0.97),
    "bits": nc.Choice(2, 3, 4, 8),
    "lr": nc.Float(3e-4, 1e-2, log=True),
    "epochs": nc.Int(1, 3),
}


def noisy_digits(seed: int) -> Data:
    """All 1797 digits in an order of the seed; each label is another class by a chance of a tenth."""
    x, y = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    labels = torch.tensor(y)[order]
    is_wrong = torch.rand(len(y), generator=generator) < 0.1
    other = (labels + torch.randint(1, 10, (len(y),), generator=generator)) % 10
    return torch.tensor(x / 16, dtype=torch.float32)[order], torch.where(is_wrong, other, labels)


def part(data: Data, start: int, stop: int | None = None) -> Data:
    return data[0][start:stop].clone(), data[1][start:stop].clone()


def searched(n_valid: int, seed: int, trials: int) -> dict[str, float | str]:
    """Search once: accuracy of the winner on both data, and the mean difference over the other trials, in points."""
    data = noisy_digits(seed)
    train, valid, unseen = part(data, 0, N_TRAIN), part(data, N_TRAIN, N_TRAIN + n_valid), part(data, N_TRAIN + n_valid)
    model = nc.finetune(perceptron(seed), train, epochs=10, seed=seed)
    tried: list[nn.Module] = []

    def trial(amount: float, bits: int, lr: float, epochs: int) -> dict[str, float]:
        small = nc.quantize(nc.prune(model, amount=amount), bits=bits)
        nc.finetune(small, train, lr=lr, epochs=epochs, seed=seed)
        tried.append(small)
        nc.keep(small=small)
        return {"accuracy": accuracy(small, valid)}

    def measure(net: nn.Module) -> float:
        return accuracy(net, unseen)

    study = nc.search(
        trial, SPACE, maximize="accuracy", trials=trials, seed=seed, keep="small", original=model, test=measure
    )
    models = study.record["test"]["models"]
    winner = study.best
    others = [accuracy(net, valid) - accuracy(net, unseen) for n, net in enumerate(tried) if n != winner.number]
    return {
        "search": winner.values["accuracy"],
        "unseen": models[str(winner.number)]["values"]["accuracy"][0],
        "original": models["original"]["values"]["accuracy"][0],
        "original on validation": accuracy(model, valid),
        "others": mean(others),
        "sentence": study.record["test"]["sentence"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="one seed, eight trials")
    options = parser.parse_args()
    seeds, trials = (1, 8) if options.smoke else (options.seeds, 40)
    print(f"{conditions()}; {seeds} seeds, {trials} trials")
    runs = Runs("flattering_smoke" if options.smoke else "flattering", is_fresh=options.smoke)
    rows = {
        n_valid: [runs.get(f"{n_valid} digits, seed {s}", partial(searched, n_valid, s, trials)) for s in range(seeds)]
        for n_valid in SIZES
    }
    for n_valid, found in rows.items():
        columns = {name: [row[name] for row in found] for name in ("search", "unseen", "original", "others")}
        gaps = [row["search"] - row["unseen"] for row in found]
        told = ", ".join(f"{name} {interval_text(values)}" for name, values in columns.items())
        chosen = [gap - row["others"] for gap, row in zip(gaps, found, strict=True)]
        print(
            f"{n_valid} validation digits: {told}, flattered by {interval_text(gaps)}, "
            f"of this by choosing {interval_text(chosen)}"
        )


if __name__ == "__main__":
    main()
