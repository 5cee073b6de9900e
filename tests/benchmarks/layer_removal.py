"""Layers or channels: an encoder of 12 layers loses a quarter of its layers, or channels until it is as fast.

The encoder (width 32, 4 heads) reads a digit as a sequence of its 8 rows. It loses layers by the change of its outputs,
and channels by magnitude with the first amount whose latency is not above that of the other. Both are trained for
equally many epochs. Accuracy is on 500 digits that nothing was fitted to; latency is the median of one call on 64
digits, measured in turn with the dense encoder.

    python tests/benchmarks/layer_removal.py [--seeds 5] [--smoke]
"""

from __future__ import annotations

import argparse
from statistics import mean

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from digits import accuracy, digits
from records import conditions
from torch import Tensor, nn

import nbcompress as nc

AMOUNTS = (0.25, 0.5, 0.75, 0.9)


class RowEncoder(nn.Module):
    """A transformer over the rows of a digit."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(0.02 * torch.randn(8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.view(-1, 8, 8)) + self.place).mean(1))


def ratio(model: nn.Module, small: nn.Module, x: Tensor) -> float:
    """How many times faster `small` is."""
    speedup = nc.compare(model, small, x, repeats=20).speedup
    return 1.0 if speedup is None else speedup.value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="one seed, two epochs")
    options = parser.parse_args()
    seeds, epochs, tuning = (range(1), 2, 1) if options.smoke else (range(options.seeds), 15, 5)
    print(f"{conditions()}; {len(seeds)} seeds")
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for seed in seeds:
        train, test = digits(seed)
        x = test[0][:64]
        model = nc.finetune(RowEncoder(seed), train, epochs=epochs, lr=2e-3, seed=seed)
        print(f"seed {seed}: dense {accuracy(model, test):.1f} %", flush=True)
        by_layer = nc.prune(model, 0.25, granularity="layer", data=train)
        fast = ratio(model, by_layer, x)
        found = {"a quarter of the layers": (by_layer, fast)}
        for amount in AMOUNTS:
            narrow = nc.prune(model, amount, granularity="channel", data=train)
            speed = ratio(model, narrow, x)
            if speed >= fast or amount == AMOUNTS[-1]:
                found["channels"] = (narrow, speed)
                break
        for name, (small, speed) in found.items():
            right = accuracy(small, test)
            tuned = accuracy(nc.finetune(small, train, epochs=tuning, lr=1e-3, seed=seed), test)
            rows.setdefault(name, []).append((speed, right, tuned))
            print(f"seed {seed}: {name}: {speed:.2f} times faster, {right:.1f} %, tuned {tuned:.1f} %", flush=True)
    for name, values in rows.items():
        speed, right, tuned = (mean(column) for column in zip(*values, strict=True))
        print(f"{name:30}{speed:8.2f}{right:8.1f}{tuned:8.1f}")


if __name__ == "__main__":
    main()
