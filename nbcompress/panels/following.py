"""A live panel for a search that this process does not run: it reads the study again and again, and tells the page."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from nbcompress.errors import StudyError
from nbcompress.panels.live import LivePanel, showing
from nbcompress.panels.page import asset
from nbcompress.panels.text_panel import Clock, Output
from nbcompress.panels.view import Course, StudyLike, stored_course
from nbcompress.run.callbacks import Ending
from nbcompress.study.goal import State, Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer

# Another process is asked for news so often; reading what is new costs milliseconds.
PAUSE = 1.0
# Between two trials none runs, while the next point is thought of; after so many seconds of that nobody is searching.
QUIET = 15.0
# So long a study that lacks trials is looked at for one that runs.
PATIENCE = 1.5
NOTE = "This search runs in another process, and its buttons are there; this view follows it."


class Followed(StudyLike, Protocol):
    """A study that can be read again."""

    @property
    def storage(self) -> str: ...

    def refresh(self) -> None: ...


@dataclass
class Elsewhere(Clock):
    """The clock of a search that began nobody knows when."""

    def running(self) -> Course:
        return replace(super().running(), elapsed=None, ending=NOTE)

    def over(self, ending: str | None) -> Course:
        return Course(False, ending, self.trials, self.seconds)


class FollowingOutput(Output, Protocol):
    """An output that a thread can be bound to."""

    def follow(self) -> None:
        """Send what this thread shows to the cell that the output belongs to."""


# The latest follower of each study in this process.
_LATEST: dict[tuple[str, str], Following] = {}


def follow(
    study: Followed,
    output: FollowingOutput,
    baseline: Mapping[str, float] | None,
    proposer: Callable[[], Proposer | None],
) -> Following | None:
    """Show a study that is being searched in a live panel; return None if nobody searches it.

    A search of this very process shows its own panel once more, with its buttons.

    Args:
        study: Opened for reading.
        output: Where to draw: of a front end that shows widgets.
        baseline: Metrics of the original model.
        proposer: Makes what the search proposes with, for what its surrogate expects.
    """
    own = showing(study)
    script = asset("panel.js")
    if own is None and (script is None or not _is_searched(study)):
        return None
    following = Following(study, output)
    if own is not None:
        own.show_again(output)
        return following
    assert script is not None
    clock = Elsewhere(stored_course(study.record, study.all_trials).trials)
    following.start(LivePanel(study, output, clock, baseline, proposer(), None, script))
    return following


def _is_searched(study: Followed) -> bool:
    """Say whether a trial runs; a study that lacks trials may just be between two of them."""
    end = time.monotonic() + PATIENCE
    while not any(trial.state is State.RUNNING for trial in study.all_trials):
        if time.monotonic() > end or not _lacks_trials(study):
            return False
        time.sleep(PATIENCE / 10)
        study.refresh()
    return True


def _lacks_trials(study: Followed) -> bool:
    budget = study.record.get("budget")
    wanted = budget.get("trials") if isinstance(budget, Mapping) else None
    return isinstance(wanted, int) and sum(trial.state.counts for trial in study.all_trials) < wanted


class Following:
    """Tells a panel what another process does, from a thread of its own, until the search or the widget ends."""

    def __init__(self, study: Followed, output: FollowingOutput, now: Callable[[], float] = time.monotonic) -> None:
        self._study, self._output, self._now = study, output, now
        self._left = threading.Event()
        self.thread: threading.Thread | None = None

    def start(self, panel: LivePanel) -> None:
        """Show the panel and begin; an earlier follower of the same study in this process gives way."""
        # What ended while the view was made counts as there before: the estimate of what is left begins here.
        self._study.refresh()
        key = (self._study.storage, self._study.name)
        earlier = _LATEST.get(key)
        if earlier is not None:
            earlier.leave()
        _LATEST[key] = self
        panel.show()
        # What the thread shows belongs to the cell that began it; that is kept in the context.
        context = contextvars.copy_context()
        self.thread = threading.Thread(
            target=context.run, args=(self._run, panel), name=f"following {self._study.name}", daemon=True
        )
        self.thread.start()

    def leave(self) -> None:
        """Follow no longer; the panel stays as it is."""
        self._left.set()

    def _run(self, panel: LivePanel) -> None:
        self._output.follow()
        try:
            ending = self._watch(panel)
        except StudyError as error:
            # Deleted or damaged meanwhile. What was read of it stays on the page.
            ending = Ending("broken", f"This view cannot follow the study any longer: {error}")
        if ending is None:
            panel.close()
        else:
            panel.finish(ending)

    def _watch(self, panel: LivePanel) -> Ending | None:
        """Tell the panel what is new until the search ends, and return how it did; None if nobody watches any more."""
        known = {trial.number: trial for trial in self._study.all_trials}
        ending, seen = self._ending(), self._now()
        while not self._left.wait(PAUSE) and panel.is_open:
            self._study.refresh()
            trials = self._study.all_trials
            self._tell(panel, known, trials)
            if any(trial.state is State.RUNNING for trial in trials):
                seen = self._now()
            elif self._ending() != ending or self._now() - seen > QUIET:
                text = stored_course(self._study.record, trials).ending
                return Ending("elsewhere", text or "The process that searched is gone.")
        return None

    def _ending(self) -> Any:
        return self._study.record.get("ending")

    def _tell(self, panel: LivePanel, known: dict[int, Trial], trials: Sequence[Trial]) -> None:
        """Tell what is new: the trials that ended first, as the search itself does."""
        fresh = [trial for trial in trials if known.get(trial.number) != trial]
        for trial in sorted(fresh, key=lambda one: one.state is State.RUNNING):
            known[trial.number] = trial
            if trial.state is State.RUNNING:
                panel.trial_started(trial)
            else:
                panel.trial_ended(trial)
