"""The loop: ask for a point, run it, record how it ended, again."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nbcompress.errors import SpaceExhausted, StudyError
from nbcompress.run.controls import Command, Controls
from nbcompress.run.engines.base import Engine, EngineError
from nbcompress.run.finals import AGAIN, Finals, is_final, n_finals
from nbcompress.run.guard import Cut
from nbcompress.run.history import history_of
from nbcompress.run.interrupts import Interrupts
from nbcompress.run.keeping import Keeper
from nbcompress.run.limits import GainBelow, NoGain, described
from nbcompress.run.observers import Ending, EndKind, Observer, Observers
from nbcompress.run.outcome import Assignment, Evaluate, Outcome
from nbcompress.run.plan import Plan
from nbcompress.run.provenance import note
from nbcompress.run.pruner import Pruner, not_judged
from nbcompress.run.repeats import folded
from nbcompress.run.same_failure import all_failed, in_short, same_failure
from nbcompress.run.seeds import trial_seed
from nbcompress.study.trial import State, Trial

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.space import Point
    from nbcompress.study import Study

# How long the loop waits at most before it looks at limits and interrupts again.
_SLICE_SECONDS = 0.1
# While it waits for signs of life of another machine, it reads the study so often.
_LOOK_SECONDS = 1.0
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
class _Next:
    """What to run next, and under which number (None: a new one)."""

    point: Point
    number: int | None = None
    note: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


def run(
    study: Study,
    proposer: Proposer,
    evaluate: Evaluate,
    plan: Plan,
    engine: Engine,
    *,
    observers: Sequence[Observer] = (),
    controls: Controls | None = None,
) -> Ending:
    """Run trials until the study has as many as planned, or something else ends the search.

    Interrupted trials come first, under their own numbers; then the start points that the study has not run; then
    points that were queued; then what the proposer proposes. Whatever ends a trial is recorded before anything else
    happens. Stop and the first interrupt abandon what runs (*interrupted*) and return.

    Raises:
        SearchError: The engine or the proposer cannot do what is planned, before the first trial.
        PointError: A start point is not in the space, before the first trial.
        StudyError: Another search of the study runs in this process.
        KeyboardInterrupt: The second interrupt.
    """
    plan.check(study.space, proposer, engine)
    plan = replace(plan, start=tuple(study.space.check(point) for point in plan.start))
    keeper = Keeper(study, plan.keep)
    return _Loop(study, proposer, engine, plan, keeper, Observers(observers), controls or Controls()).run(evaluate)


class _Loop:
    def __init__(
        self,
        study: Study,
        proposer: Proposer,
        engine: Engine,
        plan: Plan,
        keeper: Keeper,
        observers: Observers,
        controls: Controls,
    ) -> None:
        self._study, self._proposer, self._engine, self._plan = study, proposer, engine, plan
        self._keeper, self._observers, self._controls = keeper, observers, controls
        self._running: dict[int, _Running] = {}
        self._looked = time.monotonic()
        self._finals = Finals(study.space, study.goal) if plan.finalists else None
        self._remarks: list[str] = []
        self._n_ended = 0
        self._is_over_time = False
        self._was_interrupted = False

    def run(self, evaluate: Evaluate) -> Ending:
        with ExitStack() as stack:
            stack.enter_context(self._study.searched())
            self._engine.start(evaluate, jobs=self._plan.jobs, listener=self._reported)
            self._interrupts = stack.enter_context(Interrupts())
            stack.callback(self._study.abandon)
            stack.callback(self._engine.close)
            stack.enter_context(self._controls.heard_by(self._heard))
            if self._plan.timeout is not None:
                alarm = threading.Timer(self._plan.timeout, self._over_time)
                alarm.daemon = True
                stack.callback(alarm.cancel)
                alarm.start()
            ending = self._cycle()
        self._keeper.tidy()
        if self._finals is not None and ending.kind in ("done", "until", "exhausted"):
            ending = replace(ending, reason=f"{ending.reason} {self._finals.sentence(self._study.all_trials)}".strip())
        if self._n_ended:
            self._remarks.append(not_judged(self._plan.pruner.rule, self._study.all_trials, self._study.goal))
        warnings = (*self._engine.warnings, *self._keeper.warnings, *self._remarks, *self._observers.warnings)
        ending = replace(ending, warnings=tuple(one for one in dict.fromkeys(warnings) if one))
        note(self._study, ending={"kind": ending.kind, "reason": ending.reason, "warnings": list(ending.warnings)})
        self._observers.tell("ended", ending)
        return ending

    def _cycle(self) -> Ending:
        ending: Ending | None = None
        while True:
            abandoning = self._abandoning()
            if abandoning is not None:
                ending = abandoning
                self._cut_all()
            elif ending is None:
                ending = self._fill()
            if not self._running:
                if ending is not None:
                    return ending
                time.sleep(_SLICE_SECONDS)  # paused
                continue
            ended = self._engine.next(_SLICE_SECONDS)
            if ended is not None:
                self._take(*ended)
                ending = ending or self._verdict()
            if self._interrupts.count > 1:
                raise KeyboardInterrupt

    # What ends a search ---------------------------------------------------------------------------------------------

    def _abandoning(self) -> Ending | None:
        """Return why the search ends at once, abandoning what runs, or None."""
        if self._was_interrupted or self._interrupts.count:
            return self._ending("interrupted", "Interrupted")
        if self._controls.is_stopped:
            return self._ending("stopped", "Stopped")
        if self._is_over_time:
            assert self._plan.timeout is not None
            return self._ending("timeout", f"The search's limit of {described(self._plan.timeout)} has come")
        return None

    def _verdict(self) -> Ending | None:
        """Return why the search ends once what runs has ended, or None. Read after each trial."""
        failure = same_failure(self._study.all_trials, self._n_ended)
        if failure is None:
            return None
        reason = f"Stopped: the first three trials failed with the same error, {in_short(failure)}"
        return Ending("same failure", reason)

    def _ending(self, kind: EndKind, what: str) -> Ending:
        counted, wanted = self._counted(), self._plan.trials
        return Ending(kind, f"{what} at {counted} of {wanted} trials; run it again to go on.")

    def _counted(self) -> int:
        return sum(one.state.counts for one in self._study.all_trials)

    # What runs next -------------------------------------------------------------------------------------------------

    def _fill(self) -> Ending | None:
        """Start trials until as many run as may; return why no more will start, or None."""
        while len(self._running) < self._plan.jobs and not self._controls.is_paused:
            trials = self._study.all_trials
            counted = sum(one.state.counts for one in trials)
            elsewhere = sum(one.state is State.RUNNING and one.number not in self._running for one in trials)
            if counted >= self._plan.trials:
                return self._done(counted)
            if counted + len(self._running) + elsewhere >= self._plan.trials:
                if self._study.unsure:
                    self._look_again()
                    return None
                if self._running:
                    return None
                text = f"{counted} of {self._plan.trials} trials are done and {elsewhere} run in another process."
                return Ending("elsewhere", text)
            try:
                following = self._following(trials)
                if isinstance(following, Ending):
                    return following
                if self._abandoning() is not None:  # asked for while the proposer was thinking
                    return None
                self._begin(following)
            except EngineError as error:
                return Ending("broken", str(error))
        return None

    def _look_again(self) -> None:
        """Read what other processes have written: one that is gone leaves its trial to this search."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._study.refresh()
            self._looked = time.monotonic()

    def _done(self, counted: int) -> Ending:
        if self._n_ended:
            return Ending("done", f"All {counted} trials are done.{all_failed(self._study.all_trials)}")
        name = self._study.name
        return Ending("done", f"The study {name!r} has its {counted} trials already; none was run again.")

    def _following(self, trials: Sequence[Trial]) -> _Next | Ending:
        # Also those of processes that died, or are given up, since this search began.
        again = next((one for one in trials if one.state is State.INTERRUPTED), None)
        if again is not None:
            return _Next(again.point, again.number, again.note, again.reason)
        if isinstance(self._plan.until, NoGain):
            reason = self._plan.until.verdict([one for one in trials if not is_final(one)], self._study.goal)
            if reason:
                return self._final(trials, is_over=True) or Ending("until", reason)
        point = _first_missing(self._plan.start, trials)
        if point is not None:
            return _Next(point, reason="A start point.")
        queued = self._study.take_queued()
        if queued is not None:
            return _Next(queued, reason="Queued by hand.")
        final = self._final(trials)
        if final is not None:
            return final
        try:
            proposal = self._proposer.propose(len(trials), history_of(trials, self._study.goal))
        except SpaceExhausted as error:
            return self._final(trials, is_over=True) or Ending("exhausted", str(error))
        if isinstance(self._plan.until, GainBelow):
            reason = self._plan.until.verdict(proposal.note.get("gain"))
            if reason:
                return self._final(trials, is_over=True) or Ending("until", reason)
        search = {"search_seed": self._plan.seed} | ({"sampler": self._plan.sampler} if self._plan.sampler else {})
        return _Next(proposal.point, note={**proposal.note, **search}, reason=proposal.reason)

    def _final(self, trials: Sequence[Trial], *, is_over: bool = False) -> _Next | None:
        """Return a point to run again if this is one of the last trials, which are kept for that.

        Args:
            is_over: A stop rule has ended the search, so the last trials are now.
        """
        if self._finals is None:
            return None
        n_run = n_finals(trials)
        taken = sum(one.state.counts or one.state is State.RUNNING for one in trials)
        is_time = is_over or n_run > 0 or taken >= self._plan.trials - self._plan.finalists
        if n_run >= self._plan.finalists or not is_time:
            return None
        finalist = self._finals.again(trials)
        if finalist is None:
            return None
        reason = f"Trial {finalist.number} again: one of the best, and values may be noisy."
        return _Next(finalist.point, note={AGAIN: finalist.number}, reason=reason)

    def _begin(self, following: _Next) -> None:
        number = len(self._study.all_trials) if following.number is None else following.number
        try:
            trial = self._study.begin(
                following.point,
                number=following.number,
                seed=trial_seed(self._plan.seed, number),
                note=self._noted(following.note),
                reason=following.reason,
            )
        except StudyError:
            self._study.refresh()
            if following.number is None or self._study.all_trials[following.number].state is State.INTERRUPTED:
                raise
            return  # another process has taken this interrupted trial in the meantime
        self._running[trial.number] = _Running(trial)
        self._observers.tell("trial_started", trial)
        self._submit(trial, 0)
        if self._abandoning() is not None:
            # Asked for after `_cycle` looked and before the engine had the trial.
            self._engine.cut(trial.number, Cut(State.INTERRUPTED))

    def _noted(self, note: Mapping[str, Any]) -> dict[str, Any]:
        """Return the note of a trial, with the values that it reads where the study was begun with others."""
        found = {name: value for name, value in note.items() if name != "values"}
        return found | ({"values": self._study.accepted} if self._study.accepted else {})

    def _submit(self, trial: Trial, repeat: int) -> None:
        seed = trial.seed if repeat == 0 else trial_seed(self._plan.seed, trial.number, repeat)
        # What is run again shall be measured, whatever it shows on the way.
        pruner = Pruner() if is_final(trial) else self._plan.pruner
        judge = pruner.judge(trial.number, self._study.all_trials, self._study.goal)
        try:
            self._engine.submit(Assignment(trial.number, trial.point, seed, repeat, judge), self._plan.trial_timeout)
        except EngineError:
            self._end(trial.number, Outcome(State.INTERRUPTED))
            raise

    # What has ended -------------------------------------------------------------------------------------------------

    def _take(self, assignment: Assignment, outcome: Outcome) -> None:
        running = self._running[assignment.number]
        running.outcomes.append(outcome)
        repeat = len(running.outcomes)
        if outcome.state is State.COMPLETE and repeat < self._plan.repeats:
            if self._abandoning() is None:
                self._submit(running.trial, repeat)
                return
            outcome = replace(outcome, state=State.INTERRUPTED, kept={})
            running.outcomes[-1] = outcome
        if outcome.state is State.INTERRUPTED and self._abandoning() is None:
            self._was_interrupted = True  # by the body's own KeyboardInterrupt
        self._end(assignment.number, folded(running.outcomes))

    def _end(self, number: int, outcome: Outcome) -> None:
        trial = replace(
            self._running[number].trial,
            state=outcome.state,
            values=outcome.values,
            seconds=outcome.seconds,
            failure=outcome.failure,
            printed=outcome.printed,
            reports=outcome.reports,
        )
        # What another process keeps of the same trial must not be written over.
        if outcome.kept and not self._study.is_taken_over(number):
            self._keeper.put(trial, outcome.kept)
        trial = self._study.finish(trial)
        if number in self._study.lost:
            self._remarks.append(TAKEN_OVER.format(number=number))
        del self._running[number]
        self._n_ended += trial.state.counts
        self._remarks += outcome.remarks
        self._keeper.tidy()
        self._observers.tell("trial_ended", trial)

    # From other threads ---------------------------------------------------------------------------------------------

    def _reported(self, number: int, step: int, values: Mapping[str, float]) -> None:
        if number in self._running:
            for metric, value in values.items():
                self._study.report(number, metric, step, value)
            self._observers.tell("reported", number, step, values)

    def _over_time(self) -> None:
        self._is_over_time = True
        self._cut_all()

    def _heard(self, command: Command) -> None:
        if command == "stop":
            self._cut_all()
        elif command == "skip" and self._running:
            longest = min(tuple(self._running.items()), key=lambda item: item[1].since)
            self._engine.cut(longest[0], Cut(State.STOPPED))

    def _cut_all(self) -> None:
        for number in tuple(self._running):
            self._engine.cut(number, Cut(State.INTERRUPTED))


def _first_missing(start: Sequence[Point], trials: Sequence[Trial]) -> Point | None:
    """Return the first start point that no trial has run; one that is listed twice wants two trials."""
    had = [trial.point for trial in trials]
    for point in start:
        if point not in had:
            return point
        had.remove(point)
    return None
