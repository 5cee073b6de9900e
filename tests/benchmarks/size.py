"""How small the file gets before accuracy is lost, against Deep Compression's recipe.

Two networks on handwritten digits, five seeds, each with a split and a start of its own. Ours: most channels are cut,
then most of the remaining weights, and the rest shares a few values. After every step the network learns from the dense
one. Deep Compression: see `deep_compression.py`. Its network is also stored in our file, to separate the effect of the
recipe from that of the file. Sizes are lengths of files; the dense one is the safetensors file of the float32 state
dict. Accuracy is that on 500 test digits, and McNemar's exact test says whether the change is more than chance.

Settings were chosen by `--choose`: other seeds, digits that are not among their test digits, and for either recipe the
smallest file that lost at most `TOLERATED` points on average.

    python tests/benchmarks/size.py [--choose] [--smoke] [--networks 300-100 LeNet-5-like] [--seeds 0 1 2 3 4]

With `--seeds`, each seed has a file of rows of its own, so that a long run can be done in parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from deep_compression import deep_compressed, n_bytes
from digits import Data, accuracy, as_images, digits, digits_to_choose_on, hits, lenet, perceptron, trained
from records import Rows, conditions, n_dense
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.measure import mcnemar

SEEDS = range(5)
SEEDS_TO_CHOOSE_ON = range(10, 13)
TOLERATED = 0.2  # points of accuracy
EPOCHS = 60  # of the dense network

Settings = Mapping[str, object]
Shrink = Callable[..., nn.Module]


def shrunk(
    teacher: nn.Module,
    train: Data,
    seed: int,
    *,
    channels: float,
    amounts: Sequence[float],
    clusters: int,
    epochs: int,
    lr: float = 3e-3,
    temperature: float = 2.0,
) -> nn.Module:
    """Our recipe: the share `channels` of all neurons and channels, weights to each of `amounts`, shared values."""

    def taught(student: nn.Module) -> nn.Module:
        return nc.distill(teacher, student, train, epochs=epochs, lr=lr, temperature=temperature, seed=seed)

    small = taught(nc.prune(teacher, channels, granularity="channel", data=train, seed=seed))
    for amount in amounts:
        small = taught(nc.prune(small, amount, scope="lamp"))
    return taught(nc.cluster(small, clusters))


@dataclass(frozen=True)
class Network:
    """A network, what the recipes do to it, and what else was tried."""

    make: Callable[[int], nn.Module]
    form: Callable[[Data], Data]
    ours: Settings
    theirs: Settings
    other_ours: Sequence[Settings]
    other_theirs: Sequence[Settings]


def ours(channels: float, amounts: Sequence[float], clusters: int = 8) -> Settings:
    return {"channels": channels, "amounts": amounts, "clusters": clusters, "epochs": 30}


def theirs(amounts: Sequence[float], clusters: int) -> Settings:
    return {"amounts": amounts, "clusters": clusters, "epochs": 30}


NETWORKS = {
    "300-100": Network(
        perceptron,
        lambda data: data,
        ours(0.7, (0.5, 0.65, 0.8)),
        theirs((0.7, 0.85, 0.9), 8),
        [
            ours(0.7, (0.5, 0.6, 0.7)),
            ours(0.7, (0.5, 0.6, 0.7), 6),
            ours(0.5, (0.65, 0.8, 0.91)),
            ours(0.7, (0.5, 0.65, 0.85)),
        ],
        [
            theirs((0.7, 0.85), 32),
            theirs((0.7, 0.85), 16),
            theirs((0.7, 0.85, 0.9), 16),
            theirs((0.7, 0.85, 0.94), 8),
        ],
    ),
    "LeNet-5-like": Network(
        lenet,
        as_images,
        ours(0.7, (0.6, 0.75, 0.8)),
        theirs((0.7, 0.85, 0.92), 8),
        [ours(0.6, (0.6, 0.75, 0.85))],
        [theirs((0.7, 0.85, 0.92, 0.95), 8), theirs((0.7, 0.85, 0.95), 8)],
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What one recipe made from one dense network."""

    recipe: str
    seed: int
    n_dense: int
    n_file: int
    before: Tensor
    after: Tensor

    @property
    def times(self) -> float:
        """How many times smaller the file is."""
        return self.n_dense / self.n_file

    @property
    def change(self) -> float:
        """Of accuracy, in points."""
        return 100 * float(self.after.double().mean() - self.before.double().mean())

    @property
    def flips(self) -> tuple[int, int]:
        """How many examples were lost, and how many won."""
        return int((self.before & ~self.after).sum()), int((~self.before & self.after).sum())

    def row(self) -> tuple[object, ...]:
        dense, small = (100 * float(state.double().mean()) for state in (self.before, self.after))
        p = mcnemar(*self.flips)
        return self.recipe, self.seed, self.n_dense, self.n_file, self.times, dense, small, *self.flips, p


COLUMNS = ("recipe", "seed", "dense bytes", "bytes", "times", "dense %", "small %", "lost", "won", "p")


def compressed(dense: nn.Module, network: Network, train: Data, test: Data, seed: int) -> Iterable[Outcome]:
    """Run both recipes. Deep Compression's network is stored in two files."""
    before, n_before = hits(dense, test), n_dense(dense)
    small = shrunk(dense, train, seed, **network.ours)  # type: ignore[arg-type]
    yield Outcome("ours", seed, n_before, nc.size_bytes(small), before, hits(small, test))
    small = deep_compressed(dense, train, seed, **network.theirs)  # type: ignore[arg-type]
    yield Outcome("Deep Compression", seed, n_before, n_bytes(small), before, hits(small, test))
    yield Outcome("the same in our file", seed, n_before, nc.size_bytes(small), before, hits(small, test))


def report(outcomes: Sequence[Outcome]) -> None:
    """One line for each recipe."""
    print(f"{'':22}{'bytes':>8}{'smaller':>10}{'least':>8}{'dense %':>9}{'change':>8}  all seeds p, least p of a seed")
    for recipe in dict.fromkeys(outcome.recipe for outcome in outcomes):
        rows = [outcome for outcome in outcomes if outcome.recipe == recipe]
        before = torch.cat([row.before for row in rows])
        lost, won = map(sum, zip(*(row.flips for row in rows), strict=True))
        print(
            f"{recipe:22}{mean(row.n_file for row in rows):8.0f}{mean(row.times for row in rows):9.1f}x"
            f"{min(row.times for row in rows):7.1f}x{100 * float(before.double().mean()):9.2f}"
            f"{mean(row.change for row in rows):+8.2f}  {mcnemar(lost, won):.3f}, "
            f"{min(mcnemar(*row.flips) for row in rows):.3f}"
        )


def measure(name: str, network: Network, seeds: Sequence[int], epochs: int, file: str) -> None:
    """Print the table of one network."""
    rows = Rows(file, COLUMNS)
    outcomes = []
    for seed in seeds:
        train, test = map(network.form, digits(seed))
        for outcome in compressed(trained(network.make(seed), train, epochs, seed), network, train, test, seed):
            rows.add(*outcome.row())
            outcomes.append(outcome)
    print(f"{name}, dense file of {outcomes[0].n_dense} bytes, {len(seeds)} seeds, {len(test[1])} test digits each")
    report(outcomes)


def choose(name: str, network: Network) -> None:
    """Print the accuracy of every setting on digits that are not among the test digits."""
    rows = Rows(f"size-{name}-choice", ("recipe", "seed", "settings", "times", "change"))
    data = {seed: tuple(map(network.form, digits_to_choose_on(seed))) for seed in SEEDS_TO_CHOOSE_ON}
    dense = {seed: trained(network.make(seed), data[seed][0], EPOCHS, seed) for seed in data}
    kinds: list[tuple[str, Shrink, Callable[[nn.Module], int], Sequence[Settings]]] = [
        ("ours", shrunk, nc.size_bytes, [network.ours, *network.other_ours]),
        ("Deep Compression", deep_compressed, n_bytes, [network.theirs, *network.other_theirs]),
    ]
    for recipe, shrink, length, candidates in kinds:
        for settings in candidates:
            found = []
            for seed, (train, valid) in data.items():
                small = shrink(dense[seed], train, seed, **settings)
                times = n_dense(dense[seed]) / length(small)
                found.append((times, accuracy(small, valid) - accuracy(dense[seed], valid)))
                rows.add(recipe, seed, settings, *found[-1])
            times, change = (mean(column) for column in zip(*found, strict=True))
            verdict = "" if change < -TOLERATED else "  kept"
            print(f"{name}, {recipe}: {times:6.1f}x {change:+.2f} points{verdict}  {settings}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, help="only these, each in a file of its own")
    parser.add_argument("--choose", action="store_true", help="try settings on a validation part, not on test digits")
    parser.add_argument("--smoke", action="store_true", help="one seed, two epochs of the dense network")
    options = parser.parse_args()
    print(conditions())
    for name in options.networks:
        if options.choose:
            choose(name, NETWORKS[name])
        elif options.smoke:
            measure(name, NETWORKS[name], range(10, 11), 2, f"size-{name}-smoke")
        elif options.seeds:
            for seed in options.seeds:
                measure(name, NETWORKS[name], [seed], EPOCHS, f"size-{name}-{seed}")
        else:
            measure(name, NETWORKS[name], SEEDS, EPOCHS, f"size-{name}")


if __name__ == "__main__":
    main()
