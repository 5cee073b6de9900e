"""Runs: what Optuna calls a trial. A trial of ours has one run, or several when it was interrupted and run again.

A run's beginning and end are two records among the attributes of Optuna's trial; a third one counts signs of life of a
run that lasts. The end record is what counts; Optuna's own state follows it and is only there for Optuna's tools. A run
that has that state and no end record was given up by others (interrupted).

| our state | Optuna's |
| --- | --- |
| running | RUNNING |
| complete | COMPLETE, with the objectives as values |
| stopped, infeasible | PRUNED |
| failed, interrupted | FAIL |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nbcompress.study.attributes import attribute_items, pack_number, read_attribute
from nbcompress.study.trial import Failure, State, Trial
from nbcompress.study.worker import Worker

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState

BEGIN = "nbcompress:begin"
END = "nbcompress:end"
BEATS = "nbcompress:beats"

# Characters of a printed text or a traceback that are kept. Both ends tell most, so the middle goes.
MAX_TEXT = 10_000
_MAX_MESSAGE = 2_000


@dataclass(frozen=True)
class Run:
    """One run of a trial, as stored.

    Attributes:
        identity: Optuna's id of it.
        trial: What it says. Its number holds only for a first run of known rank and is set by `in_order`.
        worker: Who runs or ran it.
        repeats: The number of the trial that it runs again, or None for a first run.
        queued: Key of the queued point that it runs, or an empty string.
        has_end: Whether its end is recorded.
        is_settled: Whether Optuna's state is final too.
        beats: How many signs of life its worker has written.
    """

    identity: int
    trial: Trial
    worker: Worker
    repeats: int | None
    queued: str
    has_end: bool
    is_settled: bool
    beats: int = 0


def begin_trial(
    trial: Trial, worker: Worker, repeats: int | None, queued: str, distributions: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    """Return the running trial that Optuna stores, in one operation, when a run begins."""
    from datetime import datetime

    from optuna.trial import FrozenTrial, TrialState

    begin = {
        # Optuna's own parameters pass through floats and compare True with 1, so the point is stored exactly.
        "point": dict(trial.params),
        "seed": trial.seed,
        "note": dict(trial.note),
        "reason": trial.reason,
        "worker": worker.to_json(),
        **({} if repeats is None else {"repeats": repeats}),
        **({"queued": queued} if queued else {}),
    }
    return FrozenTrial(
        number=-1,  # the storage gives it
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params=dict(trial.params),
        distributions={name: distributions[name] for name in trial.params},
        user_attrs=dict(attribute_items(BEGIN, begin, "the note of a trial")),
        system_attrs={},
        intermediate_values={},
    )


def end_items(trial: Trial) -> list[tuple[str, Any]]:
    """Return the attributes that record how a trial ended. The last one makes it count."""
    failure = trial.failure
    end = {
        "state": trial.state.value,
        "values": {name: pack_number(value) for name, value in trial.values.items()},
        "seconds": None if trial.seconds is None else float(trial.seconds),
        "printed": shorten(trial.printed, MAX_TEXT),
        "reports": {
            metric: [[int(step), pack_number(value)] for step, value in steps.items()]
            for metric, steps in trial.reports.items()
        },
        "failure": failure
        and [failure.kind, shorten(failure.message, _MAX_MESSAGE), shorten(failure.traceback, MAX_TEXT)],
    }
    end = {name: value for name, value in end.items() if value not in (None, "", {})}
    return attribute_items(END, end, "the end of a trial")


def read_run(frozen: FrozenTrial) -> Run | None:
    """Return the run that Optuna's trial holds, or None if it is not one of ours (such as one enqueued elsewhere)."""
    begin = read_attribute(frozen.user_attrs, BEGIN)
    if begin is None:
        return None
    trial = Trial(
        number=int(begin.get("repeats", -1)),
        state=State.RUNNING,
        params=begin["point"],
        seed=int(begin["seed"]),
        note=begin["note"],
        reason=begin["reason"],
    )
    end = read_attribute(frozen.user_attrs, END)
    if end is not None:
        trial = replace(
            trial,
            state=State(end["state"]),
            values={name: float(value) for name, value in end.get("values", {}).items()},
            seconds=end.get("seconds"),
            failure=Failure(*end["failure"]) if "failure" in end else None,
            printed=end.get("printed", ""),
            reports={
                metric: {int(step): float(value) for step, value in steps}
                for metric, steps in end.get("reports", {}).items()
            },
        )
    elif frozen.state.is_finished():
        # Some other tool of Optuna gave it up.
        trial = replace(trial, state=State.INTERRUPTED)
    return Run(
        identity=frozen._trial_id,
        trial=trial,
        worker=Worker.from_json(begin["worker"]),
        repeats=begin.get("repeats"),
        queued=begin.get("queued", ""),
        has_end=end is not None or frozen.state.is_finished(),
        is_settled=frozen.state.is_finished(),
        beats=int(frozen.user_attrs.get(BEATS, 0)),
    )


def optuna_state(state: State) -> TrialState:
    from optuna.trial import TrialState

    return {
        State.RUNNING: TrialState.RUNNING,
        State.COMPLETE: TrialState.COMPLETE,
        State.STOPPED: TrialState.PRUNED,
        State.INFEASIBLE: TrialState.PRUNED,
        State.FAILED: TrialState.FAIL,
        State.INTERRUPTED: TrialState.FAIL,
    }[state]


def in_order(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Number the runs, and choose the one that counts for every trial.

    The number of a trial is the rank of its first run among first runs, in the order in which the storage took them,
    so numbers have no gaps whoever writes. Of several runs the first that was not interrupted counts, else the last.

    Returns:
        All runs with their numbers, and the chosen ones by number.
    """
    numbered: list[Run] = []
    chosen: list[Run] = []
    for run in runs:
        if run.repeats is None:
            if run.trial.number != len(chosen):
                run = replace(run, trial=replace(run.trial, number=len(chosen)))
            chosen.append(run)
        elif run.repeats < len(chosen) and chosen[run.repeats].trial.state is State.INTERRUPTED:
            chosen[run.repeats] = run
        numbered.append(run)
    return numbered, chosen


def shorten(text: str, length: int) -> str:
    """Return `text` with its middle cut out, if it is longer than `length`; it says how much is missing."""
    if len(text) <= length:
        return text
    head = length // 3
    tail = length - head
    return f"{text[:head]}\n... {len(text) - length} characters left out ...\n{text[-tail:]}"
