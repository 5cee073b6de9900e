"""A real search over many parameters: how much of each of 30 layers of a trained network to prune.

The network is a residual perceptron for 8 by 8 digits (30 linear layers, 68,064 weights, 98 % right). It was trained by
this script (`--train`) and is kept in `pruned_layers.npz`: trained on another machine, rounding makes it another
network, whose searches cannot be compared with those that were kept. Every amount sets the weights of smallest
magnitude of one layer to 0; the loss is the cross-entropy on digits that the training did not see, at most 3 (a network
that guesses has 2.3), and the share of the weights that is left. Nothing is tuned after.

With one amount for all layers the best loss is .60, with one for the first and one for the second layers of all blocks
.58; layer by layer it comes down to .34.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from problems import Problem, vector
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbcompress.space import Float, Point

N_BLOCKS, WIDTH = 14, 48
N_LAYERS = 2 * N_BLOCKS + 2
N_TRAIN, EPOCHS, BATCH = 1200, 15, 50
WORST = 3.0
MOST = 0.98
KEPT = Path(__file__).with_suffix(".npz")
# About what coordinate descent comes to (`python tests/benchmarks/pruned_layers.py`, a minute: .342). Searches of 40
# trials stay far above, so it only sets the zero of the scores.
BEST = 0.352


class Block(nn.Module):
    """Two layers beside a connection that skips them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x))) / 3


@dataclass(frozen=True)
class Trained:
    """A network, its layers, their weights as they were trained and sorted magnitudes of these, and unseen digits."""

    model: nn.Module
    layers: tuple[nn.Linear, ...]
    weights: tuple[Tensor, ...]
    magnitudes: tuple[Tensor, ...]
    unseen: tuple[Tensor, Tensor]


def network() -> nn.Module:
    blocks = [Block() for _ in range(N_BLOCKS)]
    return nn.Sequential(nn.Linear(64, WIDTH), *blocks, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))


def shuffled() -> tuple[Tensor, Tensor]:
    """Return the digits in the order that the network was trained in; what comes after `N_TRAIN` is unseen."""
    pixels, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    return torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(digits)[order]


def train() -> None:
    """Train the network, some seconds, and keep it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x, y = shuffled()
        torch.randperm(len(y))  # as it was trained first: the weights are drawn after an order
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(EPOCHS):
            for start in range(0, N_TRAIN, BATCH):
                optimizer.zero_grad()
                cross_entropy(model(x[start : start + BATCH]), y[start : start + BATCH]).backward()
                optimizer.step()
    np.savez_compressed(KEPT, **{name: tensor.numpy() for name, tensor in model.state_dict().items()})


@cache
def trained() -> Trained:
    model = network()
    with np.load(KEPT) as kept:
        model.load_state_dict({name: torch.tensor(kept[name]) for name in kept.files})
    x, y = shuffled()
    layers = tuple(module for module in model.modules() if isinstance(module, nn.Linear))
    weights = tuple(layer.weight.detach().clone() for layer in layers)
    magnitudes = tuple(weight.abs().flatten().sort().values for weight in weights)
    return Trained(model.eval(), layers, weights, magnitudes, (x[N_TRAIN:], y[N_TRAIN:]))


def loss_of(amounts: np.ndarray) -> float:
    """Cross-entropy and kept share with so much of each layer pruned; shape `(N_LAYERS,)`."""
    net, kept = trained(), 0
    with torch.no_grad():
        for layer, weight, magnitudes, amount in zip(net.layers, net.weights, net.magnitudes, amounts, strict=True):
            n_pruned = int(amount * len(magnitudes))
            layer.weight.copy_(weight * (weight.abs() >= magnitudes[n_pruned]))
            kept += len(magnitudes) - n_pruned
        x, y = net.unseen
        harm = min(float(cross_entropy(net.model(x), y)), WORST)
    return harm + kept / sum(len(magnitude) for magnitude in net.magnitudes)


def pruned_layers(point: Point) -> tuple[float]:
    return (loss_of(vector(point)) - BEST,)


PRUNED_LAYERS = Problem(
    "pruned layers",
    "own",
    {"amounts": Float(0.0, MOST, each=[f"layer{i}" for i in range(N_LAYERS)])},
    pruned_layers,
)


def descend(n: int = 40) -> None:
    """Print what is best with one amount for all layers, and what coordinate descent over `n` amounts makes of it."""
    amounts = min((np.full(N_LAYERS, amount) for amount in np.linspace(0.0, MOST, n)), key=loss_of)
    before, loss = np.inf, loss_of(amounts)
    while loss < before - 1e-4:
        print(f"{loss:.4f}", flush=True)
        for i in range(N_LAYERS):
            others = np.arange(N_LAYERS) != i
            changed = [np.where(others, amounts, amount) for amount in np.linspace(0.0, MOST, n)]
            amounts = min([amounts, *changed], key=loss_of)
        before, loss = loss, loss_of(amounts)


if __name__ == "__main__":
    if "--train" in sys.argv:
        train()
    descend()
