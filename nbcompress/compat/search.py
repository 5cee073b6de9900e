"""What the modules of this folder share: a search that runs in parts, unsupported options, and nested spaces.

A nested space, as Hyperopt and Ray Tune have them, is a value of dicts, lists and tuples with draws in it. What stands
within an option of a pick is active only where this option is chosen.
"""

from __future__ import annotations

import math
import operator
import os
import re
import secrets
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nbcompress.errors import (
    NbcompressWarning,
    ParameterError,
    PointError,
    SearchError,
    SearchFailed,
    SpaceError,
    SpaceExhausted,
    did_you_mean,
    shown,
)
from nbcompress.optimize import History, NarrowableProposer, proposer
from nbcompress.optimize.proposers.gp import n_initial_points
from nbcompress.run.api import FunctionEvaluator, SingleMetric, search_failed
from nbcompress.run.callbacks import Controls
from nbcompress.run.history import one_line
from nbcompress.run.options import SearchOptions
from nbcompress.run.setup import prepare_function_search, proposer_of
from nbcompress.space import Choice, Condition, Float, Int, Space, Value, check_name
from nbcompress.space.conditions import parents_first
from nbcompress.space.values import is_same
from nbcompress.study import State, Trial

if TYPE_CHECKING:
    from nbcompress.run.callbacks import Ending, Observer
    from nbcompress.run.loop import Search
    from nbcompress.space import Point
    from nbcompress.study import Goal, Study


class CallError(SearchError, TypeError, ValueError):
    """A call that cannot be honoured: an option that is not supported, or an argument of the wrong kind.

    It is a TypeError and a ValueError, too, since the other packages raise those.
    """


def reject_options(call: str, options: Mapping[str, Any], hints: Mapping[str, str]) -> None:
    """Raise an error for the first option that is set but not supported.

    Args:
        call: The function or class that got the options.
        options: Their values by name; None is not set.
        hints: What to do instead, by option.

    Raises:
        CallError: An option is set.
    """
    for name, value in options.items():
        if value is not None:
            hint = hints.get(name, "")
            raise CallError(f"{call} here has no option {name}, but got {value!r:.80}. {hint}".rstrip())


def ignore_options(call: str, options: dict[str, Any], instead: Mapping[str, str]) -> None:
    """Remove the options that only tune the surrogate of the other package, with one warning that names them.

    So a script that sets them runs unchanged.

    Args:
        call: The function or class that got the options.
        options: Their values by name; those of `instead` are removed.
        instead: What is done here instead, by option.
    """
    found = {name: options.pop(name) for name in [option for option in options if option in instead]}
    parts = [f"{name}={value!r:.40} ({instead[name]})" for name, value in found.items() if value is not None]
    if parts:
        warnings.warn(f"{call} here ignores {', '.join(parts)}.", NbcompressWarning, stacklevel=3)


def study_names(given: Iterable[Any], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return what parameters are called in the study: their own names where a parameter can have them.

    Other characters become `_`, and a name that is taken gets `_` at its end: `learning-rate` is `learning_rate`.

    Args:
        given: The names in the other package, any texts.
        taken: Names of metrics.

    Raises:
        SpaceError: A name is no text.
    """
    found: dict[str, str] = {}
    names = list(given)
    used = {*taken, *(name for name in names if isinstance(name, str) and _can_be_named(name))}
    for name in names:
        if not isinstance(name, str):
            raise SpaceError(f"A parameter is named by a text, but got {shown(name)}.")
        if _can_be_named(name) and name not in taken:
            found[name] = name
            continue
        word = re.sub(r"\W", "_", unicodedata.normalize("NFKC", name)) or "_"
        word = f"_{word}" if word[0].isdigit() else word
        while word in used or not _can_be_named(word):
            word += "_"
        used.add(word)
        found[name] = word
    return found


def _can_be_named(name: str) -> bool:
    try:
        check_name(name)
    except SpaceError:
        return False
    return True


class CompatSearch:
    """A search that runs in parts.

    Args:
        function: The user's function; a study without a name gets one that is made from it.
        call: Called with the active parameters by name; returns a number.
        space: The parameters.
        goal: One objective.
        random_state: None, an integer, or NumPy's `RandomState`, of which an integer is drawn.
        acquisition, sampler: As in `nc.search`.
        study, storage: As in `nc.search`: nothing is stored unless one of them is given.
        panel: Whether a notebook shows the panel.
        fresh, accept_changes: As in `nc.search`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        call: Callable[..., Any],
        space: Space,
        goal: Goal,
        *,
        random_state: Any,
        acquisition: str = "logei",
        sampler: str = "gp",
        study: str | None,
        storage: str | os.PathLike[str] | None,
        panel: bool,
        fresh: bool = False,
        accept_changes: bool = False,
    ) -> None:
        options = SearchOptions(
            seed=seed_of(random_state),
            acquisition=acquisition,
            sampler=sampler,
            study=study,
            storage=storage,
            fresh=fresh,
            accept_changes=accept_changes,
        )
        evaluator = FunctionEvaluator(SingleMetric(call, goal.objectives[0].metric, function), space, goal)
        self._search = prepare_function_search(options, evaluator, function, space, goal)
        is_drawn = not isinstance(random_state, (int, np.integer))
        for warning in self._search.study.warnings:
            if is_drawn and "another seed" in warning:
                continue  # the user did not choose the seed
            warnings.warn(warning, NbcompressWarning, stacklevel=3)
        self._metric = goal.objectives[0].metric
        self._panel = panel
        self._bounds = space

    @property
    def study(self) -> Study:
        return self._search.study

    @property
    def has_panel(self) -> bool:
        """Whether a notebook shows the panel."""
        return self._panel and notebook_shell() is not None

    @property
    def complete(self) -> list[Trial]:
        """The trials that have a value, by number."""
        return [trial for trial in self.study.all_trials if trial.state is State.COMPLETE]

    def value(self, trial: Trial) -> float:
        return trial.values[self._metric]

    def tell_once(self, point: Mapping[str, Any], value: Any, *, times: int = 1) -> None:
        """Record a known value, unless the study has it this many times already, because the script runs again.

        Raises:
            PointError: The point is not in the space.
            SearchError: The value is no finite number.
        """
        checked = self.study.space.check(point)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise SearchError(f"A value that is told is a finite number, but got {value!r}.")
        if sum(trial.point == checked and self.value(trial) == number for trial in self.complete) < times:
            trial = self.study.begin(checked, reason="Told by hand.")
            self.study.finish(replace(trial, state=State.COMPLETE, values={self._metric: number}, seconds=0.0))

    def initial_points(self, n: int, *, first: int, sampler: str = "random") -> list[Point]:
        """Return `n` initial points for the trials from number `first` on; fewer if the space has fewer."""
        draws = proposer(sampler, self._bounds, n_objectives=1, seed=self._search.options.seed)
        history = History.empty(1)
        with suppress(SpaceExhausted):
            for number in range(first, first + n):
                history = history.with_point(draws.propose(number, history).point)
        return list(history.points)

    def steer_by(self, acquisition: str, seed: int | None = None) -> None:
        """Use another acquisition from now on, and another seed if one is given."""
        steering: dict[str, Any] = (
            {"acquisition": acquisition} if seed is None else {"acquisition": acquisition, "seed": seed}
        )
        options = replace(self._search.options, **steering)
        chosen = proposer_of(options, self.study.space, self.study.goal)
        self._search = replace(self._search, options=options, proposer=chosen)
        self.narrow_to(self._bounds)

    def narrow_to(self, bounds: Space) -> None:
        """Propose and draw points within a part of the space from now on; it has the same parameters."""
        self._bounds = bounds
        proposer = self._search.proposer
        if isinstance(proposer, NarrowableProposer) and (bounds != self.study.space or proposer.narrowing.requested):
            proposer.narrowing.narrow_to({name: limits_of(bounds[name]) for name in bounds.names})

    def proposed(self) -> Point:
        """Return the point that would be run next."""
        trials = self.study.all_trials
        history = self._search.histories.history_of(trials, self.study.goal)
        return dict(self._search.proposer.propose(len(trials), history).point)

    def run(
        self,
        trials: int,
        start: Sequence[Mapping[str, Any]],
        after: Callable[[Trial], object],
        *,
        timeout: float | None = None,
    ) -> None:
        """Run until the study has so many trials, the start points first.

        Args:
            after: Called with every trial that has a value. A true result ends the search; an exception is raised then.
            timeout: The limit in seconds, if there is one.

        Raises:
            SearchFailed: The first three calls failed alike.
            PointError: A start point is not in the space.
        """
        points = tuple(self.study.space.check(point) for point in start)
        options = replace(self._search.options, trials=trials, start=points, timeout=timeout)
        search = replace(self._search, options=options)
        controls = Controls()
        listener = _StoppingObserver(after, controls)
        ending = self._run(search, listener, controls)
        if listener.error is not None:
            raise listener.error
        if ending.kind == "same failure":
            raise search_failed(ending, self.study)
        if ending.kind == "exhausted":
            warnings.warn(ending.reason, NbcompressWarning, stacklevel=4)

    def _run(self, search: Search, listener: _StoppingObserver, controls: Controls) -> Ending:
        observers = [cast("Observer", listener)]  # methods that it lacks are not called
        shell = notebook_shell() if self._panel else None
        if shell is None:
            return search.run(observers, controls)
        from nbcompress.magics.base import Output
        from nbcompress.magics.search_cell import panel_of, run_watched

        return run_watched(search, panel_of("auto", search, controls, Output(shell)), controls, observers)

    def warn_about_initial_points(self, n: int, option: str) -> None:
        """Warn if there are more initial points than requested."""
        n_needed = n_initial_points(len(self.study.space))
        if n < n_needed:
            what = f"{option}={n}: here the surrogate takes over after {n_needed} points"
            warnings.warn(f"{what}, the missing ones spread evenly.", NbcompressWarning, stacklevel=3)

    def failed(self, what: str) -> SearchFailed:
        """Return an error with the failure of the last failed call."""
        failure = next((trial.failure for trial in reversed(self.study.all_trials) if trial.failure is not None), None)
        return SearchFailed(f"{what}{f': {one_line(failure)}' if failure else ''}.", self.study)


class _StoppingObserver:
    """Calls a function after each trial that has a value; stops the search if it returns true or raises."""

    def __init__(self, after: Callable[[Trial], object], controls: Controls) -> None:
        self._after, self._controls = after, controls
        self.error: Exception | None = None

    def trial_ended(self, trial: Trial) -> None:
        if trial.state is not State.COMPLETE:
            return
        try:
            is_over = bool(self._after(trial))
        except Exception as error:  # noqa: BLE001 - the user's; it is raised when the search has ended
            self.error, is_over = error, True
        if is_over:
            self._controls.stop()


def seed_of(random_state: Any, option: str = "random_state") -> int:
    """Return a seed: the integer itself, an integer drawn from a generator of NumPy, or a random one for None.

    Raises:
        SearchError: It is none of these.
    """
    if random_state is None:
        return secrets.randbits(31)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        return int(random_state)
    raise SearchError(f"{option} is None, an integer or NumPy's RandomState or Generator, but got {random_state!r}.")


def limits_of(parameter: Float | Int | Choice) -> tuple[Value, ...]:
    """Return lowest and highest value of a number, or the options of a choice."""
    return parameter.options if isinstance(parameter, Choice) else (parameter.low, parameter.high)


def notebook_shell() -> Any:
    """Return the shell of the notebook that runs this code, or None outside of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if hasattr(shell, "kernel") else None


# --- Nested spaces ----------------------------------------------------------------------------------------------------


class SpacePart:
    """A part of a space that depends on draws; calculations with it give further ones."""

    def __bool__(self) -> bool:
        raise SpaceError("A draw has a value only within a call of the function, so no `if` can read it in the space.")


@dataclass(frozen=True, eq=False)
class Calculated(SpacePart):
    """A function of other parts of the space."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def _add_operators() -> None:
    """Let expressions be calculated with, as numbers are."""

    def method(function: Callable[..., Any], is_reflected: bool) -> Callable[..., Any]:
        def calculated(*arguments: Any) -> Calculated:
            return Calculated(function, arguments[::-1] if is_reflected else arguments)

        return calculated

    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
        setattr(SpacePart, f"__{name}__", method(getattr(operator, name), False))
        setattr(SpacePart, f"__r{name}__", method(getattr(operator, name), True))
    for name in ("neg", "pos", "abs"):
        setattr(SpacePart, f"__{name}__", method(getattr(operator, name), False))


_add_operators()


@dataclass(frozen=True)
class Draw(SpacePart):
    """A number of the space.

    Attributes:
        label: Its name.
        parameter: Its range.
    """

    label: str
    parameter: Float | Int


@dataclass(frozen=True, eq=False)
class Pick(SpacePart):
    """One of several options, which may hold further draws.

    Attributes:
        label: Its name.
        options: The options.
        titles: What stands for each option in the study.
    """

    label: str
    options: tuple[Any, ...]
    titles: tuple[Value, ...]

    @property
    def parameter(self) -> Choice:
        return Choice(*self.titles)


def titles_of(options: Sequence[Any]) -> tuple[Value, ...]:
    """Return what stands for each option in the study: the option itself, or a text of it."""
    try:
        return Choice(*options).options
    except ParameterError:
        titles = [_title(option) for option in options]
    if None in titles or len(set(titles)) < len(titles):
        return tuple(f"option {index}" for index in range(len(options)))
    return tuple(titles)


def _title(option: Any) -> str | None:
    """Return a text for an option: the first text in it, or the name of a function; None if it has neither."""
    if isinstance(option, str):
        return option
    if option is None or isinstance(option, (bool, int, float)):
        return str(option)
    if isinstance(option, Mapping):
        return next((value for value in option.values() if isinstance(value, str)), None)
    if isinstance(option, (tuple, list)):
        return next((value for value in option if isinstance(value, str)), None)
    return getattr(option, "__name__", None)


@dataclass(frozen=True)
class NestedSpace:
    """A space of Hyperopt, read.

    Attributes:
        tree: As it was given.
        parts: The draws and picks by label, those that decide before those that depend on them.
        names: What the parameters are called in the study, by label.
        space: The parameters of the study.
    """

    tree: Any
    parts: Mapping[str, Draw | Pick]
    names: Mapping[str, str]
    space: Space

    @classmethod
    def of(cls, tree: Any, taken: Sequence[str] = ()) -> NestedSpace:
        """Read a space.

        Args:
            tree: The nested value.
            taken: Names of metrics, which no parameter may have.

        Raises:
            SpaceError: A label stands for two different draws, there is none, or it was made by Hyperopt itself.
        """
        found: dict[str, Draw | Pick] = {}
        cases: dict[str, list[dict[str, Value]]] = {}
        for part, case in _parts(tree, {}):
            known = found.setdefault(part.label, part)
            if known is not part and (isinstance(part, Pick) or known != part):
                raise SpaceError(f"Every label stands for one draw, but {part.label!r} is there twice. Rename one.")
            cases.setdefault(part.label, []).append(case)
        if not found:
            raise SpaceError(f"A space has at least one draw, such as hp.uniform('x', -1, 1), but got {shown(tree)}.")
        names = study_names(found, taken)
        conditions = {
            label: Condition.of([{names[parent]: title for parent, title in case.items()} for case in listed])
            for label, listed in cases.items()
            if all(listed)
        }
        # `conditions` has the names of the study, so the order is found for these.
        labels = {name: label for label, name in names.items()}
        order = [
            labels[name] for name in parents_first(labels, {names[label]: when for label, when in conditions.items()})
        ]
        parameters = {names[label]: _with(found[label].parameter, conditions.get(label)) for label in order}
        return cls(tree, {label: found[label] for label in order}, names, Space(parameters))

    def raw(self, point: Mapping[str, Value]) -> dict[str, Any]:
        """Return a point of the study as Hyperopt has it: by label, with the number of the option for a choice."""
        labels = {name: label for label, name in self.names.items()}
        raw: dict[str, Any] = {}
        for name, value in point.items():
            part = self.parts[labels[name]]
            raw[part.label] = _index(part, value) if isinstance(part, Pick) else value
        return raw

    def point(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return the point of the study; the opposite of `raw`.

        Raises:
            PointError: There is no such label or option, or the point is not in the space.
        """
        point: dict[str, Any] = {}
        for label, value in raw.items():
            if label not in self.parts:
                raise PointError(f"The space has no label {label!r}.{did_you_mean(label, self.parts)}")
            part = self.parts[label]
            point[self.names[label]] = part.titles[_option(part, value)] if isinstance(part, Pick) else value
        return self.space.check(point)

    def argument(self, point: Mapping[str, Value]) -> Any:
        """Return what the function is called with at a point of the study."""
        return space_eval(self.tree, self.raw(point))


def _with(parameter: Float | Int | Choice, when: Condition | None) -> Float | Int | Choice:
    if when is None:
        return parameter
    if isinstance(parameter, Choice):
        return Choice(*parameter.options, when=when)
    return replace(parameter, when=when)


def _index(part: Pick, title: Value) -> int:
    return next(i for i, known in enumerate(part.titles) if is_same(known, title))


def _option(part: Pick, index: Any) -> int:
    number = index.item() if getattr(index, "shape", None) == () else index
    if isinstance(number, bool) or number not in range(len(part.options)):
        last = len(part.options) - 1
        raise PointError(f"{part.label!r} is the number of an option, 0 to {last}, but got {shown(index)}.")
    return int(number)


def _children(tree: Any) -> list[Any]:
    if isinstance(tree, Calculated):
        return list(tree.arguments)
    if isinstance(tree, Mapping):
        return list(tree.values())
    return list(tree) if isinstance(tree, (list, tuple)) else []


def _parts(tree: Any, case: dict[str, Value]) -> Iterator[tuple[Draw | Pick, dict[str, Value]]]:
    """Yield each draw and pick of a space, with the options that make it active."""
    if type(tree).__module__.startswith("hyperopt."):
        raise SpaceError("The space was made by Hyperopt. Write: from nbcompress.compat.hyperopt import hp")
    if isinstance(tree, (Draw, Pick)):
        yield tree, case
    if isinstance(tree, Pick):
        for option, title in zip(tree.options, tree.titles, strict=True):
            yield from _parts(option, {**case, tree.label: title})
    for child in _children(tree):
        yield from _parts(child, case)


def space_eval(space: Any, hp_assignment: Mapping[str, Any]) -> Any:
    """Return the value of a space at a point.

    Args:
        space: As `fmin` takes it.
        hp_assignment: The values by label, as `fmin` returns them; for a choice the number of the option.

    Raises:
        PointError: A value is missing, or there is no such option.
    """
    if isinstance(space, (Draw, Pick)) and space.label not in hp_assignment:
        raise PointError(f"The point lacks {space.label!r}; it has {', '.join(hp_assignment) or 'nothing'}.")
    if isinstance(space, Draw):
        return hp_assignment[space.label]
    if isinstance(space, Pick):
        return space_eval(space.options[_option(space, hp_assignment[space.label])], hp_assignment)
    values = [space_eval(child, hp_assignment) for child in _children(space)]
    if isinstance(space, Calculated):
        return space.function(*values)
    if isinstance(space, Mapping):
        return dict(zip(space, values, strict=True))
    if isinstance(space, tuple):
        return type(space)(*values) if hasattr(space, "_fields") else tuple(values)
    return values if isinstance(space, list) else space
