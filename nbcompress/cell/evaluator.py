"""Run a cell's body at one point, in globals of the trial's own, here or in another process."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import cloudpickle

from nbcompress.cell.bindings import written_into
from nbcompress.cell.body import CHECK_NAME, POINT_NAME, CellBody
from nbcompress.cell.isolation import plain_functions, trial_globals
from nbcompress.cell.namespace import running_in
from nbcompress.cell.watch import ModuleWatch
from nbcompress.public import HOMES, public
from nbcompress.run import Assignment, Outcome, TrialContext, TrialEnded, run_trial
from nbcompress.run.metrics import number_of
from nbcompress.run.reads import missing_names, reached_names
from nbcompress.run.transport import pack
from nbcompress.space import Space

_NOTHING = object()


class CellEvaluator:
    """Runs the body of a search cell; an `Evaluate` of the run floor.

    The notebook's namespace is taken as it is when the search starts: what other cells assign meanwhile does not
    change later trials.

    Args:
        body: The cell.
        space: Its space.
        namespace: The notebook's namespace.
        keep: Names of variables of the body to keep.

    Raises:
        SpaceSyntaxError: The body does not compile.
    """

    def __init__(self, body: CellBody, space: Space, namespace: dict[str, Any], keep: Collection[str] = ()) -> None:
        self._body, self._space, self._keep = body, space, tuple(keep)
        self._code = body.code()
        self._names = reached_names(self._code, namespace)
        self._functions = plain_functions(namespace)
        self._namespace = dict(namespace)
        self._library = _library_names(self._code, namespace)
        self._watch = ModuleWatch(namespace)

    def __call__(self, assignment: Assignment) -> Outcome:
        names = trial_globals(self._namespace, self._names, self._functions)
        names.update({name: public(name) for name in self._library})
        for name in self._body.hidden:
            names.pop(name, None)

        def body(context: TrialContext) -> Mapping[str, Any]:
            return self._run(names, context)

        try:
            outcome = run_trial(body, assignment, goal=self._body.goal, keep=self._keep)
        finally:
            changed = self._watch.restore_()
        return _with_remarks(outcome, changed)

    def _run(self, names: dict[str, Any], context: TrialContext) -> Mapping[str, Any]:
        inherited = {metric: names.get(metric, _NOTHING) for metric in self._body.goal.metrics}

        def metrics() -> dict[str, Any]:
            found = {metric: names.get(metric, _NOTHING) for metric in inherited}
            return {name: value for name, value in found.items() if value is not inherited[name]}

        def check(metric: str) -> None:
            known = metrics()
            if metric in known:
                context.check(metric, known[metric])

        names[POINT_NAME] = self._space.grouped(context.assignment.point)
        names[CHECK_NAME] = check
        try:
            with running_in(names):
                exec(self._code, names)  # noqa: S102 (the user's own cell in the user's own kernel)
        except BaseException:
            _keep_what_is_known(context, metrics())
            raise
        context.keep(**{name: names[name] for name in self._keep if name in names})
        return metrics()

    def reads(self) -> dict[str, Any]:
        """Return what the body reads of the notebook, by name, for the record."""
        return {name: self._namespace[name] for name in self._names - self._body.own if name in self._namespace}

    def written(self) -> frozenset[tuple[str, ...]]:
        """Return the places of the notebook's values that the body's own statements write into."""
        return written_into(self._body.declarations.tree)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: the body and the names that it reaches, as one pickle.

        Raises:
            TransportError: A value cannot be sent; the text names it.
        """
        values = {name: self._namespace[name] for name in sorted(self._names)}
        packed = pack((values, self._functions & self._names))
        return {"body": self._body.origin, "space": self._space, "keep": self._keep, "packed": packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._body = CellBody(state["body"])
        self._space, self._keep = state["space"], state["keep"]
        self._code = self._body.code()
        self._namespace, self._functions = cloudpickle.loads(state["packed"])
        self._names = frozenset(self._namespace)
        self._namespace["__name__"] = "__main__"
        self._namespace["__builtins__"] = __builtins__
        self._library = _library_names(self._code, self._namespace)
        self._watch = ModuleWatch(self._namespace)


def _library_names(code: Any, namespace: Mapping[str, Any]) -> frozenset[str]:
    """Return our public names that the body reads and the notebook does not define: a name of the user wins."""
    return missing_names(code, namespace) & frozenset(HOMES)


def _keep_what_is_known(context: TrialContext, metrics: Mapping[str, Any]) -> None:
    """Record the metrics of a trial that ends early; what is no finite number is left out."""
    for name, value in metrics.items():
        try:
            context.values.setdefault(name, number_of(name, value))
        except TrialEnded:
            continue


def _with_remarks(outcome: Outcome, changed: tuple[str, ...]) -> Outcome:
    if not changed:
        return outcome
    listed = " and ".join(repr(name) for name in changed)
    remark = f"A trial changed {listed} of the notebook; the change was undone. Work on a copy inside the cell."
    return replace(outcome, remarks=(*outcome.remarks, remark))
