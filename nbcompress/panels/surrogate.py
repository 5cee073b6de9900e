"""The fitted surrogate as plain data: what a page needs to predict at any point at once, also with no kernel.

A process is told by its hyperparameters and by the trials that it learned from. Their points are in the view already,
and a page factorizes a covariance of some hundred trials in milliseconds, so that is all there is to send. Notation
as in `nbcompress/optimize/surrogate.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nbcompress.study.goal import Goal
from nbcompress.study.trial import Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nbcompress.optimize import Proposer
    from nbcompress.optimize.belief import Belief
    from nbcompress.optimize.proposers.gp import GaussianProcessProposer
    from nbcompress.optimize.surrogate import GaussianProcess

# A page factorizes one matrix of this size for each process; beyond, its reader would wait.
MOST_TRIALS = 600


def surrogate_data(proposer: Proposer | None, trials: Sequence[Trial], goal: Goal) -> dict[str, Any] | None:
    """Return the surrogate as data against the schema; None where there is none, or none that a page could evaluate.

    Args:
        proposer: Whose surrogate it is.
        trials: What it learns from.
        goal: What the losses and slacks of its processes mean.
    """
    from nbcompress.optimize.proposers.gp import GaussianProcessProposer
    from nbcompress.run.history import history_of
    from nbcompress.run.same_failure import begun_in_vain

    if not isinstance(proposer, GaussianProcessProposer):
        return None
    # The trials of the history, in its order.
    numbers = np.array(sorted(one.number for one in trials)[begun_in_vain(trials) :], dtype=int)
    if len(numbers) > MOST_TRIALS:
        return None
    belief = proposer.believe(history_of(trials, goal))
    if len(belief.losses) < proposer.n_objectives:
        return None
    return {
        "kernel": proposer.form.kernel,
        "acquisition": _acquisition(proposer),
        "feasible": numbers[belief.history.is_feasible].tolist(),
        "pending": numbers[belief.history.having("pending")].tolist(),
        "processes": list(_processes(belief, numbers, goal)),
    }


def _acquisition(proposer: GaussianProcessProposer) -> str | None:
    """Return which formula a page may use; boxes of three objectives and more, and random directions, stay in Python.

    For `qlogei`, which samples what pending trials may find and where a front lies, the page believes the means.
    """
    name = proposer.acquisition.removeprefix("q")
    if proposer.n_objectives == 1:
        return name
    return "hypervolume" if proposer.n_objectives == 2 and name == "logei" else None


def _processes(belief: Belief, numbers: NDArray[np.int_], goal: Goal) -> Iterator[dict[str, Any]]:
    history = belief.history
    told, failed, pending = (history.having(one) for one in ("told", "failed", "pending"))
    for j, objective in enumerate(goal.objectives):
        known = told & np.isfinite(history.losses[:, j])
        sign = -1 if objective.direction == "maximize" else 1
        means = {"role": "objective", "metric": objective.metric, "sign": sign, "offset": 0.0}
        yield means | _process(belief.losses[j], numbers, known, pending)
    for j, constraint in enumerate(goal.constraints):
        if f"slack {j}" in belief.limits:
            known = np.isfinite(history.slacks[:, j])
            sign = 1 if constraint.operator == "<=" else -1
            means = {"role": "constraint", "metric": constraint.metric, "sign": sign, "offset": float(constraint.bound)}
            yield means | _process(belief.limits[f"slack {j}"], numbers, known, pending)
    if "failure" in belief.limits:
        means = {"role": "failure", "metric": None, "sign": 1, "offset": 0.0}
        yield means | _process(belief.limits["failure"], numbers, told | failed, pending)


def _process(
    process: GaussianProcess, numbers: NDArray[np.int_], known: NDArray[np.bool_], pending: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return one process; what runs comes last, at the values that the process believes there."""
    units = process.units
    return {
        "trials": [*numbers[known].tolist(), *numbers[pending].tolist()],
        "y": process.y.tolist(),
        "b": process.b.tolist(),
        "lengthscales": process.hyper.lengthscales.tolist(),
        "signal": process.hyper.signal,
        "noise": process.hyper.noise,
        "trend": process.hyper.trend,
        "units": {
            "shift": units.shift,
            "scale": units.scale,
            "knee": units.knee,
            "unit": units.unit,
            "damped": units.is_damped,
        },
    }
