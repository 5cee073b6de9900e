"""The search loop: ask for a point, run it, record how it ended, and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nbcompress.errors import SearchFailed, SpaceExhausted, StudyError, TrialConflict
from nbcompress.run.callbacks import Command, Controls, Ending, EndKind, Observer, Observers
from nbcompress.run.capture import trial_seed
from nbcompress.run.early_stopping import PruningRules, unused_pruner_warning
from nbcompress.run.engines.base import Engine, EngineError
from nbcompress.run.held_out import HeldOutTest
from nbcompress.run.history import (
    N_ALIKE,
    HistoryCache,
    all_failed,
    failed_in_another_body,
    one_line,
    same_failure,
    without_numbers,
)
from nbcompress.run.kept import ArtifactWriter, best_kept, where_kept
from nbcompress.run.options import GainBelow, NoGain, SearchOptions, described, noise_names
from nbcompress.run.outcome import Assignment, Evaluate, Outcome, mean_outcome
from nbcompress.run.record import note
from nbcompress.run.reevaluation import REPEAT_OF, is_reevaluation, n_reevaluations, reevaluation_of
from nbcompress.run.termination import Interrupts, Termination
from nbcompress.run.trial import current_terminator
from nbcompress.study.goal import State, Trial
from nbcompress.study.snapshot import Snapshot, changed_paths

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.space import Point
    from nbcompress.study import Study


# Texts that trials leave for the user: so many different ones are shown, and so many numbers of trials with each.
MAX_TRIAL_REMARKS, MAX_NUMBERS = 20, 5


def trials_text(numbers: Sequence[int]) -> str:
    """Return `trial 3`, `trials 3, 4 and 7`, or `trials 3, 4, 7, 8, 9 and 12 more`."""
    shown = [str(number) for number in numbers[:MAX_NUMBERS]]
    if len(numbers) > MAX_NUMBERS:
        shown.append(f"{len(numbers) - MAX_NUMBERS} more")
    *first, last = shown
    return f"trials {', '.join(first)} and {last}" if first else f"trial {last}"


# The loop checks limits and interrupts at least this often.
_POLL_SECONDS = 0.1
# It reads the study this often while it waits for a sign of life of another machine.
_REFRESH_SECONDS = 1.0
# A search that ends in one of these ways has come to its end.
_WHOLE = ("done", "until", "exhausted")
TAKEN_OVER = (
    "Trial {number} was taken over by another process, which heard no sign of life of this one for too long; "
    "its result here is not recorded."
)


@dataclass
class _Running:
    """A trial of this loop that has begun and not ended."""

    trial: Trial
    outcomes: list[Outcome] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _NextPoint:
    """What to run next, and under which number (None for a new one)."""

    point: Point
    number: int | None = None
    note: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Search:
    """A search that can start.

    Attributes:
        study: Opened: begun anew or continued.
        proposer: Proposes points.
        evaluate: Runs a trial.
        engine: Where trials run.
        options: All options; start points are checked.
        take_snapshot: Returns the values that the search reads, as they are now; None if the study is not stored.
        test: Measures the models of the front at the end, or None.
        histories: Makes what the proposer learns from; a panel that gets it uses the same fitted models.
        variable: What the study is called in the notebook.
        notebook_names: The names of the notebook's variables at the start.
    """

    study: Study
    proposer: Proposer
    evaluate: Evaluate
    engine: Engine
    options: SearchOptions = field(default_factory=SearchOptions)
    take_snapshot: Callable[[], Snapshot] | None = None
    test: HeldOutTest | None = None
    histories: HistoryCache = field(default_factory=HistoryCache)
    variable: str = "study"
    notebook_names: frozenset[str] = frozenset()

    def run(self, observers: Sequence[Observer] = (), controls: Controls | None = None) -> Ending:
        """Run trials until the study has as many as wanted, or something else ends the search.

        Interrupted trials come first, under their own numbers; then trials that failed in a body that has been changed
        since; then the start points that the study has not run; then points that were queued; then what the proposer
        proposes. Whatever ends a trial is recorded before anything else happens. Stop and the first interrupt abandon
        what runs (*interrupted*) and return.

        Args:
            observers: Told what happens, such as a panel.
            controls: Stop, Pause and Skip.

        Raises:
            StudyError: Another search of the study runs in this process.
            SearchFailed: The storage failed. The error has the study with all results.
            KeyboardInterrupt: The second interrupt.
        """
        return SearchLoop(self, observers, controls).run()


class SearchLoop:
    """One run of a search; see `Search.run`."""

    def __init__(self, search: Search, observers: Sequence[Observer] = (), controls: Controls | None = None) -> None:
        self._search, self._options = search, search.options
        self._study, self._proposer, self._engine = search.study, search.proposer, search.engine
        self._writer = ArtifactWriter(search.study, search.options.keep)
        self._observers, self._controls = Observers(observers), controls or Controls()
        self._running: dict[int, _Running] = {}
        self._refreshed = time.monotonic()
        self._reevaluation = reevaluation_of(search.study) if search.options.finalists else None
        self._timeout = search.options.timeout_seconds
        self._noise = noise_names(search.options.noise, search.study.goal)
        self._until, self._pruner = search.options.stop_rule, search.options.pruning
        self._pruning_rules = PruningRules(self._pruner, search.study.goal)
        self._start_points = _StartPoints(search.options.start)
        self._remarks: list[str] = []
        # What trials leave for the user: text without its numbers -> the first such text, numbers of the trials.
        self._trial_remarks: dict[str, tuple[str, list[int]]] = {}
        self._opening_warnings = search.study.warnings
        self._n_ended = self._n_begun = 0
        self._has_begun = False
        self._started, self._paused_before = time.monotonic(), self._controls.paused_seconds
        self._is_over_time = False
        self._alarm: threading.Timer | None = None
        self._alarm_lock, self._alarm_is_cancelled = threading.Lock(), False
        self._was_interrupted = False

    def run(self) -> Ending:
        """Run the search to its end.

        Raises:
            StudyError: Another search of the study runs in this process.
            SearchFailed: The storage failed. The error has the study, which keeps in memory what it cannot store.
        """
        try:
            return self._run_and_note_written()
        except StudyError as error:
            if not self._has_begun:
                raise
            n = self._counted()
            kept = f"the study in memory keeps its {n} trial{'s' * (n != 1)}"
            raise SearchFailed(f"{error} The search has ended; {kept}.", self._study) from error

    def _run_and_note_written(self) -> Ending:
        """Run the search, and note which of the values that it reads were written by its trials."""
        take_snapshot = self._search.take_snapshot
        before = take_snapshot() if take_snapshot is not None else None
        try:
            return self._run()
        finally:
            # While a search runs in the background, other cells may write these values, too.
            is_main = threading.current_thread() is threading.main_thread()
            if before is not None and take_snapshot is not None and is_main:
                changed = changed_paths(before, take_snapshot())
                if changed:
                    self._study.annotate_written(changed)

    def _run(self) -> Ending:
        with ExitStack() as stack:
            stack.enter_context(self._study.search_lock())
            self._has_begun = True
            self._engine.start(self._search.evaluate, jobs=self._options.jobs, listener=self._on_report)
            self._interrupts = stack.enter_context(Interrupts(current_terminator))
            stack.callback(self._study.abandon)
            stack.callback(self._engine.close)
            stack.enter_context(self._controls.listening(self._on_command))
            self._started = time.monotonic()
            if self._timeout is not None:
                stack.callback(self._cancel_alarm)
                self._set_alarm(self._timeout)
            ending = self._main_loop()
            seconds = self._elapsed()
        self._writer.remove_stale()
        if self._reevaluation is not None and ending.kind in _WHOLE:
            summary = self._reevaluation.summary(self._study.all_trials)
            ending = replace(ending, reason=f"{ending.reason} {summary}".strip())
        if self._n_ended:
            self._remarks.append(unused_pruner_warning(self._pruner.rule, self._study.all_trials, self._study.goal))
        kept = where_kept(self._study, self._search.variable)
        older = self._older_variables() if kept else ()
        ending = replace(
            ending,
            warnings=self._warnings(older),
            kept=kept,
            test=self._search.test.run(self._study) if self._search.test and ending.kind in _WHOLE else "",
            n_ended=self._n_ended,
            seconds=seconds if self._n_begun else None,
        )
        self._note_ending(ending)
        self._observers.ended(ending)
        return ending

    def _note_ending(self, ending: Ending) -> None:
        """Store how the search ended; a run that began no trial leaves what an earlier one has stored."""
        if self._n_begun or "ending" not in self._study.record:
            facts: dict[str, Any] = {
                "kind": ending.kind,
                "reason": ending.reason,
                "warnings": list(ending.warnings),
                **({"kept": ending.kept} if ending.kept else {}),
                **({} if ending.seconds is None else {"seconds": round(ending.seconds, 3)}),
            }
            note(self._study, ending=facts)

    def _older_variables(self) -> list[str]:
        """Return a warning for each kept value whose name the notebook uses for a value of its own."""
        variable, best = self._search.variable, self._study.best
        return [
            f"The notebook's own {name!r} is as it was before the search; "
            f'the best trial\'s is {best_kept(self._study, variable)}["{name}"].'
            for name in (best.kept if best is not None else ())
            if name in self._search.notebook_names
        ]

    def _warnings(self, older: Sequence[str] = ()) -> tuple[str, ...]:
        """Return what the user should know so far, each once, and add it to the warnings of the study."""
        remarks = [f"{remark} ({trials_text(numbers)})" for remark, numbers in self._trial_remarks.values()]
        if len(remarks) > MAX_TRIAL_REMARKS:
            n_more = len(remarks) - MAX_TRIAL_REMARKS
            remarks[MAX_TRIAL_REMARKS:] = [f"{n_more} more warning{'s' * (n_more > 1)} of trials are left out here."]
        found = (
            *self._engine.warnings,
            *self._writer.warnings,
            *older,
            *self._remarks,
            *remarks,
            *self._observers.warnings,
        )
        warnings = tuple(warning for warning in dict.fromkeys(found) if warning)
        self._study.warnings = tuple(dict.fromkeys((*self._opening_warnings, *warnings)))
        return warnings

    def _main_loop(self) -> Ending:
        ending: Ending | None = None
        while True:
            abandoned = self._abandoned()
            if abandoned is not None:
                ending = abandoned
                self._terminate_all()
            elif ending is None:
                ending = self._start_trials()
            if not self._running:
                if ending is not None:
                    return ending
                self._wait()
                continue
            ended = self._engine.next(_POLL_SECONDS)
            if ended is not None:
                self._handle_result(*ended)
                ending = ending or self._repeated_failure()
            if self._interrupts.count > 1:
                raise KeyboardInterrupt

    def _wait(self) -> None:
        """Wait a moment, in a pause or for another process; a pause counts as no time of the search."""
        since = time.monotonic()
        time.sleep(_POLL_SECONDS)
        if self._controls.is_paused:
            self._controls.paused_seconds += time.monotonic() - since

    def _elapsed(self) -> float:
        """Return the seconds since the search began, without pauses."""
        return time.monotonic() - self._started - (self._controls.paused_seconds - self._paused_before)

    # Why a search ends ---------------------------------------------------------------------------------------------

    def _abandoned(self) -> Ending | None:
        """Return why the search ends at once and interrupts its running trials, or None."""
        if self._was_interrupted or self._interrupts.count:
            return self._early_ending("interrupted", "Interrupted")
        if self._controls.is_stopped:
            return self._early_ending("stopped", "Stopped")
        if self._is_over_time:
            assert self._timeout is not None
            return self._early_ending("timeout", f"The search's limit of {described(self._timeout)} has come")
        return None

    def _repeated_failure(self) -> Ending | None:
        """Return why the search ends after its running trials, or None. Checked after each trial."""
        failure = same_failure(self._study.all_trials, self._n_ended) if self._n_ended <= N_ALIKE else None
        if failure is None:
            return None
        reason = f"Stopped: the first three trials failed with the same error, {one_line(failure)}"
        return Ending("same failure", reason, traceback=failure.traceback)

    def _early_ending(self, kind: EndKind, what: str) -> Ending:
        counted, wanted = self._counted(), self._options.trials
        return Ending(kind, f"{what} at {counted} of {wanted} trials; run it again to go on.")

    def _counted(self) -> int:
        return self._study.n_counted - len(self._failed_in_another_body())

    def _failed_in_another_body(self) -> list[int]:
        """Return the trials that do not count, since they are to be run again."""
        body, failed = self._study.changed_body, self._study.numbers(State.FAILED)
        trials = self._study.all_trials if failed else ()
        return [number for number in failed if failed_in_another_body(trials[number], body)]

    # What runs next -------------------------------------------------------------------------------------------------

    def _start_trials(self) -> Ending | None:
        """Start trials until `jobs` of them run; return why no more will start, or None."""
        while len(self._running) < self._options.jobs and not self._controls.is_paused:
            # Not `all_trials`, which is a new tuple after each trial: a study may hold very many.
            n_known = self._study.n_trials
            counted = self._counted()
            elsewhere = sum(number not in self._running for number in self._study.numbers(State.RUNNING))
            if counted >= self._options.trials:
                return self._done(counted)
            if counted + len(self._running) + elsewhere >= self._options.trials:
                if self._study.unconfirmed:
                    self._refresh_if_due()
                    return None
                if self._running:
                    return None
                text = f"{counted} of {self._options.trials} trials are done and {elsewhere} run in another process."
                return Ending("elsewhere", text)
            try:
                planned = self._next_point(n_known)
                if isinstance(planned, Ending):
                    return planned
                if self._abandoned() is not None:  # requested while the proposer was working
                    return None
                self._start_trial(planned, n_known=n_known)
            except EngineError as error:
                return Ending("broken", str(error))
        return None

    def _refresh_if_due(self) -> None:
        """Read what other processes have written: the trial of a process that has died can be run here."""
        if time.monotonic() - self._refreshed >= _REFRESH_SECONDS:
            self._study.refresh()
            self._refreshed = time.monotonic()

    def _done(self, counted: int) -> Ending:
        if self._n_ended:
            return Ending("done", f"All {counted} trials are done.{all_failed(self._study.all_trials)}")
        name = self._study.name
        text = f"The study {name!r} has its {counted} trials already; none was run again."
        if self._study.changed_body is not None:
            text += " They were run with another body; the option fresh begins anew."
        return Ending("done", text)

    def _next_point(self, n_known: int) -> _NextPoint | Ending:
        """Return what to run next in a study of so many trials, or why nothing is left."""
        # Also trials of processes that have died since this search began.
        # A trial that another machine has given up still runs here, and must not be started twice.
        for number in (*self._study.numbers(State.INTERRUPTED), *self._failed_in_another_body()):
            # Another thread may have read the study since.
            if number < n_known and number not in self._running:
                again = self._study.all_trials[number]
                return _NextPoint(again.point, number, again.note, again.reason)
        if isinstance(self._until, NoGain):
            measured = [trial for trial in self._study.all_trials if not is_reevaluation(trial)]
            reason = self._until.verdict(measured, self._study.goal)
            if reason:
                return self._next_reevaluation(is_over=True) or Ending("until", reason)
        point = self._start_points.next(self._study)
        if point is not None:
            return _NextPoint(point, reason="A start point.")
        queued = self._study.take_queued()
        if queued is not None:
            return _NextPoint(queued, reason="Queued by hand.")
        repeat = self._next_reevaluation()
        if repeat is not None:
            return repeat
        try:
            trials = self._study.all_trials[:n_known] if getattr(self._proposer, "needs_history", True) else ()
            proposal = self._proposer.propose(n_known, self._search.histories.history_of(trials, self._study.goal))
        except SpaceExhausted as error:
            return self._next_reevaluation(is_over=True) or Ending("exhausted", str(error))
        if isinstance(self._until, GainBelow):
            reason = self._until.verdict(proposal.expected_gain)
            if reason:
                return self._next_reevaluation(is_over=True) or Ending("until", reason)
        for warning in proposal.warnings:
            self._add_trial_remark(warning, n_known)
        search = {"search_seed": self._options.seed, "sampler": self._options.sampler}
        return _NextPoint(proposal.point, note={**proposal.note, **search}, reason=proposal.reason)

    def _next_reevaluation(self, *, is_over: bool = False) -> _NextPoint | None:
        """Return a point to run again if this is one of the last trials, which are reserved for that.

        Args:
            is_over: A stop rule has ended the search, so the last trials are due now.
        """
        if self._reevaluation is None:
            return None
        trials = self._study.all_trials
        n_run = n_reevaluations(trials)
        n_taken = self._counted() + len(self._study.numbers(State.RUNNING))
        is_due = is_over or n_run > 0 or n_taken >= self._options.trials - self._options.finalists
        if n_run >= self._options.finalists or not is_due:
            return None
        finalist = self._reevaluation.next_finalist(trials)
        if finalist is None:
            return None
        reason = f"Trial {finalist.number} again: one of the best, and values may be noisy."
        return _NextPoint(finalist.point, note={REPEAT_OF: finalist.number}, reason=reason)

    def _start_trial(self, planned: _NextPoint, n_known: int) -> None:
        """Start a trial. If another process has begun it, nothing starts, and the next point is looked for again."""
        number = self._study.n_trials if planned.number is None else planned.number
        try:
            trial = self._study.begin(
                planned.point,
                number=planned.number,
                seed=trial_seed(self._options.seed, number),
                note=self._note_of(planned.note),
                reason=planned.reason,
                n_known=n_known,
                limit=self._options.trials,
            )
        except TrialConflict:
            self._study.refresh()
            return
        self._n_begun += 1
        self._running[trial.number] = _Running(trial)
        self._observers.trial_started(trial)
        self._submit(trial, 0)
        if self._abandoned() is not None:
            # Requested after `_main_loop` checked and before the engine had the trial.
            self._engine.terminate(trial.number, Termination(State.INTERRUPTED))

    def _note_of(self, note: Mapping[str, Any]) -> dict[str, Any]:
        """Return the note of a trial, with the values and the body if the study was begun with other ones."""
        changed = {"values": self._study.accepted, "body": self._study.changed_body}
        found = {name: value for name, value in note.items() if name not in changed}
        return found | {name: value for name, value in changed.items() if value}

    def _submit(self, trial: Trial, repeat: int) -> None:
        seed = trial.seed if repeat == 0 else trial_seed(self._options.seed, trial.number, repeat)
        # A re-evaluation is measured to its end.
        is_pruned = self._pruner.rule != "none" and not is_reevaluation(trial)
        trials = self._study.all_trials if is_pruned else ()
        pruning_rule = self._pruning_rules.pruning_rule(trial.number, trials) if is_pruned else None
        try:
            self._engine.submit(
                Assignment(trial.number, trial.point, seed, repeat, pruning_rule), self._options.trial_timeout_seconds
            )
        except EngineError:
            self._finish_trial(trial.number, Outcome(State.INTERRUPTED))
            raise

    # Results -------------------------------------------------------------------------------------------------

    def _handle_result(self, assignment: Assignment, outcome: Outcome) -> None:
        running = self._running[assignment.number]
        running.outcomes.append(outcome)
        repeat = len(running.outcomes)
        if outcome.state is State.COMPLETE and repeat < self._options.repeats:
            if self._abandoned() is None:
                self._submit(running.trial, repeat)
                return
            outcome = replace(outcome, state=State.INTERRUPTED, kept={})
            running.outcomes[-1] = outcome
        if outcome.state is State.INTERRUPTED:
            outcome = self._checked_interrupt(outcome)
            running.outcomes[-1] = outcome
        self._finish_trial(assignment.number, mean_outcome(running.outcomes))

    def _checked_interrupt(self, outcome: Outcome) -> Outcome:
        """Return the outcome of an interrupted run; it failed if its body raised `KeyboardInterrupt` by itself."""
        if self._abandoned() is not None:
            return replace(outcome, failure=None)
        if outcome.failure is not None:
            return replace(outcome, state=State.FAILED)
        self._was_interrupted = True  # something else ended the run, such as an executor that cancelled it
        return outcome

    def _finish_trial(self, number: int, outcome: Outcome) -> None:
        trial = outcome.recorded(self._running[number].trial, self._running[number].since)
        # Do not overwrite what another process keeps of the same trial.
        if (outcome.kept or outcome.displayed) and not self._study.is_taken_over(number):
            self._writer.put(trial, outcome.kept, outcome.displayed)
        trial = self._study.finish(trial)
        if number in self._study.discarded:
            self._remarks.append(TAKEN_OVER.format(number=number))
        del self._running[number]
        self._n_ended += trial.state.counts
        for remark in (*outcome.remarks, *self._noise_remarks(outcome)):
            self._add_trial_remark(remark, number)
        self._writer.remove_stale()
        self._warnings()
        self._observers.trial_ended(trial)

    def _noise_remarks(self, outcome: Outcome) -> list[str]:
        """Return a sentence for each standard deviation that a complete trial lacks, or that is negative."""
        found = []
        for metric, name in self._noise.items():
            std = outcome.values.get(name)
            unknown = f"the noise of {metric!r} counts as unknown."
            if std is not None and std < 0:
                found.append(f"{name!r} is {std:g}, but a standard deviation is at least 0: {unknown}")
            elif std is None and outcome.state is State.COMPLETE:
                found.append(f"The trial left no {name!r}: {unknown}")
        return found

    def _add_trial_remark(self, remark: str, number: int) -> None:
        _, numbers = self._trial_remarks.setdefault(without_numbers(remark), (remark, []))
        if number not in numbers:
            numbers.append(number)

    # From other threads ---------------------------------------------------------------------------------------------

    def _on_report(self, number: int, step: int, values: Mapping[str, float]) -> None:
        if number in self._running:
            for metric, value in values.items():
                self._study.report(number, metric, step, value)
            self._observers.reported(number, step, values)

    def _set_alarm(self, seconds: float) -> None:
        with self._alarm_lock:
            if self._alarm_is_cancelled:
                return
            self._alarm = threading.Timer(seconds, self._on_timeout)
            self._alarm.daemon = True
            self._alarm.start()

    def _cancel_alarm(self) -> None:
        with self._alarm_lock:
            self._alarm_is_cancelled = True
            if self._alarm is not None:
                self._alarm.cancel()

    def _on_timeout(self) -> None:
        assert self._timeout is not None
        left = self._timeout - self._elapsed()
        if left > 0 or (self._controls.is_paused and not self._running):
            # The search was paused meanwhile, or still is.
            self._set_alarm(max(left, _POLL_SECONDS))
            return
        self._is_over_time = True
        self._terminate_all()

    def _on_command(self, command: Command) -> None:
        if command == "stop":
            self._terminate_all()
        elif command == "skip" and self._running:
            longest = min(tuple(self._running.items()), key=lambda item: item[1].since)
            self._engine.terminate(longest[0], Termination(State.STOPPED))

    def _terminate_all(self) -> None:
        for number in tuple(self._running):
            self._engine.terminate(number, Termination(State.INTERRUPTED))


class _StartPoints:
    """The start points that no trial has run yet; a point that is listed twice gets two trials."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._missing = list(points)
        self._n_seen = 0

    def next(self, study: Study) -> Point | None:
        """Return the first one, or None. The study is that of the last call."""
        if not self._missing:
            return None
        trials = study.all_trials
        for trial in trials[self._n_seen :]:
            point = trial.point
            if point in self._missing:
                self._missing.remove(point)
        self._n_seen = len(trials)
        return self._missing[0] if self._missing else None
