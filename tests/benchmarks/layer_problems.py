"""Searches with settings for every layer under a budget of size: real networks for digits, and two formulas.

The networks (8, 14 and 20 linear layers, residual but for the first) were trained by this script (`--train`) and are
kept in `layer_problems.npz`: trained on another machine, rounding makes them other networks. Bits and amount are chosen
for each layer, nothing is tuned after. A trial prunes the weights of smallest magnitude of each layer and rounds the
rest, just as `nc.prune(layers=)` and `nc.quantize(bits={..})` do (`test_layers.py` compares them), but only a layer
with new settings is computed again. The size is that of the kept weights and of their positions at their entropy.

The formulas have a known optimum. Harm adds up over layers of very different sensitivity, and the error is a cliff: it
stays near that of the whole network and then rises to that of guessing.

Each problem has one objective (the error, within the budget), and the networks also two (error and size, within the
budget). Fewer than 5 % of random points are within the budgets.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from problems import Problem, vector
from pruned_layers import Block, shuffled
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbcompress.compressors.grids import GridSpec, fit_grid, round_to_grid
from nbcompress.compressors.prune.weight_scores import keep_masks
from nbcompress.space import Choice, Float, Point

KEPT = Path(__file__).with_suffix(".npz")
N_TRAIN, EPOCHS, BATCH, WIDTH = 1200, 25, 50, 48
BITS = (2, 3, 4, 6, 8)
MOST = 0.95
GUESSING = 0.9
# By number of layers, the share of float32 that the weights may take.
BUDGETS = {8: 1 / 20, 14: 1 / 26, 20: 1 / 30}
# Errors up to this one count for the front.
WORST_ERROR = 0.5


# --- real networks ---------------------------------------------------------------------------------------------------


def network(n_layers: int) -> nn.Sequential:
    blocks = [Block() for _ in range((n_layers - 2) // 2)]
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), *blocks, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))


def train() -> None:
    """Train the networks, some seconds each, and keep them."""
    kept: dict[str, np.ndarray] = {}
    x, y = shuffled()
    for n_layers in BUDGETS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(n_layers)
            model = network(n_layers)
            optimizer = torch.optim.Adam(model.parameters(), 2e-3)
            for _ in range(EPOCHS):
                for rows in torch.randperm(N_TRAIN).split(BATCH):
                    optimizer.zero_grad()
                    cross_entropy(model(x[rows]), y[rows]).backward()
                    optimizer.step()
        kept |= {f"{n_layers}/{name}": tensor.numpy().astype(np.float16) for name, tensor in model.state_dict().items()}
    np.savez_compressed(KEPT, **kept)


@dataclass(eq=False)
class LayerSettings:
    """A trained network whose layers get bits and amounts; error and size are computed from them.

    Attributes:
        model: The network, with the weights of the latest settings.
        layers: Names and linear layers, in their order.
        weights: As trained.
    """

    model: nn.Module
    layers: dict[str, nn.Linear]
    weights: dict[str, Tensor]
    data: tuple[Tensor, Tensor]
    _known: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)

    def compressed(self, name: str, bits: int, amount: float) -> Tensor:
        """Return the weights of one layer, pruned and rounded to a grid."""
        weight = self.weights[name]
        key = (name, bits, round(amount * weight.numel()))
        if key not in self._known:
            (mask,) = keep_masks([weight.abs()], amount, is_global=False)
            pruned = weight * mask
            grid = fit_grid(pruned, GridSpec(bits), is_pruned=amount > 0)
            self._known[key] = round_to_grid(pruned, grid, is_pruned=amount > 0)
        return self._known[key]

    def error(self, point: Point) -> float:
        """Return the share of unseen digits that the compressed network gets wrong."""
        x, y = self.data
        with torch.no_grad():
            for name, layer in self.layers.items():
                layer.weight.copy_(self.compressed(name, point[f"bits[{name}]"], point[f"amount[{name}]"]))
            return float((self.model(x).argmax(1) != y).double().mean())

    def share(self, point: Point) -> float:
        """Return the size of the weights as a share of that in float32."""
        total = sum(weight.numel() for weight in self.weights.values())
        used = 0.0
        for name, weight in self.weights.items():
            kept = 1.0 - round(point[f"amount[{name}]"] * weight.numel()) / weight.numel()
            used += weight.numel() * (kept * point[f"bits[{name}]"] + entropy(kept))
        return used / (32 * total)


def entropy(p: float) -> float:
    """Bits for each weight that say which are kept, if a share `p` is."""
    return 0.0 if p in (0.0, 1.0) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


@cache
def settings(n_layers: int) -> LayerSettings:
    model = network(n_layers)
    with np.load(KEPT) as kept:
        names = [name for name in kept.files if name.startswith(f"{n_layers}/")]
        model.load_state_dict({name.partition("/")[2]: torch.tensor(kept[name]).float() for name in names})
    x, y = shuffled()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    weights = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    return LayerSettings(model.eval(), layers, weights, (x[N_TRAIN:], y[N_TRAIN:]))


def real(n_layers: int, *, n_objectives: int = 1) -> Problem:
    """Return the search over one of the networks."""
    names = [name for name, module in network(n_layers).named_modules() if isinstance(module, nn.Linear)]
    budget = BUDGETS[n_layers]

    def losses(point: Point) -> tuple[float, ...]:
        net = settings(n_layers)
        return (net.error(point), net.share(point) / budget)[:n_objectives]

    def slacks(point: Point) -> tuple[float, ...]:
        return (settings(n_layers).share(point) / budget - 1.0,)

    parameters = {"bits": Choice(*BITS, each=names), "amount": Float(0.0, MOST, each=names)}
    if n_objectives == 1:
        return Problem(f"network {n_layers}", "layers", parameters, losses, 0.0, slacks, 1)
    # The best front is not known; a network without errors and without size would have this hypervolume.
    reference = (WORST_ERROR, 1.0)
    return Problem(f"network {n_layers}, front", "layers", parameters, losses, WORST_ERROR, slacks, 1, reference)


# --- formulas --------------------------------------------------------------------------------------------------------


def cliff(harm: float) -> float:
    """The error of a network with so much harm done: .02 without any, half of guessing at 1."""
    return GUESSING - (GUESSING - 0.02) / (1.0 + harm**2)


def sensitivities(n: int) -> np.ndarray:
    """From 1 to 100 in equal factors, shuffled by a formula, with the mean 1."""
    values = np.geomspace(1.0, 100.0, n)[np.argsort([math.sin(37.0 * i) for i in range(n)])]
    return np.asarray(values / values.mean())


def sizes(n: int) -> np.ndarray:
    """Shares of the weights, growing from the first to the last layer as in many convolutional networks."""
    values = np.geomspace(1.0, 12.0, n)
    return np.asarray(values / values.sum())


def formula(n: int, budget: float, scale: float, *, has_bits: bool) -> Problem:
    """Return a problem of `n` layers whose sizes and harms add up.

    Args:
        n: Layers.
        budget: The share of float32 (with bits) or of the weights (without) that may be left.
        scale: Of the harm.
        has_bits: Whether bits are chosen for each layer, too.
    """
    sensitivity, size = scale * sensitivities(n) / n, sizes(n)
    names = [f"l{i}" for i in range(n)]

    def parts(point: Point) -> tuple[np.ndarray, np.ndarray]:
        values = vector(point)
        bits, amounts = (values[:n], values[n:]) if has_bits else (np.full(n, 32.0), values)
        return harms(sensitivity, bits, amounts), size * shares(bits, amounts)

    def losses(point: Point) -> tuple[float, ...]:
        return (cliff(float(parts(point)[0].sum())),)

    def slacks(point: Point) -> tuple[float, ...]:
        return (float(parts(point)[1].sum()) / budget - 1.0,)

    bits = {"bits": Choice(*BITS, each=names)} if has_bits else {}
    parameters = {**bits, "amount": Float(0.0, MOST, each=names)}
    best = cliff(least_harm(sensitivity, size, budget, has_bits=has_bits))
    name = f"formula {n}" + (", bits" if has_bits else "")
    return Problem(name, "layers", parameters, losses, best, slacks, 1)


def harms(sensitivity: np.ndarray, bits: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Pruning harms little at first; a bit less makes the error of rounding four times as large."""
    return np.asarray(sensitivity * (amounts**4 + 8.0 * (1 - amounts) * 4.0**-bits))


def shares(bits: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    return np.asarray((1 - amounts) * bits / 32)


def least_harm(sensitivity: np.ndarray, size: np.ndarray, budget: float, *, has_bits: bool) -> float:
    """Return a lower bound of the harm within the budget, from the Lagrange dual; nearly reached with many layers."""
    amounts, bits = np.meshgrid(np.linspace(0.0, MOST, 2000), BITS if has_bits else (32,))
    amounts, bits = amounts.ravel(), bits.ravel()
    harm = np.stack([harms(s, bits, amounts) for s in sensitivity])
    share = np.stack([part * shares(bits, amounts) for part in size])
    best = -math.inf
    low, high = -6.0, 6.0
    for _ in range(60):  # the dual is concave in the price, so in its logarithm it has one peak
        thirds = [low + (high - low) / 3, high - (high - low) / 3]
        values = [float((harm + 10.0**log * share).min(1).sum() - 10.0**log * budget) for log in thirds]
        low, high = (thirds[0], high) if values[0] < values[1] else (low, thirds[1])
        best = max(best, *values)
    return best


LAYER_PROBLEMS: tuple[Problem, ...] = (
    formula(12, 1 / 30, 4.0, has_bits=True),
    formula(80, 0.35, 4.0, has_bits=False),
    *(real(n) for n in BUDGETS),
    *(real(n, n_objectives=2) for n in BUDGETS),
)


if __name__ == "__main__" and "--train" in sys.argv:
    train()
