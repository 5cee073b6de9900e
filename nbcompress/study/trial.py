"""One trial: a point that was run, how it ended, and what it left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbcompress.space import Point


class State(StrEnum):
    """How a trial stands."""

    RUNNING = "running"
    """Started and not ended, as far as its record says."""
    COMPLETE = "complete"
    """Ended with every objective measured and every constraint kept."""
    STOPPED = "stopped"
    """Ended early: by the pruner, or by the Skip control."""
    INFEASIBLE = "infeasible"
    """Broke a constraint and ended there."""
    FAILED = "failed"
    """Raised, crashed, hung over its limit, or left a metric that is missing or not finite."""
    INTERRUPTED = "interrupted"
    """Abandoned by the person, by the search's time limit or by a dead kernel; it will be run again."""

    @property
    def counts(self) -> bool:
        """Whether a trial in this state counts towards `--trials`."""
        return self not in (State.RUNNING, State.INTERRUPTED)


@dataclass(frozen=True)
class Failure:
    """Why a trial failed."""

    kind: str
    """The class of the exception, or `Timeout`, `Crash`, `NotFinite`, `NotAssigned`."""
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass(frozen=True, repr=False)
class Trial:
    """A point that was run.

    Attributes:
        number: Position in the study, from 0, without gaps.
        state: How it ended.
        params: The active parameters, by (flat) name.
        values: The metrics it left behind, by name; partial when it ended early.
        seed: The seed that its random generators were set to.
        seconds: Wall-clock time it took, or None while it runs.
        failure: Why it failed, for failed trials.
        printed: What it printed, cut to a bounded length.
        reports: Intermediate values: metric -> step -> value.
        note: What the proposer stored with it (JSON), such as hyperparameters.
        reason: One sentence on why this point was proposed.
        kept: The values that `--keep` or `nc.keep` kept of it, each read when it is asked for. Not compared.
    """

    number: int
    state: State
    params: Mapping[str, Any]
    values: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    seconds: float | None = None
    failure: Failure | None = None
    printed: str = ""
    reports: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    note: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    kept: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        params = ", ".join(f"{name}={_short(value)}" for name, value in self.params.items())
        failure = f", {self.failure.kind}" if self.failure is not None else ""
        return f"<Trial {self.number}: {self.state.value}{failure}{', ' * bool(values)}{values} ({params})>"

    @property
    def point(self) -> Point:
        return dict(self.params)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)
