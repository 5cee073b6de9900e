"""`gp_minimize`, as scikit-optimize has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import OptimizeResult

from nbcompress.compat.dimensions import Dimension, Dimensions
from nbcompress.compat.search import CallError, CompatSearch, ignore_options, reject_options
from nbcompress.errors import SearchError, did_you_mean, shown
from nbcompress.study import Goal

if TYPE_CHECKING:
    from nbcompress.study import Trial

_ACQUISITIONS = {"EI": "logei", "LCB": "ucb", "PI": "pi", "gp_hedge": "logei"}
# Initial designs of scikit-optimize, and the sampler that is used here.
_DESIGNS = {"random": "random", **dict.fromkeys(("sobol", "lhs", "halton", "hammersly", "grid"), "sobol")}
_DIMENSIONS = "Write the space second, as in gp_minimize(func, [(-1.0, 1.0), (1, 8)], n_calls=50)."
# Options of other functions that minimize, and of scikit-optimize, and what to write instead.
_HINTS = {
    "space_constraint": "A metric with a bound is an option of nc.search: subject_to.",
    **dict.fromkeys(("bounds", "pbounds", "space", "search_space"), _DIMENSIONS),
    **dict.fromkeys(("n_iter", "max_evals", "n_trials", "maxiter", "trials"), "Write n_calls=50, calls in all."),
    **dict.fromkeys(("init_points", "n_init"), "Write n_initial_points=10."),
    **dict.fromkeys(("seed", "rstate", "random_seed"), "Write random_state=0."),
    **dict.fromkeys(("f", "fun", "fn", "objective"), "Write the function first, as in gp_minimize(func, dimensions)."),
}
_IGNORED = {
    "base_estimator": "the surrogate is our own; its parts are options of nc.search",
    "xi": "EI has no margin, and that of PI is fixed",
    "kappa": "LCB reaches two standard deviations below the mean",
    "noise": "noise is learned",
    "acq_func": "EI is used",
    "initial_point_generator": "a Sobol sequence is used",
    "acq_optimizer": "mixed spaces are searched as they are",
    "n_points": "the search of a proposal has its own numbers",
    "n_restarts_optimizer": "the search of a proposal has its own numbers",
    "model_queue_size": "the result holds no models",
    "n_jobs": "a proposal takes one core",
}

Callback = Callable[["Result"], Any]


def gp_minimize(
    func: Callable[[list[Any]], Any] | None = None,
    dimensions: Sequence[Any] | None = None,
    *,
    n_calls: int = 100,
    n_initial_points: int = 10,
    n_random_starts: int | None = None,
    initial_point_generator: str = "random",
    acq_func: str = "EI",
    x0: Sequence[Any] | None = None,
    y0: Sequence[float] | float | None = None,
    random_state: Any = None,
    verbose: bool = False,
    callback: Callback | Sequence[Callback] | None = None,
    noise: str | float = "gaussian",
    study: str | None = None,
    storage: str | os.PathLike[str] | None = None,
    panel: bool = True,
    fresh: bool = False,
    accept_changes: bool = False,
    **others: Any,
) -> Result:
    """Minimize `func(x)`, x a list with one value a dimension.

    Calls that raise or return no finite number are failed trials: they count as calls, are kept away from, and are not
    in the result. An interrupt ends the search and returns the result so far.

    Args:
        func: Returns a number.
        dimensions: `Real`, `Integer`, `Categorical`, `(low, high)`, `(low, high, prior)` or lists of categories.
        n_calls: Calls in all, those at `x0` and at initial points included.
        n_initial_points, n_random_starts: Points before the surrogate takes over. It takes over after
            `min(8, 2 (d + 1))` at the earliest, and fewer are warned of.
        initial_point_generator: `random` or `sobol`, which also stands for the other even designs.
        acq_func: `EI` (the default), `LCB` or `PI`. `gp_hedge`, the default there, is `EI` here.
        x0, y0: A point or a list of points to begin with, and their values; without values they are called.
        random_state: None, an integer or NumPy's `RandomState`.
        verbose: Print a line after each call.
        callback: Called with the result so far after each call, or a list of such; a true answer ends the search.
        noise: It is learned, whatever is given.
        study, storage: Ours: a name, and a path or a URL. A study that exists is continued, so a script that runs again
            repeats no call.
        panel: Ours: whether a notebook shows the panel.
        fresh, accept_changes: Ours: begin the next generation of a stored study; go on with it though `func` reads
            other values.
        others: What tunes their surrogate (`kappa`, `xi`, `n_points`, `acq_optimizer`, `n_jobs`, ...) is ignored, with
            one warning that names it.

    Returns:
        `x`, `fun`, `x_iters` (lists), `func_vals` (array), `space`, `specs`, and `study`, which holds everything and
        does not go into a copy or a pickle of the result.

    Raises:
        SearchError: An option cannot be honoured; it is named.
        SpaceError: A dimension cannot be read.
        SearchFailed: The first three calls failed alike, or none succeeded.

    Example:
        >>> result = gp_minimize(lambda x: (x[0] - 0.3) ** 2, [(-1.0, 1.0)], n_calls=15, random_state=0)
        >>> abs(result.x[0] - 0.3) < 0.1
        True
    """
    arguments = {name: value for name, value in locals().items() if name != "others"} | others
    ignore_options("gp_minimize", _tuning(others, acq_func, noise, initial_point_generator), _IGNORED)
    reject_options("gp_minimize", {name: other for name, other in others.items() if name not in _IGNORED}, _HINTS)
    function = _checked_function(func, dimensions)
    _check("acq_func", acq_func, tuple(_ACQUISITIONS))
    _check("initial_point_generator", initial_point_generator, tuple(_DESIGNS))
    space = Dimensions.of(dimensions)
    metric = next(name for name in ("fun", "value", "loss") if name not in space.names)
    search = CompatSearch(
        function,
        lambda **point: function(space.values(point)),
        space.space(),
        Goal.of(minimize=[metric]),
        random_state=random_state,
        acquisition=_ACQUISITIONS[acq_func],
        study=study,
        storage=storage,
        panel=panel,
        fresh=fresh,
        accept_changes=accept_changes,
    )
    n_initial = n_initial_points if n_random_starts is None else n_random_starts
    points, values = _known(space, x0, y0)
    wanted = n_initial + (0 if values else len(points))
    if n_calls < max(1, wanted):
        raise SearchError(f"n_calls is at least {max(1, wanted)}, the points to begin with, but got {n_calls!r}.")
    for point, value in zip(points, values, strict=False):
        search.tell_once(point, value)
    search.warn_about_initial_points(len(points) + n_initial, "n_initial_points")
    start = [*points, *search.initial_points(n_initial, first=len(points), sampler=_DESIGNS[initial_point_generator])]
    specs = {"function": "gp_minimize", "args": arguments}
    callbacks = [callback] if callable(callback) else list(callback or ())

    def after(_: Trial) -> bool:
        result = _result(search, space, specs)
        if verbose and not search.has_panel:
            n = len(search.study.all_trials)
            print(f"call {n}: {result.func_vals[-1]:.6g}, least so far {result.fun:.6g}", flush=True)
        answers = [bool(callback(result)) for callback in callbacks]
        return any(answers)

    search.run(n_calls + len(values), start, after)
    return _result(search, space, specs)


def use_named_args(dimensions: Sequence[Dimension]) -> Callable[[Callable[..., Any]], Callable[[list[Any]], Any]]:
    """Decorate a function of keywords so that it takes a list, as `gp_minimize` calls it.

    Raises:
        SearchError: A dimension has no name.

    Example:
        >>> from nbcompress.compat import Real
        >>> space = [Real(0, 1, name="x")]
        >>> use_named_args(space)(lambda x: x + 1)([0.5])
        1.5
    """
    names = [dimension.name for dimension in dimensions]
    if None in names:
        raise SearchError(f"use_named_args needs dimensions with names, but got {dimensions[names.index(None)]!r}.")

    def decorate(func: Callable[..., Any]) -> Callable[[list[Any]], Any]:
        @wraps(func)
        def called(x: list[Any]) -> Any:
            return func(**{str(name): value for name, value in zip(names, x, strict=True)})

        return called

    return decorate


def _known(
    space: Dimensions, x0: Sequence[Any] | None, y0: Sequence[float] | float | None
) -> tuple[list[dict[str, Any]], list[float]]:
    """Return the points to begin with, and their values if they are known."""
    if x0 is None:
        if y0 is not None:
            raise SearchError(f"y0 are the values of x0, but x0 is missing and y0 is {y0!r:.80}.")
        return [], []
    rows = list(x0) if len(x0) and isinstance(x0[0], (list, tuple, np.ndarray)) else [x0]
    points = [space.point([cell.item() if isinstance(cell, np.generic) else cell for cell in row]) for row in rows]
    values = [] if y0 is None else [float(value) for value in np.atleast_1d(np.asarray(y0, dtype=np.float64))]
    if values and len(values) != len(points):
        raise SearchError(f"y0 has a value for each point of x0, which are {len(points)}, but got {len(values)}.")
    return points, values


class Result(OptimizeResult):  # type: ignore[misc]  # SciPy comes without types
    """The result of `gp_minimize`. A copy or a pickle has no `study`, which is open and stays where it is stored."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OptimizeResult, (), None, None, iter([item for item in self.items() if item[0] != "study"])


def _tuning(others: dict[str, Any], acq_func: str, noise: Any, design: str) -> dict[str, Any]:
    """Return the options that are ignored, including those of the signature whose value has no effect."""
    found = {name: value for name, value in others.items() if name in _IGNORED}
    found |= {"noise": noise} if noise != "gaussian" else {}
    found |= {"acq_func": acq_func} if acq_func == "gp_hedge" else {}
    return found | ({"initial_point_generator": design} if _DESIGNS.get(design, design) != design else {})


def _result(search: CompatSearch, space: Dimensions, specs: dict[str, Any]) -> Result:
    trials = search.complete
    if not trials:
        raise search.failed("No call returned a finite number")
    values = np.array([search.value(trial) for trial in trials])
    rows = [space.values(trial.params) for trial in trials]
    best = int(values.argmin())
    return Result(
        x=rows[best],
        fun=float(values[best]),
        x_iters=rows,
        func_vals=values,
        space=space,
        specs=specs,
        study=search.study,
    )


def _checked_function(func: Any, dimensions: Any) -> Callable[[list[Any]], Any]:
    """Return the function, if function and space have come in this order."""
    if not callable(func):
        raise CallError(f"gp_minimize takes the function first and then the dimensions, but got {shown(func)} first.")
    if isinstance(dimensions, Mapping):
        example = "[Real(2, 4, name='x'), Integer(1, 8, name='n')]"
        raise CallError(
            f"dimensions is a list, but got {shown(dimensions)}. Write {example}, with use_named_args for a function "
            "of keywords, or take BayesianOptimization, which maximizes."
        )
    if dimensions is None or isinstance(dimensions, (str, int, float)):
        raise CallError(f"gp_minimize takes a list of dimensions, but got {shown(dimensions)}. {_DIMENSIONS}")
    found: Callable[[list[Any]], Any] = func
    return found


def _check(option: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        names = ", ".join(map(repr, known))
        raise SearchError(f"{option} is one of {names} here, but got {value!r}.{did_you_mean(str(value), known)}")
