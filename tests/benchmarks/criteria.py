"""Every criterion of pruning on handwritten digits: accuracy right after pruning, and after fine-tuning.

Each seed has its own split (1297 digits to train on, 500 to test), its own start of the network and its own order of
batches. Weights: a 64-300-100-10 network learns for 30 epochs, 90 and 95 % of its weights are set to zero in one step,
and it is trained for 5 more. Each criterion has its default scope: `activation` takes the share from each output, the
others from all layers together. Channels: five networks learn 600 digits for 12 epochs, lose a half or three quarters
of their channels, and are trained for 3 more. What was measured is one line of `results/criteria.jsonl`, and is not
measured again.

    python tests/benchmarks/criteria.py [--seeds 5 or 2:3] [--only weights|channels] [--criteria NAME ...] [--smoke]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from itertools import product
from statistics import mean

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from digits import accuracy, digits, lenet, perceptron
from layer_removal import RowEncoder
from records import Runs, conditions, interval_text
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.choices import CHANNEL_CRITERIA, WEIGHT_CRITERIA

Prune = Callable[..., nn.Module]
Row = dict[str, list[float]]


class Residual(nn.Module):
    """A convolution and two residual blocks with batch norm."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.first = convolution(1, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(convolution(width, width), nn.ReLU(), convolution(width, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.first(x)), 2)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


def convolution(n_in: int, n_out: int, groups: int = 1) -> nn.Sequential:
    """Of 3 by 3 pixels, with batch norm."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(n_out))


def separable(n_in: int, n_out: int) -> nn.Sequential:
    """A depthwise convolution, and one of single pixels."""
    return nn.Sequential(convolution(n_in, n_in, n_in), nn.ReLU(), nn.Conv2d(n_in, n_out, 1), nn.ReLU())


def residual(seed: int) -> nn.Module:
    """Residual blocks: 22 thousand weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), Residual())


def depthwise(seed: int) -> nn.Module:
    """As MobileNet has it: 10 thousand weights."""
    torch.manual_seed(seed)
    parts = (convolution(1, 32), nn.ReLU(), separable(32, 64), nn.MaxPool2d(2), separable(64, 64))
    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *parts, *tail)


def images(seed: int) -> nn.Module:
    """The convolutional network of `digits`, which takes rows of 64 pixels here."""
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), lenet(seed))


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "64-300-100-10": perceptron,
    "LeNet": images,
    "residual": residual,
    "depthwise": depthwise,
    "encoder": partial(RowEncoder, n_layers=2),
}


def weights() -> Iterator[tuple[str, tuple[Prune, Prune]]]:
    """Each way to prune weights, by name, with two amounts."""
    ways = [(criterion, {"criterion": criterion}) for criterion in WEIGHT_CRITERIA]
    ways += [(f"{name}, lamp", {"criterion": name, "scope": "lamp"}) for name in ("magnitude", "hessian")]
    for name, options in ways:
        yield name, (partial(nc.prune, amount=0.9, **options), partial(nc.prune, amount=0.95, **options))


def channels(criteria: Sequence[str]) -> Iterator[tuple[str, tuple[Prune, Prune]]]:
    """Each way to cut channels."""
    for criterion in criteria:
        cut = partial(nc.prune, granularity="channel", criterion=criterion)
        yield criterion, (partial(cut, amount=0.5), partial(cut, amount=0.75))


def measured(what: str, network: str, seed: int, criteria: Sequence[str], *, is_smoke: bool) -> Row:
    """By name of the criterion: the accuracy after each amount, before and after training."""
    ways = weights() if what == "weights" else channels(criteria)
    epochs, tuning, options = (30, 5, {}) if what == "weights" else (12, 3, {"batch_size": 50, "lr": 3e-3})
    if is_smoke:
        epochs, tuning = 1, 1
    train, test = digits(seed)
    if what == "channels":
        train = (train[0][:600], train[1][:600])

    def before_and_after(net: nn.Module) -> list[float]:
        right = accuracy(net, test)
        return [right, accuracy(nc.finetune(net, train, epochs=tuning, seed=seed, **options), test)]

    model = nc.finetune(NETWORKS[network](seed), train, epochs=epochs, seed=seed, **options)
    row: Row = {"dense": before_and_after(deepcopy(model))}
    for name, prunes in ways:
        row[name] = [right for prune in prunes for right in before_and_after(prune(model, data=train, seed=seed))]
    return row


def figures(rows: list[Row], baseline: str = "magnitude") -> Iterator[str]:
    """A line for each criterion: means over the rows, and its distance from the baseline with an interval."""
    for name in rows[0]:
        means = "".join(f"{mean(column):8.1f}" for column in zip(*(row[name] for row in rows), strict=True))
        gaps = (
            ""
            if name in ("dense", baseline)
            else "   "
            + ", ".join(interval_text([row[name][place] - row[baseline][place] for row in rows]) for place in range(4))
        )
        yield f"{name:22}{means}{gaps}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="5", help="N or LOW:HIGH")
    parser.add_argument("--smoke", action="store_true", help="one seed, few epochs")
    parser.add_argument("--only", default="", choices=("", "weights", "channels"))
    parser.add_argument("--criteria", nargs="+", default=list(CHANNEL_CRITERIA), help="of channels")
    options = parser.parse_args()
    low, _, high = ("1" if options.smoke else options.seeds).rpartition(":")
    seeds = range(int(low or 0), int(high))
    print(f"{conditions()}; {len(seeds)} seeds")
    runs = Runs("criteria_smoke" if options.smoke else "criteria", is_fresh=options.smoke)
    table: dict[tuple[str, str], list[Row]] = {}
    for seed, (what, network) in product(seeds, [("weights", "64-300-100-10"), *(("channels", n) for n in NETWORKS)]):
        if what.startswith(options.only):
            key = f"{what}, {network}, {' '.join(options.criteria) if what == 'channels' else 'all'}, seed {seed}"
            compute = partial(measured, what, network, seed, options.criteria, is_smoke=options.smoke)
            table.setdefault((what, network), []).append(runs.get(key, compute))
    for (what, network), rows in table.items():
        print(f"\n{what} of {network}: first amount, tuned, second amount, tuned; then less magnitude")
        print("\n".join(figures(rows)))
    joint = [row for (what, _), rows in table.items() if what == "channels" for row in rows]
    if joint:
        print("\nchannels of all networks")
        print("\n".join(figures(joint)))


if __name__ == "__main__":
    main()
