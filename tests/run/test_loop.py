"""The loop: which trials are run, in which order, and how a search ends.

Several runs of one point."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from run_searches import BOUNDED, ONE, SPACE, Diary, Walk, counted, evaluating, fresh_study, searched, states, walk

from nbcompress.errors import NbcompressWarning, PointError, SearchError, SpaceExhausted, warn
from nbcompress.panels.view import study_view
from nbcompress.run import Controls, attach_artifact_store, keep, report
from nbcompress.run.capture import trial_seed
from nbcompress.run.engines import InlineEngine, ProcessEngine, engine_of
from nbcompress.run.loop import MAX_TRIAL_REMARKS, TAKEN_OVER, Search, SearchLoop, _NextPoint
from nbcompress.run.options import GainBelow, NoGain
from nbcompress.run.outcome import Outcome, mean_outcome
from nbcompress.space import Choice, Space
from nbcompress.study import Failure, State, Study, Trial, open_study
from nbcompress.study.processes import HeartbeatSettings, this_worker


def square(x: float) -> dict[str, float]:
    return {"loss": x * x}


@pytest.mark.parametrize(("needs_history", "lengths"), [(True, [0, 1, 2, 3, 4]), (False, [0] * 5)])
def test_a_proposer_that_needs_no_history_gets_none(needs_history: bool, lengths: list[int]) -> None:
    proposer = Walk()
    proposer.needs_history = needs_history  # type: ignore[attr-defined]
    study, _ = searched(square, proposer=proposer)
    assert [number for number, _ in proposer.seen] == list(range(5))
    assert [len(history) for _, history in proposer.seen] == lengths
    assert [trial.params["x"] for trial in study.all_trials] == [walk(number) for number in range(5)]


def warning_body(x: float) -> dict[str, float]:
    """Warn as the library does of a broken model: in half of the trials, and more than once in each."""
    for _ in range(2):
        if x > 0.3:
            warn(f"'weight': stored in full, the first value is {x}.")
    return {"loss": x}


class TestWarningsOfTheLibrary:
    def test_each_stands_once_with_the_trials_it_concerns(self) -> None:
        study = fresh_study()
        seen: list[tuple[str, ...]] = []

        class Panel:
            def trial_ended(self, trial: object) -> None:
                seen.append(study.warnings)

        _, ending = searched(warning_body, study, trials=20, observers=[Panel()])
        numbers = [trial.number for trial in study.all_trials if trial.params["x"] > 0.3]
        text = f"'weight': stored in full, the first value is {study.all_trials[numbers[0]].params['x']}."
        shown = f"trials {', '.join(map(str, numbers[:5]))} and {len(numbers) - 5} more"
        assert study.warnings == ending.warnings == (f"{text} ({shown})",)
        first = numbers[0]
        assert seen[first] == (f"{text} (trial {first})",)
        assert study.record["ending"]["warnings"] == list(ending.warnings)
        assert all(trial.printed == "" for trial in study.all_trials)

    def test_in_another_process(self) -> None:
        study, _ = searched(warning_body, trials=3, engine=ProcessEngine())
        assert [text.split(",")[0] for text in study.warnings] == ["'weight': stored in full"]

    def test_many_different_ones_are_cut(self) -> None:
        numbers = count()

        def body(x: float) -> dict[str, float]:
            warn(f"'layer{next(numbers)}': stored in full.")
            return {"loss": x}

        study, _ = searched(body, trials=23)
        assert len(study.warnings) == MAX_TRIAL_REMARKS + 1
        assert study.warnings[-1] == "3 more warnings of trials are left out here."

    def test_outside_of_a_trial_it_is_a_python_warning(self) -> None:
        with pytest.warns(NbcompressWarning, match="stored in full"):
            warning_body(0.5)


class TestBudget:
    def test_as_many_as_asked_for(self) -> None:
        study, ending = searched(square, sampler="walk")
        assert states(study) == ["complete"] * 5
        assert (ending.kind, ending.reason) == ("done", "All 5 trials are done.")
        assert [trial.params["x"] for trial in study.all_trials] == [walk(number) for number in range(5)]
        assert [trial.seed for trial in study.all_trials] == [trial_seed(0, number) for number in range(5)]
        assert study.all_trials[3].reason == "step 3"
        assert study.all_trials[3].note == {"step": 3, "search_seed": 0, "sampler": "walk"}

    def test_again_runs_nothing_and_says_so(self) -> None:
        study, _ = searched(square)
        _, ending = searched(lambda x: pytest.fail("ran"), study)
        assert ending.reason == "The study 'test' has its 5 trials already; none was run again."
        assert ending.seconds is None
        _, ending = searched(lambda x: pytest.fail("ran"), study, trials=3)
        assert ending.kind == "done"

    def test_again_keeps_the_stored_ending(self) -> None:
        study, first = searched(square)
        searched(square, study)
        stored = study.record["ending"]
        assert (stored["kind"], stored["reason"]) == ("done", "All 5 trials are done.")
        assert stored["seconds"] == round(first.seconds or math.nan, 3)
        assert study_view(study)["elapsed"] == pytest.approx(first.seconds, abs=1e-3)
        searched(square, study, trials=6)
        assert study.record["ending"]["reason"] == "All 6 trials are done."

    def test_a_pause_counts_neither_for_the_limit_nor_for_the_duration(self) -> None:
        controls, limit = Controls(), 2.0

        def resume() -> None:
            while controls.paused_seconds <= limit:
                time.sleep(0.02)
            controls.resume()

        class Pausing:
            def trial_ended(self, trial: Trial) -> None:
                if trial.number == 1:
                    controls.pause()
                    threading.Thread(target=resume).start()

        study, ending = searched(square, timeout=limit, controls=controls, observers=[Pausing()])
        assert (ending.kind, counted(study)) == ("done", 5)
        assert ending.seconds is not None
        assert ending.seconds < limit < controls.paused_seconds

    def test_more_later(self) -> None:
        study, _ = searched(square)
        searched(square, study, trials=8)
        assert [trial.params["x"] for trial in study.all_trials] == [walk(number) for number in range(8)]

    @settings(max_examples=15, deadline=None)
    @given(st.integers(1, 8), st.integers(1, 4), st.lists(st.sampled_from(["ok", "raise", "nan", "large"]), min_size=8))
    def test_exactly_n_whatever_they_do(self, trials: int, jobs: int, acts: list[str]) -> None:
        study = fresh_study(BOUNDED)
        todo = iter(["ok", *acts])

        def body(x: float) -> dict[str, float]:
            act = next(todo, "ok")
            if act == "raise":
                raise ValueError(x)
            return {"accuracy": float("nan") if act == "nan" else x, "size": 1.0 if act == "large" else 0.5}

        with ThreadPoolExecutor(jobs) as pool:
            searched(body, study, trials=trials, jobs=jobs, engine=engine_of(pool))
        assert counted(study) == len(study.all_trials) == trials

    def test_a_trial_of_another_process_takes_a_place(self, tmp_path: Path) -> None:
        study, other = (open_study("test", SPACE, ONE, storage=tmp_path / "journal") for _ in range(2))
        other.begin({"x": 0.25}, seed=1)
        study.refresh()
        _, ending = searched(square, study, trials=3)
        assert states(study) == ["running", "complete", "complete"]
        assert ending.kind == "elsewhere"
        assert ending.reason == "2 of 3 trials are done and 1 run in another process."

    @pytest.mark.parametrize(
        ("option", "text"),
        [
            ({"trials": 0}, "trials is an integer of at least 1, but got 0"),
            ({"trials": 2.5}, "trials is an integer of at least 1, but got 2.5"),
            ({"repeats": 0}, "repeats is an integer of at least 1"),
            ({"jobs": True}, "jobs is an integer of at least 1, but got True"),
            ({"seed": "a"}, "seed is an integer, but got 'a'"),
            ({"timeout": -1}, "A time limit is above 0 .*, but got -1"),
            ({"trial_timeout": 0}, "A time limit is above 0 .*, but got 0"),
            ({"jobs": 2}, "jobs=2 needs another engine: inline runs one trial at a time"),
            ({"until": GainBelow(0.1)}, "until='gain < 0.1' needs a sampler that expects a gain, which is gp"),
        ],
    )
    def test_wrong_options(self, option: dict[str, Any], text: str) -> None:
        study = fresh_study()
        with pytest.raises(SearchError, match=text):
            searched(square, study, **option)
        assert study.all_trials == ()


class TestEveryEnding:
    def test_the_states_of_trials(self) -> None:
        acts = iter(["ok", "raise", "nan", "missing", "large", "report"])

        def body(x: float) -> dict[str, float]:
            act = next(acts)
            if act == "raise":
                raise ValueError("no")
            if act == "report":
                report(size=2.0)
            return {
                "ok": {"accuracy": x, "size": 0.5},
                "nan": {"accuracy": float("nan"), "size": 0.5},
                "missing": {"size": 0.5},
                "large": {"accuracy": x, "size": 2.0},
            }[act]

        study, _ = searched(body, fresh_study(BOUNDED), trials=6)
        assert states(study) == ["complete", "failed", "failed", "failed", "infeasible", "infeasible"]
        assert [str(trial.failure)[:11] for trial in study.all_trials[1:4]] == [
            "ValueError:",
            "NotFinite: ",
            "NotAssigned",
        ]
        frame = study.trials
        assert list(frame.columns) == ["number", "state", "x", "accuracy", "size", "seconds"]
        assert list(frame["state"]) == states(study)
        assert frame["size"].isna().sum() == 1 + 1  # raised; not finite and so nothing recorded
        assert frame.loc[5, "size"] == 2.0
        assert (frame["seconds"] >= 0).all()

    def test_three_equal_failures_end_the_search(self) -> None:
        def body(x: float) -> dict[str, float]:
            raise NameError("name 'modle' is not defined")

        study, ending = searched(body, trials=10)
        assert states(study) == ["failed"] * 3
        assert ending.kind == "same failure"
        assert ending.reason == (
            "Stopped: the first three trials failed with the same error, NameError: name 'modle' is not defined"
        )
        _, ending = searched(square, study, trials=10)  # repaired
        assert ending.kind == "done"
        assert counted(study) == 10

    def test_a_trial_s_limit(self) -> None:
        def body(x: float) -> dict[str, float]:
            while x > 0.6:
                time.sleep(0.001)
            return {"loss": x}

        study, _ = searched(body, trials=3, trial_timeout=0.6)
        assert states(study) == ["failed", "complete", "failed"]
        assert str(study.all_trials[0].failure) == "Timeout: The trial ran over its limit of 0.6 s."

    def test_inline_a_call_that_stays_away_from_python_is_said_to_end_late(self) -> None:
        def body(x: float) -> dict[str, float]:
            time.sleep(1.5)
            return {"loss": x}

        study, ending = searched(body, trials=1, trial_timeout=0.1)
        assert states(study) == ["failed"]
        assert ending.warnings == (
            "A trial ran far over its limit: inline, a call that does not come back to Python, such as a sleep or a "
            "fit, ends by itself first. The engine process ends it in time.",
        )

    def test_the_search_s_limit_interrupts(self) -> None:
        def body(x: float) -> dict[str, float]:
            end = time.monotonic() + (100 if x < 0.3 else 0)
            while time.monotonic() < end:
                time.sleep(0.001)
            return {"loss": x}

        started = time.monotonic()
        study, ending = searched(body, timeout=1.0)
        assert time.monotonic() - started < 50
        assert states(study) == ["complete", "interrupted"]
        assert study.all_trials[1].failure is None
        assert ending.reason == ("The search's limit of 1 s has come at 1 of 5 trials; run it again to go on.")

    def test_exhausted(self) -> None:
        class Finite(Walk):
            def propose(self, number: int, history: Any) -> Any:
                if number == 2:
                    raise SpaceExhausted("All 2 points of the space were tried.")
                return super().propose(number, history)

        study, ending = searched(square, proposer=Finite())
        assert (counted(study), ending.kind, ending.reason) == (2, "exhausted", "All 2 points of the space were tried.")

    def test_no_gain(self) -> None:
        study, ending = searched(lambda x: {"loss": 1.0}, trials=20, until=NoGain(4))
        assert counted(study) == 5
        assert ending.reason == 'The last 4 trials brought no better best (stop rule "no gain 4").'
        _, ending = searched(lambda x: pytest.fail("ran"), study, trials=20, until=NoGain(4))
        assert (counted(study), ending.kind) == (5, "until")

    def test_gain_below(self) -> None:
        from nbcompress.optimize import proposer

        study = fresh_study()
        proposes = proposer("gp", study.space, n_objectives=1)
        options: dict[str, Any] = {"proposer": proposes, "trials": 40, "until": GainBelow(1e-4)}
        _, ending = searched(lambda x: {"loss": (x - 0.3) ** 2}, study, **options)
        assert ending.kind == "until"
        assert "The expected gain of another trial is" in ending.reason
        assert counted(study) < 40
        n = counted(study)
        searched(lambda x: pytest.fail("ran"), study, **options)
        assert counted(study) == n

    def test_a_broken_executor_ends_it_with_a_sentence(self) -> None:
        pool = ThreadPoolExecutor(1)
        pool.shutdown()
        study, ending = searched(square, engine=engine_of(pool, "pool"))
        assert states(study) == ["interrupted"]
        assert ending.kind == "broken"
        assert ending.reason.startswith("The executor pool takes no more trials: RuntimeError")

    def test_a_pool_that_is_broken_and_cannot_be_replaced(self) -> None:
        class Own(ProcessPoolExecutor): ...

        with Own(1, get_context("spawn")) as pool:
            pool.submit(os._exit, 1).exception()
            study, ending = searched(square, engine=engine_of(pool, "pool"))
        assert states(study) == ["failed", "interrupted"]
        assert study.all_trials[0].failure.kind == "WorkerLost"
        assert ending.kind == "broken"
        assert ending.reason.startswith("The engine pool takes no more trials: BrokenProcessPool")

    def test_a_trial_that_ends_its_process_does_not_end_the_worker(self) -> None:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            study, _ = searched(lambda x: os._exit(1) if x > 0.6 else square(x), trials=2, engine=engine_of(pool))
            assert states(study) == ["failed", "complete"]
            assert pool.submit(int, "3").result() == 3


class TestOrder:
    def test_start_points_come_first_and_once(self) -> None:
        start = ({"x": 0.5}, {"x": 0.25}, {"x": 0.5})
        study, _ = searched(square, start=start)
        assert [trial.params["x"] for trial in study.all_trials] == [0.5, 0.25, 0.5, walk(3), walk(4)]
        assert study.all_trials[0].reason == "A start point."
        searched(square, study, trials=6, start=start)
        assert study.all_trials[5].params["x"] == walk(5)

    def test_a_start_point_outside_the_space_is_an_error_before_the_start(self) -> None:
        study = fresh_study()
        with pytest.raises(PointError):
            searched(square, study, start=({"x": 0.5}, {"x": 2.0}))
        assert study.all_trials == ()

    def test_interrupted_ones_run_again_under_their_number(self) -> None:
        study = fresh_study()
        for number in range(4):
            trial = study.begin({"x": walk(number)}, seed=trial_seed(0, number), reason=f"step {number}")
            state = State.INTERRUPTED if number in (1, 3) else State.COMPLETE
            study.finish(replace(trial, state=state, values={"loss": 1.0} if state is State.COMPLETE else {}))
        ran: list[float] = []

        def body(x: float) -> dict[str, float]:
            ran.append(x)
            return square(x)

        searched(body, study, trials=6, start=({"x": 0.5},))
        assert ran == [walk(1), walk(3), 0.5, walk(5)]
        assert len(study.trials) == 6
        assert states(study) == ["complete"] * 6
        assert study.all_trials[1].seed == trial_seed(0, 1)

    def test_queued_ones_before_proposals(self) -> None:
        study = fresh_study()
        study.queue({"x": 0.125})
        searched(square, study, trials=3, start=({"x": 0.5},))
        assert [trial.params["x"] for trial in study.all_trials] == [0.5, 0.125, walk(2)]

    def test_proposers_see_everything(self) -> None:
        walker = Walk()
        acts = iter([square, lambda x: 1 / 0, square])
        searched(lambda x: next(acts)(x), trials=3, proposer=walker)
        number, history = walker.seen[2]
        assert number == 2
        assert history.status == ("told", "failed")
        assert history.points == ({"x": walk(0)}, {"x": walk(1)})

    def test_what_runs_is_pending(self) -> None:
        walker, gate = Walk(), threading.Barrier(2)

        def body(x: float) -> dict[str, float]:
            gate.wait(10)
            return square(x)

        with ThreadPoolExecutor(2) as pool:
            study, _ = searched(body, trials=4, jobs=2, proposer=walker, engine=engine_of(pool))
        assert walker.seen[1][1].status == ("pending",)
        assert counted(study) == 4

    def test_repeats_are_means_with_seeds_of_their_own(self) -> None:
        ran: list[float] = []

        def body(x: float) -> dict[str, float]:
            ran.append(x)
            return {"loss": float(len(ran))}

        study, _ = searched(body, trials=2, repeats=3)
        assert ran == [walk(0)] * 3 + [walk(1)] * 3
        assert [trial.values["loss"] for trial in study.all_trials] == [2.0, 5.0]
        assert counted(study) == 2

    def test_a_repeat_that_fails_ends_the_trial(self) -> None:
        ran: list[float] = []

        def body(x: float) -> dict[str, float]:
            ran.append(x)
            return {"loss": 1 / (2 - len(ran))}

        study, _ = searched(body, trials=1, repeats=5)
        assert states(study) == ["failed"]
        assert len(ran) == 2


class TestEarlyStopping:
    def test_trials_that_fall_behind_are_stopped(self) -> None:
        steps: list[int] = []

        def body(x: float) -> dict[str, float]:
            for step in range(9):
                report(loss=x + 1 / (step + 1), step=step)
            steps.append(9)
            return {"loss": x}

        study, _ = searched(body, trials=12, pruner="asha")
        assert states(study)[0] == "complete"
        assert "stopped" in states(study)
        stopped = next(trial for trial in study.all_trials if trial.state is State.STOPPED)
        assert "loss" not in stopped.values
        assert len(stopped.reports["loss"]) in (1, 3)
        assert counted(study) == 12


class TestPeople:
    def test_stop_abandons_what_runs(self) -> None:
        controls = Controls()

        def body(x: float) -> dict[str, float]:
            if x < 0.3:  # the second one
                threading.Timer(0.05, controls.stop).start()
                end = time.monotonic() + 100
                while time.monotonic() < end:
                    time.sleep(0.001)
            return square(x)

        study, ending = searched(body, controls=controls)
        assert states(study) == ["complete", "interrupted"]
        assert ending.reason == "Stopped at 1 of 5 trials; run it again to go on."
        searched(square, study)
        assert [trial.params["x"] for trial in study.all_trials] == [walk(number) for number in range(5)]

    def test_stop_before_the_start(self) -> None:
        controls = Controls()
        controls.stop()
        study, ending = searched(square, controls=controls)
        assert (states(study), ending.kind) == ([], "stopped")

    def test_skip_ends_the_trial_as_stopped(self) -> None:
        controls = Controls()

        def body(x: float) -> dict[str, float]:
            if x < 0.3:
                threading.Timer(0.05, controls.skip).start()
                end = time.monotonic() + 100
                while time.monotonic() < end:
                    time.sleep(0.001)
            return square(x)

        study, ending = searched(body, controls=controls, trials=3)
        assert states(study) == ["complete", "stopped", "complete"]
        assert ending.kind == "done"

    def test_pause_waits(self) -> None:
        controls = Controls()
        times: list[float] = []

        def body(x: float) -> dict[str, float]:
            times.append(time.monotonic())
            if len(times) == 1:
                controls.pause()
                threading.Timer(0.4, controls.resume).start()
            return square(x)

        searched(body, controls=controls, trials=2)
        assert times[1] - times[0] >= 0.3

    def test_stop_ends_a_pause(self) -> None:
        controls = Controls()
        controls.pause()
        threading.Timer(0.2, controls.stop).start()
        study, ending = searched(square, controls=controls)
        assert (states(study), ending.kind) == ([], "stopped")

    def test_an_interrupt_in_the_body(self) -> None:
        def body(x: float) -> dict[str, float]:
            if x < 0.3:
                signal.raise_signal(signal.SIGINT)
            return square(x)

        study, ending = searched(body)
        assert states(study) == ["complete", "interrupted"]
        assert ending.reason == "Interrupted at 1 of 5 trials; run it again to go on."

    def test_an_interrupt_that_the_body_raises_itself_fails_that_trial(self) -> None:
        calls: list[float] = []

        def body(x: float) -> dict[str, float]:
            calls.append(x)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return square(x)

        study, ending = searched(body)
        assert states(study) == ["complete", "failed", "complete", "complete", "complete"]
        assert study.all_trials[1].failure.kind == "KeyboardInterrupt"
        assert "raise KeyboardInterrupt" in study.all_trials[1].failure.traceback
        assert ending.kind == "done"

    def test_an_interrupt_that_the_body_swallows(self) -> None:
        def body(x: float) -> dict[str, float]:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            return square(x)

        study, ending = searched(body)
        assert states(study) == ["complete"]
        assert ending.kind == "interrupted"

    def test_an_interrupt_between_trials_tears_nothing(self) -> None:
        class Interrupting(Diary):
            def trial_ended(self, trial: Any) -> None:
                super().trial_ended(trial)
                if trial.number == 1:
                    signal.raise_signal(signal.SIGINT)

        diary = Interrupting()
        study, ending = searched(square, observers=[diary])
        assert states(study) == ["complete"] * 2
        assert ending.kind == "interrupted"
        assert diary.lines[-1] == "ended interrupted"

    def test_the_second_one_raises_and_nothing_is_left_running(self) -> None:
        study = fresh_study()

        def body(x: float) -> dict[str, float]:
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)
            return square(x)

        with pytest.raises(KeyboardInterrupt):
            searched(body, study)
        assert states(study) == ["interrupted"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_an_interrupt_while_processes_run(self, tmp_path: Path) -> None:
        def body(x: float) -> None:
            (tmp_path / str(os.getpid())).touch()
            time.sleep(200)

        def interrupt() -> None:
            while len(list(tmp_path.iterdir())) < 2:
                time.sleep(0.01)
            signal.raise_signal(signal.SIGINT)

        thread = threading.Thread(target=interrupt, daemon=True)
        thread.start()
        started = time.monotonic()
        study, ending = searched(body, engine=ProcessEngine(), jobs=2)
        thread.join()
        assert time.monotonic() - started < 100
        assert states(study) == ["interrupted"] * 2
        assert ending.kind == "interrupted"

    def test_an_interrupt_while_the_proposer_thinks_begins_no_trial(self) -> None:
        class Slow(Walk):
            def propose(self, number: int, history: Any) -> Any:
                if number == 2:
                    signal.raise_signal(signal.SIGINT)
                return super().propose(number, history)

        study, ending = searched(square, proposer=Slow())
        assert states(study) == ["complete"] * 2
        assert ending.kind == "interrupted"

    def test_in_a_background_thread(self) -> None:
        found: list[Any] = []
        controls, begun = Controls(), threading.Event()

        def body(x: float) -> dict[str, float]:
            while x < 0.3:
                begun.set()
                time.sleep(0.001)
            return square(x)

        thread = threading.Thread(target=lambda: found.append(searched(body, controls=controls)))
        thread.start()
        assert begun.wait(60)
        controls.stop()
        thread.join(60)
        assert states(found[0][0]) == ["complete", "interrupted"]

    def test_nothing_arrives_after_the_search(self) -> None:
        for _ in range(20):
            searched(square, trials=1, timeout=0.001)
            searched(square, trials=1, trial_timeout=0.0005)
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            pass


class TestObservers:
    def test_they_are_told_in_order(self) -> None:
        diary = Diary()

        def body(x: float) -> dict[str, float]:
            report(loss=1.0, step=0)
            return {"loss": 2.0}

        searched(body, trials=2, observers=[diary])
        each = ["start {0}", "report {0} 0 {{'loss': 1.0}}", "end {0} complete"]
        assert diary.lines == [line.format(number) for number in range(2) for line in each] + ["ended done"]

    def test_one_that_raises_costs_nothing(self) -> None:
        class Broken(Diary):
            def trial_started(self, trial: Any) -> None:
                raise ValueError("no comm")

        diary = Diary()
        study, ending = searched(square, observers=[Broken(), diary])
        assert counted(study) == 5
        assert len(diary.lines) == 11
        assert ending.warnings == ("Broken could not show the search any more: ValueError: no comm",)

    def test_a_trial_is_recorded_before_anyone_is_told(self) -> None:
        study = fresh_study()

        class Looks(Diary):
            def trial_ended(self, trial: Any) -> None:
                assert study.all_trials[trial.number].state is State.COMPLETE
                super().trial_ended(trial)

        looks = Looks()
        _, ending = searched(square, study, observers=[looks])
        assert ending.warnings == ()


class TestOtherMachines:
    """Trials that run, or ran, where this process cannot look."""

    @pytest.fixture(autouse=True)
    def looks_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nbcompress.run.loop._REFRESH_SECONDS", 0.0)
        monkeypatch.setattr("nbcompress.run.loop._POLL_SECONDS", 0.001)

    def both(self, path: Path, clock: Callable[[], float]) -> tuple[Study, Study]:
        """Return a study as this process sees it, and as another machine does that has begun a trial at .25."""
        other = open_study("test", SPACE, ONE, storage=path, heartbeats=HeartbeatSettings(clock=lambda: math.inf))
        with pytest.MonkeyPatch.context() as patch:
            elsewhere = replace(this_worker("there"), host="there")
            patch.setattr("nbcompress.study.trial_store.this_worker", lambda _: elsewhere)
            other.begin({"x": 0.25}, seed=1)
        return open_study("test", SPACE, ONE, storage=path, heartbeats=HeartbeatSettings(clock=clock)), other

    def test_the_trial_of_one_that_is_gone_is_run_in_the_end(self, tmp_path: Path) -> None:
        study, _ = self.both(tmp_path / "journal", count(0, 5).__next__)
        ran: list[float] = []

        def body(x: float) -> dict[str, float]:
            ran.append(x)
            return square(x)

        _, ending = searched(body, study, trials=3)
        assert ending.kind == "done"
        assert states(study) == ["complete"] * 3
        assert sorted(ran) == sorted([0.25, walk(1), walk(2)])
        assert study.all_trials[0].params == {"x": 0.25}

    def test_it_is_waited_for_as_long_as_it_may_live(self, tmp_path: Path) -> None:
        study, _ = self.both(tmp_path / "journal", lambda: 0.0)
        controls = Controls()
        threading.Timer(0.3, controls.stop).start()
        _, ending = searched(square, study, trials=3, controls=controls)
        assert ending.kind == "stopped"
        assert states(study) == ["running", "complete", "complete"]

    def test_one_that_gives_a_sign_of_life_keeps_it(self, tmp_path: Path) -> None:
        study, other = self.both(tmp_path / "journal", lambda: 0.0)
        identity = other.optuna_study().trials[0]._trial_id
        timer = threading.Timer(0.3, lambda: other._store._write_heartbeat(identity, 1))
        timer.start()
        _, ending = searched(square, study, trials=3)
        timer.join()
        assert ending.reason == "2 of 3 trials are done and 1 run in another process."

    def test_what_was_taken_over_meanwhile_is_said_and_keeps_what_the_other_kept(self, tmp_path: Path) -> None:
        study = open_study("test", SPACE, ONE, storage=tmp_path / "journal")
        other = open_study("test", SPACE, ONE, storage=tmp_path / "journal")
        attach_artifact_store(study)

        def body(x: float) -> dict[str, float]:
            if not other.all_trials:
                theirs = other.optuna_study()
                theirs._storage.set_trial_state_values(theirs.trials[0]._trial_id, TrialState.FAIL)
                again = other.begin({"x": x}, number=0)
                assert study.artifact_store is not None
                study.artifact_store.put(0, "x", -1.0)
                other.finish(replace(again, state=State.COMPLETE, values={"loss": -1.0}))
            keep(x=x)
            return square(x)

        _, ending = searched(body, study, trials=2, keep=("x",))
        assert ending.kind == "done"
        assert [trial.values["loss"] for trial in study.all_trials] == [-1.0, walk(1) ** 2]
        assert study.all_trials[0].kept["x"] == -1.0
        assert [warning for warning in ending.warnings if "taken over" in warning] == [TAKEN_OVER.format(number=0)]


def test_engines_agree() -> None:
    """Equal seeds give equal trials wherever they run."""

    def body(x: float) -> dict[str, float]:
        import torch

        return {"loss": x + float(torch.rand(()))}

    def values(study: Study) -> list[float]:
        return [trial.values["loss"] for trial in study.all_trials]

    inline, _ = searched(body)
    process, _ = searched(body, engine=ProcessEngine(), jobs=1)
    assert values(inline) == values(process)


def test_kept_values_of_the_front() -> None:
    from nbcompress.run import attach_artifact_store

    study = open_study("kept", Space({"x": Choice(1, 2, 3, 4)}), BOUNDED, storage=None)
    attach_artifact_store(study)
    accuracies = {1: 0.1, 2: 0.5, 3: 0.3, 4: 0.9}

    def body(x: float) -> dict[str, float]:
        keep(which=x, other=0)
        return {"accuracy": accuracies[int(x)], "size": 0.5 if x < 4 else 0.7}

    class Counting(Walk):
        def propose(self, number: int, history: Any) -> Any:
            from nbcompress.optimize import Proposal

            return Proposal({"x": number + 1})

    searched(body, study, proposer=Counting(), trials=4, keep=("which",))
    assert study.artifact_store is not None
    assert [study.artifact_store.names(number) for number in range(4)] == [(), ("which",), (), ("which",)]
    assert dict(study.front[0].kept) == {"which": 4}
    assert dict(study.front[1].kept) == {"which": 2}


def test_metrics_are_means() -> None:
    first = Outcome(
        State.COMPLETE, {"a": 1.0, "b": 5.0}, {"a": {0: 1.0}}, None, "one ", 2.0, {"k": 1}, remarks=("careful",)
    )
    second = Outcome(State.COMPLETE, {"a": 2.0}, {"a": {0: 9.0}}, None, "two", 3.0, {"k": 2}, remarks=("careful",))
    mean = mean_outcome([first, second])
    assert mean.spreads == {"a": pytest.approx(math.sqrt(0.5))}  # of 1 and 2, with n - 1 below
    assert replace(mean, spreads={}) == Outcome(
        State.COMPLETE,
        {"a": 1.5},
        {"a": {0: 1.0}},
        None,
        "one two",
        5.0,
        {"k": 1},
        remarks=("careful",),
        n_runs=2,
    )


def test_one_run_is_itself() -> None:
    outcome = Outcome(State.FAILED, {"a": 1.0}, failure=Failure("X", ""), seconds=1.0)
    assert mean_outcome([outcome]) == outcome


def test_a_run_that_does_not_complete_stands_alone() -> None:
    first = Outcome(State.COMPLETE, {"size": 10.0}, seconds=1.0, kept={"k": 1})
    second = Outcome(State.INFEASIBLE, {"size": 61.0}, seconds=1.0)
    assert mean_outcome([first, second]) == Outcome(State.INFEASIBLE, {"size": 61.0}, seconds=2.0)


def test_a_trial_that_runs_here_is_not_started_again_when_another_machine_gives_it_up() -> None:
    study = fresh_study()
    trial = study.begin({"x": 0.5})
    search = Search(study, Walk(), evaluating(lambda x: {"loss": x}), InlineEngine())
    loop = SearchLoop(search)
    study.finish(replace(trial, state=State.INTERRUPTED))  # as another machine does

    def next_number() -> int | None:
        planned = loop._next_point(study.n_trials)
        assert isinstance(planned, _NextPoint)
        return planned.number

    assert next_number() == 0
    loop._running[0] = object()  # type: ignore[assignment]
    assert next_number() is None
