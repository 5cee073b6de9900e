"""Problems as values: public test functions, our own mixed, conditional and many-parameter ones, some with penalties.

Every loss is minimised. A problem with one objective is scored by its regret, the best feasible loss found above the
optimum; one with several by the share of the best front's hypervolume that is missing. So 0 is perfect in both.

References:
    Surjanovic & Bingham, "Virtual Library of Simulation Experiments" (Branin, Hartmann, Levy, Ackley, Rosenbrock).
    Zitzler, Deb, Thiele (2000), "Comparison of Multiobjective Evolutionary Algorithms" (ZDT1, ZDT2).
    Deb, Thiele, Laumanns, Zitzler (2005), "Scalable Test Problems for Evolutionary Multi-Objective
        Optimization" (DTLZ2).
    Gramacy et al. (2016), "Modeling an Augmented Lagrangian for Blackbox Constrained Optimization" (`constrained`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from nbcompress.space import Choice, Float, Int, Point, Space

Losses = Callable[[Point], tuple[float, ...]]


def no_slacks(point: Point) -> tuple[float, ...]:
    return ()


@dataclass(frozen=True)
class Problem:
    """What is searched, and how a search is scored.

    Attributes:
        name: Short, for tables.
        group: `public`, `own`, `penalties`, `fronts` or `tuning`.
        parameters: Of the space.
        losses: From a point to one to three losses.
        best: The optimum; for several objectives the hypervolume of the best front. None for a tuning task whose best
            is still to be searched; it cannot be scored.
        slacks: From a point to constraints that hold at or below 0.
        n_slacks: How many.
        reference: For several objectives, the point that the hypervolume reaches to.
        scale: What a regret is divided by.
    """

    name: str
    group: str
    parameters: dict[str, object] = field(repr=False)
    losses: Losses = field(repr=False)
    best: float | None = 0.0
    slacks: Losses = field(default=no_slacks, repr=False)
    n_slacks: int = 0
    reference: tuple[float, ...] | None = None
    scale: float = 1.0

    @cached_property
    def space(self) -> Space:
        return Space(self.parameters)

    @property
    def n_objectives(self) -> int:
        return 1 if self.reference is None else len(self.reference)

    def scores(self, losses: Sequence[tuple[float, ...]], slacks: Sequence[tuple[float, ...]]) -> list[float]:
        """Return the score after each trial (NaN as long as nothing is feasible)."""
        scores: list[float] = []
        front: list[tuple[float, ...]] = []
        for loss, slack in zip(losses, slacks, strict=True):
            is_feasible = all(value <= 0 for value in slack)
            if is_feasible and not any(covers(known, loss) for known in front):
                front = [known for known in front if not covers(loss, known)] + [loss]
            scores.append(self._score(front))
        return scores

    def _score(self, front: Sequence[tuple[float, ...]]) -> float:
        if self.best is None:
            raise ValueError(f"{self.name} has no known best to score against: run search_scales.py first")
        if self.reference is not None:
            return 1.0 - volume(front, self.reference) / self.best
        return (front[0][0] - self.best) / self.scale if front else math.nan


def covers(losses: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(losses, other, strict=True))


def volume(losses: Sequence[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Return the hypervolume of two or more losses below the reference: slab by slab along the last of them."""
    if len(reference) == 2:
        return area(losses, reference)
    ordered = sorted((loss for loss in losses if loss[-1] < reference[-1]), key=lambda loss: loss[-1])
    slabs = enumerate(pairwise([*ordered, reference]), start=1)
    return sum(
        (above[-1] - row[-1]) * volume([below[:-1] for below in ordered[:i]], reference[:-1])
        for i, (row, above) in slabs
    )


def area(losses: Sequence[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Return the area that two losses dominate below the reference."""
    total, lowest = 0.0, reference[1]
    for x, y in sorted(losses):
        if x < reference[0] and y < lowest:
            total += (reference[0] - x) * (lowest - y)
            lowest = y
    return total


def wide_share(problem: Problem, losses: Sequence[tuple[float, ...]]) -> float:
    """Return the share of the hypervolume below (11, 11); NaN unless the front ends within the problem's reference."""
    if problem.reference != ZDT_REFERENCE or problem.best is None:
        return math.nan
    (x, y), (wide_x, wide_y) = problem.reference, WIDE_REFERENCE
    return area(losses, WIDE_REFERENCE) / (problem.best + wide_x * wide_y - x * y)


def cube(d: int, low: float = 0.0, high: float = 1.0) -> dict[str, object]:
    return {f"x{i}": Float(low, high) for i in range(d)}


def point_at(space: Space, unit: Sequence[float]) -> Point:
    """Return the point at one number from 0 to 1 for each parameter; those that are not active are left out."""
    point = Point()
    for name, u in zip(space.names, unit, strict=True):
        if space.is_active(name, point):
            point[name] = space[name].from_unit(float(u))
    return point


def vector(point: Point) -> np.ndarray:
    return np.array(list(point.values()), dtype=np.float64)


# --- public ----------------------------------------------------------------------------------------------------------


BRANIN = {"x": Float(-5.0, 10.0), "y": Float(0.0, 15.0)}
BRANIN_BEST = 0.39788735772974


def branin(point: Point) -> tuple[float]:
    x, y = vector(point)
    bend = y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6
    return (float(bend**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10),)


HARTMANN_A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
HARTMANN_WEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])


def hartmann6(point: Point) -> tuple[float]:
    inner = (HARTMANN_A * (vector(point) - HARTMANN_P) ** 2).sum(1)
    return (-float(HARTMANN_WEIGHTS @ np.exp(-inner)),)


def levy(point: Point) -> tuple[float]:
    w = 1 + (vector(point) - 1) / 4
    first = math.sin(math.pi * w[0]) ** 2
    middle = ((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(math.pi * w[:-1] + 1) ** 2)).sum()
    return (float(first + middle + (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2)),)


def ackley(point: Point) -> tuple[float]:
    x = vector(point)
    bowl = -20 * math.exp(-0.2 * math.sqrt((x * x).mean()))
    return (float(bowl - math.exp(np.cos(2 * math.pi * x).mean()) + 20 + math.e),)


def rosenbrock(point: Point) -> tuple[float]:
    x = vector(point)
    return (float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()),)


def fourth_power(point: Point) -> tuple[float]:
    return (float((vector(point)[0] - 3) ** 4),)


def gramacy(point: Point) -> tuple[float]:
    return (float(vector(point).sum()),)


def gramacy_slacks(point: Point) -> tuple[float, float]:
    x, y = vector(point)
    return (
        float(1.5 - x - 2 * y - 0.5 * math.sin(2 * math.pi * (x * x - 2 * y))),
        float(x * x + y * y - 1.5),
    )


# --- our own ---------------------------------------------------------------------------------------------------------

MIXED = {
    "lr": Float(1e-5, 1.0, log=True),
    "decay": Float(1e-6, 1e-1, log=True),
    "bits": Choice(2, 3, 4, 6, 8),
    "method": Choice("linear", "cluster", "log"),
    "width": Int(8, 256, log=True),
    "dropout": Float(0.0, 0.5, step=0.1),
}


def mixed(point: Point) -> tuple[float]:
    """A training-like loss: the best rate depends on the width, and the method decides how bits matter."""
    rate = math.log10(point["lr"]) + 2.5 + 0.5 * math.log2(point["width"] / 64) / 3
    width = math.log2(point["width"] / 90) / 5
    per_method = {"linear": (0.15, 0.02), "cluster": (0.05, 0.0), "log": (0.25, 0.05)}[point["method"]]
    bits = per_method[0] * (8 - point["bits"]) / 4 + per_method[1] + 0.01 * (point["bits"] - 4) ** 2
    decay = 0.02 * (math.log10(point["decay"]) + 3.5) ** 2
    dropout = (point["dropout"] - 0.2) ** 2
    return (float(0.1 * rate**2 + 0.4 * width**2 + bits + decay + dropout - MIXED_BEST),)


# By enumeration, rate and decay at their best: 90 wide, 4 bits in clusters, a dropout of .2.
MIXED_BEST = 0.05

CONDITIONAL = {
    "lr": Float(1e-5, 1.0, log=True),
    "bits": Choice(2, 4, 8, 16),
    "method": Choice("prune", "cluster", "factorize"),
    "amount": Float(0.0, 1.0, when={"method": "prune"}),
    "criterion": Choice("magnitude", "random", when={"method": "prune"}),
    "clusters": Int(2, 256, log=True, when={"method": "cluster"}),
    "momentum": Float(0.0, 1.0, when={"method": "cluster"}),
    "rank": Float(0.0, 1.0, when={"method": "factorize"}),
}


def conditional(point: Point) -> tuple[float]:
    """Clustering is best, with 32 clusters and a momentum of .8; the others end at .1 and at .25."""
    loss = 0.2 * (math.log10(point["lr"]) + 2.3) ** 2 + {2: 0.4, 4: 0.0, 8: 0.1, 16: 0.3}[point["bits"]]
    if point["method"] == "prune":
        loss += 0.1 + (point["amount"] - 0.6) ** 2 + 0.3 * (point["criterion"] == "random")
    elif point["method"] == "cluster":
        loss += 0.1 * (math.log2(point["clusters"]) - 5) ** 2 + 2 * (point["momentum"] - 0.8) ** 2
    else:
        loss += 0.25 + 3 * (point["rank"] - 0.3) ** 2
    return (float(loss),)


N_LAYERS = 30
# How sensitive each layer is to pruning: a few layers are, most are hardly. Shuffled by a fixed formula.
SENSITIVITY = np.array([0.02 * 1.2**i if i < 25 else 0.02 for i in range(N_LAYERS)])
SENSITIVITY = SENSITIVITY[np.argsort([math.sin(37.0 * i) for i in range(N_LAYERS)])]


def layers30(point: Point) -> tuple[float]:
    """Pruning layer by layer: harm grows with the square of what goes, size falls with it. Separable."""
    amounts = vector(point)
    harm = (SENSITIVITY * amounts**2).sum()
    size = (1 - amounts).mean() * LAYERS_PRICE
    return (float(harm + size - LAYERS_BEST),)


LAYERS_PRICE = 6.0
# Each layer alone: minimise s a^2 - p a / n over [0, 1], so a = min(1, p / (2 n s)).
LAYERS_BEST_AMOUNTS = np.minimum(1.0, LAYERS_PRICE / (2 * N_LAYERS * SENSITIVITY))
LAYERS_BEST = float((SENSITIVITY * LAYERS_BEST_AMOUNTS**2).sum() + (1 - LAYERS_BEST_AMOUNTS).mean() * LAYERS_PRICE)

# --- penalties: what a cell returns for a run that went wrong ---------------------------------------------------------


def diverging(losses: Losses) -> Losses:
    """Rates above .25, an eighth of their range, cost 100."""
    return lambda point: (100.0,) if point["lr"] > 0.25 else losses(point)


def branin_or_penalty(point: Point) -> tuple[float, ...]:
    """Beyond 7.75, a seventh of the box with one of the three optima, nothing can be measured."""
    return (1e5,) if point["x"] > 7.75 else branin(point)


# --- fronts ----------------------------------------------------------------------------------------------------------


def zdt1(point: Point) -> tuple[float, float]:
    x = vector(point)
    g = 1 + 9 * x[1:].mean()
    return float(x[0]), float(g * (1 - math.sqrt(x[0] / g)))


def zdt2(point: Point) -> tuple[float, float]:
    x = vector(point)
    g = 1 + 9 * x[1:].mean()
    return float(x[0]), float(g * (1 - (x[0] / g) ** 2))


def dtlz2(point: Point) -> tuple[float, float, float]:
    """Two angles say where on a sphere, the other four how far behind it; the front is its octant of radius 1."""
    x = vector(point)
    first, second = (math.pi / 2 * x[:2]).tolist()
    radius = 1 + float(((x[2:] - 0.5) ** 2).sum())
    flat = radius * math.cos(first)
    return flat * math.cos(second), flat * math.sin(second), radius * math.sin(first)


TRADEOFF = {
    "amount": Float(0.0, 0.98),
    "bits": Choice(2, 3, 4, 6, 8),
    "method": Choice("linear", "cluster"),
    "granularity": Choice("weight", "channel"),
    "epochs": Int(0, 10),
    "lr": Float(1e-5, 1e-1, log=True),
}


def tradeoff(point: Point) -> tuple[float, float]:
    """Size (1 as it is) and error of a pruned, quantized and tuned network."""
    keep, bits = 1 - point["amount"], point["bits"]
    index = 0.0 if point["granularity"] == "channel" else 0.03
    size = keep * bits / 32 + index * keep + (0.01 if point["method"] == "cluster" else 0.0)
    tuned = 1 - math.exp(-point["epochs"] / 3)
    tuned *= math.exp(-0.5 * (math.log10(point["lr"]) + 3) ** 2)
    harm = {"weight": 0.25, "channel": 0.6}[point["granularity"]] * point["amount"] ** 4
    rounding = {"linear": 1.2, "cluster": 0.7}[point["method"]] * 4.0 ** (2 - bits)
    return float(size), float(0.02 + (harm + 0.3 * rounding) * (1 - 0.8 * tuned))


def tradeoff_volume(reference: tuple[float, float]) -> float:
    """Return the hypervolume of the best front, from a fine grid; tuning helps always, so it is at its best."""
    points = [
        {"amount": a, "bits": b, "method": m, "granularity": g, "epochs": 10, "lr": 1e-3}
        for a in np.linspace(0, 0.98, 1000).tolist()
        for b in (2, 3, 4, 6, 8)
        for m in ("linear", "cluster")
        for g in ("weight", "channel")
    ]
    return area([tradeoff(point) for point in points], reference)


ZDT_REFERENCE = (1.1, 1.1)
WIDE_REFERENCE = (11.0, 11.0)
# Areas below (1.1, 1.1): 1.21 minus the integrals of 1 - sqrt(x) (1/3) and of 1 - x^2 (2/3).
ZDT1_VOLUME, ZDT2_VOLUME = 1.21 - 1 / 3, 1.21 - 2 / 3
TRADEOFF_REFERENCE = (0.3, 0.5)
DTLZ2_REFERENCE = (1.5, 1.5, 1.5)
# The cube minus the octant of the ball.
DTLZ2_VOLUME = 1.5**3 - math.pi / 6

PROBLEMS: tuple[Problem, ...] = (
    Problem("branin", "public", BRANIN, branin, BRANIN_BEST),
    Problem("hartmann6", "public", cube(6), hartmann6, -3.32236801142),
    Problem("levy4", "public", cube(4, -10.0, 10.0), levy),
    # The optimum is the middle of the usual box, where some searches begin; the other box is that of Eriksson et al.
    # (2019), "Scalable Global Optimization via Local Bayesian Optimization".
    Problem("ackley5", "public", cube(5, -32.768, 32.768), ackley),
    Problem("ackley5 shifted", "public", cube(5, -5.0, 10.0), ackley),
    Problem("rosenbrock4", "public", cube(4, -2.048, 2.048), rosenbrock),
    Problem("fourth power", "public", cube(1, -10.0, 10.0), fourth_power),
    Problem("constrained", "public", cube(2), gramacy, 0.59978805, gramacy_slacks, 2),
    Problem("mixed", "own", MIXED, mixed),
    Problem("conditional", "own", CONDITIONAL, conditional),
    Problem("layers30", "own", {"amounts": Float(0.0, 1.0, each=[f"l{i}" for i in range(N_LAYERS)])}, layers30),
    Problem("branin, penalties", "penalties", BRANIN, branin_or_penalty, BRANIN_BEST),
    Problem("mixed, penalties", "penalties", MIXED, diverging(mixed)),
    Problem("conditional, penalties", "penalties", CONDITIONAL, diverging(conditional)),
    Problem("zdt1", "fronts", cube(6), zdt1, ZDT1_VOLUME, reference=ZDT_REFERENCE),
    Problem("zdt2", "fronts", cube(6), zdt2, ZDT2_VOLUME, reference=ZDT_REFERENCE),
    Problem(
        "tradeoff", "fronts", TRADEOFF, tradeoff, tradeoff_volume(TRADEOFF_REFERENCE), reference=TRADEOFF_REFERENCE
    ),
    Problem("dtlz2", "fronts", cube(6), dtlz2, DTLZ2_VOLUME, reference=DTLZ2_REFERENCE),
)
