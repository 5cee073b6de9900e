"""`fmin` and the search spaces of Hyperopt.

A script changes its imports: `from nbcompress.compat.hyperopt import fmin, hp, tpe, Trials, STATUS_OK, space_eval`.
A space is a nested value of dicts, lists and tuples with draws (`hp.uniform`, ...) in it. What stands within an option
of `hp.choice` is active only where this option is chosen. Draws can be calculated with, as in `10 ** hp.uniform(...)`.
"""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from nbcompress.compat.search import (
    Calculated,
    CallError,
    CompatSearch,
    Draw,
    NestedSpace,
    Pick,
    SpacePart,
    ignore_options,
    reject_options,
    seed_of,
    space_eval,
    titles_of,
)
from nbcompress.errors import NbcompressWarning, SearchError, SpaceError, check_integer, did_you_mean, shown
from nbcompress.run.history import SAID_FAILED
from nbcompress.run.outcome import trial_failure
from nbcompress.run.trial import current_trial
from nbcompress.space import Float, Int, Value, is_number
from nbcompress.study import Goal, State

if TYPE_CHECKING:
    from nbcompress.study import Study, Trial

STATUS_NEW, STATUS_RUNNING, STATUS_SUSPENDED, STATUS_OK, STATUS_FAIL = "new", "running", "suspended", "ok", "fail"
STATUS_STRINGS = (STATUS_NEW, STATUS_RUNNING, STATUS_SUSPENDED, STATUS_OK, STATUS_FAIL)
JOB_STATE_NEW, JOB_STATE_RUNNING, JOB_STATE_DONE, JOB_STATE_ERROR = range(4)

_UNBOUNDED = 10**9  # evaluations, where only a time or a loss ends the search
_METRIC = "loss"
_OPTIONS = {
    "trials_save_file": "study= and storage= keep every trial as it ends.",
    "pass_expr_memo_ctrl": "Let the function take the point itself.",
}
_IGNORED = {
    "allow_trials_fmin": "it makes no difference",
    "max_queue_len": "one call runs at a time",
    "catch_eval_exceptions": "a call that raises is a failed trial",
}


# --- Spaces -----------------------------------------------------------------------------------------------------------


def _lifted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that takes draws among its arguments, and is called for each point."""

    def lifted(*arguments: Any) -> Calculated:
        return Calculated(function, arguments)

    return lifted


def _label(call: str, label: Any) -> str:
    if not isinstance(label, str) or not label:
        raise SpaceError(f"hp.{call} takes a label first, a text, but got {shown(label)}. Write hp.{call}('x', ...).")
    return label


def _numbers(call: str, label: Any, **given: Any) -> list[float]:
    _label(call, label)
    for name, value in given.items():
        value = value.item() if getattr(value, "shape", None) == () else value
        if not is_number(value) or not math.isfinite(value):
            raise SpaceError(f"{name} of hp.{call}({label!r}, ...) is a finite number, but got {shown(value)}.")
        given[name] = value
    return list(given.values())


def _uniform(label: str, low: float, high: float) -> Draw:
    """Draw a number from `low` to `high`."""
    low, high = _numbers("uniform", label, low=low, high=high)
    return Draw(label, Float(low, high))


def _loguniform(label: str, low: float, high: float) -> Draw:
    """Draw `exp` of a number from `low` to `high`."""
    low, high = _numbers("loguniform", label, low=low, high=high)
    return Draw(label, Float(_exp(label, low), _exp(label, high), log=True))


def _quniform(label: str, low: float, high: float, q: float) -> Draw:
    """Draw `round(x / q) * q` for x from `low` to `high`: a multiple of `q`."""
    first, last = _multiples("quniform", label, low, high, q)
    return Draw(label, Float(first * q, last * q, step=q if first < last else None))


def _qloguniform(label: str, low: float, high: float, q: float) -> Draw:
    """Draw `round(exp(x) / q) * q` for x from `low` to `high`. Only with `q=1`, and `exp(low)` above one half."""
    low, high, q = _numbers("qloguniform", label, low=low, high=high, q=q)
    first, last = _multiples("qloguniform", label, _exp(label, low), _exp(label, high), q)
    if q != 1 or first < 1:
        raise SpaceError(
            f"hp.qloguniform here has q=1 and values of at least 1, but {label!r} has q={q!r} from {first * q!r}. "
            f"Write hp.loguniform({label!r}, {low!r}, {high!r}) and round in the function."
        )
    return Draw(label, Int(first, last, log=True))


def _uniformint(label: str, low: float, high: float, q: float = 1) -> Draw:
    """Draw an integer from `low` to `high`, both included."""
    if q != 1:
        raise SpaceError(f"q of hp.uniformint({label!r}, ...) is 1, but got {shown(q)}. Write hp.quniform.")
    first, last = _multiples("uniformint", label, low, high, 1)
    return Draw(label, Int(first, last))


def _randint(label: str, low: int, high: int | None = None) -> Draw:
    """Draw an integer of `range(low)` or of `range(low, high)`."""
    start, stop = _numbers("randint", label, low=0 if high is None else low, high=low if high is None else high)
    if start != int(start) or stop != int(stop) or start >= stop:
        raise SpaceError(f"hp.randint({label!r}, low, high) draws from low to high - 1, but got {start!r}, {stop!r}.")
    return Draw(label, Int(int(start), int(stop) - 1))


def _multiples(call: str, label: str, low: float, high: float, q: float) -> tuple[int, int]:
    low, high, q = _numbers(call, label, low=low, high=high, q=q)
    if q <= 0 or low > high:
        raise SpaceError(
            f"hp.{call}({label!r}, low, high, q) has low <= high and q above 0, but got {low}, {high}, {q}."
        )
    return round(low / q), round(high / q)


def _exp(label: str, exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError:
        raise SpaceError(
            f"hp.loguniform takes the logarithms of its bounds, but exp({exponent!r}) of {label!r} is too large. "
            f"Write hp.loguniform({label!r}, log(1e-4), log(1e-1)) for 1e-4 to 1e-1."
        ) from None


def _choice(label: str, options: Sequence[Any]) -> Pick:
    """Pick one of the options."""
    _label("choice", label)
    if isinstance(options, (str, bytes, SpacePart)) or not isinstance(options, Iterable) or not list(options):
        raise SpaceError(f"hp.choice({label!r}, ...) takes a list of options, but got {shown(options)}.")
    # Arrays and ranges have their items, which are converted to plain values where they are NumPy's.
    listed = [item.item() if getattr(item, "shape", None) == () else item for item in options]
    return Pick(label, tuple(listed), titles_of(listed))


def _pchoice(label: str, p_options: Sequence[tuple[float, Any]]) -> Pick:
    """Pick one of the options; their probabilities are ignored with a warning."""
    pairs = [pair for pair in p_options if isinstance(pair, (tuple, list)) and len(pair) == 2]
    if not pairs or len(pairs) < len(p_options):
        raise SpaceError(f"hp.pchoice({label!r}, ...) takes pairs (probability, option), but got {shown(p_options)}.")
    if len({pair[0] for pair in pairs}) > 1:
        what = f"hp.pchoice({label!r}, ...) here ignores its probabilities: all options are as likely at first."
        warnings.warn(what, NbcompressWarning, stacklevel=2)
    return _choice(label, [option for _, option in pairs])


def _unbounded(call: str, is_log: bool) -> Callable[..., Any]:
    def refused(label: str, mu: float, sigma: float, q: float | None = None) -> Any:
        """Raise an error, which says what to write."""
        mu, sigma = _numbers(call, label, mu=mu, sigma=sigma)
        quantized = call.startswith("q")
        name = ("q" if quantized else "") + ("loguniform" if is_log else "uniform")
        step = f", {q!r}" if quantized else ""
        raise SpaceError(
            f"hp.{call}({label!r}, ...) has no bounds, and a search here needs them. For three standard deviations "
            f"write hp.{name}({label!r}, {mu - 3 * sigma:g}, {mu + 3 * sigma:g}{step})."
        )

    return refused


hp = SimpleNamespace(
    uniform=_uniform,
    loguniform=_loguniform,
    quniform=_quniform,
    qloguniform=_qloguniform,
    uniformint=_uniformint,
    randint=_randint,
    choice=_choice,
    pchoice=_pchoice,
    normal=_unbounded("normal", False),
    qnormal=_unbounded("qnormal", False),
    lognormal=_unbounded("lognormal", True),
    qlognormal=_unbounded("qlognormal", True),
)
# Functions of draws, as `hyperopt.pyll.scope` has them: `scope.int(hp.quniform("depth", 1, 9, 1))`.
scope = SimpleNamespace(
    define=_lifted,
    **{function.__name__: _lifted(function) for function in (int, float, max, min, len, math.exp, math.log, math.sqrt)},
)


# --- The search -------------------------------------------------------------------------------------------------------


def _suggest(sampler: str) -> SimpleNamespace:
    def suggest(*_: Any, **__: Any) -> None:
        """Stand for a sampler, as the argument `algo` of `fmin`.

        Raises:
            SearchError: It is called.
        """
        raise SearchError("This only names a sampler. Pass it to fmin, as in fmin(..., algo=tpe.suggest).")

    suggest.sampler = sampler  # type: ignore[attr-defined]  # functions take attributes
    return SimpleNamespace(suggest=suggest)


# Modules of Hyperopt, as far as `fmin` needs them. `gp` is ours: what is used without `algo`.
tpe, rand, gp = _suggest("tpe"), _suggest("random"), _suggest("gp")
_SAMPLERS = {"tpe": "tpe", "rand": "random", "random": "random", "gp": "gp"}


def _sampler(algo: Any) -> str:
    """Return our sampler for `algo`: `suggest` of a module here or of Hyperopt, such a module, or a name."""
    tuning = algo.keywords if isinstance(algo, partial) else {}
    ignore_options("algo", dict(tuning), dict.fromkeys(tuning, "the sampler has its own settings"))
    given = algo.func if isinstance(algo, partial) else getattr(algo, "suggest", algo)
    if given is None:
        return "gp"
    if hasattr(given, "sampler"):
        return str(given.sampler)
    name = given if isinstance(given, str) else str(getattr(given, "__module__", "")).removeprefix("hyperopt.")
    if name not in _SAMPLERS:
        raise SearchError(
            f"algo is tpe.suggest, rand.suggest, or left out for our Gaussian process, but got {shown(algo)}."
            f"{did_you_mean(name, _SAMPLERS)}"
        )
    return _SAMPLERS[name]


@dataclass
class Trials:
    """The trials of one or several calls of `fmin`, as Hyperopt shows them.

    A second call with it and a larger `max_evals` goes on. It can be pickled; the study stays where it is stored.

    Attributes:
        trials: For each trial a dict: `tid`, `state`, `result` (what the function returned), and in `misc` the values.
        study: Ours: the study of the latest call.

    Example:
        >>> trials = Trials()
        >>> best = fmin(lambda x: x**2, hp.uniform("x", -1, 1), max_evals=3, trials=trials, rstate=0, verbose=False)
        >>> len(trials), trials.statuses(), min(trials.losses()) == trials.best_trial["result"]["loss"]
        (3, ['ok', 'ok', 'ok'], True)
    """

    trials: list[dict[str, Any]] = field(default_factory=list)
    study: Study | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"trials": self.trials, "study": None}

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.trials)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.trials[index]

    @property
    def tids(self) -> list[int]:
        return [trial["tid"] for trial in self.trials]

    @property
    def results(self) -> list[dict[str, Any]]:
        return [trial["result"] for trial in self.trials]

    @property
    def miscs(self) -> list[dict[str, Any]]:
        return [trial["misc"] for trial in self.trials]

    @property
    def vals(self) -> dict[str, list[Any]]:
        """The values by label, those of all trials in which it was active."""
        return self._joined("vals")

    @property
    def idxs(self) -> dict[str, list[int]]:
        """For each label the trials in which it was active."""
        return self._joined("idxs")

    def _joined(self, what: str) -> dict[str, list[Any]]:
        joined: dict[str, list[Any]] = {}
        for misc in self.miscs:
            for label, values in misc[what].items():
                joined.setdefault(label, []).extend(values)
        return joined

    def losses(self) -> list[float | None]:
        """Return the loss of each trial; None where it failed."""
        return [result.get("loss") for result in self.results]

    def statuses(self) -> list[str]:
        """Return `ok` or `fail` for each trial."""
        return [result["status"] for result in self.results]

    @property
    def best_trial(self) -> dict[str, Any]:
        """The trial of the least loss.

        Raises:
            SearchError: No trial has one.
        """
        known = [trial for trial in self.trials if trial["result"]["status"] == STATUS_OK]
        if not known:
            raise SearchError(f"No trial of {len(self)} has status 'ok', so there is no best one.")
        return min(known, key=lambda trial: float(trial["result"]["loss"]))

    @property
    def argmin(self) -> dict[str, Any]:
        """The values of the best trial by label, for `space_eval`."""
        return {label: values[0] for label, values in self.best_trial["misc"]["vals"].items() if values}

    def trial_attachments(self, trial: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the function returned as `attachments`."""
        return dict(trial["result"].get("attachments", {}))

    def refresh(self) -> None:
        """Do nothing: it is always up to date."""

    def fmin(self, fn: Callable[..., Any], space: Any, **options: Any) -> Any:
        """Call `fmin` with these trials."""
        return fmin(fn, space, trials=self, **options)


class _Recorder:
    """Calls the function, and adds to a `Trials` what it returns."""

    def __init__(self, fn: Callable[..., Any], space: NestedSpace, trials: Trials) -> None:
        self._fn, self._space, self._trials = fn, space, trials
        self._returned: dict[int, Any] = {}
        self._known: set[int] = set()

    def __call__(self, **point: Value) -> Any:
        returned = self._fn(self._space.argument(point))
        running = current_trial()
        if running is not None:
            self._returned[running.assignment.number] = returned
        if not isinstance(returned, Mapping):
            return returned
        status = returned.get("status")
        if status == STATUS_FAIL:
            where = ", ".join(f"{name} = {value!r}" for name, value in point.items())
            raise trial_failure(SAID_FAILED, f"The function returned STATUS_FAIL at {where}.")
        if status != STATUS_OK or _METRIC not in returned:
            example = "{'loss': 0.5, 'status': STATUS_OK}"
            raise SearchError(f"The function returns a number or a dict such as {example}, but got {shown(returned)}.")
        return returned[_METRIC]

    def adopt(self, study: Study, *, all_known: bool) -> None:
        """Begin with the trials that a study has already; they are in the `Trials`, or come to it."""
        if all_known:
            self._known = {trial.number for trial in study.all_trials}
        self.note(study)

    def note(self, study: Study) -> None:
        """Add the trials that have ended since."""
        self._trials.study = study
        for trial in study.all_trials:
            if trial.state.counts and trial.number not in self._known:
                self._known.add(trial.number)
                self._trials.trials.append(self._shown(trial))

    def _shown(self, trial: Trial) -> dict[str, Any]:
        tid = len(self._trials)
        is_ok = trial.state is State.COMPLETE
        returned = self._returned.pop(trial.number, None)
        result = dict(returned) if isinstance(returned, Mapping) else {}
        result |= {"status": STATUS_OK, _METRIC: trial.values[_METRIC]} if is_ok else {"status": STATUS_FAIL}
        if not is_ok and trial.failure is not None:
            result.setdefault("failure", f"{trial.failure.kind}: {trial.failure.message}")
        raw = self._space.raw(trial.point)
        vals = {label: [raw[label]] if label in raw else [] for label in self._space.parts}
        idxs = {label: [tid] if label in raw else [] for label in self._space.parts}
        misc = {"tid": tid, "vals": vals, "idxs": idxs}
        return {"tid": tid, "state": JOB_STATE_DONE, "result": result, "misc": misc}


def fmin(
    fn: Callable[..., Any],
    space: Any,
    algo: Any = None,
    max_evals: int | None = None,
    timeout: float | None = None,
    loss_threshold: float | None = None,
    trials: Trials | None = None,
    rstate: Any = None,
    *,
    points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
    early_stop_fn: Callable[..., Any] | None = None,
    return_argmin: bool = True,
    verbose: bool | int = True,
    show_progressbar: bool = True,
    study: str | None = None,
    storage: str | os.PathLike[str] | None = None,
    panel: bool = True,
    fresh: bool = False,
    accept_changes: bool = False,
    **others: Any,
) -> Any:
    """Minimize `fn` over a space of Hyperopt.

    Calls that raise or return no finite loss are failed trials: they count, and are kept away from. An interrupt ends
    the search, and the best value so far is returned.

    Args:
        fn: Called with a value of the space; returns a loss, or a dict with `status`, `loss` and anything else.
        space: Dicts, lists and tuples with draws in them, or `"annotated"`: the arguments of `fn` are annotated.
        algo: `tpe.suggest` or `rand.suggest`; also `partial`s, whose settings are ignored with a warning. Without it
            our Gaussian process is used.
        max_evals: Calls in all, those that `trials` has included. None is allowed if something else ends the search.
        timeout: Seconds after which the search ends.
        loss_threshold: A loss of at most this ends the search.
        trials: A `Trials`, to look at and to go on with.
        rstate: None, an integer, or NumPy's `Generator` or `RandomState`.
        points_to_evaluate: Points to begin with, by label, for a choice the number of the option. They come in addition
            to `max_evals`.
        early_stop_fn: Called as `early_stop_fn(trials, *state)` after a call; returns whether to stop, and the state.
        return_argmin: Whether to return the best values by label, else the best value of the space.
        verbose, show_progressbar: Whether to print a line for each new least loss. A notebook shows the panel instead.
        study, storage: Ours: a name, and a path or a URL. A study that exists is continued, so a script that runs again
            repeats no call.
        panel: Ours: whether a notebook shows the panel.
        fresh, accept_changes: Ours: begin the next generation of a stored study; go on with it though `fn` reads other
            values.

    Returns:
        The best values by label, for a choice the number of the option; see `space_eval`.

    Raises:
        SpaceError: The space cannot be read, or has a draw without bounds.
        SearchError: An option cannot be honoured, or no call succeeded.
        SearchFailed: The first three calls raised alike.

    Example:
        >>> space = hp.choice("kind", [("line", hp.uniform("a", 1, 2)), ("square", hp.uniform("b", -1, 1))])
        >>> def objective(drawn):
        ...     kind, value = drawn
        ...     return {"loss": value if kind == "line" else value**2, "status": STATUS_OK}
        >>> best = fmin(objective, space, max_evals=20, rstate=0, verbose=False)
        >>> best["kind"], space_eval(space, best)[0]
        (1, 'square')
    """
    ignore_options("fmin", others, _IGNORED)
    reject_options("fmin", {name: value for name, value in others.items() if value not in (False, "")}, _OPTIONS)
    if not callable(fn):
        raise CallError(f"fmin takes the function first and then the space, but got {shown(fn)} as the function.")
    if isinstance(space, str) and space == "annotated":
        space, called = _annotated(fn), lambda drawn: fn(**drawn)
    else:
        called = fn
    read = NestedSpace.of(space, taken=[_METRIC])
    trials = Trials() if trials is None else trials
    if not isinstance(trials, Trials):
        raise CallError(f"trials is a Trials of nbcompress.compat.hyperopt, but got {shown(trials)}.")
    start = [read.point(raw) for raw in points_to_evaluate or ()]
    wanted = _wanted(max_evals, [timeout, loss_threshold, early_stop_fn]) + len(start)
    recorder = _Recorder(called, read, trials)
    search = CompatSearch(
        fn,
        recorder,
        read.space,
        Goal.of(minimize=[_METRIC]),
        random_state=seed_of(rstate, "rstate"),
        sampler=_sampler(algo),
        study=study,
        storage=storage,
        panel=panel,
        fresh=fresh,
        accept_changes=accept_changes,
    )
    _tell_known(search, read, trials)
    recorder.adopt(search.study, all_known=bool(trials.trials))
    missing = max(0, wanted - len(trials))
    is_shown = bool(verbose) and show_progressbar and not search.has_panel
    after = _After(recorder, trials, loss_threshold, early_stop_fn, is_shown)
    try:
        if missing:
            search.run(len(search.study.all_trials) + missing, start, after, timeout=timeout)
    finally:
        recorder.note(search.study)
    if STATUS_OK not in trials.statuses():
        raise search.failed("No call returned a finite loss")
    return trials.argmin if return_argmin else space_eval(space, trials.argmin)


def _wanted(max_evals: int | None, others: Sequence[Any]) -> int:
    if max_evals is not None:
        return check_integer("max_evals", max_evals, 1)
    if all(other is None for other in others):
        raise SearchError(
            "fmin needs an end: max_evals, timeout, loss_threshold or early_stop_fn. Write max_evals=100."
        )
    return _UNBOUNDED


def _annotated(fn: Callable[..., Any]) -> dict[str, Any]:
    """Return the space that stands in the annotations of a function."""
    found = inspect.get_annotations(fn, eval_str=True)
    found.pop("return", None)
    for name, annotation in found.items():
        if not isinstance(annotation, SpacePart):
            example = f"{name}: hp.uniform({name!r}, 0, 1)"
            raise SpaceError(f"With space='annotated' arguments are annotated with draws, but {name!r} not: {example}.")
    return found


def _tell_known(search: CompatSearch, space: NestedSpace, trials: Trials) -> None:
    """Let the search know the trials of earlier calls of `fmin`."""
    told: list[Any] = []
    for trial in trials:
        if trial["result"]["status"] == STATUS_OK:
            point = space.point({label: values[0] for label, values in trial["misc"]["vals"].items() if values})
            told.append((point, trial["result"][_METRIC]))
            search.tell_once(point, trial["result"][_METRIC], times=told.count(told[-1]))


class _After:
    """Called after each trial that has a loss: notes, prints, and says whether the search is over."""

    def __init__(
        self,
        recorder: _Recorder,
        trials: Trials,
        loss_threshold: float | None,
        early_stop_fn: Callable[..., Any] | None,
        is_shown: bool,
    ) -> None:
        self._recorder, self._trials, self._threshold = recorder, trials, loss_threshold
        self._early_stop, self._state, self._is_shown = early_stop_fn, list[Any](), is_shown

    def __call__(self, trial: Trial) -> bool:
        assert self._trials.study is not None
        self._recorder.note(self._trials.study)
        best = self._trials.best_trial
        if self._is_shown and best is self._trials[-1]:
            print(f"call {len(self._trials)}: least loss so far {best['result'][_METRIC]:.6g}", flush=True)
        if self._threshold is not None and trial.values[_METRIC] <= self._threshold:
            return True
        if self._early_stop is None:
            return False
        is_over, self._state = self._early_stop(self._trials, *self._state)
        return bool(is_over)
