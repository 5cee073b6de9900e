"""Run the body of a search cell at one point, in its own globals; in this process or in another one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from nbcompress.cell.body import CHECK_NAME, CellBody, written_into
from nbcompress.cell.isolation import plain_functions, trial_globals
from nbcompress.cell.parser import POINT_NAME
from nbcompress.cell.watch import ModuleWatch
from nbcompress.public import HOMES, public
from nbcompress.run import Assignment, Outcome, RunningTrial, TrialEnded, current_trial, run_trial
from nbcompress.run.outcome import number_of
from nbcompress.run.reads import imported_modules, is_a, missing_names, reached_names
from nbcompress.space import Space

if TYPE_CHECKING:
    from nbcompress.run.data_read import Code


def current_globals() -> dict[str, Any] | None:
    """Return the globals of the cell's trial that runs in this context (magics inside a body need them), or None."""
    trial = current_trial()
    return None if trial is None else trial.globals


@contextmanager
def _globals_of(trial: RunningTrial, names: dict[str, Any]) -> Iterator[None]:
    """Let `current_globals` return `names` inside the `with` block."""
    before, trial.globals = trial.globals, names
    try:
        yield
    finally:
        trial.globals = before


_MISSING = object()


class CellEvaluator:
    """Runs the body of a search cell as a trial; implements `run.outcome.Evaluator`.

    The notebook's namespace is copied when the search starts, so that later trials do not see what other cells assign
    meanwhile.

    Args:
        body: The parsed body.
        space: The space of its declarations.
        namespace: The notebook's namespace.
        keep: The variables of the body to keep with each trial.
        measured: Variables of the body that are metrics beside those of the goal.

    Raises:
        SpaceSyntaxError: The body does not compile.
    """

    def __init__(
        self,
        body: CellBody,
        space: Space,
        namespace: dict[str, Any],
        keep: Collection[str] = (),
        measured: Collection[str] = (),
    ) -> None:
        self._body, self._space, self._keep = body, space, tuple(keep)
        self._measured = tuple(measured)
        self._code = body.code()
        self._names = reached_names(self._code, namespace)
        self._functions = plain_functions(namespace)
        self._namespace = dict(namespace)
        self._library = _library_names(self._code, namespace)
        self._watch = ModuleWatch(namespace)

    def __call__(self, assignment: Assignment) -> Outcome:
        names = trial_globals(self._namespace, self._names, self._functions)
        names.update({name: public(name) for name in self._library})
        for name in self._body.metrics_to_hide | (set(self._measured) & self._body.assigned_before_read):
            names.pop(name, None)

        def body(trial: RunningTrial) -> Mapping[str, Any]:
            return self._run(names, trial)

        try:
            outcome = run_trial(body, assignment, goal=self._body.goal, keep=self._keep)
        finally:
            changed = self._watch.restore_()
        return _with_remarks(outcome, changed)

    def _run(self, names: dict[str, Any], trial: RunningTrial) -> Mapping[str, Any]:
        before = {metric: names.get(metric, _MISSING) for metric in (*self._body.goal.metrics, *self._measured)}

        def metrics() -> dict[str, Any]:
            found = {metric: names.get(metric, _MISSING) for metric in before}
            return {name: value for name, value in found.items() if value is not before[name]}

        def check(metric: str) -> None:
            known = metrics()
            if metric in known:
                trial.check(metric, known[metric])

        names[POINT_NAME] = self._space.grouped(trial.assignment.point)
        names[CHECK_NAME] = check
        try:
            with _globals_of(trial, names):
                exec(self._code, names)  # noqa: S102 (the user's own cell in the user's own kernel)
        except BaseException:
            _record_metrics(trial, metrics())
            raise
        trial.keep(**{name: names[name] for name in self._keep if name in names})
        return metrics()

    def reads(self) -> dict[str, Any]:
        """Return the values that the body reads from the notebook, and the modules that it imports itself, by name."""
        return imported_modules(self._code) | {
            name: self._namespace[name]
            for name in self._names - self._body.assigned_before_read
            if name in self._namespace
        }

    def code(self) -> Code:
        """Return the body with these values."""
        from nbcompress.run.data_read import Code

        return Code(self._body.declarations.tree, self.reads())

    def shadowing(self) -> tuple[str, ...]:
        """Return the names of nbcompress that the body reads and that the notebook uses for something of its own."""
        return tuple(sorted(name for name, value in self.reads().items() if name in HOMES and not _is_ours(value)))

    def written(self) -> frozenset[tuple[str, ...]]:
        """Return the places of the notebook's values that the body's own statements write into."""
        return written_into(self._body.declarations.tree)

    def reusable(self) -> Callable[[], CellEvaluator]:
        """Return a function that makes an evaluator of the same cell; it holds only what the body reaches."""
        names = {name: self._namespace[name] for name in self._names if name in self._namespace}
        names |= {"__name__": "__main__", "__builtins__": __builtins__}
        return partial(CellEvaluator, self._body, self._space, names, self._keep, self._measured)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: the body, and the values that it reaches."""
        values = {name: self._namespace[name] for name in sorted(self._names)}
        functions = self._functions & self._names
        return {
            "body": self._body.source,
            "space": self._space,
            "keep": self._keep,
            "measured": self._measured,
            "values": values,
            "functions": functions,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._body = CellBody(state["body"])
        self._space, self._keep, self._measured = state["space"], state["keep"], state["measured"]
        self._code = self._body.code()
        self._namespace, self._functions = state["values"], state["functions"]
        self._names = frozenset(self._namespace)
        self._namespace["__name__"] = "__main__"
        self._namespace["__builtins__"] = __builtins__
        self._library = _library_names(self._code, self._namespace)
        self._watch = ModuleWatch(self._namespace)


def _library_names(code: Any, namespace: Mapping[str, Any]) -> frozenset[str]:
    """Return the public names of nbcompress that the body reads and the notebook does not define."""
    return missing_names(code, namespace) & frozenset(HOMES)


def _is_ours(value: object) -> bool:
    """Return whether a value is a function or class of nbcompress; a plain value such as a metric shadows nothing."""
    if not callable(value) and not is_a(value, ModuleType):
        return True
    return is_a(value, FunctionType, type) and str(value.__module__).startswith("nbcompress.")


def _record_metrics(trial: RunningTrial, metrics: Mapping[str, Any]) -> None:
    """Record the metrics of a trial that ends early, except those that are not finite numbers."""
    for name, value in metrics.items():
        try:
            trial.values.setdefault(name, number_of(name, value))
        except TrialEnded:
            continue


def _with_remarks(outcome: Outcome, changed: tuple[str, ...]) -> Outcome:
    if not changed:
        return outcome
    listed = " and ".join(repr(name) for name in changed)
    remark = f"A trial changed {listed} of the notebook; the change was undone. Work on a copy inside the cell."
    return replace(outcome, remarks=(*outcome.remarks, remark))
