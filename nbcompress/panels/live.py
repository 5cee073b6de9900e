"""The live panel: a widget that is updated while the search runs, and buttons that reach Python meanwhile.

- `DeltaBuilder` holds the data as the page has it and builds the message that brings the page up to date.
- `StudyWidget` carries the data to the page; `ControlsWidget` receives the buttons.
- `LivePanel` joins them, and `make_panel` returns the panel of a search: live, text or silent.
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

from nbcompress.panels.messages import NARROW, CommandHandler, narrowing_of
from nbcompress.panels.page import asset
from nbcompress.panels.surrogate_data import SurrogateInsight, insight_data
from nbcompress.panels.surrogate_refresh import SurrogateRefresh
from nbcompress.panels.text import LIVE_LIMITS, finite, scalar, shorten
from nbcompress.panels.text_panel import (
    OutputArea,
    Panel,
    SearchClock,
    SilentPanel,
    TextPanel,
    ending_text,
    warnings_of,
)
from nbcompress.panels.view import (
    SearchStatus,
    ShortNames,
    StudyLike,
    count_trials,
    cut_sentence,
    is_evaluable,
    kept_data,
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


class DeltaBuilder:
    """Holds a study's data as the page has it, and builds the messages that update it. Not thread-safe.

    Attributes:
        state: What a page that opens now starts from. It is replaced, never changed in place, so another thread may
            send it at any time.
    """

    def __init__(self, study: StudyLike, run: str, baseline: Mapping[str, float] | None, status: SearchStatus) -> None:
        self._study, self._goal, self._space = study, study.goal, study.space
        self._insight_warning = ""
        self._names = ShortNames(LIVE_LIMITS.name)
        self._trials = {trial.number: trial for trial in study.all_trials}
        self._front = {trial.number: trial for trial in study.front}
        self._changed: dict[int, Trial] = {}
        self._new_fields: dict[str, Any] = {}
        view = study_view(study, baseline=baseline, status=status, names=self._names)
        self.state: dict[str, Any] = {"seq": 0, "run": run, "study": view}

    def add_trial(self, trial: Trial) -> None:
        """Add a trial that started or ended."""
        self._changed[trial.number] = trial

    def set_limits(self, limits: Mapping[str, Sequence[Any]]) -> None:
        """Set the limits within which the search goes on."""
        shown = {
            self._names(key): [scalar(value, LIVE_LIMITS.value) for value in values] for key, values in limits.items()
        }
        self._new_fields["narrowed"] = shown

    def set_insight(self, insight: SurrogateInsight) -> None:
        """Set what the surrogate predicts. Fields that are empty stay as they are."""
        surrogate, study = insight.surrogate, self.state["study"]
        self._insight_warning = insight.warning or ""
        shown = self._trials.keys() | self._changed.keys()
        if surrogate is not None and not is_evaluable(surrogate, self._space, study["parameters"], shown):
            insight = replace(insight, surrogate=None)
        data = insight_data(insight, self._names, LIVE_LIMITS)
        self._new_fields |= {key: item for key, item in data.items() if item}

    def delta(self, status: SearchStatus, **more: Any) -> dict[str, Any]:
        """Return the message that brings the page up to date, and apply it to `state`.

        Args:
            status: Status of the search.
            more: Other fields of the view that changed, such as `ending`.
        """
        changed, self._changed = self._changed, {}
        new_fields, self._new_fields = self._new_fields, {}
        self._trials.update(changed)
        view = self.state["study"]
        rows = {number: trial_data(trial, self._names, LIVE_LIMITS) for number, trial in changed.items()}
        fields: dict[str, Any] = {"elapsed": finite(status.elapsed), "left": finite(status.left), **new_fields, **more}
        warnings = [*warnings_of(self._study, None), *filter(None, [self._insight_warning])]
        fields["warnings"] = [shorten(text, LIVE_LIMITS.message) for text in dict.fromkeys(warnings)]
        known = {trial["number"]: trial for trial in view["trials"]} | rows
        if changed:
            fields["counts"] = count_trials(self._trials.values())
            fields["cut"] = cut_sentence(len(known), len(self._trials))
        progress = None
        if any(trial.state is not State.RUNNING for trial in changed.values()):
            fields |= self._front_fields(changed)
            progress = self._progress(view["progress"]["values"])
        fields = {key: value for key, value in fields.items() if view.get(key) != value}
        after = {**view, **fields, "trials": [known[number] for number in sorted(known)]}
        if progress is not None:
            head = {key: value for key, value in progress.items() if key != "from"}
            same = view["progress"]["values"][: progress["from"]]
            after["progress"] = {**head, "values": same + progress["values"]}
        seq = self.state["seq"] + 1
        self.state = {**self.state, "seq": seq, "study": after}
        return {"kind": "delta", "seq": seq, "trials": list(rows.values()), "progress": progress, "set": fields}

    def _front_fields(self, changed: Mapping[int, Trial]) -> dict[str, Any]:
        """Return the fields that depend on which trials are the best."""
        # A trial that is dominated stays dominated, so only the front and changed trials can be on the new front.
        candidates = [trial for number, trial in self._front.items() if number not in changed] + list(changed.values())
        best_first = front(candidates, self._goal)
        self._front = {trial.number: trial for trial in best_first}
        metrics = list(self.state["study"]["metrics"])
        for trial in changed.values():
            metrics += [name for name in map(self._names, trial.values) if name not in metrics]
        numbers = [trial.number for trial in best_first]
        # A trial that leaves the front loses what it keeps, unless a person asked for it.
        known = {int(number) for number in self.state["study"]["kept"]}
        kept = kept_data((self._trials[number] for number in sorted(known | set(numbers))), LIVE_LIMITS)
        return {"front": numbers, "best": numbers[0] if numbers else None, "metrics": metrics, "kept": kept}

    def _progress(self, before: list[float | None]) -> dict[str, Any]:
        """Return the values from the first one that changed."""
        progress = progress_of(self._goal, [self._trials[number] for number in sorted(self._trials)])
        values = [finite(value) for value in progress.values]
        n_same = 0
        while n_same < min(len(values), len(before)) and values[n_same] == before[n_same]:
            n_same += 1
        return {**progress.head(self._names, LIVE_LIMITS), "from": n_same, "values": values[n_same:]}


# The script of a closed widget.
EMPTY_SCRIPT = "export default { render() {} }"


class StudyWidget(anywidget.AnyWidget):
    """Carries a study to the page. A page reads `state` when it opens, and messages afterwards."""

    _esm = traitlets.Unicode().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    controls_id = traitlets.Unicode().tag(sync=True)
    # Whether an interrupt of the kernel ends the search. A search in the background never receives it, the next cell
    # does.
    interrupts = traitlets.Bool().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        handle_messages_without_events(self)
        handle_messages_without_events(self.layout)

    def set_silently(self, state: dict[str, Any]) -> None:
        """Set the state for pages that open later, without sending it to those that are open."""
        self._trait_values["state"] = state


class ControlsWidget(ipywidgets.Widget):  # type: ignore[misc]
    """Receives the buttons, on a comm of its own.

    While a cell runs, a front end sends a message to the subshell that last published on its comm. ipykernel 7.4
    remembers for each comm which shell that was, and the shell that opened the comm is busy. That memory is cleared,
    and nothing is ever published on this comm, so messages arrive on a free subshell.
    """

    def __init__(self) -> None:
        super().__init__()
        handle_messages_without_events(self)
        if hasattr(self.comm, "_reply_subshell_id"):
            del self.comm._reply_subshell_id


def handle_messages_without_events(widget: ipywidgets.Widget) -> None:
    """Handle messages of a widget without the events `pre_execute` and `post_execute`.

    ipykernel triggers these around every message. On the latter the inline backend shows and closes all figures of
    `pyplot`, also those that a trial in the background has open.
    """
    if widget.comm is not None:
        widget.comm.handle_msg = widget._handle_msg


# Seconds between two updates of the page, at least. After an update that took t seconds, the next one waits for
# `IDLE_RATIO` times t, but for `MAX_INTERVAL` at most, so that the page sees that the search still runs. With the
# refresh of the surrogate, a panel takes 2 % of the time of a search at most.
MIN_INTERVAL = 0.2
IDLE_RATIO = 100
MAX_INTERVAL = 3.0
# A page misses messages while it loads its script. For this many seconds every update carries the whole study, if it
# has no more trials than this.
LOADING_SECONDS = 3.0
MAX_TRIALS_WHILE_LOADING = 300
# The panels of the searches that this process runs, by storage and name of the study.
_LIVE_PANELS: WeakValueDictionary[tuple[str, str], LivePanel] = WeakValueDictionary()


def live_panel_of(study: StudyLike) -> LivePanel | None:
    """Return the panel of the search of this study if this process runs it, else None."""
    return _LIVE_PANELS.get(_key(study))


def _key(study: StudyLike) -> tuple[str, str]:
    return str(getattr(study, "storage", "")), study.name


class LivePanel(TextPanel):
    """Shows a search while it runs, and replaces the widget by the finished bundle at the end.

    Args:
        study: Opened for the search.
        output: Where to show the panel.
        clock: The clock of the search.
        baseline: Metrics of the original model.
        proposer: The proposer, whose surrogate is shown.
        controls: Stop, Pause and Skip of the search; None shows no buttons.
        histories: The histories of the search, whose fitted models are used again; None makes its own.
        script: The built front end.
    """

    def __init__(
        self,
        study: StudyLike,
        output: OutputArea,
        clock: SearchClock,
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
        self._surrogate_refresh = SurrogateRefresh(proposer, histories=histories)
        self._narrowing = narrowing_of(proposer)
        self._commands = CommandHandler(study, controls, self._narrowing) if controls is not None else None
        # Identifiers of the pages that show the panel.
        self._pages: set[str] = set()
        # Guards `_deltas` and the order of messages.
        self._lock = threading.Lock()
        self._has_news, self._is_over = threading.Event(), threading.Event()
        self._widget: StudyWidget | None = None
        self._controls_widget: ControlsWidget | None = None
        self._thread: threading.Thread | None = None

    def show(self) -> None:
        from nbcompress.run.history import history_of

        self._clock.start(self._study.all_trials)
        self._deltas = DeltaBuilder(self._study, self._run, self._baseline, self._clock.running())
        if self._controls is not None:
            if self._narrowing is not None:
                self._deltas.set_limits(self._narrowing.current(history_of(self._study.all_trials, self._study.goal)))
                self._deltas.delta(self._clock.running())
            self._controls_widget = ControlsWidget()
            self._controls_widget.on_msg(self._on_message)
            _LIVE_PANELS[_key(self._study)] = self
        self._widget = StudyWidget(
            _esm=self._script,
            state=self._deltas.state,
            controls_id=self._controls_widget.model_id if self._controls_widget is not None else "",
            interrupts=threading.current_thread() is threading.main_thread(),
        )
        self._show_in(self._output, self._widget)
        # The thread publishes under the message of the cell, which ipykernel keeps in the context.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._send_updates,), name="nbcompress panel", daemon=True
        )
        self._thread.start()

    def show_again(self, output: OutputArea) -> None:
        """Show the panel in another output as well."""
        with self._lock:
            if self._widget is not None:
                self._show_in(output, self._widget)
                self._outputs.append(output)

    @property
    def is_open(self) -> bool:
        """Whether a page can still show the panel: its widget is not closed."""
        return self._widget is not None and self._widget.comm is not None

    def _show_in(self, output: OutputArea, widget: StudyWidget) -> None:
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        text = f"Study {self._names(self._study.name)} is running; the result will be shown here."
        output.show({"application/vnd.jupyter.widget-view+json": view, "text/plain": text})

    def trial_started(self, trial: Trial) -> None:
        self._add_trial(trial)
        with self._lock:
            self._update_limits()
        # This is the thread that proposes, so the surrogate is never used by two threads at once.
        insight = self._surrogate_refresh.refresh(self._study, self._should_continue, trial.number)
        if not insight.is_empty:
            with self._lock:
                self._deltas.set_insight(insight)
            self._has_news.set()

    def trial_ended(self, trial: Trial) -> None:
        self._clock.count(trial)
        self._add_trial(trial)

    def finish(self, ending: Ending | None) -> None:
        self._clock.stop()
        self._is_over.set()
        self._has_news.set()
        try:
            if self._thread is not None:
                self._thread.join(timeout=5)
            # After this message a page does not interrupt the kernel any more, so a late Stop hits no other cell.
            with self._lock:
                self._send(self._deltas.delta(self._clock.running(), state="ended", ending=ending_text(ending)))
            bundle = self.bundle(ending)
            for output in self._outputs:
                output.show(bundle)
        finally:
            self.close()

    def _should_continue(self) -> bool:
        return self._controls is None or not self._controls.is_stopped

    def _add_trial(self, trial: Trial) -> None:
        with self._lock:
            self._deltas.add_trial(trial)
        self._has_news.set()

    def _send_updates(self) -> None:
        """Send what is new to the page until the search is over."""
        begun = time.monotonic()
        while not self._is_over.is_set():
            # Without news the time is sent once a second.
            self._has_news.wait(1.0)
            self._has_news.clear()
            if self._is_over.is_set():
                break
            start = time.monotonic()
            with self._lock:
                delta = self._deltas.delta(self._clock.running())
                state = self._deltas.state
                is_small = len(state["study"]["trials"]) <= MAX_TRIALS_WHILE_LOADING
                is_loading = start - begun < LOADING_SECONDS and is_small
                self._send({"kind": "whole", "state": state} if is_loading else delta)
            self._is_over.wait(min(max(MIN_INTERVAL, IDLE_RATIO * (time.monotonic() - start)), MAX_INTERVAL))

    def _send(self, message: dict[str, Any]) -> None:
        """Send a message to the pages that are open, and set the state for those that open later."""
        if self._widget is not None:
            self._widget.set_silently(self._deltas.state)
            self._widget.send(message)

    def _on_message(self, _widget: object, content: Any, _buffers: object) -> None:
        """Handle a button on whatever thread the kernel has free, and answer on the comm of the data."""
        commands, widget = self._commands, self._widget
        if not isinstance(content, Mapping) or content.get("run") != self._run or commands is None or widget is None:
            return
        control = content.get("control")
        if control == "hello":
            self._pages.add(str(content.get("page"))[:40])
            # The page may have missed messages while it was loading.
            widget.send({"kind": "whole", "state": self._deltas.state})
        note = "" if control == "hello" else commands.handle(control, content)
        if note is None:
            return
        if control == NARROW:
            with self._lock:
                # Sent before the answer, because the page builds its next limits on these.
                self._update_limits()
                self._send(self._deltas.delta(self._clock.running()))
        widget.send({"kind": "ack", "control": control, "run": self._run, "paused": commands.is_paused, "note": note})

    def _update_limits(self) -> None:
        """Show the limits that the user asked for; the proposer gives up limits in which every point was tried."""
        if self._narrowing is not None and self._narrowing.requested is not None:
            self._deltas.set_limits(self._narrowing.requested)

    def close(self) -> None:
        """Close the widgets and leave little in them: programs that run notebooks save the state of closed ones, too.

        A page that was reloaded does not know which output to replace, so the widget is all that shows there how the
        search ended. In that case it stays open while the kernel lives.
        """
        self._is_over.set()
        self._has_news.set()
        _LIVE_PANELS.pop(_key(self._study), None)
        if self._widget is not None and len(self._pages) <= 1:
            self._widget.state = {}
            self._widget._esm = EMPTY_SCRIPT
            self._widget.layout.close()
            self._widget.close()
        if self._controls_widget is not None:
            self._controls_widget.close()
        self._widget = self._controls_widget = None


PanelKind = Literal["live", "text", "off"]


def make_panel(
    kind: PanelKind,
    study: StudyLike,
    *,
    output: OutputArea,
    trials: int | None = None,
    seconds: float | None = None,
    baseline: Mapping[str, float] | None = None,
    proposer: Proposer | None = None,
    controls: Controls | None = None,
    histories: HistoryCache | None = None,
) -> Panel:
    """Return the panel of a search.

    Args:
        kind: `live` (a widget, if its front end was built, else as `text`), `text` (a line for each trial, then the
            bundle), or `off` (one line at the end).
        study: Opened for the search.
        output: Where to show the panel.
        trials: How many trials were asked for.
        seconds: The time limit of the search.
        baseline: Metrics of the original model.
        proposer: The proposer, whose surrogate is shown.
        controls: Stop, Pause and Skip of the search; None shows no buttons.
        histories: The histories of the search, whose fitted models are used again; None makes its own.
    """
    clock = SearchClock(trials, seconds)
    if controls is not None:
        clock.paused = lambda: controls.paused_seconds
    script = asset("panel.js")
    if kind == "off":
        return SilentPanel(study, output, clock)
    if kind == "text" or script is None:
        return TextPanel(study, output, clock, baseline, proposer)
    return LivePanel(study, output, clock, baseline, proposer, controls, script, histories)
