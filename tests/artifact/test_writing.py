"""Files appear whole or not at all, at the right path, and nothing else changes."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from nbcompress.artifact import load, save, size_bytes
from nbcompress.errors import ArtifactError


def test_a_link_goes_on_pointing(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    target = tmp_path / "store" / "model.nbz"
    target.write_bytes(b"an older file")
    link = tmp_path / "latest.nbz"
    link.symlink_to(target)
    model = nn.Linear(3, 2)
    assert save(model, link) == link
    assert link.is_symlink()
    assert target.stat().st_size == size_bytes(model)
    assert os.listdir(target.parent) == ["model.nbz"]


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ArtifactError, match="it is a device or a pipe, give the path of a file"):
        save(nn.Linear(3, 2), pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["重" * 85, "a" * 255], ids=["wide", "narrow"])
def test_a_name_may_be_as_long_as_the_system_allows(name: str, tmp_path: Path) -> None:
    save(nn.Linear(3, 2), tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be written: File name too long"):
        save(nn.Linear(3, 2), tmp_path / ("a" * 256))


def test_a_file_has_the_usual_permissions_and_the_mask_of_the_process_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = os.umask(0o022)
    try:
        # It can only be read by setting it, and then another thread may make a file, or put back what it read.
        monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the mask belongs to all threads"))
        place = save(nn.Linear(3, 2), tmp_path / "model.nbz")
    finally:
        monkeypatch.undo()
        os.umask(usual)
    assert stat.S_IMODE(place.stat().st_mode) == 0o644


def test_saving_in_several_threads_leaves_one_whole_file(tmp_path: Path) -> None:
    place = tmp_path / "model.nbz"
    models = [nn.Linear(3, 2) for _ in range(4)]
    with ThreadPoolExecutor(len(models)) as threads:
        list(threads.map(lambda model: save(model, place), models * 10))
    assert os.listdir(tmp_path) == ["model.nbz"]
    loaded = load(place, nn.Linear(3, 2))
    assert any(torch.equal(loaded.weight, model.weight) for model in models)
