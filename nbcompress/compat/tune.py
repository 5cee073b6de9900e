"""A searcher for Ray Tune: `tune.TuneConfig(search_alg=Search(), num_samples=30)`.

Ray Tune is needed only to make one. Its search spaces are read by their attributes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbcompress.compat.search import Draw, NestedSpace, Pick, space_eval, titles_of
from nbcompress.errors import MissingPart, PointError, SearchError, SpaceError, SpaceExhausted, shown
from nbcompress.optimize import Optimizer
from nbcompress.space import Choice, Float, Int, Point, Space


def _searcher() -> Any:
    """Return the base class of Tune's searchers, or None."""
    try:
        from ray.tune.search import Searcher
    except ImportError:
        return None
    return Searcher


_SEARCHER = _searcher()
_STATE, _STATE_VERSION = "nbcompress tune state", 1
_DIRECTIONS = {"min": "minimize", "max": "maximize"}
# The metric of a function that reports a number only.
_ANONYMOUS = "_metric"


class TuneSearch(_SEARCHER or object):  # type: ignore[misc]  # the base is there only with Ray
    """Proposes the configurations of Ray Tune by a Gaussian process.

    Trials that a scheduler stops early count with their last value, and those that fail are kept away from.

    Args:
        space: A `Space`, a dict from names to `Float`, `Int` and `Choice`, or a search space of Tune. Without it Tune's
            `param_space` is taken. Ranges within an option of `tune.choice` are active only where it is chosen.
        metric: What is optimized, or a list of names; without it that of `TuneConfig`.
        mode: `min` or `max`, or a list of them.
        points_to_evaluate: Configurations to begin with.
        evaluated_rewards: Their values, if they are known.
        seed, sampler, acquisition: As in `nc.search`.

    Raises:
        MissingPart: Ray Tune is not installed.
        SpaceError: The space cannot be read.
        SearchError: An option cannot be honoured.
    """

    def __init__(
        self,
        space: Space | Mapping[str, Any] | None = None,
        metric: str | Sequence[str] | None = None,
        mode: str | Sequence[str] | None = None,
        *,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        evaluated_rewards: Sequence[float] | None = None,
        seed: int = 0,
        sampler: str = "gp",
        acquisition: str = "logei",
    ) -> None:
        if _SEARCHER is None:
            raise MissingPart('nbcompress.compat.tune.Search needs Ray Tune: pip install "ray[tune]"')
        _check_modes(metric, mode)
        super().__init__(metric=metric, mode=mode)
        self._metric: Any = metric
        self._mode: Any = mode
        self._options: dict[str, Any] = {"seed": seed, "sampler": sampler, "acquisition": acquisition}
        self._starts = list(points_to_evaluate or ())
        self._rewards = None if evaluated_rewards is None else list(evaluated_rewards)
        if self._rewards is not None and len(self._rewards) != len(self._starts):
            raise SearchError(
                f"evaluated_rewards has a value for each of points_to_evaluate, which are {len(self._starts)}, but got "
                f"{len(self._rewards)}."
            )
        self._nested: NestedSpace | None = None
        self._space: Space | None = None
        self._optimizer: Optimizer | None = None
        self._running: dict[str, Point] = {}
        self._latest: dict[str, list[float] | None] = {}
        self._waiting: list[Point] = []
        self._state: dict[str, Any] | None = None
        if space is not None:
            self._read(space)
            self._begin()

    @property
    def optimizer(self) -> Optimizer | None:
        """What proposes the points, once space, metric and mode are known."""
        return self._optimizer

    def set_search_properties(self, metric: str | None, mode: str | None, config: Mapping[str, Any], **_: Any) -> bool:
        """Take what `Tuner` was given. Tune calls it; a space of one's own stays.

        Returns:
            Whether the space was taken.
        """
        if self._optimizer is not None:
            return False
        _check_modes(metric, mode)
        self._metric, self._mode = metric or self._metric, mode or self._mode
        is_taken = self._space is None
        if is_taken:
            self._read(config)
        self._begin()
        return is_taken

    def _read(self, space: Any) -> None:
        if isinstance(space, Space):
            self._space = space
        elif isinstance(space, Mapping) and space and all(isinstance(v, (Float, Int, Choice)) for v in space.values()):
            self._space = Space(space)
        elif isinstance(space, Mapping):
            self._nested = NestedSpace.of(
                _without_constants({key: _tree(value, (key,)) for key, value in space.items()})
            )
            self._space = self._nested.space
        else:
            raise SpaceError(
                f"space is a Space or a dict such as {{'lr': tune.loguniform(1e-4, 1e-1)}}, but got {space!r}."
            )

    def _begin(self) -> None:
        """Make the optimizer, if the mode is known."""
        if self._mode is None or self._space is None:
            return
        if self._metric is None:
            self._metric = _ANONYMOUS
        directions = [_DIRECTIONS[mode] for mode in _listed(self._mode)]
        self._optimizer = Optimizer(self._space, directions, **self._options)
        if self._state is not None:
            self._take(self._state)  # it has the points to begin with, too
            return
        starts = [self._point(config) for config in self._starts]
        if self._rewards is None:
            self._waiting = starts
        else:
            for point, reward in zip(starts, self._rewards, strict=True):
                self._optimizer.tell(point, reward)

    def _ready(self) -> Optimizer:
        if self._optimizer is None:
            raise SearchError(
                "Search has no space or no mode yet. Write Search(space, metric='loss', mode='min'), or give "
                "param_space to Tuner and metric and mode to TuneConfig."
            )
        return self._optimizer

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the configuration of a trial, or `FINISHED` where a finite space has no further one."""
        optimizer = self._ready()
        if trial_id not in self._running:
            try:
                self._running[trial_id] = self._waiting.pop(0) if self._waiting else optimizer.ask()[0]
            except SpaceExhausted:
                return str(_SEARCHER.FINISHED)
        return self._config(self._running[trial_id])

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Note an intermediate result, which counts if the trial ends without another one."""
        if all(name in result for name in _listed(self._metric)):
            self._latest[trial_id] = self._values(result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Learn how a trial ended.

        Raises:
            SearchError: The result has no such metric.
        """
        point = self._running.pop(trial_id, None)
        latest = self._latest.pop(trial_id, None)
        if point is None:  # Tune may say it twice
            return
        values = None if error else self._values(result) if result else latest
        self._ready().tell(point, values)

    def _values(self, result: Mapping[str, Any]) -> list[float] | None:
        """Return the metrics of a result; None if one of them is no finite number."""
        names = _listed(self._metric)
        for name in names:
            if name not in result:
                raise SearchError(f"A result has no metric {name!r}; it has {', '.join(map(str, result))}.")
        try:
            values = [float(result[name]) for name in names]
        except (TypeError, ValueError):
            return None
        return values if all(map(math.isfinite, values)) else None

    def add_evaluated_point(
        self,
        parameters: Mapping[str, Any],
        value: float,
        error: bool = False,
        pruned: bool = False,  # noqa: ARG002 - the signature is Tune's
        intermediate_values: Sequence[float] | None = None,  # noqa: ARG002
    ) -> None:
        """Learn a configuration that was run elsewhere."""
        self._ready().tell(self._point(parameters), None if error else value)

    def save(self, checkpoint_path: str | os.PathLike[str]) -> None:
        """Write what is known to a file, as JSON. The space is not written: `restore` is called with the same one."""
        optimizer, trials = self._optimizer, []
        if optimizer is not None:
            history = optimizer.history
            signs = [-1.0 if direction == "maximize" else 1.0 for direction in optimizer.directions]
            for point, status, losses in zip(history.points, history.status, history.losses.tolist(), strict=True):
                values = [sign * loss for sign, loss in zip(signs, losses, strict=True)]
                if status != "pending":
                    trials.append({"point": dict(point), "values": values if status == "told" else None})
        state = {
            "format": _STATE,
            "version": _STATE_VERSION,
            "metric": self._metric,
            "mode": self._mode,
            "trials": trials,
            "running": self._running,
            "waiting": self._waiting,
        }
        Path(checkpoint_path).write_text(json.dumps(state, indent=2, allow_nan=False), encoding="utf-8")

    def restore(self, checkpoint_path: str | os.PathLike[str]) -> None:
        """Go on from what `save` has written. Trials that were running keep their configurations.

        Raises:
            SearchError: The file is no such state, or is of other metrics.
            PointError: It is of another space.
        """
        try:
            state = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise SearchError(
                f"{os.fspath(checkpoint_path)!r} is no state of a Search: {shown(str(error))}."
            ) from error
        if not isinstance(state, dict) or (state.get("format"), state.get("version")) != (_STATE, _STATE_VERSION):
            raise SearchError(f"{os.fspath(checkpoint_path)!r} is no state of a Search, version {_STATE_VERSION}.")
        self._metric = state["metric"] if self._metric is None else self._metric
        self._mode = state["mode"] if self._mode is None else self._mode
        self._state = state
        if self._optimizer is not None or self._space is not None:
            self._begin()

    def _take(self, state: Mapping[str, Any]) -> None:
        if (_listed(state["metric"]), _listed(state["mode"])) != (_listed(self._metric), _listed(self._mode)):
            now = f"metric={self._metric!r}, mode={self._mode!r}"
            raise SearchError(f"The state is of metric={state['metric']!r}, mode={state['mode']!r}, but got {now}.")
        optimizer, space = self._ready(), self._space
        assert space is not None
        for trial in state["trials"]:
            optimizer.tell(trial["point"], trial["values"])
        self._running = {trial_id: space.check(point) for trial_id, point in state["running"].items()}
        self._waiting = [space.check(point) for point in state["waiting"]]
        self._state = None

    def _config(self, point: Point) -> dict[str, Any]:
        if self._nested is not None:
            config: dict[str, Any] = space_eval(self._nested.tree, self._nested.raw(point))
            return config
        assert self._space is not None
        return dict(self._space.grouped(point))

    def _point(self, config: Mapping[str, Any]) -> Point:
        """Return the point of a configuration, which may name what is nested as `a/b`."""
        assert self._space is not None
        if self._nested is None:
            return self._space.check(config)
        raw: dict[str, Any] = {}
        for label, part in self._nested.parts.items():
            value = _at(config, label)
            if value is not _ABSENT:
                raw[label] = _option_of(part, value) if isinstance(part, Pick) else value
        return self._nested.point(raw)


Search = TuneSearch
_ABSENT = object()


def _at(config: Any, label: str) -> Any:
    """Return the value of a label such as `a/b` in a nested configuration."""
    if isinstance(config, Mapping) and label in config:
        return config[label]
    for key in label.split("/"):
        if isinstance(config, Mapping) and key in config:
            config = config[key]
        elif isinstance(config, (list, tuple)) and key.isdigit() and int(key) < len(config):
            config = config[int(key)]
        else:
            return _ABSENT
    return config


def _option_of(pick: Pick, value: Any) -> int:
    for index, option in enumerate(pick.options):
        if type(option) is type(value) and option == value:
            return index
    raise PointError(f"{pick.label!r} is one of {shown(list(pick.options))}, but got {shown(value)}.")


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value or ())


def _check_modes(metric: Any, mode: Any) -> None:
    for word in _listed(mode):
        if word not in _DIRECTIONS:
            raise SearchError(f"mode is 'min' or 'max', or a list of them, but got {shown(mode)}.")
    if metric is not None and mode is not None and len(_listed(metric)) != len(_listed(mode)):
        raise SearchError(f"There is a mode for each metric, but got metric={metric!r} and mode={mode!r}.")


# --- Search spaces of Tune --------------------------------------------------------------------------------------------


def _is_domain(value: Any) -> bool:
    return hasattr(value, "get_sampler") and hasattr(value, "domain_str")


def _tree(value: Any, path: tuple[str, ...]) -> Any:
    """Return a search space of Tune as a nested space."""
    if _is_domain(value):
        return _part(value, "/".join(path))
    if isinstance(value, Mapping):
        if set(value) == {"grid_search"}:
            values = ", ".join(map(repr, value["grid_search"]))
            raise SpaceError(f"{'/'.join(path)!r} is a grid_search, which is no range. Write tune.choice([{values}]).")
        return {key: _tree(inner, (*path, str(key))) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_tree(inner, (*path, str(index))) for index, inner in enumerate(value)])
    return value


def _without_constants(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a space that hold draws; Tune adds the others itself."""
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            inner = _without_constants(value)
            if inner:
                kept[key] = inner
        elif _has_draw(value):
            kept[key] = value
    return kept


def _has_draw(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_has_draw, value))
    if isinstance(value, Mapping):
        return any(map(_has_draw, value.values()))
    return isinstance(value, (Draw, Pick))


def _part(domain: Any, label: str) -> Draw | Pick:
    """Return a domain of Tune as a draw or a pick.

    Raises:
        SpaceError: It has no bounds, or is a function.
    """
    kind, sampler = type(domain).__name__, domain.get_sampler()
    q = getattr(sampler, "q", None)
    inner = type(sampler if q is None else sampler.sampler).__name__.lstrip("_")
    if kind == "Categorical":
        options = tuple(
            _tree(option, (*label.split("/"), str(index))) for index, option in enumerate(domain.categories)
        )
        return Pick(label, options, titles_of(options))
    if kind not in ("Float", "Integer") or inner not in ("Uniform", "LogUniform"):
        raise SpaceError(f"{label!r} has no bounds, and a search here needs them. Write {_bounded(sampler, q)}.")
    is_log = inner == "LogUniform"
    if is_log and q not in (None, 1):
        raise SpaceError(f"{label!r} is logarithmic and has q={q!r}. Write it without q, and round in the function.")
    if kind == "Float":
        return Draw(label, Float(domain.lower, domain.upper, log=is_log, step=None if is_log else q))
    # The upper bound is excluded, but for multiples of q.
    if q in (None, 1):
        return Draw(label, Int(domain.lower, domain.upper - 1, log=is_log))
    return Draw(label, Int(math.ceil(domain.lower / q) * q, math.floor(domain.upper / q) * q, step=q))


def _bounded(sampler: Any, q: Any) -> str:
    """Return what to write instead of a normal distribution, with three standard deviations, or of a function."""
    normal = sampler if q is None else sampler.sampler
    mean, std = getattr(normal, "mean", None), getattr(normal, "sd", None)
    if mean is None or std is None:
        return "tune.uniform(low, high), and compute the value in the function"
    low, high = f"{mean - 3 * std:g}", f"{mean + 3 * std:g}"
    return f"tune.uniform({low}, {high})" if q is None else f"tune.quniform({low}, {high}, {q:g})"
