"""From a search cell's text to everything that its search needs, checked before anything runs."""

from __future__ import annotations

import argparse
import ast
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbcompress.cell import CellBody, CellEvaluator, Origin
from nbcompress.errors import did_you_mean
from nbcompress.magics.search_options import goal_of
from nbcompress.space import Space

if TYPE_CHECKING:
    from nbcompress.magics.scope import Scope
    from nbcompress.optimize import Proposer
    from nbcompress.run.engines import Engine
    from nbcompress.study import Study


@dataclass(frozen=True)
class Search:
    """A search that can start.

    Attributes:
        study: Opened: begun anew or continued.
        proposer: What proposes points.
        evaluate: Runs the cell's body at a point.
        engine: Where trials run.
        options: Keywords for the loop.
        baseline: Metrics of the original model.
    """

    study: Study
    proposer: Proposer
    evaluate: CellEvaluator
    engine: Engine
    options: Mapping[str, Any]
    baseline: Mapping[str, float] | None


def read_cell(arguments: argparse.Namespace, cell: str, scope: Scope) -> tuple[CellBody, Space]:
    """Read the body, and evaluate its declarations in the notebook's namespace.

    Raises:
        UsageError, SpaceError, GoalError: What is wrong, and where.
    """
    if not cell.strip():
        raise UsageError(
            "the cell has no body. Declare parameters with Float, Int or Choice and assign the objectives."
        )
    goal = goal_of(arguments)
    body = CellBody(Origin(_as_python(cell, scope), goal, filename=_shown_name(arguments), flags=_flags(scope)))
    space = body.space(scope.evaluate_node, tuple(scope.namespace))
    for name in arguments.keep:
        if name not in body.assigned:
            raise UsageError(f"--keep {name}: the cell never assigns {name!r}.{did_you_mean(name, body.assigned)}")
    return body, space


def prepare(arguments: argparse.Namespace, cell: str, scope: Scope) -> Search:
    """Check every option, open the study, and return what can start.

    Raises:
        UsageError: An option does not fit; what the floors below refuse rises as their own errors.
    """
    from nbcompress.optimize import proposer
    from nbcompress.run.keeping import give_shelf
    from nbcompress.run.limits import seconds_of, until_of
    from nbcompress.run.plan import Plan
    from nbcompress.run.pruner import Pruner
    from nbcompress.study import open_study

    body, space = read_cell(arguments, cell, scope)
    goal = body.goal
    engine = _engine(arguments, body, scope)
    baseline = _baseline(arguments, body, scope)
    proposes = proposer(
        arguments.sampler,
        space,
        n_objectives=len(goal.objectives),
        n_constraints=len(goal.constraints),
        seed=arguments.seed,
        acquisition=arguments.acquisition,
        kernel=arguments.kernel,
        mean=arguments.mean,
    )
    options: dict[str, Any] = {
        "trials": arguments.trials,
        "timeout": None if arguments.timeout is None else seconds_of(arguments.timeout),
        "trial_timeout": None if arguments.trial_timeout is None else seconds_of(arguments.trial_timeout),
        "jobs": arguments.jobs,
        "until": until_of(arguments.until),
        "repeats": arguments.repeats,
        "keep": tuple(arguments.keep),
        "seed": arguments.seed,
        "sampler": arguments.sampler,
        "start": _start(arguments, scope),
        "pruner": Pruner(arguments.pruner),
    }
    evaluate = CellEvaluator(body, space, scope.namespace, arguments.keep)
    Plan(**options).check(space, proposes, engine, evaluate)
    name = arguments.study or _made_name(body, space)
    study = open_study(
        name, space, goal, storage=arguments.storage, fresh=arguments.fresh, identity={"body": body.digest}
    )
    give_shelf(study, lambda: notebook_modules(scope.namespace))
    _annotate(study, arguments, cell, baseline)
    return Search(study, proposes, evaluate, engine, options, baseline)


def notebook_modules(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the modules of the notebook by name."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    found = dict(namespace)
    return {key: one for key, one in found.items() if isinstance(one, torch.nn.Module) and not key.startswith("_")}


def _as_python(cell: str, scope: Scope) -> str:
    """Turn magics into calls. IPython drops blank lines at the start; put them back, so that line numbers hold."""
    transformed: str = scope.shell.transform_cell(cell)
    lines = cell.split("\n")
    blank = next((index for index, line in enumerate(lines) if line.strip()), 0)
    return "\n" * blank + transformed


def _flags(scope: Scope) -> int:
    return int(scope.shell.compile.flags) & ~ast.PyCF_ONLY_AST


def _shown_name(arguments: argparse.Namespace) -> str:
    return f"<%%bo_search {arguments.study}>" if arguments.study else "<%%bo_search>"


def _made_name(body: CellBody, space: Space) -> str:
    text = f"{space}\n{body.goal}\n{body.digest}"
    return f"search-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _engine(arguments: argparse.Namespace, body: CellBody, scope: Scope) -> Engine:
    from nbcompress.run.engines import ENGINES, engine_of

    choice: Any = arguments.engine
    if choice not in ENGINES:
        if choice not in scope.namespace:
            near = did_you_mean(choice, ENGINES)
            raise UsageError(
                f"--engine is inline, process or the name of an executor in this notebook, but got {choice!r}.{near}"
            )
        choice = scope.namespace[choice]
    if arguments.engine != "inline" and body.magics:
        raise UsageError(
            f"the body uses {body.magics[0]}, which works under --engine inline only. Call the function instead."
        )
    return engine_of(choice, arguments.engine)


def _start(arguments: argparse.Namespace, scope: Scope) -> tuple[dict[str, Any], ...]:
    points = scope.evaluate(arguments.start) if arguments.start else []
    if not isinstance(points, (list, tuple)) or not all(isinstance(point, Mapping) for point in points):
        raise UsageError(
            "--start is a list of dicts of the active parameters, "
            f"but {arguments.start} is of the type {type(points).__name__}."
        )
    return tuple(dict(point) for point in points)


def _baseline(arguments: argparse.Namespace, body: CellBody, scope: Scope) -> dict[str, float] | None:
    if arguments.baseline is None:
        return None
    given = scope.evaluate(arguments.baseline)
    if not isinstance(given, Mapping):
        raise UsageError(
            f"--baseline is a dict of metrics, but {arguments.baseline} is of the type {type(given).__name__}."
        )
    for key in given:
        if key not in body.assigned:
            raise UsageError(f"--baseline: the cell never assigns {key!r}.{did_you_mean(key, body.goal.metrics)}")
    try:
        return {str(key): float(value) for key, value in given.items()}
    except (TypeError, ValueError):
        raise UsageError(f"--baseline holds a number per metric, but got {given!r:.80}.") from None


def _annotate(study: Study, arguments: argparse.Namespace, cell: str, baseline: Mapping[str, float] | None) -> None:
    """Note with the study how it is searched."""
    from nbcompress.run.provenance import note, provenance

    chosen = ("sampler", "acquisition", "kernel", "mean", "pruner", "until", "engine", "jobs", "repeats", "seed")
    facts: dict[str, Any] = {
        "cell": cell,
        "search": {key: getattr(arguments, key) for key in chosen},
        "budget": {"trials": arguments.trials, "timeout": arguments.timeout, "trial timeout": arguments.trial_timeout},
        **provenance(),
    }
    if baseline is not None:
        facts["baseline"] = dict(baseline)
    note(study, **facts)
