"""Files that are read without being changed, and studies that another program wrote."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest

import nbcompress as nc
from nbcompress.errors import StudyError
from nbcompress.study import Study, read_study
from nbcompress.study.reading import ForeignStudy, open_for_reading, studies_of

optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1 + trial.number)
    kind = trial.suggest_categorical("the kind", ["a", "b"])
    trial.report(x, 2)
    if trial.number == 1:
        raise optuna.TrialPruned
    if trial.number == 2:
        raise ValueError("no")
    return x if kind == "a" else x + 1


@pytest.fixture(params=["sqlite", "journal"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a file with a study of Optuna's."""
    path = tmp_path / f"theirs.{request.param}"
    if request.param == "sqlite":
        storage: Any = f"sqlite:///{path}"
    else:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    study = optuna.create_study(storage=storage, study_name="their study", sampler=optuna.samplers.RandomSampler(0))
    study.enqueue_trial({"x": 0.5, "the kind": "a"})
    study.optimize(objective, n_trials=4, catch=ValueError)
    study.enqueue_trial({"x": 0.25})  # waits, so it is no trial yet
    return path


def test_a_study_of_another_program_is_read(theirs: Path) -> None:
    before = (theirs.read_bytes(), sorted(path.name for path in theirs.parent.iterdir()))
    (study,) = studies_of(open_for_reading(theirs)).values()
    assert isinstance(study, ForeignStudy)
    assert [trial.state.value for trial in study.all_trials] == ["complete", "stopped", "failed", "complete"]
    assert study.all_trials[0].point == {"x": 0.5, "the kind": "a"}
    assert study.best is not None
    assert study.best.values == {"value": 0.5} or study.best.number == 3
    assert (study.space["x"].low, study.space["x"].high) == (0, 4)  # over all trials
    assert study.space["the kind"].options == ("a", "b")
    assert study.all_trials[1].reports == {"value": {2: study.all_trials[1].params["x"]}}
    assert (theirs.read_bytes(), sorted(path.name for path in theirs.parent.iterdir())) == before


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_names_of_metrics_and_constraints_are_used(tmp_path: Path) -> None:
    def two(trial: optuna.Trial) -> tuple[int, float]:
        trial.set_constraint("room", trial.number - 0.5)
        return trial.suggest_int("n", 1, 3), 2.0

    url = f"sqlite:///{tmp_path / 'a.db'}"
    study = optuna.create_study(storage=url, study_name="two", directions=["maximize", "minimize"])
    study.set_metric_names(["accuracy", "size"])
    study.optimize(two, n_trials=2)
    (read,) = studies_of(open_for_reading(tmp_path / "a.db")).values()
    assert str(read.goal) == "maximize accuracy, minimize size"
    assert [trial.state.value for trial in read.all_trials] == ["complete", "infeasible"]


def test_ours_and_theirs_in_one_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'both.db'}"
    for fresh in (False, True):
        nc.search(
            lambda x: {"loss": x}, {"x": nc.Float(0, 1)}, minimize="loss", trials=1, storage=url, study="s", fresh=fresh
        )
    optuna.create_study(storage=url, study_name="theirs")
    found = studies_of(open_for_reading(tmp_path / "both.db"))
    assert {name: type(study) for name, study in found.items()} == {"s": Study, "s~2": Study, "theirs": ForeignStudy}
    assert {name: study.name for name, study in found.items()} == {"s": "s", "s~2": "s~2", "theirs": "theirs"}


def test_a_database_with_a_write_ahead_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    optuna.create_study(storage=f"sqlite:///{path}", study_name="s")
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("UPDATE studies SET study_name = 'renamed'")
    writer.commit()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith("-shm")}
    assert list(studies_of(open_for_reading(path))) == ["renamed"]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith("-shm")} == before
    writer.close()


@pytest.mark.parametrize("contents", [b"text\n", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(200)])
def test_other_files_are_refused(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(contents)
    with pytest.raises(StudyError):
        studies_of(open_for_reading(path))
    assert path.read_bytes() == contents


def test_a_database_without_studies_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("CREATE TABLE studies (id INTEGER)")
    connection.close()
    with pytest.raises(StudyError, match="holds no studies of Optuna"):
        open_for_reading(tmp_path / "a.db")


def search_with_every_state(path: Path) -> None:
    def body(x: float, kind: str) -> dict[str, float]:
        if x > 0.7:
            raise ValueError("no")
        nc.report(1, loss=x)
        return {"loss": x, "size": len(kind)}

    nc.search(
        body,
        {"x": nc.Float(0, 1), "kind": nc.Choice("a", "bb", "c")},
        minimize="loss",
        subject_to="size <= 1",
        trials=12,
        sampler="random",
        seed=0,
        storage=str(path),
        study="s",
    )


def test_a_study_of_ours_is_the_same_as_when_it_is_opened_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    search_with_every_state(path)
    (light,) = studies_of(open_for_reading(path)).values()
    full = read_study("s", path)
    assert len({trial.state for trial in full.all_trials}) > 2
    assert light.all_trials == full.all_trials
    assert [(trial.started, trial.ended, trial.worker) for trial in light.all_trials] == [
        (trial.started, trial.ended, trial.worker) for trial in full.all_trials
    ]


def test_trials_of_ours_that_another_program_copied_keep_their_parameters(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    search_with_every_state(path)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    copy = optuna.create_study(storage=storage, study_name="copy")
    copy.add_trials(optuna.load_study(study_name="s", storage=storage).trials)
    studies = studies_of(open_for_reading(path))
    assert isinstance(studies["copy"], ForeignStudy)
    assert [trial.params for trial in studies["copy"].all_trials] == [trial.params for trial in studies["s"].all_trials]
    assert list(studies["copy"].space.parameters) == ["x", "kind"]
