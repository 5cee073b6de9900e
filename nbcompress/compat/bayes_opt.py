"""`BayesianOptimization`, as bayes_opt has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbcompress.compat.searching import Searching, refuse
from nbcompress.errors import SearchError, SpaceError
from nbcompress.space import Choice, Float, Int, Parameter, Point, Space
from nbcompress.study import Goal

if TYPE_CHECKING:
    from nbcompress.study import Study, Trial

_HINTS = {
    "acquisition_function": "Expected improvement is used; nc.search has the option acquisition.",
    "constraint": "A metric with a bound is an option of nc.search: subject_to.",
    "bounds_transformer": "Leave it out.",
    "acq": "Expected improvement is used; nc.search has the option acquisition.",
}


class BayesianOptimization:
    """Maximizes `f(**params)`.

    Calls that raise or return no finite number are failed trials: they count, are kept away from, and are not in `res`.
    An interrupt ends `maximize`, and what was found is there.

    Args:
        f: Returns a number; None where values are only registered.
        pbounds: For each parameter `(low, high)`, `(low, high, int)`, or categories as texts.
        random_state: None, an integer or NumPy's `RandomState`.
        verbose: 2 prints a line after each call, 1 only for a new greatest one, 0 none. Where a notebook shows the
            panel, nothing is printed.
        allow_duplicate_points: Whether a point may be registered twice; no point is proposed twice in any case.
        study, storage: Ours: a name, and a path or a URL. A study that exists is continued, so a script that runs again
            repeats no call: what `maximize` and `probe` ask for is counted from its beginning.
        panel: Ours: whether a notebook shows the panel.

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
        *,
        random_state: Any = None,
        verbose: int = 2,
        allow_duplicate_points: bool = False,
        study: str | None = None,
        storage: str | os.PathLike[str] | None = None,
        panel: bool = True,
        **others: Any,
    ) -> None:
        refuse("BayesianOptimization", others, _HINTS)
        space = Space({name: _parameter(name, bounds) for name, bounds in pbounds.items()})
        self._f, self._verbose, self._may_repeat = f, verbose, allow_duplicate_points
        self._searching = Searching(
            f if f is not None else registered,
            lambda point: f(**point) if f is not None else registered(**point),
            space,
            Goal.of(maximize=["target"]),
            random_state=random_state,
            acquisition="logei",
            study=study,
            storage=storage,
            panel=panel,
        )
        self._asked = 0
        self._probes: list[Point] = []
        self._known: list[Point] = []

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

    def maximize(self, init_points: int = 5, n_iter: int = 25, **others: Any) -> None:
        """Call `f` at what was probed, at `init_points` random points, and at `n_iter` that the surrogate proposes.

        Of the latter, the first are spread evenly while there are fewer than `min(8, 2 (d + 1))` points in all.

        Raises:
            SearchError: An option cannot be honoured, or there is no `f`.
            SearchFailed: The first three calls failed alike.
        """
        refuse("maximize", others, _HINTS)
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

    def suggest(self) -> Point:
        """Return the point that the surrogate proposes next."""
        return self._searching.proposed()

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


def _parameter(name: str, bounds: Any) -> Parameter:
    values = list(bounds)
    if values and all(isinstance(one, str) for one in values):
        return Choice(*values)
    if len(values) == 3 and values[2] in (int, float):
        return Int(*values[:2]) if values[2] is int else Float(*values[:2])
    if len(values) == 2:
        return Float(*values)
    raise SpaceError(f"The bounds of {name!r} are (low, high), (low, high, int) or texts, but got {bounds!r}.")
