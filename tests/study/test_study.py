"""Studies: tests that run with every kind of storage, and what a user reads of a study."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nbcompress.errors import GoalError, PointError, StudyChanged, StudyError
from nbcompress.space import Choice, Float, Int, Space
from nbcompress.study import Failure, Goal, State, Study, Trial, delete_study, list_studies, open_study, read_study

SPACE = Space(
    {
        "amount": Float(0.2, 0.98),
        "bits": Choice(2, 4, 8),
        "method": Choice("plain", "cluster"),
        "clusters": Int(4, 64, log=True, when={"method": "cluster"}),
        "cuts": Float(0.0, 0.9, step=0.25, each=["conv1", "fc"]),
    }
)
GOAL = Goal.of(["accuracy"], ["kilobytes"], ["kilobytes <= 60"])
PLAIN = {"amount": 0.5, "bits": 4, "method": "plain", "cuts[conv1]": 0.25, "cuts[fc]": 0.0}
CLUSTER = {"amount": 0.1 + 0.2, "bits": 8, "method": "cluster", "clusters": 16, "cuts[conv1]": 0.0, "cuts[fc]": 0.75}
GOOD = {"accuracy": 0.9, "kilobytes": 40.0}


class Place:
    """A storage in which studies can be opened several times."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.storage: Any = str(folder / "a.journal")
        if kind == "memory":
            import optuna

            self.storage = optuna.storages.InMemoryStorage()
        elif kind == "sqlite":
            self.storage = f"sqlite:///{folder / 'a.db'}"

    def open(self, name: str = "digits", space: Space = SPACE, goal: Goal = GOAL, **options: Any) -> Study:
        return open_study(name, space, goal, storage=self.storage, **options)

    def read(self, name: str = "digits") -> Study:
        return read_study(name, self.storage)


@pytest.fixture(params=["memory", "journal", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


@pytest.fixture
def journal(tmp_path: Path) -> Place:
    return Place("journal", tmp_path)


def run(
    study: Study,
    point: dict[str, Any] = PLAIN,
    state: State = State.COMPLETE,
    values: dict[str, float] | None = None,
    **more: Any,
) -> Trial:
    trial = study.begin(point)
    return study.finish(replace(trial, state=state, values=GOOD if values is None else values, seconds=1.5, **more))


def lost(place: Place, name: str = "digits") -> int:
    """Begin a trial and delete the object that runs it, as a cell that ends with an error does; return its number."""
    study = place.open(name)
    return study.begin(CLUSTER, seed=7, note={"scale": 1.5}, reason="explores").number


# --- Laws of every storage ---------------------------------------------------------------------------------------


def test_a_trial_comes_back_as_it_was_recorded(place: Place) -> None:
    study = place.open()
    begun = study.begin(CLUSTER, seed=7, note={"lengthscales": [0.1, 2.5], "phase": None}, reason="expected to gain .1")
    assert (begun.number, begun.state, begun.params, begun.seconds) == (0, State.RUNNING, CLUSTER, None)
    ended = replace(
        begun,
        state=State.COMPLETE,
        values={"accuracy": 0.1 + 0.2, "kilobytes": 60.0, "extra": math.inf},
        seconds=0.0,
        printed="epoch 1\n€ \x1b[31mred\x1b[0m",
        reports={"accuracy": {0: 0.1, 10: math.nan}},
    )
    recorded = study.finish(ended)
    stored = place.read().all_trials[0]
    for trial in (recorded, stored, place.open().all_trials[0]):
        assert replace(trial, reports={}) == replace(ended, reports={})
        assert trial.reports["accuracy"][0] == 0.1
        assert math.isnan(trial.reports["accuracy"][10])


@pytest.mark.parametrize(
    "state", [State.COMPLETE, State.STOPPED, State.INFEASIBLE, State.FAILED, State.INTERRUPTED], ids=str
)
def test_every_end_comes_back(place: Place, state: State) -> None:
    values = {State.COMPLETE: GOOD, State.INFEASIBLE: {"kilobytes": 61.0}}.get(state, {"kilobytes": 3.0})
    failure = Failure("ValueError", "no", "Traceback ...") if state is State.FAILED else None
    trial = run(place.open(), state=state, values=values, failure=failure)
    assert (trial.state, trial.values, trial.failure) == (state, values, failure)
    assert place.read().all_trials == (trial,)


def test_numbers_have_no_gaps(place: Place) -> None:
    study, other = place.open(), place.open()
    begun = [writer.begin(PLAIN) for writer in (study, other, other, study)]
    assert [trial.number for trial in begun] == [0, 1, 2, 3]
    other.finish(replace(begun[2], state=State.COMPLETE, values=GOOD))
    study.refresh()
    states = [State.RUNNING, State.RUNNING, State.COMPLETE, State.RUNNING]
    assert [trial.state for trial in study.all_trials] == states


def test_an_interrupted_trial_is_run_again_under_its_number(place: Place) -> None:
    study = place.open()
    run(study)
    number = lost(place)
    assert number == 1
    study = place.open()
    assert [trial.state for trial in study.all_trials] == [State.COMPLETE, State.INTERRUPTED]
    found = study.all_trials[1]
    assert (found.params, found.seed, found.note, found.reason) == (CLUSTER, 7, {"scale": 1.5}, "explores")
    begun = study.begin(found.params, number=1, seed=found.seed)
    assert (begun.number, begun.state) == (1, State.RUNNING)
    assert study.begin(PLAIN).number == 2
    study.finish(replace(begun, state=State.COMPLETE, values=GOOD))
    assert [trial.state.value for trial in place.read().all_trials] == ["complete", "complete", "running"]
    assert len(study.trials) == 3


def test_a_trial_may_be_interrupted_several_times(place: Place) -> None:
    lost(place)
    for _ in range(3):
        study = place.open()
        begun = study.begin(CLUSTER, number=0)
        study.finish(replace(begun, state=State.INTERRUPTED))
        assert [(trial.number, trial.state) for trial in study.all_trials] == [(0, State.INTERRUPTED)]


@pytest.mark.parametrize(
    ("number", "point", "text"),
    [
        (0, PLAIN, "Only an interrupted or failed trial is run again, but trial 0 is complete."),
        (5, PLAIN, "Study 'digits' has 2 trials, so there is no trial 5."),
        (-1, PLAIN, "Study 'digits' has 2 trials, so there is no trial -1."),
        (1, PLAIN, f"Trial 1 is run again at its own point {CLUSTER}, but got {PLAIN}."),
    ],
)
def test_what_cannot_be_run_again(place: Place, number: int, point: dict[str, Any], text: str) -> None:
    run(place.open())
    lost(place)
    with pytest.raises(StudyError) as caught:
        place.open().begin(point, number=number)
    assert str(caught.value) == text


def test_a_repeat_has_one_winner(place: Place) -> None:
    lost(place)
    study, other = place.open(), place.open()
    study.begin(CLUSTER, number=0)
    with pytest.raises(StudyError) as caught:
        other.begin(CLUSTER, number=0)
    assert str(caught.value) == "Only an interrupted or failed trial is run again, but trial 0 is running."


def test_a_repeat_that_lost_the_race_ends_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a database, where nothing keeps another process from beginning between our look and our write.
    lost(place)
    study, other = place.open(), place.open()
    monkeypatch.setattr(other, "_check_repeatable", lambda *_: study.begin(CLUSTER, number=0))
    with pytest.raises(StudyError) as caught:
        other.begin(CLUSTER, number=0)
    assert str(caught.value) == "Trial 0 of study 'digits' is run again by another process already."
    study.refresh()
    assert [trial.state for trial in study.all_trials] == [State.RUNNING]
    study.abandon()
    assert [trial.state for trial in place.open().all_trials] == [State.INTERRUPTED]


def test_a_study_object_in_use_keeps_its_trials_running(place: Place) -> None:
    study = place.open()
    best = run(study)
    study.begin(PLAIN)
    assert study.best == best
    for other in (study, place.open(), place.read()):
        assert [trial.state for trial in other.all_trials] == [State.COMPLETE, State.RUNNING]
    del other, study
    # At once, without a garbage collection, although trials are still referenced.
    assert place.read().all_trials[1].state is State.INTERRUPTED


def test_abandon_interrupts_the_trials_of_this_object(place: Place) -> None:
    study, other = place.open(), place.open()
    study.begin(PLAIN)
    other.begin(PLAIN)
    study.begin(CLUSTER)
    study.report(2, "accuracy", 0, 0.5)
    study.abandon()
    study.abandon()
    assert [trial.state.value for trial in study.all_trials] == ["interrupted", "running", "interrupted"]
    assert study.all_trials[2].reports == {"accuracy": {0: 0.5}}


def test_abandon_also_ends_a_trial_whose_beginning_was_interrupted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = place.open()
    with monkeypatch.context() as patch:
        patch.setattr(study, "_as_shown", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(study, "_running", NeverNoted())
        with pytest.raises(KeyboardInterrupt):
            study.begin(PLAIN)
    assert [trial.state for trial in place.read().all_trials] == [State.RUNNING]
    study.abandon()
    assert [trial.state for trial in place.read().all_trials] == [State.INTERRUPTED]
    place.read().abandon()


class NeverNoted(dict[int, int]):
    def __setitem__(self, number: int, identity: int) -> None:
        pass


def test_a_result_that_could_not_be_stored_is_stored_when_the_search_ends(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage fails once, as a locked database does; the result must not be replaced by `interrupted`."""
    study = place.open()
    trial = study.begin(PLAIN)
    end, calls = study._store.end, []

    def fail_once(*arguments: Any) -> bool:
        calls.append(arguments)
        if len(calls) == 1:
            raise StudyError("database is locked")
        return end(*arguments)

    monkeypatch.setattr(study._store, "end", fail_once)
    with pytest.raises(StudyError, match="locked"):
        study.finish(replace(trial, state=State.COMPLETE, values=GOOD))
    study.abandon()
    for found in (study, place.open()):
        assert found.all_trials[0].state is State.COMPLETE
        assert found.all_trials[0].values == GOOD


def test_a_trial_that_another_program_ended_is_recorded_all_the_same(place: Place) -> None:
    study = place.open()
    begun = study.begin(PLAIN)
    ended_by_another_program(study)
    assert study.finish(replace(begun, state=State.COMPLETE, values=GOOD)).state is State.COMPLETE
    assert study.discarded == frozenset()
    assert [(trial.state, trial.values) for trial in place.open().all_trials] == [(State.COMPLETE, GOOD)]


def test_a_result_is_discarded_if_the_trial_was_run_again(place: Place) -> None:
    study, other = place.open(), place.open()
    begun = study.begin(PLAIN)
    ended_by_another_program(study)
    assert not study.is_taken_over(0)
    again = other.begin(PLAIN, number=0)
    assert study.is_taken_over(0)
    assert study.finish(replace(begun, state=State.COMPLETE, values={**GOOD, "accuracy": 0.1})).state is State.RUNNING
    assert study.discarded == {0}
    other.finish(replace(again, state=State.COMPLETE, values=GOOD))
    assert [(trial.state, trial.values) for trial in place.open().all_trials] == [(State.COMPLETE, GOOD)]


def test_what_another_program_ended_stays_interrupted_when_it_is_abandoned(place: Place) -> None:
    study = place.open()
    study.begin(PLAIN)
    begun = study.begin(PLAIN)
    ended_by_another_program(study)
    study.finish(replace(begun, state=State.INTERRUPTED))
    study.abandon()
    assert [trial.state for trial in place.open().all_trials] == [State.INTERRUPTED] * 2


def ended_by_another_program(study: Study) -> None:
    import optuna

    optuna_study = study.optuna_study()
    for trial in optuna_study.trials:
        optuna_study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)


@pytest.mark.parametrize(
    ("values", "state", "failure"),
    [
        ({"accuracy": 0.5}, State.FAILED, "NotAssigned: the metric 'kilobytes' was not assigned"),
        ({"accuracy": math.nan, "kilobytes": 1.0}, State.FAILED, "NotFinite: the metric 'accuracy' is nan"),
        ({"accuracy": math.inf, "kilobytes": 1.0}, State.FAILED, "NotFinite: the metric 'accuracy' is inf"),
        ({"accuracy": 0.5, "kilobytes": -math.inf}, State.FAILED, "NotFinite: the metric 'kilobytes' is -inf"),
        ({"accuracy": 0.5, "kilobytes": 60.1}, State.INFEASIBLE, None),
        ({"kilobytes": 60.1}, State.INFEASIBLE, None),
    ],
)
def test_complete_means_measured_and_feasible(
    place: Place, values: dict[str, float], state: State, failure: str | None
) -> None:
    run(place.open(), values=values)
    trial = place.read().all_trials[0]
    assert trial.state is state
    assert (trial.failure and str(trial.failure)) == failure
    assert trial.values.keys() == values.keys()


def test_reports_show_at_once_and_are_stored_with_the_end(place: Place) -> None:
    study = place.open()
    begun = study.begin(PLAIN)
    study.report(0, "accuracy", 0, 0.25)
    study.report(0, "accuracy", 1, 0.5)
    study.report(0, "loss", 1, math.nan)
    assert study.all_trials[0].reports["accuracy"] == {0: 0.25, 1: 0.5}
    assert place.read().all_trials[0].reports == {}
    study.finish(replace(begun, state=State.STOPPED))
    assert place.read().all_trials[0].reports["accuracy"] == {0: 0.25, 1: 0.5}


def test_only_a_trial_that_runs_here_can_be_finished(place: Place) -> None:
    study, other = place.open(), place.open()
    begun = study.begin(PLAIN)
    ended = replace(begun, state=State.COMPLETE, values=GOOD)
    text = "Trial 0 of study 'digits' is not running here: it ended, or began elsewhere."
    for call in (lambda: other.finish(ended), lambda: other.report(0, "accuracy", 0, 1.0)):
        with pytest.raises(StudyError) as caught:
            call()
        assert str(caught.value) == text
    study.finish(ended)
    with pytest.raises(StudyError) as caught:
        study.finish(ended)
    assert str(caught.value) == text
    with pytest.raises(StudyError) as caught:
        study.finish(begun)
    assert str(caught.value) == "Trial 0 is finished with one of the end states, but got 'running'."


def test_a_point_outside_the_space_is_refused(place: Place) -> None:
    study = place.open()
    for call in (study.begin, study.queue):
        with pytest.raises(PointError):
            call({**PLAIN, "clusters": 4})
    assert study.all_trials == ()


def test_long_texts_and_many_reports_come_back(place: Place) -> None:
    printed = "start " + "é" * 50_000 + " end"
    steps = {step: step / 7 for step in range(5_000)}
    failure = Failure("E", "m" * 9_000, "first\n" + "x" * 30_000 + "\nlast")
    run(place.open(), state=State.FAILED, printed=printed, reports={"accuracy": steps}, failure=failure)
    trial = place.read().all_trials[0]
    assert trial.reports == {"accuracy": steps}
    assert trial.printed.startswith("start ")
    assert trial.printed.endswith(" end")
    assert f"... {len(printed) - 10_000} characters left out ..." in trial.printed
    assert len(trial.printed) < 10_100
    assert trial.failure.traceback.endswith("last")
    assert len(trial.failure.traceback) < 10_100


def test_notes_that_are_not_json_are_refused_before_anything_is_written(place: Place) -> None:
    study = place.open()
    with pytest.raises(StudyError) as caught:
        study.begin(PLAIN, note={"model": object()})
    assert str(caught.value) == (
        "What is stored with a study is plain JSON, but the note of a trial is not: "
        "Object of type object is not JSON serializable."
    )
    assert place.read().all_trials == ()


def test_queued_points_are_taken_once_in_order(place: Place) -> None:
    study = place.open()
    assert study.queue(CLUSTER)
    assert study.queue(PLAIN)
    assert not study.queue(CLUSTER)
    study = place.open()
    assert study.queued == (CLUSTER, PLAIN)
    assert study.take_queued() == CLUSTER
    # Taken and not begun: another kernel finds it again.
    assert place.open().take_queued() == CLUSTER
    study.finish(replace(study.begin(CLUSTER), state=State.COMPLETE, values=GOOD))
    assert study.queued == (PLAIN,)
    assert place.read().queued == (PLAIN,)
    assert study.take_queued() == PLAIN
    assert study.take_queued() is None
    study.begin(PLAIN)
    assert not study.queue(PLAIN)
    assert place.open().take_queued() is None


def test_records_come_back(place: Place) -> None:
    study = place.open()
    study.annotate(seed=3, source="x = 1\n" * 20_000, versions={"torch": "2.13.0"})
    study.annotate(seed=4)
    expected = {"seed": 4, "source": "x = 1\n" * 20_000, "versions": {"torch": "2.13.0"}}
    assert study.record == place.read().record == expected
    reader = place.read()
    study.annotate(seed=5)
    assert reader.record["seed"] == 4, "as its trials, until it is refreshed"
    reader.refresh()
    assert reader.record["seed"] == 5
    with pytest.raises(StudyError) as caught:
        study.annotate(model={1, 2})
    assert str(caught.value) == (
        "What is stored with a study is plain JSON, but the record 'model' is not: "
        "Object of type set is not JSON serializable."
    )


def test_generations(place: Place) -> None:
    run(place.open("digits"))
    second = place.open("digits", fresh=True)
    assert (second.name, second.all_trials) == ("digits~2", ())
    assert place.open("digits").name == "digits~2"
    assert place.open("digits~1").name == "digits"
    assert place.open("digits~2", fresh=True).name == "digits~3"
    assert place.read("digits").name == "digits~3"
    assert len(place.read("digits~1").all_trials) == 1
    assert place.open("new", fresh=True).name == "new"
    assert [summary.name for summary in list_studies(place.storage)] == ["digits", "digits~2", "digits~3", "new"]


def test_a_listing_counts_states(place: Place) -> None:
    study = place.open()
    run(study)
    run(study, state=State.STOPPED)
    study.begin(PLAIN)
    (summary,) = list_studies(place.storage)
    assert (summary.name, summary.goal, summary.n_trials) == ("digits", GOAL, 3)
    assert summary.counts == {State.COMPLETE: 1, State.STOPPED: 1, State.RUNNING: 1}
    assert summary.created.tzinfo is not None


def test_deleting(place: Place) -> None:
    study = place.open()
    run(study)
    place.open("other")
    begun = study.begin(PLAIN)
    with pytest.raises(StudyError) as caught:
        delete_study("digits", place.storage)
    assert str(caught.value).startswith("Study 'digits' is in use: trial 1 runs in process ")
    study.finish(replace(begun, state=State.STOPPED))
    delete_study("digits", place.storage)
    assert [summary.name for summary in list_studies(place.storage)] == ["other"]
    with pytest.raises(StudyError, match=r"^There is no study 'digits' in .*\. There is 'other'\.$"):
        place.read("digits")
    with pytest.raises(StudyError, match=r"^There is no study 'othre' in .*\. Did you mean 'other'\?$"):
        delete_study("othre", place.storage)
    known = study.record
    for use in (study.refresh, lambda: study.annotate(seed=1), lambda: study.queued, lambda: study.begin(PLAIN)):
        with pytest.raises(StudyError, match=r"^The study was deleted from .* while it was in use\.$"):
            use()
    assert study.record == known, "what was read of it can still be shown"
    assert place.open("digits").all_trials == ()


def test_other_declarations_or_goals_are_an_error_that_names_the_difference(place: Place) -> None:
    place.open()
    changed = Space(
        {**{name: SPACE[name] for name in ("amount", "bits")}, "method": Choice("plain", "cluster", "both")}
    )
    with pytest.raises(StudyChanged) as caught:
        place.open(space=changed)
    text = str(caught.value)
    assert text.startswith("Study 'digits' in ")
    assert SPACE.difference(changed) in text
    assert text.endswith("Give the new search another study, or begin the next generation with fresh=True.")
    with pytest.raises(StudyChanged, match=r"The objective 'loss' is new: it was not minimized before\."):
        place.open(goal=Goal.of([], ["loss"]))
    with pytest.raises(
        StudyChanged, match=r"The constraint is 'kilobytes <= 50' now and was 'kilobytes <= 60' before\."
    ):
        place.open(goal=Goal.of(["accuracy"], ["kilobytes"], ["kilobytes <= 50"]))
    assert place.open(goal=Goal.of([], ["loss"]), fresh=True).name == "digits~2"


def test_a_changed_body_is_one_line_of_warning(place: Place) -> None:
    assert place.open(identity={"body": "a1"}).warnings == ()
    assert place.open(identity={"body": "a1"}).warnings == ()
    assert place.open().warnings == ()
    assert place.open(identity={"body": "b2", "new": 1}).warnings == (
        "Study 'digits' was begun with another body; its earlier trials were run with that.",
    )


def test_compiled_code_of_two_versions_of_python_is_not_compared(place: Place) -> None:
    def codes(python: str, code: str) -> dict[str, Any]:
        return {"body": "a1", "version of h": {"python": python, "code": code}}

    assert place.open(identity=codes("3.11", "1")).warnings == ()
    assert place.open(identity=codes("3.12", "2")).warnings == ()
    assert "another version of h" in place.open(identity=codes("3.11", "2")).warnings[0]


def test_a_body_is_another_one_if_a_function_in_it_changed(place: Place) -> None:
    first = {"body": "a1", "version of f": "1", "content of model": "1"}
    assert place.open(identity=first).changed_body is None
    changed = [place.open(identity={**first, **more}).changed_body for more in (
        {"content of model": "2"}, {"version of g": "1"}, {"body": "b2"}, {"version of f": "2"},
        {"version of f": "3"}, {"body": "b2", "version of f": "2"},
    )]  # fmt: skip
    assert changed[:3] == [None, None, "b2"]
    assert None not in changed[3:]
    assert len(set(changed[2:])) == 4


def test_a_reader_cannot_write(place: Place) -> None:
    place.open()
    study = place.read()
    calls: list[Callable[[], object]] = [
        lambda: study.begin(PLAIN),
        lambda: study.finish(Trial(0, State.COMPLETE, PLAIN)),
        lambda: study.queue(PLAIN),
        lambda: study.annotate(seed=1),
    ]
    for call in calls:
        with pytest.raises(StudyError) as caught:
            call()
        assert str(caught.value) == "Study 'digits' was opened for reading. Open it with open_study to add trials."
    assert (study.space, study.goal) == (SPACE, GOAL)


def test_threads_may_share_a_study(place: Place) -> None:
    study = place.open()

    def work() -> None:
        for _ in range(4):
            begun = study.begin(PLAIN)
            study.report(begun.number, "accuracy", 0, 0.5)
            study.finish(replace(begun, state=State.COMPLETE, values=GOOD))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [trial.number for trial in study.all_trials] == list(range(12))
    assert {trial.state for trial in study.all_trials} == {State.COMPLETE}


def test_optuna_reads_our_studies(place: Place) -> None:
    import optuna

    study = place.open()
    run(study, PLAIN)
    run(study, CLUSTER, values={"accuracy": 0.95, "kilobytes": 50.0})
    run(study, PLAIN, State.INFEASIBLE, {"kilobytes": 99.0})
    run(study, PLAIN, State.FAILED)
    study.begin(CLUSTER)
    optuna_study = study.optuna_study()
    assert [trial.state.name for trial in optuna_study.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert optuna_study.trials[1].params == CLUSTER
    assert optuna_study.trials[1].values == [0.95, 50.0]
    assert [trial.number for trial in optuna_study.best_trials] == [0, 1]
    assert optuna_study.directions[0].name == "MAXIMIZE"
    assert isinstance(optuna_study.trials[1].distributions["clusters"], optuna.distributions.IntDistribution)
    assert optuna_study.trials[1].distributions["cuts[fc]"] == optuna.distributions.FloatDistribution(
        0, 0.75, step=0.25
    )


# --- What a person reads -----------------------------------------------------------------------------------------


def test_the_table(journal: Place) -> None:
    study = journal.open()
    assert list(study.trials.columns) == [
        *("number", "state", "amount", "bits", "method", "clusters", "cuts[conv1]", "cuts[fc]"),
        *("accuracy", "kilobytes", "seconds"),
    ]
    assert len(study.trials) == 0
    run(study, PLAIN)
    run(study, CLUSTER, State.INFEASIBLE, {"kilobytes": 99.0, "epochs": 3})
    study.begin(PLAIN)
    table = study.trials
    assert list(table.columns)[-2:] == ["epochs", "seconds"]
    assert table["number"].tolist() == [0, 1, 2]
    assert table["state"].tolist() == ["complete", "infeasible", "running"]
    assert all(type(word) is str for word in table["state"])
    assert table["bits"].tolist() == [4, 8, 4]
    assert table["bits"].dtype == "int64"
    assert table["clusters"].isna().tolist() == [True, False, True]
    assert table["clusters"][1] == 16
    assert table["method"].tolist() == ["plain", "cluster", "plain"]
    assert table["accuracy"].isna().tolist() == [False, True, True]
    assert table["seconds"].isna().tolist() == [False, False, True]
    assert isinstance(table, pd.DataFrame)


def test_columns_keep_the_kind_of_their_values(journal: Place) -> None:
    space = Space(
        {
            "flag": Choice(False, True),
            "mixed": Choice(None, 1, "a"),
            "numbers": Choice(1, 0.5),
            "big": Int(0, 10**12),
            "x": Float(0, 1, when={"flag": True}),
            "n": Choice(1, 2, when={"flag": True}),
            "b": Choice(False, True, when={"flag": True}),
        }
    )
    goal = Goal.of(["y"])
    kinds = ["bool", "object", "float64", "int64", "float64", "int64", "bool"]
    assert [str(dtype) for dtype in journal.open(space=space, goal=goal).trials[list(space.names)].dtypes] == kinds
    study = journal.open(space=space, goal=goal)
    run(study, {"flag": False, "mixed": None, "numbers": 1, "big": 10**12 - 1}, values={"y": 1.0})
    run(study, {"flag": True, "mixed": 1, "numbers": 0.5, "big": 3, "x": 0.5, "n": 2, "b": True}, values={"y": 2.0})
    table = journal.read().trials
    kinds = ["bool", "object", "float64", "int64", "float64", "float64", "object"]
    assert [str(dtype) for dtype in table[list(space.names)].dtypes] == kinds
    assert table["mixed"].tolist() == [None, 1]
    assert table["big"].tolist() == [10**12 - 1, 3]
    assert table["b"].tolist() == [None, True]


def test_best_and_front(journal: Place) -> None:
    study = journal.open()
    assert (study.best, study.front, dict(study.kept), study.hypervolume()) == (None, [], {}, 0.0)
    for accuracy, kilobytes in [(0.8, 20.0), (0.9, 50.0), (0.99, 61.0), (0.9, 40.0), (0.7, 30.0)]:
        run(study, values={"accuracy": accuracy, "kilobytes": kilobytes})
    assert [trial.number for trial in study.front] == [3, 0]
    assert study.best.number == 3
    # Two boxes: 0.9 to 0.5 times 60 to 40, and 0.8 to 0.5 times 40 to 20.
    assert study.hypervolume({"accuracy": 0.5, "kilobytes": 60.0}) == pytest.approx(0.4 * 20 + 0.3 * 20)
    # Against the worst that a feasible trial had, (0.7, 50).
    assert study.hypervolume() == pytest.approx(0.2 * 10 + 0.1 * 20)
    reference = {"accuracy": 0.5, "kilobytes": 60.0}
    assert study.hypervolume(reference, first=0) == 0
    assert study.hypervolume(reference, first=len(study.trials)) == study.hypervolume(reference)
    with pytest.raises(StudyError) as caught:
        study.hypervolume({"accuracy": 0.5})
    assert str(caught.value) == "A reference names every objective, but 'kilobytes' is missing."


def test_repr_says_name_counts_and_best(journal: Place) -> None:
    study = journal.open()
    assert repr(study) == "Study 'digits': no trials"
    run(study, state=State.FAILED, values={})
    assert repr(study) == "Study 'digits': 1 trial (1 failed), nothing feasible"
    run(study)
    study.begin(PLAIN)
    assert repr(study) == (
        "Study 'digits': 3 trials (1 running, 1 complete, 1 failed)\nbest: trial 1, accuracy 0.9, kilobytes 40"
    )


class DictArtifactStore:
    def __init__(self) -> None:
        self.values: dict[tuple[int, str], Any] = {}
        self.asked: list[tuple[int, str]] = []

    def put(self, number: int, name: str, value: Any) -> None:
        self.values[number, name] = value

    def get(self, number: int, name: str) -> Any:
        self.asked.append((number, name))
        return self.values[number, name]

    def names(self, number: int) -> tuple[str, ...]:
        return tuple(sorted(name for other, name in self.values if other == number))

    def drop(self, number: int) -> None:
        self.values = {key: value for key, value in self.values.items() if key[0] != number}


def test_kept_values_are_read_when_asked_for(journal: Place) -> None:
    artifact_store = DictArtifactStore()
    study = journal.open(artifact_store=artifact_store)
    run(study)
    run(study, values={"accuracy": 0.95, "kilobytes": 1.0})
    artifact_store.put(1, "small", "the model")
    artifact_store.put(1, "note", 3)
    assert list(study.best.kept) == ["note", "small"]
    assert artifact_store.asked == []
    assert study.best.kept["small"] == "the model"
    assert artifact_store.asked == [(1, "small")]
    assert "big" not in study.best.kept
    with pytest.raises(KeyError, match=r"trial 1 keeps no 'big', but note, small"):
        study.best.kept["big"]
    assert dict(study.all_trials[0].kept) == {}
    assert dict(journal.read().best.kept) == {}
    later = journal.read()
    later.artifact_store = artifact_store
    assert later.best.kept["note"] == 3
    assert repr(later.best.kept) == "KeptValues(note, small)"


def test_kept_values_of_the_best_trial() -> None:
    artifact_store = DictArtifactStore()
    goal = Goal.of(["accuracy"], [], ["kilobytes <= 60"])
    study = open_study("digits", SPACE, goal, storage=None, artifact_store=artifact_store)
    assert dict(study.kept) == {}
    run(study, values={"accuracy": 0.95, "kilobytes": 1.0})
    artifact_store.put(0, "small", "the model")
    assert study.kept["small"] == "the model"


def test_with_several_objectives_the_kept_values_are_of_a_trial_that_is_chosen() -> None:
    artifact_store = DictArtifactStore()
    study = open_study("digits", SPACE, GOAL, storage=None, artifact_store=artifact_store)
    assert dict(study.kept) == {}
    run(study, values={"accuracy": 0.95, "kilobytes": 30.0})
    run(study, values={"accuracy": 0.9357142857142857, "kilobytes": 1.0})
    artifact_store.put(0, "small", "the large model")
    artifact_store.put(1, "small", "the small model")
    with pytest.raises(StudyError, match=r"several objectives \(accuracy, kilobytes\), so no single trial") as caught:
        _ = study.kept
    # 0.94 and 0.936 would leave out the trial that the bound is made of.
    choices = ('study.front[0].kept["small"]', 'study.pick("accuracy >= 0.9357", "kilobytes").kept["small"]')
    for choice, model in zip(choices, ("the large model", "the small model"), strict=True):
        assert choice in str(caught.value)
        assert eval(choice, {"study": study}) == model


def test_kept_folders_lie_beside_the_storage(tmp_path: Path) -> None:
    def folder(storage: Any, name: str = "digits") -> Path | None:
        return open_study(name, SPACE, GOAL, storage=storage).kept_folder

    assert folder(str(tmp_path / "a.journal")) == tmp_path / "a.kept" / "digits"
    assert folder(tmp_path / "a.b") == tmp_path / "a.b.kept" / "digits"
    assert folder(f"sqlite:///{tmp_path / 'a.db'}") == tmp_path / "a.db.kept" / "digits"
    assert folder(None) is None
    assert folder(tmp_path / "a.journal", "../up/and:down") == tmp_path / "a.kept" / "..%2Fup%2Fand%3Adown"
    assert folder(tmp_path / "a.journal", "..") == tmp_path / "a.kept" / "%2E%2E"


def test_deleting_removes_kept_values(journal: Place) -> None:
    folder = journal.open().kept_folder
    other = journal.open("other").kept_folder
    for kept in (folder, other):
        (kept / "0").mkdir(parents=True)
        (kept / "0" / "small.nbz").write_bytes(b"x")
    delete_study("digits", journal.storage)
    assert not folder.exists()
    assert other.exists()


# --- Names, storages, foreign and newer studies ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "A study's name is printable text, but got ''."),
        ("a\nb", "A study's name is printable text, but got 'a\\nb'."),
        ("x" * 501, "A study's name has at most 500 characters, but got 501."),
    ],
)
def test_refused_names(journal: Place, name: str, text: str) -> None:
    with pytest.raises(StudyError) as caught:
        journal.open(name)
    assert str(caught.value) == text


def test_a_name_is_not_both_parameter_and_metric(journal: Place) -> None:
    for metric in ("amount", "cuts"):
        with pytest.raises(GoalError, match=f"No name is both a parameter and a metric, but '{metric}' is; rename one"):
            journal.open(goal=Goal.of([metric]))


def test_a_study_of_another_tool_is_not_continued(place: Place) -> None:
    storage = place.open("ours")._store.handle.storage
    import optuna

    optuna_study = optuna.study.Study("ours", storage)
    assert optuna_study.study_name == "ours"
    number = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE] * 2, "digits")
    storage.create_new_trial(number)
    with pytest.raises(
        StudyError, match=r"^Study 'digits' in .* was not begun by nbcompress\. Give the search another"
    ):
        place.open()
    with pytest.raises(StudyError, match=r"^Study 'digits' in .* was not begun by nbcompress\.$"):
        place.read()
    assert [summary.name for summary in list_studies(place.storage)] == ["ours"]


def test_a_study_whose_process_was_killed_while_it_began(place: Place) -> None:
    import optuna

    storage = place.open("other")._store.handle.storage
    directions = [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
    storage.create_new_study(directions, "digits")
    assert place.open().all_trials == ()


def test_a_newer_format_is_refused(journal: Place) -> None:
    journal.open()
    path = Path(journal.storage)
    text = path.read_text(encoding="utf-8")
    assert text.count('"version":1,"space"') == 1
    path.write_text(text.replace('"version":1,"space"', '"version":2,"space"'), encoding="utf-8")
    for use in (journal.open, journal.read):
        with pytest.raises(StudyError) as caught:
            use()
        assert str(caught.value) == (
            f"Study 'digits' in {path} has format 2, from a newer nbcompress; this one reads up to 1. "
            "Update nbcompress."
        )


@pytest.mark.parametrize(
    ("storage", "text"),
    [
        ("foo://user:secret@host/x", "The storage 'foo://user:***@host/x' is neither a path nor the URL"),
        ("sqlite:////proc/none/x.db", "The folder /proc/none cannot be created"),
        ("", "A storage needs a path, but got an empty text. Write for example 'nbcompress.journal'."),
        (3, "A storage is a path or a database URL, but got 3. Write for example 'nbcompress.journal'."),
    ],
)
def test_refused_storages(storage: Any, text: str) -> None:
    with pytest.raises(StudyError) as caught:
        open_study("digits", SPACE, GOAL, storage=storage)
    assert str(caught.value).startswith(text)
    assert "secret" not in str(caught.value)


def test_a_driver_that_is_missing_is_named() -> None:
    from nbcompress.errors import MissingPart

    with pytest.raises(MissingPart) as caught:
        open_study("digits", SPACE, GOAL, storage="mysql://user:secret@host/x")
    assert str(caught.value).startswith("The storage 'mysql://user:***@host/x' needs a driver")


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("no database, but long enough to look at" * 9)
    with pytest.raises(StudyError, match=r"^The storage sqlite:///.*a\.db failed: .*not a database"):
        open_study("digits", SPACE, GOAL, storage=f"sqlite:///{tmp_path / 'a.db'}")


def test_reading_makes_no_file(tmp_path: Path) -> None:
    for storage in (tmp_path / "a.journal", f"sqlite:///{tmp_path / 'a.db'}"):
        assert list_studies(storage) == ()
        with pytest.raises(StudyError, match=r"^There is no (journal|database) at "):
            read_study("digits", storage)
    assert os.listdir(tmp_path) == []


def test_a_relative_storage_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    for storage in ("sub/a.journal", "sqlite:///sub/a.db"):
        monkeypatch.chdir(tmp_path)
        study = open_study("digits", SPACE, GOAL, storage=storage)
        monkeypatch.chdir(tmp_path / "elsewhere")
        run(study)
        monkeypatch.chdir(tmp_path)
        assert len(read_study("digits", storage).all_trials) == 1
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "sub"]


def test_optuna_is_quiet_and_its_settings_stay(
    place: Place, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    with caplog.at_level(logging.DEBUG, logger="optuna"):
        run(place.open())
        place.open().optuna_study()
    assert optuna.logging.get_verbosity() == before
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_studies_in_memory_share_nothing() -> None:
    study = open_study("digits", SPACE, GOAL, storage=None)
    run(study)
    assert open_study("digits", SPACE, GOAL, storage=None).all_trials == ()


def test_few_operations_a_trial(journal: Place) -> None:
    study = journal.open()

    def n_operations() -> int:
        return len(Path(journal.storage).read_bytes().splitlines())

    before = n_operations()
    run(study, printed="x" * 1000, reports={"accuracy": dict.fromkeys(range(50), 0.5)})
    assert n_operations() - before == 3
    assert all(json.loads(line) for line in Path(journal.storage).read_bytes().splitlines())
