"""The live panel: a widget that is told what changed, and buttons that reach Python while a cell runs."""

from __future__ import annotations

import contextvars
import threading
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import anywidget
import ipywidgets
import traitlets

from nbcompress.errors import NbcompressError
from nbcompress.panels.asked import asked_limits, asked_point
from nbcompress.panels.changes import Changes
from nbcompress.panels.clock import Clock
from nbcompress.panels.foresight import Foresight
from nbcompress.panels.lines import Output, TextPanel, ending_text
from nbcompress.panels.view import StudyLike
from nbcompress.study.trial import Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.optimize.narrowing import Narrowing
    from nbcompress.run.controls import Controls
    from nbcompress.run.observers import Ending

# At most five redraws a second, and never more than a hundredth of the time spent on drawing. As much again goes to
# the surrogate's foresight, so that a panel costs a search a fiftieth of its time at most.
PAUSE = 0.2
SHARE = 100
# A page that is still loading its script misses messages; for this long each redraw therefore carries everything.
LOADING = 3.0
SMALL = 300
QUEUED = "Queued: it runs after the trials that run now."
NARROWED = "From the next proposal on."
NOTHING = "export default { render() {} }"


def narrowing_of(proposer: Proposer | None) -> Narrowing | None:
    """Return what narrows a proposer, or None where it cannot be narrowed."""
    from nbcompress.optimize.proposers.gp import GaussianProcessProposer

    return proposer.narrowing if isinstance(proposer, GaussianProcessProposer) else None


@runtime_checkable
class Queueing(Protocol):
    """A study that takes points to run next, from any thread."""

    def queue(self, point: Mapping[str, Any]) -> bool:
        """Store a point; say whether it is new."""
        ...


class StudyWidget(anywidget.AnyWidget):
    """The page's side of a study. `state` is read when a page opens; afterwards it learns by messages."""

    _esm = traitlets.Unicode().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    controls_id = traitlets.Unicode().tag(sync=True)

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
        if hasattr(self.comm, "_reply_subshell_id"):
            del self.comm._reply_subshell_id


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
        if self._narrowing is not None and self._narrowing.asked is not None:
            # Limits that were used up have been given up.
            with self._lock:
                self._changes.limit(self._narrowing.asked)
        # On the loop's own thread, which also proposes: the surrogate never works for two at once.
        expected = self._foresight.look(self._study, self._is_wanted, trial.number)
        if expected:
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
            self._over.wait(max(PAUSE, SHARE * (time.monotonic() - start)))

    def _tell(self, message: dict[str, Any]) -> None:
        """Send a message to the pages that are open, and keep the state for those that open later."""
        if self._widget is not None:
            self._widget.keep(self._changes.state)
            self._widget.send(message)

    def _pressed(self, _widget: object, content: Any, _buffers: object) -> None:
        """Hear a button, on whatever thread the kernel has free, and answer on the comm of the data."""
        controls, widget = self._controls, self._widget
        if not isinstance(content, Mapping) or content.get("run") != self._run or controls is None or widget is None:
            return
        control, note = content.get("control"), ""
        if control == "stop":
            controls.stop()
        elif control == "pause":
            controls.pause()
        elif control == "resume":
            controls.resume()
        elif control == "skip":
            controls.skip()
        elif control == "next":
            note = self._queue(content.get("values"))
        elif control == "narrow":
            note = self._narrow(content.get("limits"))
        elif control == "hello":
            self._pages.add(str(content.get("page"))[:40])
            # Whatever was missed while the page was loading.
            widget.send({"kind": "whole", "state": self._changes.state})
        else:
            return
        widget.send({"kind": "ack", "control": control, "run": self._run, "paused": controls.is_paused, "note": note})

    def _queue(self, values: Any) -> str:
        """Let the search run a point next, and say in a sentence what becomes of it."""
        if not isinstance(self._study, Queueing):
            return "This search takes no points."
        try:
            is_new = self._study.queue(asked_point(values, self._study.space))
        except NbcompressError as error:
            return f"Not queued: {error}"
        return QUEUED if is_new else "Not queued: this point waits already, or was run before."

    def _narrow(self, limits: Any) -> str:
        """Search within limits from the next proposal on, and say so in a sentence."""
        if self._narrowing is None:
            return "Only the sampler gp can be narrowed."
        try:
            self._narrowing.ask(asked_limits(limits, self._study.space))
        except NbcompressError as error:
            return f"Not narrowed: {error}"
        with self._lock:
            # Told before the answer, so that the next press builds on it.
            self._changes.limit(self._narrowing.asked or {})
            self._tell(self._changes.delta(self._clock.running()))
        return NARROWED

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
