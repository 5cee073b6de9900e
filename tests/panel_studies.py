"""Studies made by hand for the tests of what one sees, without a search."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nbcompress.panels.surrogate_data import SurrogateInsight, calibration_data, slice_data
from nbcompress.panels.text import SAVED_LIMITS
from nbcompress.panels.view import SearchStatus, losses_of, study_view
from nbcompress.space import Choice, Float, Int, Space
from nbcompress.study.front import front
from nbcompress.study.goal import Failure, Goal, State, Trial

TRACEBACK = """Traceback (most recent call last):
  File "<search cell>", line 14, in <module>
    finetune(small, train, lr=lr, epochs=3)
RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x128 and 64x10)"""


class AnyNames(dict[str, Any]):
    """A space that a real one would refuse: its names are no identifiers."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self)

    @property
    def conditions(self) -> dict[str, Any]:
        return {}


@dataclass
class HandMadeStudy:
    """What a view reads of a study."""

    name: str
    goal: Goal
    space: Space | AnyNames
    all_trials: tuple[Trial, ...]
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def front(self) -> list[Trial]:
        return front(self.all_trials, self.goal)

    @property
    def best(self) -> Trial | None:
        known = [trial for trial in self.all_trials if losses_of(self.goal, trial) is not None]
        first = self.goal.objectives[0]
        return min(known, key=lambda trial: first.loss(trial.values[first.metric])) if known else None


def digits_space() -> Space:
    return Space(
        {
            "amount": Float(0.2, 0.98),
            "bits": Choice(2, 4, 8),
            "lr": Float(1e-4, 1e-1, log=True),
            "method": Choice("plain", "cluster"),
            "clusters": Int(4, 64, log=True, when={"method": "cluster"}),
        }
    )


def digits_study(n: int = 24, seed: int = 0) -> HandMadeStudy:
    """Two objectives, one constraint, a conditional parameter, and every state."""
    goal = Goal.of(["accuracy"], ["kilobytes"], ["kilobytes <= 60"])
    rng = random.Random(seed)
    trials = tuple(_digits_trial(number, rng) for number in range(n))
    record = {
        "search": {"sampler": "gp", "seed": 0},
        "versions": {"nbcompress": "0.1.0", "torch": "2.13.0", "python": "3.11"},
        "machine": {"system": "Linux", "cores": 2},
        "cell": "%%bo_search --trials 24 --maximize accuracy --minimize kilobytes\namount = Float(0.2, 0.98)\n...",
    }
    return HandMadeStudy("digits", goal, digits_space(), trials, record)


def _digits_trial(number: int, rng: random.Random) -> Trial:
    amount, bits, lr = rng.uniform(0.2, 0.98), rng.choice([2, 4, 8]), 10 ** rng.uniform(-4, -1)
    params: dict[str, Any] = {"amount": amount, "bits": bits, "lr": lr, "method": rng.choice(["plain", "cluster"])}
    if params["method"] == "cluster":
        params["clusters"] = rng.randint(4, 64)
    kilobytes = 150 * (1 - amount) * bits / 8 + 4 + rng.random()
    accuracy = 0.98 - 0.25 * amount**8 - 0.5 / 4**bits - 0.02 * abs(math.log10(lr) + 2.3) - 0.01 * rng.random()
    common: dict[str, Any] = {"seed": number, "seconds": 1.5 + rng.random(), "reason": _reason(number)}
    if number % 11 == 5:
        failure = Failure("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (64x128 and 64x10)", TRACEBACK)
        return Trial(number, State.FAILED, params, {}, failure=failure, printed="epoch 1: loss 0.31\n", **common)
    if kilobytes > 60:
        return Trial(number, State.INFEASIBLE, params, {"kilobytes": kilobytes}, **common)
    if number % 9 == 2:
        reports = {"accuracy": {0: 0.41, 1: 0.52}}
        return Trial(number, State.STOPPED, params, {"kilobytes": kilobytes}, reports=reports, **common)
    values = {"kilobytes": kilobytes, "accuracy": accuracy}
    printed = "epoch 1: loss 0.31\nepoch 2: loss 0.18\n" if number % 4 == 0 else ""
    return Trial(number, State.COMPLETE, params, values, printed=printed, **common)


def _reason(number: int) -> str:
    if number < 8:
        return "One of the first points, spread evenly over the space."
    return "Most expected gain in hypervolume within the bound on kilobytes."


def single_study(n: int = 12) -> HandMadeStudy:
    """One objective to minimise, no constraint."""
    trials = tuple(
        Trial(i, State.COMPLETE, {"x": (i * 7 % n) / n}, {"loss": ((i * 7 % n) / n - 0.3) ** 2}, seconds=0.1)
        for i in range(n)
    )
    return HandMadeStudy(
        "parabola", Goal.of(minimize=["loss"]), Space({"x": Float(0.0, 1.0)}), trials, {"search": {"seed": 1}}
    )


def empty_study() -> HandMadeStudy:
    return HandMadeStudy("empty", Goal.of(["accuracy"]), Space({"x": Float(0.0, 1.0)}), ())


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</script><b>bold</b>",
    "\"quotes' & <tags>",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
    "$\\frac{1}{$ _x^",
    "\x1b[31mred\x1b[0m \x00 \ud800",
    "n" * 10_000,
    "<!--",
    "{{constructor}}",
]


def hostile_study(n: int = 30) -> HandMadeStudy:
    """Strings that want to be more than text, wherever a person may put one."""
    space = AnyNames({f"p{i} {text}": Choice(text, f"other {text}") for i, text in enumerate(HOSTILE)})
    trials = []
    for i in range(n):
        text = HOSTILE[i % len(HOSTILE)]
        params = {name: space[name].options[i % 2] for name in space.names}
        failed = i % 3 == 0
        trials.append(
            Trial(
                i,
                State.FAILED if failed else State.COMPLETE,
                params,
                {} if failed else {"score": float(i), **{f"{text[:200]} {i % 3}": 1.0}},
                seconds=0.5,
                failure=Failure(text[:400], text * 3, text * 5) if failed else None,
                printed=text * 4,
                reason=text,
            )
        )
    record = {"search": {"seed": 0}, HOSTILE[0]: HOSTILE[1], "cell": "\n".join(HOSTILE)}
    return HandMadeStudy(HOSTILE[0] + HOSTILE[3] + "x" * 10_000, Goal.of(["score"]), space, tuple(trials), record)


def curve(n: int = 41) -> SimpleNamespace:
    """A slice in losses (accuracy is maximised, so its loss is negative)."""
    xs = [0.2 + 0.78 * i / (n - 1) for i in range(n)]
    accuracy = [-(0.97 - 0.3 * x**8) for x in xs]
    kilobytes = [80 * (1 - x) for x in xs]
    std = [0.005 + 0.02 * abs(x - 0.6) for x in xs]
    acquisition = [-((x - 0.8) ** 2) * 30 for x in xs]
    return SimpleNamespace(
        values=xs, mean=[accuracy, kilobytes], std=[std, [3 * s * 100 for s in std]], acquisition=acquisition
    )


def choices() -> SimpleNamespace:
    return SimpleNamespace(
        values=["plain", "cluster"],
        mean=[[-0.95, -0.96], [30, 18]],
        std=[[0.01, 0.02], [2, 1]],
        acquisition=[-3.0, -1.0],
    )


def samples() -> dict[str, dict[str, Any]]:
    """The samples that the tests of the TypeScript view read too; `python tests/panel_studies.py` writes them anew."""
    digits = digits_study()
    lines = [
        slice_data("amount", curve(21), digits.goal, at=0.7),
        slice_data("method", choices(), digits.goal, at="plain"),
    ]
    ended = SearchStatus(ending="Ended after 24 trials.", trials=24, elapsed=48.2)
    running = SearchStatus(running=True, trials=40, elapsed=48.2, left=31.7)
    last = digits.all_trials[14]
    runs = Trial(14, State.RUNNING, last.params, reason=last.reason)
    half = replace(digits, all_trials=(*digits.all_trials[:14], runs))
    original = {"accuracy": 0.981, "kilobytes": 96.0}
    trust = calibration_data([0.3, -1.1, 0.8, 2.4, -0.2, 0.1, -0.9, 1.2, 0.05, -7.5, 0.6, -0.4], "accuracy")
    shares = {"amount": 0.62, "bits": 0.21, "lr": 0.12, "method": 0.05}
    return {
        "digits": study_view(digits, insight=SurrogateInsight(lines, shares, trust), baseline=original, status=ended),
        "running": study_view(
            half,
            insight=SurrogateInsight(lines),
            baseline=original,
            status=running,
            warnings=["The body of the cell changed."],
        ),
        "single": study_view(
            single_study(), status=SearchStatus(ending="Ended after 12 trials.", trials=12, elapsed=1.4)
        ),
        "empty": study_view(empty_study(), status=SearchStatus(running=True, trials=30)),
        "hostile": study_view(hostile_study(10), limits=SAVED_LIMITS[1]),
    }


SAMPLES = Path(__file__).parent / "samples"


def write_samples() -> None:
    for name, view in samples().items():
        text = json.dumps(view, indent=1, allow_nan=False)
        (SAMPLES / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_samples()
