"""`BayesianOptimization`, as bayes_opt has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbcompress.compat.acquisition import acquisition_of
from nbcompress.compat.searching import Searching, limits_of, seed_of
from nbcompress.compat.theirs import pass_over, refuse
from nbcompress.errors import SearchError, SpaceError
from nbcompress.space import Choice, Float, Int, Parameter, Point, Space
from nbcompress.study import Goal

if TYPE_CHECKING:
    from nbcompress.study import Study, Trial

_HINTS = {
    "constraint": "A metric with a bound is an option of nc.search: subject_to.",
    "bounds_transformer": "Leave it out, or call set_bounds between two calls of maximize.",
}
# What tuned the surrogate there, in one version or another.
_PASSED_OVER = {
    "kappa": "UCB reaches two standard deviations",
    "kappa_decay": "UCB reaches two standard deviations",
    "kappa_decay_delay": "UCB reaches two standard deviations",
    "xi": "EI has no margin, and that of PI is fixed",
    "alpha": "noise is learned",
    "kernel": "the surrogate is our own",
    "normalize_y": "values are always standardised",
    "n_restarts_optimizer": "the surrogate is our own",
    "random_state": "the one of BayesianOptimization counts",
}


class BayesianOptimization:
    """Maximizes `f(**params)`.

    Calls that raise or return no finite number are failed trials: they count, are kept away from, and are not in `res`.
    An interrupt ends `maximize`, and what was found is there.

    Args:
        f: Returns a number; None where values are only registered.
        pbounds: For each parameter `(low, high)`, `(low, high, int)`, or categories as texts.
        random_state: None, an integer or NumPy's `RandomState`.
        acquisition_function: `ucb`, `ei` or `poi`, or one of the objects of `nbcompress.compat.acquisition`, or of
            bayes_opt. Expected improvement without it.
        verbose: 2 prints a line after each call, 1 only for a new greatest one, 0 none. Where a notebook shows the
            panel, nothing is printed.
        allow_duplicate_points: Whether a point may be registered twice; no point is proposed twice in any case.
        study, storage: Ours: a name, and a path or a URL. A study that exists is continued, so a script that runs again
            repeats no call: what `maximize` and `probe` ask for is counted from its beginning.
        panel: Ours: whether a notebook shows the panel.
        fresh, accept_changes: Ours: begin the next generation of a stored study; go on with it though `f` reads other
            values.

    Raises:
        SearchError: An option cannot be honoured; it is named.
        SpaceError: Bounds cannot be read.

    Example:
        >>> optimizer = BayesianOptimization(lambda x: -((x - 0.3) ** 2), {"x": (-1, 1)}, random_state=1, verbose=0)
        >>> optimizer.maximize(init_points=5, n_iter=10)
        >>> abs(optimizer.max["params"]["x"] - 0.3) < 0.1
        True
    """

    def __init__(
        self,
        f: Callable[..., Any] | None,
        pbounds: Mapping[str, Any],
        acquisition_function: Any = None,
        *,
        random_state: Any = None,
        verbose: int = 2,
        allow_duplicate_points: bool = False,
        study: str | None = None,
        storage: str | os.PathLike[str] | None = None,
        panel: bool = True,
        fresh: bool = False,
        accept_changes: bool = False,
        **others: Any,
    ) -> None:
        refuse("BayesianOptimization", others, _HINTS)
        self._f, self._verbose, self._may_repeat = f, verbose, allow_duplicate_points
        self._random_state, self._panel = seed_of(random_state), panel
        self._place = study, storage
        self._fresh, self._accepts = fresh, accept_changes
        self._acquisition = "logei" if acquisition_function is None else acquisition_of(acquisition_function)
        self._bounds = Space({name: _parameter(name, bounds) for name, bounds in pbounds.items()})
        self._searching = self._opened(self._bounds, study)
        self._n_opened = 1
        self._asked = 0
        self._probes: list[Point] = []
        self._known: list[Point] = []

    def _opened(self, space: Space, study: str | None) -> Searching:
        f = self._f if self._f is not None else registered
        return Searching(
            f,
            lambda point: f(**point),
            space,
            Goal.of(maximize=["target"]),
            random_state=self._random_state,
            acquisition=self._acquisition,
            study=study,
            storage=self._place[1],
            panel=self._panel,
            fresh=self._fresh,
            accept_changes=self._accepts,
        )

    @property
    def study(self) -> Study:
        """The study, which holds everything. Ours."""
        return self._searching.study

    @property
    def res(self) -> list[dict[str, Any]]:
        """All targets with their parameters, in order."""
        return [self._shown(one) for one in self._searching.complete]

    @property
    def max(self) -> dict[str, Any] | None:
        """The greatest target and its parameters, or None before there is one."""
        best = self.study.best
        return None if best is None else self._shown(best)

    def maximize(
        self, init_points: int = 5, n_iter: int = 25, acq: Any = None, acquisition_function: Any = None, **others: Any
    ) -> None:
        """Call `f` at what was probed, at `init_points` random points, and at `n_iter` that the surrogate proposes.

        Of the latter, the first are spread evenly while there are fewer than `min(8, 2 (d + 1))` points in all.

        Args:
            init_points, n_iter: How many.
            acq, acquisition_function: From now on; see the class. What tuned a surrogate of theirs (`kappa`, `alpha`,
                ...) is passed over with a warning.

        Raises:
            SearchError: An option cannot be honoured, or there is no `f`.
            SearchFailed: The first three calls failed alike.
        """
        pass_over("maximize", others, _PASSED_OVER)
        refuse("maximize", others, _HINTS)
        self._steer_by(acq if acquisition_function is None else acquisition_function)
        for option, value in (("init_points", init_points), ("n_iter", n_iter)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise SearchError(f"{option} is a whole number of at least 0, but got {value!r}.")
        drawn = self._searching.drawn(init_points, first=self._asked)
        self._asked += init_points + n_iter
        self._run(drawn)

    def probe(self, params: Mapping[str, Any] | Sequence[Any], lazy: bool = True) -> None:
        """Call `f` at a point: at the next `maximize`, or now if not lazy. A known point is not called again.

        Raises:
            PointError: The point is not in the space.
            SearchError: There is no `f`.
        """
        point = self._point(params)
        if point in self._known:
            return
        self._known.append(point)
        self._probes.append(point)
        self._asked += 1
        if not lazy:
            self._run([])

    def register(self, params: Mapping[str, Any] | Sequence[Any], target: float, **others: Any) -> None:
        """Tell the target of a point.

        Raises:
            PointError: The point is not in the space.
            SearchError: The target is no finite number, or the point is known and may not be repeated.
        """
        refuse("register", others, {"constraint_value": _HINTS["constraint"]})
        point = self._point(params)
        if point in self._known and not self._may_repeat:
            raise SearchError(f"The point {point} is known already. Set allow_duplicate_points=True to tell it again.")
        self._searching.tell_once(point, target, times=self._known.count(point) + 1)
        self._known.append(point)
        self._asked += 1

    def suggest(self, utility_function: Any = None) -> Point:
        """Return the point that the surrogate proposes next, by another acquisition if one is given."""
        self._steer_by(utility_function)
        return self._searching.proposed()

    def set_bounds(self, new_bounds: Mapping[str, Any]) -> None:
        """Propose within other bounds from now on; parameters that are left out keep theirs.

        What is known stays known. Bounds that reach outside of all before them begin a study of their own, `NAME-2`
        and so on, which starts with what is known.

        Raises:
            SpaceError: There is no such parameter, it was of another kind, or the bounds cannot be read.
        """
        bounds: dict[str, Float | Int | Choice] = {name: self._bounds[name] for name in self._bounds.names}
        for name, given in new_bounds.items():
            parameter = _parameter(name, given)
            if type(bounds.get(name)) is not type(parameter):
                before = f"had {bounds[name]}" if name in bounds else f"is none of {', '.join(bounds)}"
                raise SpaceError(f"Bounds are set anew for a parameter of the same kind, but {name!r} {before}.")
            bounds[name] = parameter
        self._bounds = Space(bounds)
        around = Space({name: _around(self.study.space[name], one) for name, one in bounds.items()})
        if around != self.study.space:
            self._begin_again(around)
        self._searching.stay_within(self._bounds)

    def set_gp_params(self, **params: Any) -> None:
        """Do nothing but warn: the surrogate is our own."""
        pass_over("set_gp_params", params, dict.fromkeys(params, "the surrogate is our own"))

    def _begin_again(self, space: Space) -> None:
        known, ran = self._searching.complete, [one.point for one in self.study.all_trials]
        self._n_opened += 1
        name = self._place[0]
        self._searching = self._opened(space, name and f"{name}-{self._n_opened}")
        points = [one.point for one in known]
        for n, one in enumerate(known):
            self._searching.tell_once(one.point, one.values["target"], times=points[: n + 1].count(one.point))
        self._probes = [one for one in self._probes if one not in ran]
        self._asked = len(known) + len(self._probes)

    def _steer_by(self, given: Any) -> None:
        if given is not None:
            self._acquisition = acquisition_of(given)
            self._searching.steer_by(self._acquisition)

    def _run(self, drawn: Sequence[Point]) -> None:
        if self._f is None:
            raise SearchError("There is no function to call. Give BayesianOptimization one, or register targets.")
        start = [*self._probes, *drawn]
        self._searching.run(self._asked, start, self._print)

    def _print(self, trial: Trial) -> None:
        best = self.study.best
        is_best = best is not None and best.number == trial.number
        if self._searching.is_shown or self._verbose < (1 if is_best else 2):
            return
        params = ", ".join(f"{name}={_short(value)}" for name, value in trial.params.items())
        print(f"call {trial.number + 1}: {self._searching.value(trial):.6g} at {params}{' *' * is_best}", flush=True)

    def _point(self, params: Mapping[str, Any] | Sequence[Any]) -> Point:
        space = self.study.space
        given = params if isinstance(params, Mapping) else dict(zip(space.names, params, strict=True))
        return space.check(given)

    def _shown(self, trial: Trial) -> dict[str, Any]:
        return {"target": self._searching.value(trial), "params": dict(trial.params)}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def registered(**_: Any) -> float:
    """Stand in for the function of an optimizer that is only told.

    Raises:
        SearchError: Always; `maximize` says so before it comes to this.
    """
    raise SearchError("There is no function to call.")


def _around(one: Float | Int | Choice, other: Float | Int | Choice) -> Parameter:
    """Return a parameter that reaches as far as both, which are of one kind."""
    if isinstance(one, Choice) or isinstance(other, Choice):
        return Choice(*dict.fromkeys((*limits_of(one), *limits_of(other))))
    if isinstance(one, Int) and isinstance(other, Int):
        return Int(min(one.low, other.low), max(one.high, other.high))
    return Float(min(one.low, other.low), max(one.high, other.high))


def _parameter(name: str, bounds: Any) -> Float | Int | Choice:
    values = list(bounds)
    if values and all(isinstance(one, str) for one in values):
        return Choice(*values)
    if len(values) == 3 and values[2] in (int, float):
        return Int(*values[:2]) if values[2] is int else Float(*values[:2])
    if len(values) == 2:
        return Float(*values)
    raise SpaceError(f"The bounds of {name!r} are (low, high), (low, high, int) or texts, but got {bounds!r}.")
