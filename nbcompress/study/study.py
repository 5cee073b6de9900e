"""The study: all trials of one search, in a storage of Optuna."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcompress.errors import GoalError, StudyError, TrialConflict, did_you_mean
from nbcompress.space import Space
from nbcompress.study.artifact_store import ArtifactStore, ArtifactStoreSlot, KeptValues
from nbcompress.study.front import example_pick, feasible, hypervolume, losses_of
from nbcompress.study.goal import Constraint, State, Trial
from nbcompress.study.optuna_distributions import distributions_of
from nbcompress.study.predictions import PredictingStudy
from nbcompress.study.processes import check_not_searched, search_lock
from nbcompress.study.trial_list import TrialList, trials_table
from nbcompress.study.trial_store import RERUN_STATES, TrialStore

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from nbcompress.space import Point


class Study(PredictingStudy):
    """All trials of one search, kept in a storage.

    `nc.search`, `%%bo_search`, `open_study` and `read_study` return one; it is not constructed directly. Threads may
    share a study. Several processes may write to the same study, each with its own object; what others wrote is read by
    `refresh`, and by every `begin` and `finish`.

    Attributes:
        name: Name in the storage, with its generation, such as `digits~2`.
        space: The parameters.
        goal: Objectives and constraints.
        warnings: Differences to the search that began this study, and what the latest search warned of, one sentence
            each.
        accepted: The present values, by name, that differ from those that the study was begun with.
        changed_body: The hash of the present body, if it is not the one that the study was begun with.
        is_read_only: Whether the study was opened by `read_study`.
        rerunner: What `rerun` calls; the search of this session sets it.

    Example:
        >>> import nbcompress as nc
        >>> study = nc.search(lambda x: {"loss": (x - 0.3) ** 2}, {"x": nc.Float(0, 1)}, minimize="loss",
        ...                   trials=4, sampler="sobol", storage=None)
        >>> study.best.number, round(study.best.params["x"], 2)
        (3, 0.24)
        >>> study.trials[["number", "state"]].shape
        (4, 2)
    """

    def __init__(
        self,
        store: TrialStore,
        name: str,
        space: Space,
        *,
        artifact_store: ArtifactStore | None = None,
        warnings: Sequence[str] = (),
        accepted: Mapping[str, Any] | None = None,
        changed_body: str | None = None,
        is_read_only: bool = False,
    ) -> None:
        self.name, self.space, self.goal = name, space, store.goal
        self.warnings, self.is_read_only = tuple(warnings), is_read_only
        self.accepted, self.changed_body = dict(accepted or {}), changed_body
        self.rerunner: Callable[[Study, int], Trial] | None = None
        self._slot = ArtifactStoreSlot(artifact_store)
        self._store = store
        self._distributions = distributions_of(space)
        self._handed_out: dict[str, Point] = {}  # points that `take_queued` returned and that did not begin yet
        self._discarded: set[int] = set()
        self._running: dict[int, int] = {}  # trials that this object runs: number -> Optuna's id
        self._reports: dict[int, dict[str, dict[int, float]]] = {}
        self._unrecorded: dict[int, Trial] = {}  # ends that the storage did not take, by number
        self._trials = TrialList(self.goal)  # as shown
        if is_read_only:
            self.refresh()
        else:
            with store.exclusive():
                self._store.finalize_stale_runs()

    # Running trials ---------------------------------------------------------------------------------------------------

    def begin(
        self,
        point: Mapping[str, Any],
        *,
        number: int | None = None,
        seed: int = 0,
        note: Mapping[str, Any] | None = None,
        reason: str = "",
        n_known: int | None = None,
        limit: int | None = None,
    ) -> Trial:
        """Record that a trial runs, and return it.

        Args:
            point: The point to run.
            number: None for a new trial; the number of an interrupted or failed trial to run that again.
            seed: Seed of the trial's random generators.
            note: JSON of the proposer, stored with the trial.
            reason: One sentence on why this point is run.
            n_known: The point was chosen when the study had so many trials. A new trial does not begin if another
                process has begun one of the same point since. By default this is not checked.
            limit: A new trial does not begin if the study has so many trials. By default there is no limit.

        Raises:
            PointError: The point is not in the space.
            TrialConflict: Another process has begun a trial of the same point since, or the last trial.
            StudyError: The trial to run again is neither interrupted nor failed (another process may have taken it) or
                has another point; the note is not JSON; the study is read only.
        """
        self._check_writable()
        checked = self.space.check(point)
        trial = Trial(
            -1 if number is None else number, State.RUNNING, checked, seed=int(seed), note=note or {}, reason=reason
        )
        with self._store.exclusive():
            if number is not None:
                # The earlier run gets its final state in the storage, so that every reader takes the new run.
                self._store.finalize_stale_runs()
                self._check_repeatable(number, checked)
            elif n_known is not None or limit is not None:
                self._store.refresh()
                self._check_no_conflict(checked, n_known, limit)
            queue_key = next((key for key, waiting in self._handed_out.items() if waiting == checked), "")
            trial_id = self._store.begin(trial, queue_key, self._distributions, number)
            self._handed_out.pop(queue_key, None)
            self._store.refresh()
            begun = next((run for run in reversed(self._store.current_runs) if run.trial_id == trial_id), None)
            if begun is None:
                # Only in a storage without our lock: another process has begun to run the trial again meanwhile.
                self._store.end(trial_id, replace(trial, state=State.INTERRUPTED))
                raise TrialConflict(f"Trial {number} of study {self.name!r} is run again by another process already.")
            self._running[begun.trial.number] = trial_id
            self._reports.pop(begun.trial.number, None)  # of an earlier run that another tool ended
            return self._listed()[begun.trial.number]

    def report(self, number: int, metric: str, step: int, value: float) -> None:
        """Record an intermediate value of a trial that this object runs. It is stored when the trial ends.

        Raises:
            StudyError: This object does not run the trial.
        """
        with self._store.locked():
            self._trial_id_of(number)
            self._reports.setdefault(number, {}).setdefault(metric, {})[int(step)] = float(value)
            self._store.changed.add(number)

    def finish(self, trial: Trial) -> Trial:
        """Record how a trial ended, and return it as recorded.

        If a metric of a complete trial is missing or not finite, the trial is recorded as failed; if it violates a
        constraint, as infeasible.

        Another process may have given the trial up meanwhile, since it read no heartbeat for too long. The result is
        recorded all the same, unless that process has begun to run the trial again: then the other run counts, and the
        trial is returned as it stands there, perhaps running.

        Args:
            trial: The trial that `begin` returned, with its end state, values and so on.

        Raises:
            StudyError: This object did not begin the trial, the trial has ended already, or its state is running; or
                the storage failed, and this object keeps the result in memory.
        """
        self._check_writable()
        if trial.state is State.RUNNING:
            raise StudyError(f"Trial {trial.number} is finished with one of the end states, but got 'running'.")
        reports = {**self._reports.get(trial.number, {}), **trial.reports}
        ended = replace(self.goal.checked(trial), reports=reports)
        try:
            return self._record_end(ended)
        except StudyError:
            with self._store.locked():
                if trial.number in self._running:
                    self._unrecorded[trial.number] = ended
                    self._store.changed.add(trial.number)
            raise

    def _record_end(self, ended: Trial) -> Trial:
        """Store how a trial ended, and return it as recorded; see `finish`."""
        with self._store.exclusive():
            trial_id = self._trial_id_of(ended.number)
            if not self._store.end(trial_id, ended):
                self._record_as_rerun(ended)
            del self._running[ended.number]
            for by_number in (self._reports, self._unrecorded):
                by_number.pop(ended.number, None)
            self._store.changed.add(ended.number)
            self._store.refresh()
            return self._listed()[ended.number]

    def abandon(self) -> None:
        """Record every trial that this object runs as interrupted. A search calls it at its end, however it ends."""
        if self.is_read_only:
            return
        with self._store.let_go_at_errors(), self._store.exclusive():
            self._store.refresh()
            # From the storage: an interrupt may have come after a trial was written and before it was noted here.
            self._running = self._store.running_here()
            unrecorded = dict(self._unrecorded)
            for number in sorted(self._running):
                # A result that could not be stored when its trial ended is stored now, not replaced.
                self.finish(unrecorded.get(number) or replace(self.all_trials[number], state=State.INTERRUPTED))

    def is_taken_over(self, number: int) -> bool:
        """Return whether another process has given up a trial that runs here, and has begun to run it again."""
        with self._store.locked():
            trial_id = self._trial_id_of(number)
            self._store.refresh()
            run = self._store.current_runs[number]
            return run.trial_id != trial_id and run.trial.state is not State.INTERRUPTED

    @property
    def discarded(self) -> frozenset[int]:
        """The trials whose results of this object were not recorded, since another process took them over."""
        return frozenset(self._discarded)

    @property
    def unconfirmed(self) -> Mapping[int, float]:
        """Running trials of other machines that have written no heartbeat since they were first read.

        By number, the seconds until such a trial counts as interrupted.
        """
        return self._store.unconfirmed

    # Queue and record -------------------------------------------------------------------------------------------------

    def queue(self, point: Mapping[str, Any]) -> bool:
        """Store a point to be run before the proposed ones; return whether it was new.

        A point that is queued or was run is not stored again. So running all cells of a notebook again repeats nothing.

        Raises:
            PointError: The point is not in the space.
            StudyError: The study is read only.
        """
        self._check_writable()
        checked = self.space.check(point)
        with self._store.exclusive():
            self._store.refresh()
            known = [*self._store.queued_points().values(), *(run.trial.params for run in self._store.current_runs)]
            if checked in known:
                return False
            self._store.add_to_queue(checked)
            return True

    def take_queued(self) -> Point | None:
        """Return the next queued point, or None. It leaves the queue when a trial of it begins."""
        with self._store.locked():
            self._store.refresh()
            for key, point in self._store.queued_points().items():
                if key not in self._store.taken_keys and key not in self._handed_out:
                    self._handed_out[key] = point
                    return dict(point)
        return None

    @property
    def queued(self) -> tuple[Point, ...]:
        """The queued points that were not run yet."""
        with self._store.locked():
            return tuple(
                point for key, point in self._store.queued_points().items() if key not in self._store.taken_keys
            )

    def annotate(self, **record: Any) -> None:
        """Store facts about the search, such as its seed or the versions of libraries.

        Args:
            **record: JSON by name. An earlier fact of that name is replaced.

        Raises:
            StudyError: A value is not JSON, or the study is read only.
        """
        self._check_writable()
        with self._store.exclusive():
            for name, value in record.items():
                self._store.add_to_record(name, value)

    def annotate_written(self, paths: set[tuple[str, ...]]) -> None:
        """Store paths that the searched code writes into. They are not compared when the study is continued."""
        self._check_writable()
        with self._store.exclusive():
            self._store.add_written(paths)

    def search_lock(self) -> AbstractContextManager[None]:
        """Return a context manager that marks the study as being searched by this process.

        Raises:
            StudyError: When it is entered: another search of the study runs in this process.
        """
        return search_lock(self._store.handle, self.name)

    def check_not_searched(self) -> None:
        """Check that no search of the study runs in this process.

        Raises:
            StudyError: A search of it runs.
        """
        check_not_searched(self._store.handle, self.name)

    # Reading ----------------------------------------------------------------------------------------------------------

    @property
    def record(self) -> dict[str, Any]:
        """The facts that `annotate` stored, by name."""
        return dict(self._store.record)

    @property
    def all_trials(self) -> tuple[Trial, ...]:
        """Every trial, in the order of their numbers."""
        with self._store.locked():
            return self._listed().trials

    @property
    def n_trials(self) -> int:
        """How many trials the study has, in any state."""
        with self._store.locked():
            return len(self._listed())

    @property
    def n_counted(self) -> int:
        """How many trials count as one of the `--trials`: all but those that run or were interrupted."""
        with self._store.locked():
            return self._listed().n_counted

    def numbers(self, state: State) -> tuple[int, ...]:
        """Return the numbers of the trials in a state, in order."""
        with self._store.locked():
            return self._listed().numbers(state)

    @property
    def trials(self) -> pd.DataFrame:
        """A DataFrame with a row per trial: number, state, a column per parameter and per metric, seconds."""
        return trials_table(self.all_trials, self.space, self.goal)

    @property
    def front(self) -> list[Trial]:
        """The Pareto front: the feasible trials that no other dominates, best in the first objective first."""
        with self._store.locked():
            return self._listed().front

    @property
    def best(self) -> Trial | None:
        """The trial of the front that is best in the first objective, or None if no trial is feasible."""
        return next(iter(self.front), None)

    @property
    def best_trial(self) -> Trial:
        """The best trial of a study with one objective.

        Raises:
            StudyError: There are several objectives, or no trial is feasible.
        """
        if len(self.goal.objectives) > 1:
            raise StudyError(f"{self._no_best()} Take one of study.front, or choose with study.pick.")
        best = self.best
        if best is None:
            raise StudyError(f"No trial of study {self.name!r} is complete and feasible: study.front is empty.")
        return best

    def _no_best(self) -> str:
        names = ", ".join(objective.metric for objective in self.goal.objectives)
        return f"Study {self.name!r} has several objectives ({names}), so no single trial is the best."

    @property
    def best_params(self) -> Point:
        """The parameters of the best trial; see `best_trial`."""
        return self.best_trial.point

    @property
    def best_value(self) -> float:
        """The value of the objective in the best trial; see `best_trial`."""
        return self.best_trial.values[self.goal.objectives[0].metric]

    def pick(self, condition: str | Iterable[str], objective: str) -> Trial:
        """Return the trial of the front that is best in one objective among those that meet a condition.

        Args:
            condition: A bound on a metric such as `"accuracy >= 0.95"`, or several.
            objective: The name of an objective.

        Raises:
            GoalError: A condition cannot be read, or there is no such objective.
            StudyError: No trial of the front meets the condition.

        Example:
            >>> import nbcompress as nc
            >>> study = nc.search(lambda x: {"accuracy": x, "kilobytes": 100 * x}, {"x": nc.Float(0, 1)},
            ...                   maximize="accuracy", minimize="kilobytes", trials=8, sampler="sobol")
            >>> study.pick("accuracy >= 0.5", "kilobytes").values["accuracy"] < 0.7
            True
        """
        texts = [condition] if isinstance(condition, str) else list(condition)
        conditions = [Constraint.parse(text, self.record.get("baseline")) for text in texts]
        wanted = next((found for found in self.goal.objectives if found.metric == objective), None)
        if wanted is None:
            names = [found.metric for found in self.goal.objectives]
            near = did_you_mean(str(objective), names)
            raise GoalError(f"A trial is picked by an objective ({', '.join(names)}), but got {objective!r}.{near}")
        candidates = [
            trial
            for trial in self.front
            if all(each.metric in trial.values and each.holds(trial.values[each.metric]) for each in conditions)
        ]
        if not candidates:
            met = " and ".join(map(str, conditions))
            raise StudyError(f"No trial on the front of study {self.name!r} has {met}; see study.front.")
        return min(candidates, key=lambda trial: wanted.loss(trial.values[objective]))

    @property
    def kept(self) -> Mapping[str, Any]:
        """The values that the best trial keeps, by name; empty if no trial is feasible.

        Raises:
            StudyError: Trials are feasible, and there are several objectives.
        """
        on_front = self.front
        if on_front and len(self.goal.objectives) > 1:
            kept = f'kept["{next(iter(on_front[0].kept), "NAME")}"]'
            pick = example_pick(on_front, self.goal)
            raise StudyError(f"{self._no_best()} Write study.front[0].{kept} or study.{pick}.{kept}.")
        return on_front[0].kept if on_front else {}

    @property
    def artifact_store(self) -> ArtifactStore | None:
        """The store of kept values, or None if nothing can be kept. It may be set after the study is opened."""
        return self._slot.store

    @artifact_store.setter
    def artifact_store(self, artifact_store: ArtifactStore | None) -> None:
        self._slot.store = artifact_store

    @property
    def kept_folder(self) -> Path | None:
        """The folder of kept values beside the storage, which may not exist yet; None for a study in memory."""
        return self._store.handle.kept_folder_of(self.name)

    @property
    def storage(self) -> str:
        """The path of the storage, or its URL without the password."""
        return self._store.handle.location

    def hypervolume(self, reference: Mapping[str, float] | None = None, *, first: int | None = None) -> float:
        """Return the volume that the feasible trials dominate, in the product of the objectives' units.

        Args:
            reference: For each objective, the worst value that still counts. By default the worst value of a feasible
                trial; the volumes of two studies are then not comparable.
            first: Use only so many trials from the start; by default all.

        Raises:
            StudyError: The reference lacks an objective, or there are more than four objectives.
        """
        losses = losses_of(feasible(self.all_trials[:first], self.goal), self.goal)
        if len(losses) == 0:
            return 0.0
        if reference is None:
            return hypervolume(losses, losses.max(axis=0))
        missing = [objective.metric for objective in self.goal.objectives if objective.metric not in reference]
        if missing:
            raise StudyError(f"A reference names every objective, but {missing[0]!r} is missing.")
        return hypervolume(losses, [objective.loss(reference[objective.metric]) for objective in self.goal.objectives])

    def rerun(self, number: int) -> Trial:
        """Run the body of a trial again with its seed, and store what it keeps.

        The trials stay as they are. What the trial keeps is then in its `kept`, also when it is not on the front.

        Args:
            number: Of a trial that has ended.

        Returns:
            The trial as it ended this time. There is a warning if its metrics have changed.

        Raises:
            StudyError: There is no such trial, it runs now, or this session has not run the cell or function of this
                search.
            ArtifactError: What it keeps cannot be stored.
            KeyboardInterrupt: The run was interrupted.

        Example:
            >>> import nbcompress as nc
            >>> def train(x):
            ...     nc.keep(weights=[x])
            ...     return {"loss": x}
            >>> study = nc.search(train, {"x": nc.Float(0, 1)}, minimize="loss", trials=3, sampler="sobol")
            >>> worst = max(study.all_trials, key=lambda trial: trial.values["loss"])
            >>> len(worst.kept), study.rerun(worst.number).kept["weights"] == [worst.params["x"]]
            (0, True)
        """
        if self.rerunner is None:
            raise StudyError(
                f"study.rerun({number!r}) needs the cell or the function of the search, and this session has not run "
                f"it with study {self.name!r}. Run that cell first: it repeats no trial."
            )
        return self.rerunner(self, number)

    def refresh(self) -> None:
        """Read what other processes have written since."""
        with self._store.locked():
            self._store.refresh()

    def exclusive(self) -> AbstractContextManager[None]:
        """Return a context manager in which no other thread, and no other process on this machine, writes the study.

        A database with a server excludes no other process.
        """
        return self._store.exclusive()

    def optuna_study(self) -> optuna.Study:
        """Return the stored study as a study of Optuna, for its dashboard and its plots.

        Only read it: a trial that is added through it does not become a trial of this study.
        """
        from optuna.study import Study as OptunaStudy

        with self._store.locked():
            return OptunaStudy(self.name, self._store.handle.storage)

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

    # Internals --------------------------------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        if self.is_read_only:
            raise StudyError(f"Study {self.name!r} was opened for reading. Open it with open_study to add trials.")

    def _check_repeatable(self, number: int, point: Point) -> None:
        trials = self._store.current_runs
        if not 0 <= number < len(trials):
            raise StudyError(f"Study {self.name!r} has {len(trials)} trials, so there is no trial {number}.")
        trial = trials[number].trial
        if trial.state not in RERUN_STATES:
            raise TrialConflict(
                f"Only an interrupted or failed trial is run again, but trial {number} is {trial.state.value}."
            )
        if trial.params != point:
            raise StudyError(f"Trial {number} is run again at its own point {dict(trial.params)}, but got {point}.")

    def _check_no_conflict(self, point: Point, n_known: int | None, limit: int | None) -> None:
        """Raise an error if a new trial of `point` must not begin after all; see `begin`."""
        runs = self._store.current_runs
        same = [] if n_known is None else [run.trial.number for run in runs[n_known:] if run.trial.params == point]
        is_full = limit is not None and len(runs) >= limit
        if not same and not is_full:
            return
        for key in [key for key, waiting in self._handed_out.items() if waiting == point]:
            del self._handed_out[key]  # still in the queue, unless the other process took it from there
        if is_full:
            raise TrialConflict(f"Study {self.name!r} has {len(runs)} of {limit} trials already.")
        raise TrialConflict(f"The point {dict(point)} is run by another process already, in trial {same[0]}.")

    def _trial_id_of(self, number: int) -> int:
        if number not in self._running:
            raise StudyError(
                f"Trial {number} of study {self.name!r} is not running here: it ended, or began elsewhere."
            )
        return self._running[number]

    def _listed(self) -> TrialList:
        """Return the trials as shown, up to date. The caller holds the lock."""
        for number in sorted(self._store.changed):
            self._trials.put(self._as_shown(self._store.current_runs[number].trial))
        self._store.changed.clear()
        return self._trials

    def _record_as_rerun(self, ended: Trial) -> None:
        """Record the result of a trial that was given up as a new run, unless another process runs it already."""
        self._store.refresh()
        if self._store.current_runs[ended.number].trial.state is not State.INTERRUPTED:
            self._discarded.add(ended.number)
        elif ended.state is not State.INTERRUPTED:
            trial_id = self._store.begin(ended, "", self._distributions, ended.number)
            self._store.end(trial_id, ended)

    def _as_shown(self, trial: Trial) -> Trial:
        """Return a stored trial with the values that it keeps and, while it runs here, with its reports so far."""
        shown = self._unrecorded.get(trial.number, trial)
        if shown is trial and trial.number in self._running and (reports := self._reports.get(trial.number)):
            shown = replace(shown, reports={name: dict(steps) for name, steps in reports.items()})
        return replace(shown, kept=KeptValues(self._slot, trial.number))
