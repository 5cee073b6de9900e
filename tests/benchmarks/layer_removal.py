"""Layers or channels: an encoder of 12 layers loses a quarter of its layers, or channels until it is as fast.

The encoder (width 32, 4 heads) reads a digit as a sequence of its 8 rows, and learns from 600 digits. It loses layers
by the change of its outputs, and channels by magnitude. Their amount is bisected until a call takes as long as one of
the encoder without the layers. All are trained for equally many epochs more, and so is the dense encoder. Accuracy is
on 500 digits that nothing was fitted to. A latency ratio is that of the CPU time of a call on 64 digits, on one
thread, where the calls of both models alternate; those that are printed were measured after the bisection. `channels,
norms` also cuts the width that norms average over. What was measured is one line of `results/layer_removal.jsonl` a
seed, and is not measured again.

    python tests/benchmarks/layer_removal.py [--seeds 5 or 2:3] [--smoke]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from statistics import median

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from digits import accuracy, digits
from records import Runs, conditions, interval_text
from torch import Tensor, nn

import nbcompress as nc

N_TRAIN, N_CALLS = 600, 41
HIGHEST, N_BISECTIONS = 0.9, 7
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
    """How many times less CPU time `small` takes; other processes do not count."""
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for _ in range(N_CALLS):
            for net, found in zip((model.eval(), small.eval()), times, strict=True):
                since = time.process_time()
                net(x)
                found.append(time.process_time() - since)
    return median(times[0]) / median(times[1])


def equally_fast(
    wanted: nn.Module, model: nn.Module, train: tuple[Tensor, Tensor], norms: str
) -> tuple[float, nn.Module]:
    """Return the amount of channels to cut, and the cut model, whose calls take as long as those of `wanted`."""
    low, high, found = 0.0, HIGHEST, []
    for _ in range(N_BISECTIONS):
        amount = (low + high) / 2
        narrow = nc.prune(model, amount, granularity="channel", norms=norms, data=train)
        speed = ratio(wanted, narrow, train[0][:64])
        found.append((abs(math.log(speed)), amount, narrow))
        low, high = (amount, high) if speed < 1 else (low, amount)
    _, amount, narrow = min(found, key=lambda entry: entry[:2])
    return amount, narrow


def cut(model: nn.Module, train: tuple[Tensor, Tensor]) -> Iterator[tuple[str, float, nn.Module, float]]:
    """Each way to make the model as fast as without a quarter of its layers.

    Yields:
        Name, amount, model, and how many times less time it takes than without the layers.
    """
    by_layer = nc.prune(model, 0.25, granularity="layer", data=train)
    yield LAYERS, 0.25, by_layer, 1.0
    for name, norms in (("channels", "keep"), ("channels, norms", "cut")):
        amount, narrow = equally_fast(by_layer, model, train, norms)
        yield name, amount, narrow, ratio(by_layer, narrow, train[0][:64])


def measured(seed: int, epochs: int, tuning: int) -> dict[str, dict[str, float]]:
    """The figures of one seed, by the name of the model."""
    train, test = digits(seed)
    train = (train[0][:N_TRAIN], train[1][:N_TRAIN])
    model = nc.finetune(RowEncoder(seed), train, epochs=epochs, lr=2e-3, seed=seed)

    def tuned(net: nn.Module) -> float:
        return accuracy(nc.finetune(net, train, epochs=tuning, lr=1e-3, seed=seed), test)

    found: dict[str, dict[str, float]] = {}
    found["dense"] = {"amount": 0.0, "speed": 1.0, "right": accuracy(model, test), "tuned": tuned(deepcopy(model))}
    for name, amount, small, equal in cut(model, train):
        # Before `tuned`, which trains it in place.
        before = {"speed": ratio(model, small, train[0][:64]), "right": accuracy(small, test)}
        found[name] = {"amount": amount, "equal": equal, **before, "tuned": tuned(small)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="5", help="N or LOW:HIGH")
    parser.add_argument("--smoke", action="store_true", help="one seed, two epochs")
    options = parser.parse_args()
    text, epochs, tuning = ("1", 2, 1) if options.smoke else (options.seeds, 20, 5)
    low, _, high = text.rpartition(":")
    seeds = range(int(low or 0), int(high))
    print(f"{conditions()}; {len(seeds)} seeds")
    runs = Runs("layer_removal_smoke" if options.smoke else "layer_removal", is_fresh=options.smoke)
    rows = [runs.get(f"seed {seed}", lambda seed=seed: measured(seed, epochs, tuning)) for seed in seeds]
    for name in rows[0]:
        columns = [[row[name][what] for row in rows] for what in ("speed", "right", "tuned")]
        amounts = ", ".join(f"{row[name]['amount']:.3g}" for row in rows)
        print(
            f"{name:26}"
            + "".join(f"{interval_text(column, 2 if not place else 1):>24}" for place, column in enumerate(columns)),
            amounts,
        )
    for name in rows[0]:
        gaps = [row[LAYERS]["tuned"] - row[name]["tuned"] for row in rows]
        equal = interval_text([row[name].get("equal", math.nan) for row in rows], 3)
        print(f"layers less {name}, tuned: {interval_text(gaps)}; times less time than without layers: {equal}")


if __name__ == "__main__":
    main()
