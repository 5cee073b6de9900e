"""`%%bo_search`: a cell of the user's code becomes a Bayesian search.

From the text of the cell to a search that can start; running it with a panel, here or in the background; and
`--dry-run`, which shows the space, one timed trial, and how long the search would take.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from IPython import get_ipython
from IPython.core.error import UsageError
from IPython.display import display

from nbcompress.cell import CellBody, CellEvaluator, CellSource
from nbcompress.choices import ENGINES, is_engine
from nbcompress.errors import did_you_mean
from nbcompress.magics.arguments import HelpRequested
from nbcompress.magics.base import Output, Scope, one_line_errors, variables
from nbcompress.magics.search_options import PARTS, goal_of, search_parser
from nbcompress.run import Assignment, Outcome, current_trial
from nbcompress.run.capture import trial_seed
from nbcompress.run.reads import is_a, is_of_loaded
from nbcompress.study.goal import State

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbcompress.panels.live import PanelKind
    from nbcompress.panels.text_panel import Panel
    from nbcompress.run.callbacks import Controls, Ending, Observer
    from nbcompress.run.loop import Search
    from nbcompress.run.options import SearchOptions
    from nbcompress.space import Space
    from nbcompress.study import Study


@contextmanager
def figures_stay_open(shell: InteractiveShell | None) -> Iterator[None]:
    """A `with` block in which only the main thread shows and closes the figures of `pyplot`.

    ipykernel fires `post_execute` after a cell and after every comm message, and then the inline backend shows and
    closes all figures. Messages that arrive while a cell runs are handled by other threads, so a click on a button, or
    a page that connects, would close a figure that the cell is about to save. The event at the end of the cell shows
    the figures that are still open. Outside the main thread this does nothing, because a search in the background must
    not keep other cells from showing their figures.
    """
    if shell is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    events: Any = shell.events
    before = events.trigger

    # All events are filtered here, since the backend may be loaded and registered while the block runs.
    def trigger(event: str, *arguments: Any, **keywords: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            before(event, *arguments, **keywords)
            return
        for callback in tuple(events.callbacks[event]):
            if not _closes_figures(callback):
                try:
                    callback(*arguments, **keywords)
                except (Exception, KeyboardInterrupt):  # noqa: BLE001 - IPython shows what a callback raises, too
                    shell.showtraceback()

    events.trigger = trigger
    try:
        yield
    finally:
        events.trigger = before


@contextmanager
def displayed_to_trials(shell: InteractiveShell | None) -> Iterator[None]:
    """A `with` block in which what a trial displays in this thread goes to the trial, not to the cell.

    A search of 40 trials would else leave 40 figures and progress bars below its panel.
    """
    publisher: Any = getattr(shell, "display_pub", None)
    register = getattr(publisher, "register_hook", None)  # of ipykernel; its hooks belong to a thread
    if register is None:
        yield
        return

    def pass_on(message: dict[str, Any]) -> dict[str, Any] | None:
        trial = current_trial()
        if trial is None or not trial.has_begun:
            return message
        if message.get("msg_type") == "display_data":
            trial.displayed.add(message["content"]["data"])
        return None

    register(pass_on)
    try:
        yield
    finally:
        publisher.unregister_hook(pass_on)


def _closes_figures(callback: Callable[..., object]) -> bool:
    name, module = getattr(callback, "__name__", ""), getattr(callback, "__module__", "") or ""
    return name == "flush_figures" and module.endswith("backend_inline")


def panel_of(kind: str, search: Search, controls: Controls, output: Output) -> Panel:
    """Return the panel of a search; `auto` is the best that the front end can show."""
    from nbcompress.panels.live import make_panel

    return make_panel(
        output.best_kind if kind == "auto" else cast("PanelKind", kind),
        search.study,
        trials=search.options.trials,
        seconds=search.options.timeout_seconds,
        baseline=search.options.baseline,
        proposer=search.proposer,
        controls=controls,
        output=output,
        histories=search.histories,
    )


def run_watched(search: Search, panel: Panel, controls: Controls, observers: Sequence[Observer] = ()) -> Ending:
    """Run a search to its end; whatever happens, the panel is replaced by the finished output.

    Raises:
        KeyboardInterrupt: The second interrupt.
    """
    from nbcompress.run.termination import uninterrupted

    ending: Ending | None = None
    panel.show()
    try:
        with figures_stay_open(get_ipython()), displayed_to_trials(get_ipython()):
            ending = search.run([*observers, panel], controls)
    finally:
        with uninterrupted():
            panel.finish(ending)
    return ending


def read_cell(arguments: argparse.Namespace, cell: str, scope: Scope, baseline: Any = None) -> tuple[CellBody, Space]:
    """Read the body, and evaluate its declarations in the notebook's namespace.

    Raises:
        UsageError, SpaceError, GoalError: What is wrong, and where.
    """
    if not cell.strip():
        raise UsageError(
            "the cell has no body. Declare parameters with Float, Int or Choice and assign the objectives."
        )
    goal = goal_of(arguments, baseline)
    body = CellBody(CellSource(_as_python(cell, scope), goal, filename=_shown_name(arguments), flags=_flags(scope)))
    space = body.space(scope.evaluate_node, tuple(scope.namespace))
    for name in arguments.keep:
        if name not in body.assigned:
            raise UsageError(f"--keep {name}: the cell never assigns {name!r}.{did_you_mean(name, body.assigned)}")
    return body, space


def prepare(arguments: argparse.Namespace, cell: str, scope: Scope, *, in_memory: bool = False) -> Search:
    """Check every option, open the study, and return a search that can start.

    Args:
        arguments: The parsed line.
        cell: The body.
        scope: The notebook.
        in_memory: Store nothing.

    Raises:
        UsageError: An option cannot be used.
        NbcompressError: An error of a lower layer.
    """
    from nbcompress.run.setup import StudyLocation, prepare_search

    baseline = scope.value(arguments.baseline)
    body, space = read_cell(arguments, cell, scope, baseline)
    options = _options(arguments, body, scope, baseline)
    location = StudyLocation.of_cell(options, _made_name(body, space))
    measured = _noise_names(options, body)
    evaluator = CellEvaluator(body, space, scope.namespace, options.keep, measured)
    search = prepare_search(
        options,
        evaluator,
        space,
        body.goal,
        replace(location, storage=None) if in_memory else location,
        digest=body.digest,
        modules=lambda: notebook_modules(scope.namespace),
        engine_name=arguments.engine,
        facts={"cell": cell},
    )
    search.study.warnings += tuple(
        f"In this cell {name!r} is the notebook's own, not the one of nbcompress; delete it or write nbcompress.{name}."
        for name in evaluator.shadowing()
    )
    return replace(search, variable=arguments.out, notebook_names=frozenset(scope.namespace))


def _options(arguments: argparse.Namespace, body: CellBody, scope: Scope, baseline: Any) -> SearchOptions:
    """Return the options of the line, with expressions evaluated and the executor looked up."""
    from nbcompress.run.options import SearchOptions

    evaluated = {
        "engine": _engine(arguments, body, scope),
        "start": scope.value(arguments.start),
        "original": scope.value(arguments.original),
        "test": scope.value(arguments.test),
        "baseline": baseline,
        "sensitivity": scope.value(arguments.sensitivity),
        **_surrogate_parts(arguments, scope),
    }
    options = SearchOptions.from_arguments({**vars(arguments), **evaluated})
    for name in options.baseline or ():
        # Other measurements of the original may be there, but no misspelt metric.
        near = did_you_mean(name, body.goal.metrics)
        if name not in body.assigned and near:
            raise UsageError(f"--baseline: the cell never assigns {name!r}.{near}")
    return options


def _surrogate_parts(arguments: argparse.Namespace, scope: Scope) -> dict[str, Any]:
    """Return acquisition, kernel, mean and surrogate: a fixed word, or the variable of that name."""
    typed = getattr(arguments, "typed", ())
    beside = [option for option in ("--kernel", "--mean") if option in typed]
    if "--surrogate" in typed and beside:
        raise UsageError(
            f"--surrogate holds kernel and mean already, but {' and '.join(beside)} is given too. Leave one out, or "
            "pass a variable that holds nbcompress.SurrogateSpec(kernel=..., mean=...)."
        )
    found = {}
    for option, words in PARTS.items():
        name: str | None = getattr(arguments, option.removeprefix("--"))
        if name is None or name in words:
            continue
        if name not in scope.namespace:
            near = did_you_mean(name, [*words, *variables(scope.namespace)])
            raise UsageError(
                f"{option} is {', '.join(words)} or the name of a variable in this notebook, but got {name!r}.{near}"
            )
        found[option.removeprefix("--")] = scope.namespace[name]
    return found


def _noise_names(options: SearchOptions, body: CellBody) -> tuple[str, ...]:
    """Return the metrics that hold standard deviations; the body assigns each."""
    for _, name in options.noise:
        if name not in body.assigned:
            near = did_you_mean(name, body.assigned)
            raise UsageError(
                f"--noise: the cell never assigns {name!r}.{near} A standard deviation is a variable of the body."
            )
    return tuple(name for _, name in options.noise)


def notebook_modules(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the modules of the notebook by name, without private names."""
    found = dict(namespace)
    return {
        key: item for key, item in found.items() if is_of_loaded(item, "torch.nn", "Module") and not key.startswith("_")
    }


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


def _engine(arguments: argparse.Namespace, body: CellBody, scope: Scope) -> Any:
    """Return the word for an engine, or the executor of that name in the notebook."""
    choice: str = arguments.engine
    is_word = is_engine(choice)
    if not is_word and choice not in scope.namespace:
        near = did_you_mean(choice, ENGINES)
        raise UsageError(
            "--engine is inline, process or the name of an executor in this notebook, or ray, dask or the address of a "
            f"cluster, but got {choice!r}.{near}"
        )
    if choice != "inline" and body.magics:
        raise UsageError(
            f"the body uses {body.magics[0]}, which works under --engine inline only. Call the function instead."
        )
    return choice if is_word else scope.namespace[choice]


def dry_run(arguments: argparse.Namespace, cell: str, scope: Scope) -> str:
    """Run one trial in the kernel and describe what a search would do; nothing is stored."""
    search = prepare(arguments, cell, scope, in_memory=True)
    start = search.options.start
    with closing(search.engine):  # it may have connected to a cluster
        history = search.histories.history_of((), search.study.goal)
        point = start[0] if start else search.proposer.propose(0, history).point
        outcome = search.evaluate(Assignment(0, point, trial_seed(arguments.seed, 0)))
    return "\n".join([*_space_lines(search), *_trial_lines(point, outcome), _estimate(search, outcome)])


def _space_lines(search: Search) -> list[str]:
    space = search.study.space
    size = "uncountably many" if space.n_points is None else f"{space.n_points:,}"
    return [
        f"{len(space)} parameter{'s' * (len(space) != 1)}, {size} points:",
        *(f"  {line}" for line in str(space).splitlines()),
        f"goal: {search.study.goal}",
    ]


def _trial_lines(point: object, outcome: Outcome) -> list[str]:
    values = ", ".join(f"{name} {value:.6g}" for name, value in outcome.values.items()) or "no metric"
    lines = [f"one trial at {point}:", f"  {outcome.state.value} after {outcome.seconds:.2f} s, {values}"]
    if outcome.failure is not None:
        # A failure of our own, such as a limit, has no traceback.
        text = outcome.failure.traceback.rstrip() or str(outcome.failure)
        lines += [f"  {line}" for line in text.splitlines()]
    if outcome.printed:
        lines += ["  it printed:", *(f"    {line}" for line in outcome.printed.splitlines()[:10])]
    return [*lines, *(f"  {remark}" for remark in outcome.remarks)]


def _estimate(search: Search, outcome: Outcome) -> str:
    trials, jobs = search.options.trials, search.options.jobs
    seconds = outcome.seconds * trials * search.options.repeats / jobs
    text = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    if seconds >= 7200:
        text = f"{seconds / 3600:.1f} h"
    some = "" if outcome.state is State.COMPLETE else " or more: this one did not run to its end"
    return f"{trials} trials would take about {text}{some}; nothing was stored."


def run_line(line: str, _shell: InteractiveShell) -> None:
    """Run the line magic `%bo_search`: `-h` shows the help of the cell, anything else is an error."""
    with one_line_errors("%bo_search"):
        if not {"-h", "--help"} & set(line.split()):
            raise UsageError("a search is a cell: write %%bo_search, with two per cents, and a body below.")
        print(search_parser().format_help())


def run_cell(line: str, cell: str, shell: InteractiveShell) -> Study | None:
    """Run a `%%bo_search` cell, and return its study, or None if no search began.

    Raises:
        UsageError: The line or the cell cannot be used, or the search could not go on.
    """
    with one_line_errors("%%bo_search", search_parser().options()):
        scope = Scope(shell)
        try:
            arguments = search_parser().read(line, scope.evaluate)
        except HelpRequested as wanted:
            print(wanted)
            return None
        return _run(arguments, cell, scope)


def _run(arguments: argparse.Namespace, cell: str, scope: Scope) -> Study | None:
    if scope.in_trial:
        raise UsageError("a search cannot run inside a trial of another one.")
    if arguments.dry_run:
        print(dry_run(arguments, cell, scope))
        return None
    try:
        search = prepare(arguments, cell, scope)
    except KeyboardInterrupt:
        print("%%bo_search: interrupted before its first trial; run the cell again to begin.")
        return None
    _warn_before_overwriting(search, scope.namespace)
    scope.namespace[arguments.out] = search.study
    cell_search = _CellSearch(search, arguments, scope, search_parser().options())
    if arguments.background and cell_search.can_run_in_background:
        cell_search.start()
    else:
        cell_search.run()
    return search.study


def _warn_before_overwriting(search: Search, namespace: Mapping[str, Any]) -> None:
    """Add a warning if the study replaces a value of the notebook that is no study."""
    before = namespace.get(search.variable)
    if before is not None and not is_a(before, type(search.study)):
        search.study.warnings += (
            f"The notebook's {search.variable!r}, a {type(before).__name__}, is replaced by the study of this search; "
            "--out NAME chooses another variable.",
        )


_CELLS_RUN_ON = (
    "%%bo_search: the search was interrupted, and the cells below run on. To stop Run All, interrupt once more, or "
    "write --on-interrupt raise."
)


class _CellSearch:
    """The search of a cell with its panel, in this thread or in the background."""

    def __init__(self, search: Search, arguments: argparse.Namespace, scope: Scope, options: Sequence[str]) -> None:
        from nbcompress.run.callbacks import Controls

        self._options = options
        self._search = search
        self._controls = Controls()
        self._output = Output(scope.shell)
        self._shows_outputs = arguments.panel != "off"
        self._panel = panel_of(arguments.panel, search, self._controls, self._output)

    @property
    def can_run_in_background(self) -> bool:
        """Whether the kernel lives on after the last cell; else a line says that the search runs in the cell."""
        if not self._output.ends_with_last_cell:
            return True
        self._output.print(
            "%%bo_search: the program that runs this notebook ends its kernel after the last cell, so the search runs "
            "in this cell and not in the background."
        )
        return False

    def start(self) -> None:
        """Run in a thread of its own; its output stays in the current cell."""
        thread = threading.Thread(target=self._in_background, name=f"search {self._search.study.name}", daemon=True)
        thread.start()

    def run(self) -> None:
        """Run until the search ends; whatever happens, the panel is replaced by the finished output.

        Raises:
            UsageError: The search could not go on: the first trials failed alike, or the engine broke.
            KeyboardInterrupt: The second interrupt; with `--on-interrupt raise`, the first one.
        """
        ending = run_watched(self._search, self._panel, self._controls)
        if self._shows_outputs:
            self._show_outputs_of_best()
        if ending.kind in ("same failure", "broken"):
            if ending.traceback:
                self._output.print(ending.traceback.rstrip())
            raise UsageError(ending.reason)
        if ending.kind == "interrupted":
            if self._search.options.on_interrupt == "raise":
                raise KeyboardInterrupt
            self._output.print(_CELLS_RUN_ON)

    def _show_outputs_of_best(self) -> None:
        """Show what the best trial displayed: figures, HTML, progress bars; those of other trials are not shown."""
        from nbcompress.run.kept import displayed_outputs

        for bundle in displayed_outputs(self._search.study):
            display(bundle, raw=True)

    def _in_background(self) -> None:
        from nbcompress.run.settings import shared_with_cells

        self._output.follow()
        try:
            with shared_with_cells(), one_line_errors("%%bo_search", self._options):
                self.run()
        except UsageError as err:
            self._output.print(str(err))
