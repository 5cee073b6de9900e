"""One search of a study at a time in one process, and no deletion under it.

Workers: this process, processes that ended, processes that never were, other hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nbcompress.errors import StudyError
from nbcompress.space import Float, Space
from nbcompress.study import Goal, Study, delete_study, list_studies, open_study
from nbcompress.study.processes import Worker, this_worker

TEXT = "Study 's' is being searched in this process"


def opened(storage: Path | None, **options: bool) -> Study:
    return open_study("s", Space({"x": Float(0, 1)}), Goal.of(minimize=["loss"]), storage=storage, **options)


def test_a_study_is_searched_once_at_a_time(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "journal"), opened(tmp_path / "journal")
    with first.searched():
        with pytest.raises(StudyError, match=TEXT):
            second.check_free()
        with pytest.raises(StudyError, match=TEXT), second.searched():
            pass
        opened(tmp_path / "journal", fresh=True).check_free()
        opened(tmp_path / "other").check_free()
        with pytest.raises(StudyError, match=TEXT):  # the refused one did not set it free
            second.check_free()
    with second.searched():
        pass


def test_it_is_not_deleted_meanwhile(tmp_path: Path) -> None:
    with opened(tmp_path / "journal").searched(), pytest.raises(StudyError, match=TEXT):
        delete_study("s", tmp_path / "journal")
    delete_study("s", tmp_path / "journal")
    assert list_studies(tmp_path / "journal") == ()


def test_studies_in_memory_are_told_apart() -> None:
    with opened(None).searched(), opened(None).searched():
        pass


def test_this_process_lives() -> None:
    worker = this_worker("s")
    assert worker.is_this_process
    assert not worker.is_dead()
    assert worker.pid == os.getpid()
    assert Worker.from_json(worker.to_json()) == worker


def test_a_later_process_with_the_same_id_is_another() -> None:
    worker = replace(this_worker("s"), started=this_worker("s").started - 3600)
    assert not worker.is_this_process
    assert worker.is_dead()


def test_a_clock_that_was_set_does_not_kill() -> None:
    worker = replace(this_worker("s"), started=this_worker("s").started - 1)
    assert worker.is_this_process
    assert not worker.is_dead()


def test_of_another_host_nothing_is_known() -> None:
    worker = replace(this_worker("s"), host="elsewhere", pid=2**22 + 1)
    assert not worker.is_this_process
    assert not worker.is_dead()
    assert str(worker) == f"process {2**22 + 1} on elsewhere"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no zombies")
def test_a_process_that_ended_is_dead_before_and_after_it_is_waited_for() -> None:
    code = "from nbcompress.study.processes import this_worker as w; import json; print(json.dumps(w('s').to_json()))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    text = process.stdout.read()
    process.stdout.close()
    import json
    import time

    worker = Worker.from_json(json.loads(text))
    deadline = time.monotonic() + 20
    while not worker.is_dead():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.wait()
    assert worker.is_dead()
