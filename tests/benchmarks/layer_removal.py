"""Layers or channels: an encoder of 12 layers loses a quarter of its layers, or channels until it is as fast.

The encoder (width 32, 4 heads) reads a digit as a sequence of its 8 rows. It loses layers by the change of its outputs,
and channels by magnitude with the first of nine amounts whose latency is not above that of the other. Both are trained
for equally many epochs, and so is the dense encoder. Accuracy is on 500 digits that nothing was fitted to. The
latency ratio is that of one call on 64 digits, where the calls of both models alternate; `channels, norms` also cuts
the width that norms average over. What was measured is one line of `results/layer_removal.jsonl` a seed, and is not
measured again.

    python tests/benchmarks/layer_removal.py [--seeds 5] [--smoke]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from copy import deepcopy

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from digits import accuracy, digits
from records import Runs, conditions, interval_text
from torch import Tensor, nn

import nbcompress as nc

AMOUNTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LAYERS = "a quarter of the layers"


class RowEncoder(nn.Module):
    """A transformer over the rows of a digit."""

    def __init__(self, seed: int, n_layers: int = 12) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(0.02 * torch.randn(8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.view(-1, 8, 8)) + self.place).mean(1))


def ratio(model: nn.Module, small: nn.Module, x: Tensor) -> float:
    """How many times faster `small` is."""
    speedup = nc.compare(model, small, x, repeats=30).speedup
    return 1.0 if speedup is None else speedup.value


def cut(model: nn.Module, train: tuple[Tensor, Tensor]) -> Iterator[tuple[str, str, nn.Module, float]]:
    """Each way to make the model as fast as without a quarter of its layers: name, amount, model, latency ratio."""
    x = train[0][:64]
    by_layer = nc.prune(model, 0.25, granularity="layer", data=train)
    wanted = ratio(model, by_layer, x)
    yield LAYERS, "0.25", by_layer, wanted
    for name, norms in (("channels", "keep"), ("channels, norms", "cut")):
        for amount in AMOUNTS:
            narrow = nc.prune(model, amount, granularity="channel", norms=norms, data=train)
            speed = ratio(model, narrow, x)
            if speed >= wanted:
                break
        yield name, f"{amount:g}", narrow, speed


def measured(seed: int, epochs: int, tuning: int) -> dict[str, dict[str, object]]:
    """The figures of one seed, by the name of the model."""
    train, test = digits(seed)
    model = nc.finetune(RowEncoder(seed), train, epochs=epochs, lr=2e-3, seed=seed)

    def tuned(net: nn.Module) -> float:
        return accuracy(nc.finetune(net, train, epochs=tuning, lr=1e-3, seed=seed), test)

    found: dict[str, dict[str, object]] = {}
    found["dense"] = {"amount": "", "speed": 1.0, "right": accuracy(model, test), "tuned": tuned(deepcopy(model))}
    for name, amount, small, speed in cut(model, train):
        right = accuracy(small, test)  # before `tuned`, which trains it in place
        found[name] = {"amount": amount, "speed": speed, "right": right, "tuned": tuned(small)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="one seed, two epochs")
    options = parser.parse_args()
    seeds, epochs, tuning = (1, 2, 1) if options.smoke else (options.seeds, 15, 5)
    print(f"{conditions()}; {seeds} seeds")
    runs = Runs("layer_removal_smoke" if options.smoke else "layer_removal", is_fresh=options.smoke)
    rows = [runs.get(f"seed {seed}", lambda seed=seed: measured(seed, epochs, tuning)) for seed in range(seeds)]
    for name in rows[0]:
        columns = [[row[name][what] for row in rows] for what in ("speed", "right", "tuned")]
        amounts = ", ".join(row[name]["amount"] for row in rows)
        print(
            f"{name:26}"
            + "".join(f"{interval_text(column, 2 if not place else 1):>24}" for place, column in enumerate(columns)),
            amounts,
        )
    for name in rows[0]:
        gaps = [row[LAYERS]["tuned"] - row[name]["tuned"] for row in rows]
        print(f"layers less {name}, tuned: {interval_text(gaps)}")


if __name__ == "__main__":
    main()
