"""The study: all trials of one search, in a storage of Optuna."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcompress.errors import StudyError
from nbcompress.study.distributions import distributions_of
from nbcompress.study.entries import Entries
from nbcompress.study.front import feasible, front, hypervolume, losses_of
from nbcompress.study.in_use import check_free, searched
from nbcompress.study.shelf import KeptValues, Shelf, ShelfSlot
from nbcompress.study.table import trials_table
from nbcompress.study.trial import Failure, State, Trial

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from nbcompress.space import Point, Space


class Study:
    """All trials of one search. Get one with `open_study`, `read_study` or a search; do not make it yourself.

    It may be used from several threads; several processes may write to one study at once, each with an object of its
    own. What others wrote is seen after `refresh`, and after every `begin` and `finish`.

    Attributes:
        name: Name in the storage, with its generation: `digits~2`.
        space: The parameters.
        goal: Objectives and constraints.
        warnings: What differs from the search that began this study, one sentence each.
        accepted: Values by name that differ from those that it was begun with, and with which it goes on all the same.
    """

    def __init__(
        self,
        entries: Entries,
        name: str,
        space: Space,
        *,
        shelf: Shelf | None = None,
        warnings: Sequence[str] = (),
        accepted: Mapping[str, Any] | None = None,
        is_read_only: bool = False,
    ) -> None:
        self.name, self.space, self.goal = name, space, entries.goal
        self.warnings, self.is_read_only = tuple(warnings), is_read_only
        self.accepted = dict(accepted or {})
        self._slot = ShelfSlot(shelf)
        self._entries = entries
        self._distributions = distributions_of(space)
        self._handed: dict[str, Point] = {}  # queued points that `take_queued` gave out and that did not begin yet
        self._lost: set[int] = set()
        self._own: dict[int, int] = {}  # trials that this object runs: number -> Optuna's id
        self._reports: dict[int, dict[str, dict[int, float]]] = {}
        self._seen: dict[int, tuple[Trial, Trial]] = {}  # number -> as stored, and as shown
        self._trials: tuple[Trial, ...] | None = None  # None: to be made anew
        if is_read_only:
            self.refresh()
        else:
            with entries.alone():
                self._settle()

    # For the loop ----------------------------------------------------------------------------------------------------

    def begin(
        self,
        point: Mapping[str, Any],
        *,
        number: int | None = None,
        seed: int = 0,
        note: Mapping[str, Any] | None = None,
        reason: str = "",
    ) -> Trial:
        """Record that a trial runs, and return it.

        Args:
            point: What to run.
            number: None for a new trial; the number of an interrupted one to run that again under its own number.
            seed: What its random generators are set to.
            note: JSON that its proposer wants back later.
            reason: One sentence on why this point.

        Raises:
            PointError: The point is not in the space.
            StudyError: The trial to repeat is not interrupted (another process may have taken it), or is at another
                point; the note is not JSON; the study is read only.
        """
        self._check_writable()
        checked = self.space.check(point)
        trial = Trial(
            -1 if number is None else number, State.RUNNING, checked, seed=int(seed), note=note or {}, reason=reason
        )
        with self._entries.alone():
            if number is not None:
                # Whoever gave up the earlier run says so in the storage, so that every reader takes the one to come.
                self._settle()
                self._check_repeatable(number, checked)
            queued = next((key for key, waiting in self._handed.items() if waiting == checked), "")
            identity = self._entries.begin(trial, queued, self._distributions, number)
            self._handed.pop(queued, None)
            self._reread()
            begun = next((run for run in reversed(self._entries.current) if run.identity == identity), None)
            if begun is None:
                # Only where the storage has no lock of ours: another process repeats the same trial since a moment ago.
                self._entries.end(identity, replace(trial, state=State.INTERRUPTED))
                raise StudyError(f"Trial {number} of study {self.name!r} is run again by another process already.")
            self._own[begun.trial.number] = identity
            self._reports.pop(begun.trial.number, None)  # of an earlier run that another program ended
            return self._shown(begun.trial)

    def report(self, number: int, metric: str, step: int, value: float) -> None:
        """Note an intermediate value of a trial that this object runs. It is stored when the trial ends."""
        with self._entries.reading():
            self._identity_of(number)
            self._reports.setdefault(number, {}).setdefault(metric, {})[int(step)] = float(value)
            self._trials = None

    def finish(self, trial: Trial) -> Trial:
        """Record how a trial ended, and return it as recorded.

        A complete trial is one that measured every metric of the goal, as a finite number, and kept every constraint.
        One that is called complete and did not is recorded as what it is: failed or infeasible.

        Another process may have given the trial up meanwhile: it heard no sign of life of this one for too long. As
        long as nobody has begun to run it again, it is recorded all the same; else that other run counts, and the trial
        is returned as it stands there, perhaps running.

        Raises:
            StudyError: The trial was not begun by this object, has ended already, or is given as still running.
        """
        self._check_writable()
        if trial.state is State.RUNNING:
            raise StudyError(f"Trial {trial.number} is finished with one of the end states, but got 'running'.")
        with self._entries.alone():
            identity = self._identity_of(trial.number)
            reports = {**self._reports.get(trial.number, {}), **trial.reports}
            ended = replace(self._judged(trial), reports=reports)
            if not self._entries.end(identity, ended):
                self._record_again(ended)
            del self._own[trial.number]
            self._reports.pop(trial.number, None)
            self._reread()
            return self._shown(self._entries.current[trial.number].trial)

    def abandon(self) -> None:
        """Record every trial that this object runs as interrupted. A search calls it however it ends."""
        if self.is_read_only:
            return
        with self._entries.alone():
            self._reread()
            # Asked of the storage: an interrupt may have come after a trial was written and before it was noted here.
            self._own = self._entries.running_here()
            for number in sorted(self._own):
                self.finish(replace(self.all_trials[number], state=State.INTERRUPTED))

    def is_taken_over(self, number: int) -> bool:
        """Say whether another process gave up a trial that began here, and has begun to run it again."""
        with self._entries.reading():
            identity = self._identity_of(number)
            self._reread()
            current = self._entries.current[number]
            return current.identity != identity and current.trial.state is not State.INTERRUPTED

    @property
    def lost(self) -> frozenset[int]:
        """The trials whose result of this object is not recorded, since another process took them over."""
        return frozenset(self._lost)

    @property
    def unsure(self) -> Mapping[int, float]:
        """The trials that run in processes that cannot be seen from here and gave no sign of life yet.

        By number, the seconds that are left until such a trial is given up (interrupted).
        """
        return self._entries.unsure

    def queue(self, point: Mapping[str, Any]) -> bool:
        """Store a point to be run next; return whether it was new.

        A point that waits already, or that was run, is not stored again: running all cells of a notebook once more
        repeats nothing.

        Raises:
            PointError: The point is not in the space.
        """
        self._check_writable()
        checked = self.space.check(point)
        with self._entries.alone():
            self._reread()
            known = [*self._entries.queue().values(), *(run.trial.params for run in self._entries.current)]
            if checked in known:
                return False
            self._entries.add_to_queue(checked)
            return True

    def take_queued(self) -> Point | None:
        """Return the next queued point, or None. It leaves the queue for good when it begins."""
        with self._entries.reading():
            self._reread()
            for key, point in self._entries.queue().items():
                if key not in self._entries.taken and key not in self._handed:
                    self._handed[key] = point
                    return dict(point)
        return None

    @property
    def queued(self) -> tuple[Point, ...]:
        """The points that wait to be run."""
        with self._entries.reading():
            return tuple(point for key, point in self._entries.queue().items() if key not in self._entries.taken)

    def annotate(self, **record: Any) -> None:
        """Store facts about the search with the study, such as its seed or its versions: JSON, by name."""
        self._check_writable()
        with self._entries.alone():
            for name, value in record.items():
                self._entries.add_to_record(name, value)

    def annotate_written(self, paths: set[tuple[str, ...]]) -> None:
        """Store where the body wrote into what it read: that does not count when the study is continued."""
        self._check_writable()
        with self._entries.alone():
            self._entries.add_written(paths)

    def searched(self) -> AbstractContextManager[None]:
        """Return a context manager that holds the study for one search.

        Raises:
            StudyError: When it is entered: another search of the study runs in this process.
        """
        return searched(self._entries.ledger, self.name)

    def check_free(self) -> None:
        """Check that no search of the study runs in this process.

        Raises:
            StudyError: One does.
        """
        check_free(self._entries.ledger, self.name)

    # For readers -----------------------------------------------------------------------------------------------------

    @property
    def record(self) -> dict[str, Any]:
        """What `annotate` stored."""
        return dict(self._entries.record)

    @property
    def all_trials(self) -> tuple[Trial, ...]:
        """Every trial, by number."""
        with self._entries.reading():
            if self._trials is None:
                self._trials = tuple(self._shown(run.trial) for run in self._entries.current)
            return self._trials

    @property
    def trials(self) -> pd.DataFrame:
        """Every trial as a row: number, state, a column per parameter and per metric, seconds."""
        return trials_table(self.all_trials, self.space, self.goal)

    @property
    def interrupted(self) -> tuple[Trial, ...]:
        """The trials to run again, by number."""
        return tuple(trial for trial in self.all_trials if trial.state is State.INTERRUPTED)

    @property
    def front(self) -> list[Trial]:
        """The feasible trials that nothing beats, best in the first objective first."""
        return front(self.all_trials, self.goal)

    @property
    def best(self) -> Trial | None:
        """The feasible trial that is best in the first objective (on the front), or None."""
        return next(iter(self.front), None)

    @property
    def kept(self) -> Mapping[str, Any]:
        """The values that the best trial keeps, by name. Empty if there is no best trial."""
        best = self.best
        return best.kept if best else {}

    @property
    def shelf(self) -> Shelf | None:
        """Where kept values are, or None when nothing can be kept. May be set after the study is opened."""
        return self._slot.shelf

    @shelf.setter
    def shelf(self, shelf: Shelf | None) -> None:
        self._slot.shelf = shelf

    @property
    def kept_folder(self) -> Path | None:
        """The folder of kept values, beside the storage; None for a study in memory. It need not exist."""
        return self._entries.ledger.folder_of(self.name)

    @property
    def storage(self) -> str:
        """Where the study is stored: a path, or a URL without its password."""
        return self._entries.ledger.place

    def hypervolume(self, reference: Mapping[str, float] | None = None, *, first: int | None = None) -> float:
        """Return the volume that the feasible trials cover, in units of the objectives.

        Args:
            reference: The worst value of every objective that still counts. Without it, the worst value that a feasible
                trial had; such volumes of two studies are not comparable.
            first: Count only so many trials from the start; all without it.
        """
        losses = losses_of(feasible(self.all_trials[:first], self.goal), self.goal)
        if len(losses) == 0:
            return 0.0
        if reference is None:
            return hypervolume(losses, losses.max(axis=0))
        missing = [one.metric for one in self.goal.objectives if one.metric not in reference]
        if missing:
            raise StudyError(f"A reference names every objective, but {missing[0]!r} is missing.")
        return hypervolume(losses, [one.loss(reference[one.metric]) for one in self.goal.objectives])

    def refresh(self) -> None:
        """Read what other processes have written."""
        with self._entries.reading():
            self._reread()

    def optuna_study(self) -> optuna.Study:
        """Return the stored study as Optuna's own object, for its dashboard, its plots and its samplers.

        To be read only: a trial that is told to it is not one of ours.
        """
        from optuna.study import Study as OptunaStudy

        with self._entries.reading():
            return OptunaStudy(self.name, self._entries.ledger.storage)

    def __repr__(self) -> str:
        trials, best = self.all_trials, self.best
        by_state = Counter(trial.state for trial in trials)
        counts = [f"{by_state[state]} {state}" for state in State if by_state[state]]
        first = f"Study {self.name!r}: {len(trials) or 'no'} trial{'' if len(trials) == 1 else 's'}"
        if trials:
            first += f" ({', '.join(counts)})"
        if best is None:
            return f"{first}, nothing feasible" if trials else first
        values = ", ".join(f"{name} {best.values[name]:.4g}" for name in self.goal.metrics)
        return f"{first}\nbest: trial {best.number}, {values}"

    # Inside ----------------------------------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        if self.is_read_only:
            raise StudyError(f"Study {self.name!r} was opened for reading. Open it with open_study to add trials.")

    def _check_repeatable(self, number: int, point: Point) -> None:
        trials = self._entries.current
        if not 0 <= number < len(trials):
            raise StudyError(f"Study {self.name!r} has {len(trials)} trials, so there is no trial {number}.")
        trial = trials[number].trial
        if trial.state is not State.INTERRUPTED:
            raise StudyError(f"Only an interrupted trial is run again, but trial {number} is {trial.state.value}.")
        if trial.params != point:
            raise StudyError(f"Trial {number} is run again at its own point {dict(trial.params)}, but got {point}.")

    def _identity_of(self, number: int) -> int:
        if number not in self._own:
            raise StudyError(
                f"Trial {number} of study {self.name!r} is not running here: it ended, or began elsewhere."
            )
        return self._own[number]

    def _judged(self, trial: Trial) -> Trial:
        """Return the trial with plain floats as values, and with the state that they allow."""
        trial = replace(trial, values={name: float(value) for name, value in trial.values.items()})
        if trial.state is not State.COMPLETE:
            return trial
        if self.goal.is_broken(trial.values):
            return replace(trial, state=State.INFEASIBLE)
        unmeasured = self.goal.unmeasured(trial.values)
        if not unmeasured:
            return trial
        name = unmeasured[0]
        if name in trial.values:
            failure = Failure("NotFinite", f"the metric {name!r} is {trial.values[name]}")
        else:
            failure = Failure("NotAssigned", f"the metric {name!r} was not assigned")
        return replace(trial, state=State.FAILED, failure=failure)

    def _reread(self) -> None:
        self._entries.reread()
        self._trials = None

    def _settle(self) -> None:
        self._entries.settle()
        self._trials = None

    def _record_again(self, ended: Trial) -> None:
        """Record a run whose trial was given up, as a run again, unless another process came first."""
        self._reread()
        if self._entries.current[ended.number].trial.state is not State.INTERRUPTED:
            self._lost.add(ended.number)
        elif ended.state is not State.INTERRUPTED:
            identity = self._entries.begin(ended, "", self._distributions, ended.number)
            self._entries.end(identity, ended)

    def _shown(self, trial: Trial) -> Trial:
        """Return a stored trial as readers see it: with what it keeps, and with what it reported so far."""
        if trial.number in self._own:
            reports = {metric: dict(steps) for metric, steps in self._reports.get(trial.number, {}).items()}
            return replace(trial, kept=KeptValues(self._slot, trial.number), reports=reports)
        stored, shown = self._seen.get(trial.number, (None, trial))
        if stored is not trial:
            shown = replace(trial, kept=KeptValues(self._slot, trial.number))
            self._seen[trial.number] = (trial, shown)
        return shown
