"""`BayesianOptimization`, as bayes_opt has it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nbcompress.compat.acquisition import ExpectedImprovement, NamedAcquisition, UtilityFunction, acquisition_of
from nbcompress.compat.dimensions import (
    ArraySpace,
    NothingKnownError,
    NotUniqueError,
    check_bounds,
    is_row,
    listed_points,
    parameter_of_bounds,
    parameter_of_limits,
    union_of,
    values_by_name,
)
from nbcompress.compat.search import (
    CallError,
    CompatSearch,
    ignore_options,
    limits_of,
    reject_options,
    seed_of,
    study_names,
)
from nbcompress.errors import NbcompressWarning, PointError, SearchError, SpaceError, did_you_mean, shown
from nbcompress.space import Choice, Float, Int, Point, Space
from nbcompress.study import Goal

if TYPE_CHECKING:
    from nbcompress.study import Study, Trial

_HINTS = {
    "constraint": "A metric with a bound is an option of nc.search: subject_to.",
    "bounds_transformer": "Leave it out, or call set_bounds between two calls of maximize.",
}
# Options that tune the surrogate in some version of bayes_opt.
_IGNORED = {
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

_METRIC = "target"
_STATE, _STATE_VERSION = "nbcompress bayes_opt state", 1
# The names of our acquisitions there, as a saved state has them.
_KINDS = {"ucb": "ucb", "logei": "ei", "pi": "poi"}


class BayesianOptimization:
    """Maximizes `f(**params)`.

    Calls that raise or return no finite number are failed trials: they count, are kept away from, and are not in `res`.
    An interrupt ends `maximize`, and what was found is there.

    Args:
        f: Returns a number; None where values are only registered.
        pbounds: For each parameter `(low, high)`, `(low, high, int)`, or a list of categories. Names are any texts.
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
        reject_options("BayesianOptimization", others, _HINTS)
        check_bounds(pbounds)
        self._f, self._verbose, self._may_repeat = f, verbose, allow_duplicate_points
        self._seed, self._panel = seed_of(random_state), panel
        self._place = study, storage
        self._fresh, self._accepts = fresh, accept_changes
        self._pbounds, self._given_acquisition = dict(pbounds), acquisition_function
        self._acquisition = "logei" if acquisition_function is None else acquisition_of(acquisition_function)
        self._names = study_names(pbounds, taken=[_METRIC])
        self._keys = {name: key for key, name in self._names.items()}
        self._bounds = Space({self._names[key]: parameter_of_bounds(key, bounds) for key, bounds in pbounds.items()})
        self._compat_search = self._opened(self._bounds, study)
        self._n_opened, self._n_drawn = 1, 0
        # How many trials were asked for so far, and their points: those that were run or registered, then the probes
        # that wait. A script that runs again asks for the trials that the study has.
        self._asked = 0
        self._known: list[Point] = []

    def _opened(self, space: Space, study: str | None) -> CompatSearch:
        f, keys = self._f, self._keys
        call = registered if f is None else lambda **point: f(**{keys[name]: value for name, value in point.items()})
        return CompatSearch(
            registered if f is None else f,
            call,
            space,
            Goal.of(maximize=[_METRIC]),
            random_state=self._seed,
            acquisition=self._acquisition,
            study=study,
            storage=self._place[1],
            panel=self._panel,
            fresh=self._fresh,
            accept_changes=self._accepts,
        )

    def __getstate__(self) -> dict[str, Any]:
        options = {
            "f": self._f,
            "pbounds": self._pbounds,
            "acquisition_function": self._given_acquisition,
            "random_state": self._seed,
            "verbose": self._verbose,
            "allow_duplicate_points": self._may_repeat,
            "study": self._place[0],
            "storage": self._place[1],
            "panel": self._panel,
            "accept_changes": self._accepts,
        }
        return {"options": options, "state": self._state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with warnings.catch_warnings():
            # The options were warned of when the object was made.
            warnings.simplefilter("ignore", NbcompressWarning)
            self.__init__(**state["options"])  # type: ignore[misc]  # the object has no attributes yet
        self._load(state["state"])

    @property
    def study(self) -> Study:
        """The study, which holds everything. Ours."""
        return self._compat_search.study

    @property
    def space(self) -> TargetSpace:
        """The bounds, and what is known, as arrays."""
        return TargetSpace(self)

    @property
    def acquisition_function(self) -> NamedAcquisition:
        """The acquisition function."""
        given = self._given_acquisition
        if isinstance(given, str):
            return UtilityFunction(kind=_KINDS[acquisition_of(given)])
        return ExpectedImprovement() if given is None else given

    @property
    def constraint(self) -> None:
        """None: a constraint is an option of `nc.search`."""

    @property
    def res(self) -> list[dict[str, Any]]:
        """All targets with their parameters, in order."""
        return [self._shown(trial) for trial in self._compat_search.complete]

    @property
    def max(self) -> dict[str, Any] | None:
        """The greatest target and its parameters, or None before there is one."""
        best = self.study.best
        return None if best is None else self._shown(best)

    def maximize(
        self, init_points: int = 5, n_iter: int = 25, acq: Any = None, acquisition_function: Any = None, **others: Any
    ) -> None:
        """Call `f` at what was probed, at `init_points` random points, and at `n_iter` that the surrogate proposes.

        Of the latter, the first are spread evenly while there are fewer than `min(8, 2 (d + 1))` points in all. Where
        nothing is known and nothing was probed, there is one random point at least.

        Args:
            init_points, n_iter: How many.
            acq, acquisition_function: From now on; see the class. What tuned a surrogate of theirs (`kappa`, `alpha`,
                ...) is ignored with a warning.

        Raises:
            SearchError: An option cannot be honoured, or there is no `f`.
            SearchFailed: The first three calls failed alike.
        """
        ignore_options("maximize", others, _IGNORED)
        reject_options("maximize", others, _HINTS)
        self._steer_by(acq if acquisition_function is None else acquisition_function)
        for option, value in (("init_points", init_points), ("n_iter", n_iter)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise SearchError(f"{option} is a whole number of at least 0, but got {value!r}.")
        self._check_has_function()
        n_initial = init_points if self._asked else max(1, init_points)
        initial_points = self._compat_search.initial_points(n_initial, first=self._asked)
        self._asked += n_initial + n_iter
        self._run(initial_points)

    def probe(self, params: Mapping[str, Any] | Sequence[Any] | NDArray[Any], lazy: bool = True) -> None:
        """Call `f` at a point: at the next `maximize`, or now if not lazy.

        A known point is not called again, unless `allow_duplicate_points` is set.

        Args:
            params: Values by name, a list in the order of `pbounds`, or an array as in `space.params`.
            lazy: Whether to wait.

        Raises:
            PointError: The point is not in the space.
            SearchError: There is no `f`.
        """
        point = self._point(params)
        if not lazy:
            self._check_has_function()
        if point not in self._known or self._may_repeat:
            self._known.append(point)
            self._asked += 1
        if not lazy:
            self._run([])

    def register(self, params: Mapping[str, Any] | Sequence[Any] | NDArray[Any], target: float, **others: Any) -> None:
        """Tell the target of a point.

        Args:
            params: As `probe` takes it.
            target: A finite number.

        Raises:
            PointError: The point is not in the space.
            NotUniqueError: The point is known and may not be repeated.
            SearchError: The target is no finite number.
        """
        reject_options("register", others, {"constraint_value": _HINTS["constraint"]})
        point = self._point(params)
        if point in self._known and not self._may_repeat:
            raise NotUniqueError(
                f"The point {point} is known already. Set allow_duplicate_points=True to tell it again."
            )
        self._tell(point, target)

    def _tell(self, point: Point, target: Any) -> None:
        self._compat_search.tell_once(point, target, times=self._known.count(point) + 1)
        self._known.append(point)
        self._asked += 1

    def suggest(self, utility_function: Any = None) -> dict[str, Any]:
        """Return the point that the surrogate proposes next, by another acquisition if one is given."""
        self._steer_by(utility_function)
        return self._by_key(self._compat_search.proposed())

    def random_sample(self, n: int = 1) -> list[dict[str, Any]]:
        """Return `n` random points within the bounds; each call draws others."""
        points = self._compat_search.initial_points(n, first=len(self.study.all_trials) + self._n_drawn)
        self._n_drawn += n
        return [self._by_key(point) for point in points]

    def predict(
        self,
        params: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        return_std: bool = False,
        return_cov: bool = False,
        fit_gp: bool = True,
    ) -> Any:
        """Return what the surrogate predicts for the target, without noise.

        It is fitted to all that is known, whatever `fit_gp` is. Before anything is known `fit_gp=False` answers with
        mean 0 and standard deviation 1.

        Args:
            params: Values by name, or several of them. A whole number is the nearest one to what is given.
            return_std: Whether to return `(mean, standard deviation)`.
            return_cov: Whether to return `(mean, covariance)`.
            fit_gp: Whether it is an error that nothing is known.

        Returns:
            Numbers for a dict, arrays of the shape `(n,)` for several points; a covariance has the shape `(n, n)`.

        Raises:
            CallError: The arguments are no points, or both options are set.
            NothingKnownError: There is no target yet.
            PointError: A point is not in the space.
        """
        if return_std and return_cov:
            raise CallError("return_std and return_cov cannot both be True; the covariance has the variances in it.")
        is_single = isinstance(params, Mapping)
        points = [self._point(given, is_rounded=True) for given in listed_points(params)]
        mean, spread = self._predicted(points, fit_gp, return_cov)
        if is_single:
            mean, spread = mean[0], spread if return_cov else spread[0]
        return (mean, spread) if return_std or return_cov else mean

    def _predicted(self, points: Sequence[Point], fit_gp: bool, is_joint: bool) -> tuple[Any, Any]:
        """Return the means, and the standard deviations or the covariance."""
        if not self._compat_search.complete:
            if fit_gp or is_joint:
                raise NothingKnownError(
                    "There is no target to fit the surrogate to. Register one, call maximize, or write fit_gp=False "
                    "for mean 0 and standard deviation 1."
                )
            return np.zeros(len(points)), np.ones(len(points))
        import torch

        with torch.no_grad():
            posterior = self.study.surrogate(_METRIC).posterior(self.study.encode(points))
            mean = posterior.mean.squeeze(-1).numpy()
            if is_joint:
                return mean, posterior.distribution.covariance_matrix.numpy()
            return mean, posterior.variance.squeeze(-1).sqrt().numpy()

    def set_bounds(self, new_bounds: Mapping[str, Any]) -> None:
        """Propose within other bounds from now on; parameters that are left out keep theirs.

        What is known stays known. Bounds that reach outside of all before them begin a study of their own, `NAME-2`
        and so on, which starts with what is known. A name that is none is ignored with a warning.

        Raises:
            SpaceError: A parameter was of another kind, or the bounds cannot be read.
        """
        bounds: dict[str, Float | Int | Choice] = {name: self._bounds[name] for name in self._bounds.names}
        for key, given in new_bounds.items():
            if key not in self._names:
                what = f"set_bounds here ignores {key!r}, which is none of {', '.join(self._names)}."
                warnings.warn(f"{what}{did_you_mean(key, self._names)}", NbcompressWarning, stacklevel=2)
                continue
            parameter, before = parameter_of_bounds(key, given), bounds[self._names[key]]
            if type(before) is not type(parameter):
                raise SpaceError(f"Bounds are set anew for a parameter of the same kind, but {key!r} had {before}.")
            bounds[self._names[key]] = parameter
        self._narrow_to(Space(bounds))

    def _narrow_to(self, bounds: Space) -> None:
        self._bounds = bounds
        around = Space({name: union_of(self.study.space[name], bounds[name]) for name in bounds.names})
        if around != self.study.space:
            self._start_new_study(around)
        self._compat_search.narrow_to(bounds)

    def set_gp_params(self, **params: Any) -> None:
        """Do nothing but warn: the surrogate is our own."""
        ignore_options("set_gp_params", params, dict.fromkeys(params, "the surrogate is our own"))

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Write what is known, the waiting probes, the bounds, the acquisition and the seed to a file, as JSON.

        Failed trials are left out. The function is not written.
        """
        Path(path).write_text(json.dumps(self._state(), indent=2, allow_nan=False), encoding="utf-8")

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Add what `save_state` has written, of this class or of bayes_opt, to what is known.

        The bounds, the acquisition and the seed are those of the file. Of a file of bayes_opt only the points and
        targets are read.

        Raises:
            SearchError: The file is no such state, or it has other parameters.
        """
        try:
            state = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise SearchError(f"{os.fspath(path)!r} is no state of an optimizer: {shown(str(error))}.") from error
        self._load(state)

    def _state(self) -> dict[str, Any]:
        trials = self._compat_search.complete
        waiting = _missing(self._known, [trial.point for trial in self.study.all_trials])
        bounds = {key: self._bounds[name] for key, name in self._names.items()}
        return {
            "format": _STATE,
            "version": _STATE_VERSION,
            "keys": list(self._names),
            "bounds": {key: [type(bound).__name__, *limits_of(bound)] for key, bound in bounds.items()},
            "trials": [self._shown(trial) for trial in trials],
            "probes": [self._by_key(point) for point in waiting],
            "acquisition": self._acquisition,
            "seed": self._seed,
        }

    def _load(self, state: Any) -> None:
        if not isinstance(state, dict) or state.get("keys") != list(self._names):
            raise SearchError(
                f"A state of an optimizer of the parameters {', '.join(self._names)} is needed, but got {shown(state)}."
            )
        if state.get("format") != _STATE:
            self._load_arrays(state)
            return
        if state.get("version") != _STATE_VERSION:
            raise SearchError(f"A state has version {_STATE_VERSION}, but got {shown(state.get('version'))}.")
        try:
            bounds = {self._names[key]: parameter_of_limits(*state["bounds"][key]) for key in self._names}
            trials = [(self._point(trial["params"]), trial["target"]) for trial in state["trials"]]
            probes, acquisition, seed = state["probes"], state["acquisition"], seed_of(state["seed"])
        except (KeyError, TypeError, AttributeError) as error:
            raise SearchError(f"The state of an optimizer is damaged: {type(error).__name__} {error}.") from error
        if acquisition not in _KINDS:
            raise SearchError(f"The acquisition of a state is {', '.join(_KINDS)}, but got {shown(acquisition)}.")
        changed = Space(bounds)
        self._check_kinds(changed)
        if changed != self._bounds:
            self._narrow_to(changed)
        self._seed, self._acquisition = seed, acquisition
        self._compat_search.steer_by(acquisition, seed)
        self._add_all(trials)
        for probe in probes:
            self.probe(probe)

    def _load_arrays(self, state: dict[str, Any]) -> None:
        """Add the points and targets of a file of bayes_opt."""
        params, targets = state.get("params"), state.get("target")
        if not isinstance(params, list) or not isinstance(targets, list) or len(params) != len(targets):
            raise SearchError(f"The state of an optimizer has params and target of one length, but got {shown(state)}.")
        self._add_all([(self._point(row), target) for row, target in zip(params, targets, strict=True)])

    def _add_all(self, trials: Sequence[tuple[Point, Any]]) -> None:
        """Add trials, but for those that are known already."""
        points = [point for point, _ in trials]
        for index, (point, target) in enumerate(trials):
            if self._known.count(point) < points[: index + 1].count(point):
                self._tell(point, target)

    def _check_kinds(self, bounds: Space) -> None:
        for name in bounds.names:
            if type(bounds[name]) is not type(self._bounds[name]):
                key = self._keys[name]
                raise SearchError(f"{key!r} is {self._bounds[name]} here, but {bounds[name]} in the state.")

    def _start_new_study(self, space: Space) -> None:
        known, ran = self._compat_search.complete, [trial.point for trial in self.study.all_trials]
        waiting = _missing(self._known, ran)
        self._n_opened += 1
        name = self._place[0]
        self._compat_search = self._opened(space, name and f"{name}-{self._n_opened}")
        self._known, self._asked = [], 0
        for trial in known:
            self._tell(trial.point, trial.values[_METRIC])
        self._known += waiting
        self._asked += len(waiting)

    def _steer_by(self, given: Any) -> None:
        if given is not None:
            self._given_acquisition, self._acquisition = given, acquisition_of(given)
            self._compat_search.steer_by(self._acquisition)

    def _check_has_function(self) -> None:
        if self._f is None:
            raise SearchError("There is no function to call. Give BayesianOptimization one, or register targets.")

    def _run(self, initial_points: Sequence[Point]) -> None:
        try:
            self._compat_search.run(self._asked, [*self._known, *initial_points], self._print)
        finally:
            asked = [trial.point for trial in self.study.all_trials[: self._asked]]
            self._known = [*asked, *_missing(self._known, asked)]

    def _print(self, trial: Trial) -> None:
        best = self.study.best
        is_best = best is not None and best.number == trial.number
        if self._compat_search.has_panel or self._verbose < (1 if is_best else 2):
            return
        params = ", ".join(f"{name}={_short(value)}" for name, value in self._by_key(trial.params).items())
        print(
            f"call {trial.number + 1}: {self._compat_search.value(trial):.6g} at {params}{' *' * is_best}", flush=True
        )

    def _point(self, params: Any, *, is_rounded: bool = False) -> Point:
        """Return a point of the study: of values by name, of a list of them, or of an array as in `space.params`."""
        space = self.study.space
        if not isinstance(params, Mapping):
            params = self.space.array_to_params(params) if is_row(params) else values_by_name(params, self._names)
        point: dict[str, Any] = {}
        for key, value in params.items():
            if key not in self._names:
                raise PointError(f"There is no parameter {shown(key)}.{did_you_mean(key, self._names)}")
            name = self._names[key]
            rounds = is_rounded and isinstance(space[name], Int)
            point[name] = round(value) if rounds else value
        return space.check(point)

    def _by_key(self, point: Mapping[str, Any]) -> dict[str, Any]:
        return {self._keys[name]: value for name, value in point.items()}

    def _shown(self, trial: Trial) -> dict[str, Any]:
        return {"target": self._compat_search.value(trial), "params": self._by_key(trial.params)}


class TargetSpace(ArraySpace):
    """The bounds of an optimizer and what it knows, as arrays: `optimizer.space`.

    Example:
        >>> space = TargetSpace(BayesianOptimization(None, {"x": (0, 1), "kind": ["a", "b"]}))
        >>> space.keys, space.bounds.tolist(), len(space)
        (['x', 'kind'], [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], 0)
    """

    def __init__(self, optimizer: BayesianOptimization) -> None:
        self._optimizer = optimizer

    @property
    def parameters(self) -> dict[str, Float | Int | Choice]:
        return {key: self._optimizer._bounds[name] for key, name in self._optimizer._names.items()}

    def __len__(self) -> int:
        return len(self._optimizer.res)

    def __contains__(self, params: Any) -> bool:
        point = self._optimizer._point(params)
        return any(trial.point == point for trial in self._optimizer._compat_search.complete)

    @property
    def empty(self) -> bool:
        return len(self) == 0

    @property
    def params(self) -> NDArray[np.float64]:
        """The known points, of the shape `(n, dim)`."""
        rows = [self.params_to_array(found["params"]) for found in self._optimizer.res]
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.dim)

    @property
    def target(self) -> NDArray[np.float64]:
        """The known targets, of the shape `(n,)`."""
        return np.array([found["target"] for found in self._optimizer.res], dtype=np.float64)

    def register(self, params: Any, target: float) -> None:
        """Tell the target of a point to the optimizer."""
        self._optimizer.register(params, target)

    def probe(self, params: Any) -> float | None:
        """Call the function at a point now, and return the target; None if the call failed."""
        self._optimizer.probe(params, lazy=False)
        point, search = self._optimizer._point(params), self._optimizer._compat_search
        return next((search.value(trial) for trial in reversed(search.complete) if trial.point == point), None)

    def max(self) -> dict[str, Any] | None:
        """Return the greatest target and its parameters."""
        return self._optimizer.max

    def res(self) -> list[dict[str, Any]]:
        """Return all targets with their parameters."""
        return self._optimizer.res


def _missing(points: Sequence[Point], done: Sequence[Point]) -> list[Point]:
    """Return the points that are more often in `points` than in `done`."""
    left, missing = list(done), []
    for point in points:
        if point in left:
            left.remove(point)
        else:
            missing.append(point)
    return missing


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def registered(**_: Any) -> float:
    """Stand in for the function of an optimizer that is only told.

    Raises:
        SearchError: Always; `maximize` says so before it comes to this.
    """
    raise SearchError("There is no function to call.")
