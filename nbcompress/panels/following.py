"""A live panel for a search that another process runs.

A thread reads the study again and again and sends what is new to the panel.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from nbcompress.errors import StudyError
from nbcompress.panels.live import LivePanel, live_panel_of
from nbcompress.panels.page import asset
from nbcompress.panels.text_panel import OutputArea, SearchClock
from nbcompress.panels.view import SearchStatus, StudyLike, stored_status
from nbcompress.run.callbacks import Ending
from nbcompress.study.goal import State, Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer

# Seconds between two reads of the study; a read of what is new takes milliseconds.
POLL_INTERVAL = 1.0
# No trial runs between two trials, while the next point is computed. After this many seconds without a running trial
# the search counts as ended.
IDLE_SECONDS = 15.0
# A study that lacks trials is read for this many seconds to see whether one starts.
START_TIMEOUT = 1.5
FOLLOWING_NOTE = "This search runs in another process, which has its buttons; this view follows it."


class ReadableStudy(StudyLike, Protocol):
    """A study that can be read again."""

    @property
    def storage(self) -> str: ...

    def refresh(self) -> None: ...


@dataclass
class FollowedClock(SearchClock):
    """The clock of a search whose start time is not known."""

    def running(self) -> SearchStatus:
        return replace(super().running(), elapsed=None, ending=FOLLOWING_NOTE)

    def ended(self, ending: str | None) -> SearchStatus:
        return SearchStatus(False, ending, self.trials, self.seconds)


class ThreadOutputArea(OutputArea, Protocol):
    """An output area that a thread can be bound to."""

    def follow(self) -> None:
        """Send what this thread shows to the cell that the output belongs to."""


# The latest follower of each study in this process, by storage and name.
_FOLLOWERS: dict[tuple[str, str], StudyFollower] = {}


def follow(
    study: ReadableStudy,
    output: ThreadOutputArea,
    baseline: Mapping[str, float] | None,
    proposer: Callable[[], Proposer | None],
) -> StudyFollower | None:
    """Show a study that is being searched in a live panel.

    If this process runs the search, its own panel, which has buttons, is shown a second time.

    Args:
        study: Opened for reading.
        output: Where to show the panel, in a front end that shows widgets.
        baseline: Metrics of the original model.
        proposer: Makes the proposer of the search, whose surrogate is shown.

    Returns:
        The follower, or None if no process searches the study.
    """
    running_panel = live_panel_of(study)
    script = asset("panel.js")
    if running_panel is None and (script is None or not _is_searched(study)):
        return None
    follower = StudyFollower(study, output)
    if running_panel is not None:
        running_panel.show_again(output)
        return follower
    assert script is not None
    clock = FollowedClock(stored_status(study.record, study.all_trials).trials)
    follower.start(LivePanel(study, output, clock, baseline, proposer(), None, script))
    return follower


def _is_searched(study: ReadableStudy) -> bool:
    """Return whether a trial runs. A study that lacks trials may be between two of them, so it is read for a while."""
    end = time.monotonic() + START_TIMEOUT
    while not any(trial.state is State.RUNNING for trial in study.all_trials):
        if time.monotonic() > end or not _lacks_trials(study):
            return False
        time.sleep(START_TIMEOUT / 10)
        study.refresh()
    return True


def _lacks_trials(study: ReadableStudy) -> bool:
    budget = study.record.get("budget")
    wanted = budget.get("trials") if isinstance(budget, Mapping) else None
    return isinstance(wanted, int) and sum(trial.state.counts for trial in study.all_trials) < wanted


class StudyFollower:
    """Updates a panel from a thread of its own, until the search ends or the widget is closed."""

    def __init__(
        self, study: ReadableStudy, output: ThreadOutputArea, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._study, self._output, self._now = study, output, now
        self._is_stopped = threading.Event()
        self.thread: threading.Thread | None = None

    def start(self, panel: LivePanel) -> None:
        """Show the panel and start; an earlier follower of the same study in this process is stopped."""
        # Trials that ended while the panel was made must not count for the estimate of the time left.
        self._study.refresh()
        key = (self._study.storage, self._study.name)
        earlier = _FOLLOWERS.get(key)
        if earlier is not None:
            earlier.stop()
        _FOLLOWERS[key] = self
        panel.show()
        # What the thread shows belongs to the cell that started it; ipykernel keeps that cell in the context.
        context = contextvars.copy_context()
        self.thread = threading.Thread(
            target=context.run, args=(self._run, panel), name=f"following {self._study.name}", daemon=True
        )
        self.thread.start()

    def stop(self) -> None:
        """Stop following; the panel stays as it is."""
        self._is_stopped.set()

    def _run(self, panel: LivePanel) -> None:
        self._output.follow()
        try:
            ending = self._poll(panel)
        except StudyError as error:
            # The study was deleted or damaged. The trials that were read stay on the page.
            ending = Ending("broken", f"This view cannot follow the study any longer: {error}")
        if ending is None:
            panel.close()
        else:
            panel.finish(ending)

    def _poll(self, panel: LivePanel) -> Ending | None:
        """Update the panel until the search ends; return how it ended, or None if the panel is not shown any more."""
        known = {trial.number: trial for trial in self._study.all_trials}
        ending, last_running = self._ending(), self._now()
        while not self._is_stopped.wait(POLL_INTERVAL) and panel.is_open:
            self._study.refresh()
            trials = self._study.all_trials
            self._send_changes(panel, known, trials)
            if any(trial.state is State.RUNNING for trial in trials):
                last_running = self._now()
            elif self._ending() != ending or self._now() - last_running > IDLE_SECONDS:
                text = stored_status(self._study.record, trials).ending
                return Ending("elsewhere", text or "The process that ran the search has ended.")
        return None

    def _ending(self) -> Any:
        return self._study.record.get("ending")

    def _send_changes(self, panel: LivePanel, known: dict[int, Trial], trials: Sequence[Trial]) -> None:
        """Send the trials that changed: first those that ended, as the search itself does."""
        changed = [trial for trial in trials if known.get(trial.number) != trial]
        for trial in sorted(changed, key=lambda trial: trial.state is State.RUNNING):
            known[trial.number] = trial
            if trial.state is State.RUNNING:
                panel.trial_started(trial)
            else:
                panel.trial_ended(trial)
