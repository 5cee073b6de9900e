"""What goes into a trial and what comes out of it: plain values that can be sent to another process.

`Assignment` goes in and `Outcome` comes out. Here are also the rules for metrics (which values count as a number), and
`pack`, which says by name what cannot be sent.
"""

from __future__ import annotations

import builtins
import html
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import cloudpickle

from nbcompress.errors import TransportError
from nbcompress.run.reads import is_a, items_of, own_attributes
from nbcompress.space import RESERVED
from nbcompress.study.goal import Failure, State, Trial

if TYPE_CHECKING:
    from nbcompress.run.data_read import Code
    from nbcompress.run.early_stopping import PruningRule
    from nbcompress.space import Point


@dataclass(frozen=True)
class Assignment:
    """One run of one point.

    Attributes:
        number: The trial's number in the study.
        point: The active parameters, by flat name.
        seed: What the random generators are set to.
        repeat: Which run of the point this is, from 0.
        pruning_rule: Decides from reported values whether the trial should go on; None never stops it.
    """

    number: int
    point: Point
    seed: int
    repeat: int = 0
    pruning_rule: PruningRule | None = None


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Attributes:
        state: Any state but *running*.
        values: The metrics it left behind, all finite; partial when it ended early.
        reports: Intermediate values: metric -> step -> value.
        failure: Why it failed, for failed runs; for interrupted ones the `KeyboardInterrupt`, if one was raised.
        printed: What it wrote to stdout and stderr, cut to a bounded length.
        seconds: Wall-clock time of the body.
        kept: What it asked to keep, by name.
        spreads: The standard deviations of the metrics between the runs of the point, if there were several.
        n_runs: How many runs the metrics are means of.
        worker: The host and the process that ran it, such as `"node7:4711"`; empty if that is not known.
        began: When the body began, by the monotonic clock of the notebook's process, whose engine sets it.
        ended: When it ended, likewise.
        displayed: Mime bundles that it displayed: figures, HTML, progress bars; bounded.
        remarks: Sentences that the person should see once, such as a change of the notebook that was undone.
    """

    state: State
    values: Mapping[str, float] = field(default_factory=dict)
    reports: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    failure: Failure | None = None
    printed: str = ""
    seconds: float = 0.0
    kept: Mapping[str, Any] = field(default_factory=dict)
    displayed: tuple[Mapping[str, Any], ...] = ()
    remarks: tuple[str, ...] = ()
    spreads: Mapping[str, float] = field(default_factory=dict)
    n_runs: int = 1
    worker: str = ""
    began: float | None = None
    ended: float | None = None

    def timed(self) -> Outcome:
        """Return the outcome of a body that has ended just now, in the notebook or elsewhere."""
        now = time.monotonic()
        return replace(self, began=now - self.seconds, ended=now)

    def recorded(self, trial: Trial, begun: float | None = None) -> Trial:
        """Return `trial` as it has ended. `begun` is when it was recorded as running, by the monotonic clock."""
        started, ended = trial.started, None
        if started is not None and begun is not None and self.began is not None and self.ended is not None:
            # Only the start is a time of day. So a clock that is set while a trial runs does not change its length.
            ended = started + self.ended - begun
            started += max(0.0, self.began - begun)
        return replace(
            trial,
            state=self.state,
            values=self.values,
            seconds=self.seconds,
            failure=self.failure,
            printed=self.printed,
            reports=self.reports,
            spreads=self.spreads,
            n_runs=self.n_runs,
            started=started,
            ended=ended,
            worker=self.worker,
        )


HEAD = 2_000
TAIL = 6_000


class PrintedText:
    """Text of bounded length: its first `HEAD` characters, its last `TAIL`, and how much lies between."""

    def __init__(self) -> None:
        self._head = ""
        self._tail: deque[str] = deque()
        self._tail_length = 0
        self._left_out = 0

    def write(self, text: str) -> None:
        room = HEAD - len(self._head)
        if room > 0:
            self._head += text[:room]
            text = text[room:]
        if not text:
            return
        surplus = max(0, len(text) - TAIL)  # of a long text only the end is copied
        self._left_out += surplus
        text = text[surplus:]
        self._tail.append(text)
        self._tail_length += len(text)
        while self._tail_length > TAIL:
            surplus = self._tail_length - TAIL
            first = self._tail.popleft()
            if len(first) > surplus:
                self._tail.appendleft(first[surplus:])
            dropped = min(surplus, len(first))
            self._tail_length -= dropped
            self._left_out += dropped

    def __str__(self) -> str:
        gap = f"\n... {self._left_out} characters left out ...\n" if self._left_out else ""
        return self._head + gap + "".join(self._tail)


# The most that is kept of what one trial displays.
MAX_DISPLAYED, MAX_DISPLAYED_CHARACTERS = 20, 500_000


class DisplayedOutputs:
    """The mime bundles that a trial displays, the first ones up to a bounded size."""

    def __init__(self) -> None:
        self._bundles: list[Mapping[str, Any]] = []
        self._progress: dict[int, Any] = {}  # model ids of widgets, by the index of the bundle
        self._n_characters = 0
        self._n_left_out = 0

    def add(self, bundle: Mapping[str, Any]) -> None:
        """Keep a bundle. Widgets are kept as text, since they cannot be drawn without the kernel."""
        kept = {kind: data for kind, data in bundle.items() if "widget" not in kind and isinstance(data, str)}
        n = sum(map(len, kept.values()))
        if not kept or len(self._bundles) == MAX_DISPLAYED or self._n_characters + n > MAX_DISPLAYED_CHARACTERS:
            self._n_left_out += bool(kept)
            return
        view: Any = bundle.get("application/vnd.jupyter.widget-view+json")
        if is_a(view, dict):
            self._progress[len(self._bundles)] = view.get("model_id")
        self._bundles.append(kept)
        self._n_characters += n

    def bundles(self) -> tuple[Mapping[str, Any], ...]:
        """Return what is kept, and a sentence on what is left out."""
        n = self._n_left_out
        more = f"{n} more output{'s' * (n > 1)} of this trial {'are' if n > 1 else 'is'} left out."
        now = [self._as_it_is_now(index, bundle) for index, bundle in enumerate(self._bundles)]
        return (*now, *([{"text/plain": more}] if n else []))

    def _as_it_is_now(self, index: int, bundle: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a bundle with the text of a progress bar as it is now; that of its beginning says `0%`."""
        text = _progress_text(self._progress.get(index))
        return bundle if not text else {**bundle, "text/plain": text}


def _progress_text(model_id: Any) -> str:
    """Return what stands beside the bar of a widget, as tqdm makes it; an empty text for any other widget."""
    widgets = sys.modules.get("ipywidgets")
    instances = getattr(sys.modules.get("ipywidgets.widgets.widget"), "_instances", {})
    if widgets is None or model_id not in instances:
        return ""
    parts = getattr(instances[model_id], "children", ())
    if not any(is_a(part, widgets.FloatProgress, widgets.IntProgress) for part in parts):
        return ""
    return " ".join(html.unescape(part.value).strip() for part in parts if is_a(part, widgets.HTML))


Evaluate = Callable[[Assignment], Outcome]
"""Runs one assignment. It never raises for what the body does: every way a body can end is an outcome."""


class Evaluator(Protocol):
    """An `Evaluate` that knows what its trials read."""

    def __call__(self, assignment: Assignment) -> Outcome: ...

    def reads(self) -> dict[str, Any]:
        """Return the values that trials read from outside, by name."""

    def code(self) -> Code | None:
        """Return the code of a trial with these values, or None if its source is not known."""

    def written(self) -> frozenset[tuple[str, ...]]:
        """Return the places of these values that trials write into."""

    def reusable(self) -> Callable[[], Evaluate]:
        """Return a function that makes an equal evaluator after the search; it holds no more than trials read."""


def mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the runs of a point, in order, as one outcome.

    Metrics are means over the runs. A run that does not complete ends the trial, and only its own metrics count: a
    mean with earlier runs could satisfy a constraint that this run violates. Reports and kept values are those of the
    first run; seconds are added up, and the trial lasts from the begin of the first run to the end of the last one.
    """
    last = outcomes[-1]
    seconds = math.fsum(outcome.seconds for outcome in outcomes)
    printed = "".join(outcome.printed for outcome in outcomes)
    remarks = tuple(dict.fromkeys(remark for outcome in outcomes for remark in outcome.remarks))
    if last.state is not State.COMPLETE:
        return replace(last, seconds=seconds, printed=printed, remarks=remarks, began=outcomes[0].began)
    shared = [name for name in outcomes[0].values if all(name in outcome.values for outcome in outcomes)]
    means = {name: math.fsum(outcome.values[name] for outcome in outcomes) / len(outcomes) for name in shared}
    outcome = replace(outcomes[0], values=means, seconds=seconds, printed=printed, remarks=remarks, ended=last.ended)
    if len(outcomes) == 1:
        return outcome
    spreads = {name: statistics.stdev(outcome.values[name] for outcome in outcomes) for name in shared}
    return replace(outcome, spreads=spreads, n_runs=len(outcomes))


class TrialEnded(BaseException):
    """Ends the current trial from inside. No `Exception`, so that a body's `except Exception` cannot swallow it.

    Attributes:
        state: The state in which the trial ends: infeasible, stopped, failed or interrupted.
        failure: Why, when it failed.
        reason: One sentence.
    """

    def __init__(self, state: State = State.INTERRUPTED, reason: str = "", failure: Failure | None = None) -> None:
        self.state, self.reason, self.failure = state, reason, failure
        super().__init__(state.value, reason)


def trial_failure(kind: str, message: str) -> TrialEnded:
    """Return what ends the current trial as failed, with `message` as its failure."""
    return TrialEnded(State.FAILED, message, Failure(kind, message))


def number_of(name: str, value: Any) -> float:
    """Return the metric `value` as a finite float.

    Args:
        name: The metric's name, for the sentence.
        value: A real Python number, a tensor or array of no dimensions, or what says by `__float__` which number it is,
            as the result of `nc.accuracy` does. A bool is none.

    Raises:
        TrialEnded: The name is taken, or the value is no number or not finite; the trial ends as failed.
    """
    if name in RESERVED:
        raise trial_failure(
            "MetricName", f"The metric name {name!r} is taken by a column of the trials; choose another."
        )
    number = _scalar(value)
    if isinstance(number, bool) or type(number).__name__ == "bool_":
        raise trial_failure(
            "NotANumber", f"The metric {name!r} is a number, but got the bool {value!r}. Write float({name})."
        )
    if not isinstance(number, Real) and (hasattr(number, "shape") or not hasattr(type(number), "__float__")):
        raise trial_failure("NotANumber", f"The metric {name!r} is a number, but got {_described(value)}.")
    try:
        result = float(number)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise trial_failure("NotFinite", f"The metric {name!r} is a finite number, but got {result!r}.")
    return result


def _scalar(value: Any) -> Any:
    """Take the number out of a tensor, an array or a NumPy scalar without dimensions; leave the rest as it is."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    if shape is not None:
        return f"the {kind} of shape {tuple(shape)}. Take one value of it, such as its .mean()"
    text = repr(value)
    return f"the {kind} {text if len(text) <= 60 else text[:57] + '...'}"


def step_of(step: Any) -> int:
    """Return `step` as an int.

    Raises:
        TrialEnded: It is no integer of at least 0; the trial ends as failed.
    """
    number = _scalar(step)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        hint = "" if isinstance(step, int) else " Metrics are given by name: report(accuracy=0.9)."
        raise trial_failure("Step", f"The step of a report is an integer of at least 0, but got {step!r}.{hint}")
    return number


# --- To another process ---

T = TypeVar("T")

# How deep the search for the culprit goes: a function, its globals, an object there, its attributes, ...
_DEPTH = 6


def pack(value: Any) -> bytes:
    """Return `value` as bytes; functions and classes of the notebook travel whole, those of modules by name.

    Raises:
        TransportError: Something in it cannot be sent; the text names it.
    """
    return packed_by(lambda given: bytes(cloudpickle.dumps(given)), value)


def packed_by(dumps: Callable[[Any], T], value: Any) -> T:
    """Return `dumps(value)`, for something that pickles as cloudpickle does.

    Raises:
        TransportError: Something in it cannot be sent; the text names it.
    """
    try:
        return dumps(value)
    except TransportError:  # it has said by itself what it is
        raise
    except Exception as error:
        path, culprit = _culprit(value, "", _DEPTH, set())
        what = f"{path!r} (a {type(culprit).__name__})" if path else f"A {type(culprit).__name__}"
        raise TransportError(
            f"{what} cannot be sent to another process: {error}. Make it inside the trial, or use the engine inline."
        ) from error


def _is_sendable(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:  # noqa: BLE001 - whatever keeps it from being pickled, it is what we look for
        return False
    return True


def _culprit(value: Any, path: str, depth: int, seen: set[int]) -> tuple[str, Any]:
    """Return the deepest part of `value` with a name that cannot be sent, and that name."""
    seen.add(id(value))
    if depth > 0:
        for name, part in _parts(value):
            if id(part) not in seen and not _is_sendable(part):
                return _culprit(part, name if _is_name(name) or not path else f"{path}{name}", depth - 1, seen)
    return path, value


def _is_name(text: str) -> bool:
    return text.isidentifier()


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if type(value) is FunctionType:
        names = set(_names_of(value.__code__))
        for name in sorted(names & value.__globals__.keys() - vars(builtins).keys()):
            yield name, value.__globals__[name]
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        yield from ((f"[{i}]", default) for i, default in enumerate(value.__defaults__ or ()))
    elif is_a(value, dict):
        yield from ((str(key) if str(key).isidentifier() else f"[{key!r}]", part) for key, part in dict.items(value))
    elif is_a(value, list, tuple, set, frozenset):
        yield from ((f"[{i}]", part) for i, part in enumerate(items_of(value)))
    elif not is_a(value, type, ModuleType):
        state = vars(type(value)).get("__getstate__")
        if state is not None and is_a(sent := state(value), dict):
            yield from dict.items(sent)  # what is sent in the place of its attributes
            return
        if type(value) in (MethodType, BuiltinMethodType) and value.__self__ is not None:
            yield type(value.__self__).__name__, value.__self__
        yield from own_attributes(value).items()


def _names_of(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_of(constant)
