"""What a search shows while it runs: the right rung of the ladder from a live widget to one line.

What changed in a running search since the page was last told: the state of a live panel and its deltas.

The widgets of a live panel: one that carries a study to the page, and one that hears the buttons.

The live panel: a widget that is told what changed, and buttons that reach Python while a cell runs.
"""

from __future__ import annotations

import contextvars
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

import anywidget
import ipywidgets
import traitlets

from nbcompress.panels.messages import Presses, narrowing_of
from nbcompress.panels.page import asset
from nbcompress.panels.surrogate_data import Expectations, expected_data
from nbcompress.panels.surrogate_refresh import Foresight
from nbcompress.panels.text import LIVE, cut, finite, scalar
from nbcompress.panels.text_panel import Clock, Output, Panel, SilentPanel, TextPanel, ending_text
from nbcompress.panels.view import (
    Course,
    Names,
    StudyLike,
    count_trials,
    cut_sentence,
    is_evaluable,
    progress_of,
    study_view,
    trial_data,
)
from nbcompress.study.front import front
from nbcompress.study.goal import State, Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.run.callbacks import Controls, Ending
    from nbcompress.run.history import HistoryCache


class Changes:
    """Holds a study's data as the page has it, and says what to tell it next. Not for two threads at once.

    `state` is what a page that opens now starts from; it is replaced, never altered, so that another thread may send
    it at any moment.
    """

    def __init__(self, study: StudyLike, run: str, baseline: Mapping[str, float] | None, course: Course) -> None:
        self._goal, self._space = study.goal, study.space
        self._names = Names(LIVE.name)
        self._trials = {trial.number: trial for trial in study.all_trials}
        self._front = {trial.number: trial for trial in study.front}
        self._changed: dict[int, Trial] = {}
        self._expected: dict[str, Any] = {}
        view = study_view(study, baseline=baseline, course=course, names=self._names)
        self.state: dict[str, Any] = {"seq": 0, "run": run, "study": view}

    def note(self, trial: Trial) -> None:
        """Take a trial that began or ended."""
        self._changed[trial.number] = trial

    def limit(self, limits: Mapping[str, Sequence[Any]]) -> None:
        """Take within what the search goes on."""
        shown = {self._names(key): [scalar(value, LIVE.value) for value in values] for key, values in limits.items()}
        self._expected["narrowed"] = shown

    def expect(self, expected: Expectations) -> None:
        """Take what a surrogate tells. What is empty stays as it is."""
        surrogate, study = expected.surrogate, self.state["study"]
        shown = self._trials.keys() | self._changed.keys()
        if surrogate is not None and not is_evaluable(surrogate, self._space, study["parameters"], shown):
            expected = replace(expected, surrogate=None)
        data = expected_data(expected, self._names, LIVE)
        self._expected |= {key: item for key, item in data.items() if item}
        if expected.remark:
            self._expected["warnings"] = [*study["warnings"], cut(expected.remark, LIVE.message)]

    def delta(self, course: Course, **more: Any) -> dict[str, Any]:
        """Return the message that brings the page up to date, and take it into `state`.

        Args:
            course: How the search goes now.
            more: Other fields of the view that changed, such as `ending`.
        """
        changed, self._changed = self._changed, {}
        expected, self._expected = self._expected, {}
        self._trials.update(changed)
        view = self.state["study"]
        rows = {number: trial_data(one, self._names, LIVE) for number, one in changed.items()}
        fields: dict[str, Any] = {"elapsed": finite(course.elapsed), "left": finite(course.left), **expected, **more}
        known = {trial["number"]: trial for trial in view["trials"]} | rows
        if changed:
            fields["counts"] = count_trials(self._trials.values())
            fields["cut"] = cut_sentence(len(known), len(self._trials))
        progress = None
        if any(row.state is not State.RUNNING for row in changed.values()):
            fields |= self._standing(changed)
            progress = self._progress(view["progress"]["values"])
        fields = {key: value for key, value in fields.items() if view.get(key) != value}
        after = {**view, **fields, "trials": [known[number] for number in sorted(known)]}
        if progress is not None:
            head = view["progress"]["values"][: progress["from"]]
            after["progress"] = {"label": progress["label"], "values": head + progress["values"]}
        seq = self.state["seq"] + 1
        self.state = {**self.state, "seq": seq, "study": after}
        return {"kind": "delta", "seq": seq, "trials": list(rows.values()), "progress": progress, "set": fields}

    def _standing(self, changed: Mapping[int, Trial]) -> dict[str, Any]:
        """Return the fields that depend on which trials are the best."""
        # What was beaten once stays beaten, so only the front and what is new can be on the new front.
        candidates = [trial for number, trial in self._front.items() if number not in changed] + list(changed.values())
        best_first = front(candidates, self._goal)
        self._front = {trial.number: trial for trial in best_first}
        metrics = list(self.state["study"]["metrics"])
        for trial in changed.values():
            metrics += [name for name in map(self._names, trial.values) if name not in metrics]
        numbers = [trial.number for trial in best_first]
        return {"front": numbers, "best": numbers[0] if numbers else None, "metrics": metrics}

    def _progress(self, before: list[float | None]) -> dict[str, Any]:
        """Return the values from the first one that is not as before."""
        progress = progress_of(self._goal, [self._trials[number] for number in sorted(self._trials)])
        values = [finite(value) for value in progress.values]
        same = 0
        while same < min(len(values), len(before)) and values[same] == before[same]:
            same += 1
        return {"label": progress.label, "from": same, "values": values[same:]}


# What is left of the script of a closed widget.
NOTHING = "export default { render() {} }"


class StudyWidget(anywidget.AnyWidget):
    """The page's side of a study. `state` is read when a page opens; afterwards it learns by messages."""

    _esm = traitlets.Unicode().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    controls_id = traitlets.Unicode().tag(sync=True)
    # Whether an interrupt of the kernel ends the search: one in the background never sees it, the next cell does.
    interrupts = traitlets.Bool().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        hear_without_events(self)
        hear_without_events(self.layout)

    def keep(self, state: dict[str, Any]) -> None:
        """Hold the state for pages that open later, without sending it to those that know it."""
        self._trait_values["state"] = state


class ControlsWidget(ipywidgets.Widget):  # type: ignore[misc]
    """A comm of its own for the buttons.

    While a cell runs, a front end sends a message to the subshell that last published on its comm. ipykernel 7.4
    remembers for each comm which shell that was, and the one that opened it is the busy one; with that memory cleared
    and nothing ever published here, presses arrive on a free subshell.
    """

    def __init__(self) -> None:
        super().__init__()
        hear_without_events(self)
        if hasattr(self.comm, "_reply_subshell_id"):
            del self.comm._reply_subshell_id


def hear_without_events(widget: ipywidgets.Widget) -> None:
    """Let messages of a widget reach it without `pre_execute` and `post_execute`.

    ipykernel fires these around every message, and on the latter the inline backend shows and closes all figures of
    `pyplot`, also those that a trial in the background has open.
    """
    if widget.comm is not None:
        widget.comm.handle_msg = widget._handle_msg


# At most five redraws a second, and never more than a hundredth of the time spent on drawing. As much again goes to
# the surrogate's foresight, so that a panel costs a search a fiftieth of its time at most.
PAUSE = 0.2
SHARE = 100
# However long drawing takes, the page hears so often that the search is still there.
LONGEST = 3.0
# A page that is still loading its script misses messages; for this long each redraw therefore carries everything.
LOADING = 3.0
SMALL = 300
# The panels of the searches that this process runs and shows, by the place and the name of the study.
_SHOWING: WeakValueDictionary[tuple[str, str], LivePanel] = WeakValueDictionary()


def showing(study: StudyLike) -> LivePanel | None:
    """Return the panel that shows a search of this study that this process runs, or None."""
    return _SHOWING.get(_key(study))


def _key(study: StudyLike) -> tuple[str, str]:
    return str(getattr(study, "storage", "")), study.name


class LivePanel(TextPanel):
    """Shows a search as it runs; afterwards the finished bundle stands in the same output."""

    def __init__(
        self,
        study: StudyLike,
        output: Output,
        clock: Clock,
        baseline: Mapping[str, float] | None,
        proposer: Proposer | None,
        controls: Controls | None,
        script: str,
        histories: HistoryCache | None = None,
    ) -> None:
        super().__init__(study, output, clock, baseline, proposer)
        self._controls, self._script = controls, script
        self._run = uuid.uuid4().hex
        self._outputs = [output]
        self._foresight = Foresight(proposer, histories=histories)
        self._narrowing = narrowing_of(proposer)
        self._presses = Presses(study, controls, self._narrowing) if controls is not None else None
        self._pages: set[str] = set()
        self._lock = threading.Lock()
        self._news, self._over = threading.Event(), threading.Event()
        self._widget: StudyWidget | None = None
        self._buttons: ControlsWidget | None = None
        self._thread: threading.Thread | None = None

    def show(self) -> None:
        from nbcompress.run.history import history_of

        self._clock.start(self._study.all_trials)
        self._changes = Changes(self._study, self._run, self._baseline, self._clock.running())
        if self._controls is not None:
            if self._narrowing is not None:
                self._changes.limit(self._narrowing.now(history_of(self._study.all_trials, self._study.goal)))
                self._changes.delta(self._clock.running())
            self._buttons = ControlsWidget()
            self._buttons.on_msg(self._pressed)
            _SHOWING[_key(self._study)] = self
        self._widget = StudyWidget(
            _esm=self._script,
            state=self._changes.state,
            controls_id=self._buttons.model_id if self._buttons is not None else "",
            interrupts=threading.current_thread() is threading.main_thread(),
        )
        self._draw_in(self._output, self._widget)
        # The thread publishes under the cell's own message, which is kept in the context.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._draw,), name="nbcompress panel", daemon=True)
        self._thread.start()

    def show_again(self, output: Output) -> None:
        """Show the panel in another output as well."""
        with self._lock:
            if self._widget is not None:
                self._draw_in(output, self._widget)
                self._outputs.append(output)

    @property
    def is_open(self) -> bool:
        """Whether a page can still show the panel: its widget was not closed."""
        return self._widget is not None and self._widget.comm is not None

    def _draw_in(self, output: Output, widget: StudyWidget) -> None:
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        text = f"Study {self._names(self._study.name)} is running; the result will stand here."
        output.show({"application/vnd.jupyter.widget-view+json": view, "text/plain": text})

    def trial_started(self, trial: Trial) -> None:
        self._note(trial)
        with self._lock:
            self._show_limits()
        # On the loop's own thread, which also proposes: the surrogate never works for two at once.
        expected = self._foresight.look(self._study, self._is_wanted, trial.number)
        if not expected.is_empty:
            with self._lock:
                self._changes.expect(expected)
            self._news.set()

    def trial_ended(self, trial: Trial) -> None:
        self._clock.ended(trial)
        self._note(trial)

    def finish(self, ending: Ending | None) -> None:
        self._over.set()
        self._news.set()
        try:
            if self._thread is not None:
                self._thread.join(timeout=5)
            # From now on, a Stop that was pressed late interrupts nobody.
            with self._lock:
                self._tell(self._changes.delta(self._clock.running(), state="ended", ending=ending_text(ending)))
            bundle = self.bundle(ending)
            for output in self._outputs:
                output.show(bundle)
        finally:
            self.close()

    def _is_wanted(self) -> bool:
        return self._controls is None or not self._controls.is_stopped

    def _note(self, trial: Trial) -> None:
        with self._lock:
            self._changes.note(trial)
        self._news.set()

    def _draw(self) -> None:
        """Tell the page what is new, until the search is over."""
        begun = time.monotonic()
        while not self._over.is_set():
            # Without news the page is told the time once a second.
            self._news.wait(1.0)
            self._news.clear()
            if self._over.is_set():
                break
            start = time.monotonic()
            with self._lock:
                delta = self._changes.delta(self._clock.running())
                state = self._changes.state
                is_loading = start - begun < LOADING and len(state["study"]["trials"]) <= SMALL
                self._tell({"kind": "whole", "state": state} if is_loading else delta)
            self._over.wait(min(max(PAUSE, SHARE * (time.monotonic() - start)), LONGEST))

    def _tell(self, message: dict[str, Any]) -> None:
        """Send a message to the pages that are open, and keep the state for those that open later."""
        if self._widget is not None:
            self._widget.keep(self._changes.state)
            self._widget.send(message)

    def _pressed(self, _widget: object, content: Any, _buffers: object) -> None:
        """Hear a button, on whatever thread the kernel has free, and answer on the comm of the data."""
        presses, widget = self._presses, self._widget
        if not isinstance(content, Mapping) or content.get("run") != self._run or presses is None or widget is None:
            return
        control = content.get("control")
        if control == "hello":
            self._pages.add(str(content.get("page"))[:40])
            # Whatever was missed while the page was loading.
            widget.send({"kind": "whole", "state": self._changes.state})
        note = "" if control == "hello" else presses.heard(control, content)
        if note is None:
            return
        if control == "narrow":
            with self._lock:
                # Told before the answer, so that the next press builds on it.
                self._show_limits()
                self._tell(self._changes.delta(self._clock.running()))
        widget.send({"kind": "ack", "control": control, "run": self._run, "paused": presses.is_paused, "note": note})

    def _show_limits(self) -> None:
        """Show within what the search goes on, if anything was asked; limits that were used up have been given up."""
        if self._narrowing is not None and self._narrowing.asked is not None:
            self._changes.limit(self._narrowing.asked)

    def close(self) -> None:
        """Close the widgets. Programs that run notebooks save the last state of closed ones too, so leave little.

        A page that was loaded again no longer knows which output to replace, and there the widget is all that shows
        how the search ended: it stays while the kernel lives.
        """
        self._over.set()
        self._news.set()
        _SHOWING.pop(_key(self._study), None)
        if self._widget is not None and len(self._pages) <= 1:
            self._widget.state = {}
            self._widget._esm = NOTHING
            self._widget.layout.close()
            self._widget.close()
        if self._buttons is not None:
            self._buttons.close()
        self._widget = self._buttons = None


Kind = Literal["live", "text", "off"]


def panel(
    kind: Kind,
    study: StudyLike,
    *,
    output: Output,
    trials: int | None = None,
    seconds: float | None = None,
    baseline: Mapping[str, float] | None = None,
    proposer: Proposer | None = None,
    controls: Controls | None = None,
    histories: HistoryCache | None = None,
) -> Panel:
    """Return the panel of a search.

    Args:
        kind: `live` (a widget, where its front end was built; else as `text`), `text` (a line for each trial, then
            the bundle), or `off` (one closing line).
        study: Opened for the search.
        output: Where to draw.
        trials: How many trials were asked for.
        seconds: The search's time limit.
        baseline: Metrics of the original model.
        proposer: What proposes, for slices of its surrogate.
        controls: The search's buttons; None shows none.
        histories: Those of the search, whose fitted models are used again; None makes its own.
    """
    clock = Clock(trials, seconds)
    script = asset("panel.js")
    if kind == "off":
        return SilentPanel(study, output, clock)
    if kind == "text" or script is None:
        return TextPanel(study, output, clock, baseline, proposer)

    return LivePanel(study, output, clock, baseline, proposer, controls, script, histories)
