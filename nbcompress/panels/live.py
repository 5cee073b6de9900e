"""The live panel: a widget that is told what changed, and buttons that reach Python while a cell runs."""

from __future__ import annotations

import contextvars
import threading
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from nbcompress.panels.changes import Changes
from nbcompress.panels.clock import Clock
from nbcompress.panels.foresight import Foresight
from nbcompress.panels.lines import Output, TextPanel, ending_text
from nbcompress.panels.presses import Presses, narrowing_of
from nbcompress.panels.view import StudyLike
from nbcompress.panels.widgets import NOTHING, ControlsWidget, StudyWidget
from nbcompress.study.trial import Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.run.controls import Controls
    from nbcompress.run.observers import Ending

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
    ) -> None:
        super().__init__(study, output, clock, baseline, proposer)
        self._controls, self._script = controls, script
        self._run = uuid.uuid4().hex
        self._outputs = [output]
        self._foresight = Foresight(proposer)
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
