"""From a search cell's text to everything that its search needs, checked before anything runs."""

from __future__ import annotations

import argparse
import ast
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbcompress.cell import CellBody, CellEvaluator, Origin
from nbcompress.errors import did_you_mean
from nbcompress.magics.search_options import goal_of
from nbcompress.run.looking import is_a
from nbcompress.space import Space

if TYPE_CHECKING:
    from nbcompress.magics.scope import Scope
    from nbcompress.run.engines import Engine
    from nbcompress.run.preparing import Search


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


def prepared(arguments: argparse.Namespace, cell: str, scope: Scope) -> Search:
    """Check every option, open the study, and return what can start.

    Raises:
        UsageError: An option does not fit; what the floors below refuse rises as their own errors.
    """
    from nbcompress.run.preparing import Options, Place, prepare

    body, space = read_cell(arguments, cell, scope)
    engine = _engine(arguments, body, scope)
    baseline = _baseline(arguments, body, scope)
    typed = {one.name: getattr(arguments, one.name) for one in fields(Options)}
    options = Options(**{**typed, "start": _start(arguments, scope), "keep": tuple(arguments.keep)})
    name = arguments.study or _made_name(body, space)

    def modules() -> dict[str, Any]:
        return notebook_modules(scope.namespace)

    place = Place(
        name,
        arguments.storage,
        arguments.fresh,
        is_made=not arguments.study,
        accept_changes=arguments.accept_changes,
        identity={"body": body.digest},
        modules=modules,
    )
    evaluate = CellEvaluator(body, space, scope.namespace, arguments.keep)
    return prepare(options, evaluate, space, body.goal, engine, place, baseline=baseline, facts={"cell": cell})


def notebook_modules(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the modules of the notebook by name."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    found = dict(namespace)
    return {key: one for key, one in found.items() if is_a(one, torch.nn.Module) and not key.startswith("_")}


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
