"""Kept values: on the front only, whole or not at all, and back in the right module."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from nbcompress.artifact import Handle
from nbcompress.errors import ArtifactError
from nbcompress.run import FolderArtifactStore, MemoryArtifactStore, attach_artifact_store
from nbcompress.run.kept import ArtifactWriter
from nbcompress.space import Float, Space
from nbcompress.study import Goal, State, Study, Trial, open_study

SPACE = Space({"x": Float(0, 10)})
GOAL = Goal.of(minimize=["loss", "size"])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


class Other(nn.Module):
    pass


@pytest.fixture(params=["memory", "folder"])
def artifact_store(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryArtifactStore | FolderArtifactStore:
    return MemoryArtifactStore() if request.param == "memory" else FolderArtifactStore(tmp_path / "kept")


def test_put_and_get(artifact_store: Any) -> None:
    artifact_store.put(3, "answer", {"a": [1, 2.5, "x", None], "t": torch.ones(2)})
    artifact_store.put(3, "answer2", 7)
    assert artifact_store.names(3) == ("answer", "answer2")
    value = artifact_store.get(3, "answer")
    assert value["a"] == [1, 2.5, "x", None]
    assert torch.equal(value["t"], torch.ones(2))
    artifact_store.put(3, "answer", 8)
    assert artifact_store.get(3, "answer") == 8
    with pytest.raises(KeyError):
        artifact_store.get(3, "nothing")
    with pytest.raises(KeyError):
        artifact_store.get(4, "answer")
    assert artifact_store.names(4) == ()
    artifact_store.drop(3)
    artifact_store.drop(99)
    assert artifact_store.names(3) == ()


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_module_comes_back_in_a_copy_of_the_notebook_s(tmp_path: Path) -> None:
    model, small = Net(), Net()
    FolderArtifactStore(tmp_path, lambda: {"other": Other(), "model": model}).put(0, "small", {"net": small, "n": 1})
    assert json.loads((tmp_path / "0" / "small.json").read_text())["origins"] == ["model"]
    restarted = Net()
    found = FolderArtifactStore(tmp_path, lambda: {"model": restarted}).get(0, "small")
    assert found["n"] == 1
    assert equal(found["net"], small)
    assert found["net"] is not restarted
    assert not equal(restarted, small)


def test_a_renamed_module_of_the_class_serves_too(tmp_path: Path) -> None:
    small = Net()
    FolderArtifactStore(tmp_path, lambda: {"model": small}).put(0, "small", small)
    assert equal(FolderArtifactStore(tmp_path, lambda: {"net2": Net()}).get(0, "small"), small)


def test_without_its_class_it_is_a_handle(tmp_path: Path) -> None:
    small = Net()
    artifact_store = FolderArtifactStore(tmp_path)
    artifact_store.put(0, "small", small)
    assert artifact_store.get(0, "small") is small  # while this process lives
    handle = FolderArtifactStore(tmp_path, lambda: {"model": Other()}).get(0, "small")
    assert isinstance(handle, Handle)
    assert equal(handle.load(into=Net()), small)


def test_a_value_that_was_not_written_to_its_end_is_not_there(tmp_path: Path) -> None:
    artifact_store = FolderArtifactStore(tmp_path)
    with pytest.raises(ArtifactError):
        artifact_store.put(0, "small", object())
    assert artifact_store.names(0) == ()
    assert list((tmp_path / "0").iterdir()) == []


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    artifact_store = FolderArtifactStore(tmp_path)
    artifact_store.put(0, "a", 1)
    (tmp_path / "0" / "a.json").write_text('{"version": 99, "origins": []}')
    with pytest.raises(ArtifactError, match="was kept by a newer nbcompress"):
        artifact_store.get(0, "a")


def study_with(*values: tuple[float, float], storage: Path | None = None) -> Study:
    study = open_study("s", SPACE, GOAL, storage=storage)
    attach_artifact_store(study)
    keeper = ArtifactWriter(study)
    for loss, size in values:
        ended(study, keeper, loss, size)
    return study


def ended(study: Study, keeper: ArtifactWriter, loss: float, size: float, value: Any = None) -> Trial:
    trial = replace(study.begin({"x": loss}), state=State.COMPLETE, values={"loss": loss, "size": size})
    keeper.put(trial, {"v": loss if value is None else value})
    study.finish(trial)
    keeper.remove_stale()
    return trial


def test_only_the_front_is_kept(tmp_path: Path) -> None:
    study = study_with((5, 5), (6, 6), (4, 6), (3, 3), storage=tmp_path / "journal")
    assert study.artifact_store is not None
    assert [study.artifact_store.names(number) for number in range(4)] == [(), (), (), ("v",)]
    assert dict(study.front[0].kept) == {"v": 3.0}
    assert study.kept_folder is not None
    assert sorted(path.name for path in study.kept_folder.iterdir()) == ["3"]


def test_what_an_earlier_process_left_is_removed_when_it_leaves_the_front(tmp_path: Path) -> None:
    study_with((5, 5), storage=tmp_path / "journal")
    study = study_with((4, 4), storage=tmp_path / "journal")
    assert study.artifact_store is not None
    assert [study.artifact_store.names(number) for number in range(2)] == [(), ("v",)]


def test_what_cannot_be_kept_is_said_and_the_trial_stays(tmp_path: Path) -> None:
    study = study_with(storage=tmp_path / "journal")
    keeper = ArtifactWriter(study)
    ended(study, keeper, 3, 3, value=object())
    assert study.all_trials[0].state is State.COMPLETE
    (warning,) = keeper.warnings
    assert warning.startswith("'v' of trial 0 could not be kept: the value is a object, which cannot be")
    # Once for the search, however many trials it was.
    for better in (2, 1):
        ended(study, keeper, better, better, value=object())
    (warning,) = keeper.warnings
    assert warning.startswith("'v' of trial 0 and 2 others could not be kept: the value is a object")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NOTES = st.one_of(
    st.binary(max_size=40),
    JSON.map(lambda data: json.dumps(data).encode()),
    st.fixed_dictionaries(
        {}, optional={"version": JSON | st.just(1), "origins": JSON | st.lists(st.text() | st.none(), max_size=3)}
    ).map(lambda data: json.dumps(data).encode()),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NOTES)
@example(b"")
@example(b"[" * 100_000)
@example(b'{"version": 1, "origins": [' + b"[" * 100_000)
@example(b'{"version": 1' + b"0" * 5000 + b', "origins": []}')
@example("{}".encode("utf-16"))
@example(b'{"version": true, "origins": []}')
@example(b'{"version": 1, "origins": 7}')
@example(b'{"version": 1, "origins": [["model"]]}')
@example(b" " * (2 << 20))
def test_a_note_is_read_or_refused_in_one_way(tmp_path: Path, note: bytes) -> None:
    small = Net()
    FolderArtifactStore(tmp_path, lambda: {"model": small}).put(0, "small", small)
    (tmp_path / "0" / "small.json").write_bytes(note)
    error = None
    try:
        found = FolderArtifactStore(tmp_path, lambda: {"model": Net()}).get(0, "small")
    except ArtifactError as caught:
        error = str(caught)
    assert error.startswith((f"The note {tmp_path}", f"{tmp_path}")) if error else equal(found, small)


def test_a_note_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    FolderArtifactStore(tmp_path).put(0, "a", 1)
    (tmp_path / "0" / "a.json").unlink()
    (tmp_path / "0" / "a.json").mkdir()
    with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
        FolderArtifactStore(tmp_path).get(0, "a")


def test_what_a_killed_process_left_is_removed_at_the_next_opening(tmp_path: Path) -> None:
    study = study_with((5, 4), (4, 5), (6, 6), storage=tmp_path / "journal")
    folder = study.kept_folder
    assert folder is not None
    running = study.begin({"x": 1})
    assert study.artifact_store is not None
    for number in (2, running.number, 77):  # not on the front; running; unknown
        study.artifact_store.put(number, "v", 1)
    for number in (0, running.number):
        for name in (".0123456789abcdef.part", "half.nbz"):
            (folder / str(number) / name).write_bytes(b"x")
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.nbz").write_bytes(b"x")
    (folder / "0" / "readme.txt").write_text("mine")
    other = study_with(storage=tmp_path / "journal")

    def files(number: int) -> list[str]:
        return sorted(path.name for path in (folder / str(number)).iterdir())

    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "3", "mine"]
    assert files(0) == ["readme.txt", "v.json", "v.nbz"]
    assert files(3) == [".0123456789abcdef.part", "half.nbz", "v.json", "v.nbz"]
    study.abandon()
    other = study_with(storage=tmp_path / "journal")
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "mine"]
    assert dict(other.front[0].kept) == {"v": 4.0}
