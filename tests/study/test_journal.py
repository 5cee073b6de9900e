"""The journal file: incomplete lines are removed, one process writes at a time, other files are not changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbcompress.errors import StudyError
from nbcompress.study import journal as journal_module
from nbcompress.study.journal import FileLock, JournalFile, lock_for
from nbcompress.study.storage import open_storage

FIRST = {"op_code": 0, "worker_id": "w", "study_name": "größe\nzwei", "directions": [1]}
SECOND = {"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {"a": [1.5, None, "x"]}}
THIRD = {"op_code": 4, "worker_id": "w", "study_id": 0, "datetime_start": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.journal"


def lines(*logs: dict[str, object]) -> bytes:
    return b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)


def numbered(*logs: dict[str, object], first: int = 1) -> bytes:
    """Return the lines that we append: each holds its number."""
    return lines(*({**log, "line": number} for number, log in enumerate(logs, first)))


def append(path: Path, *logs: dict[str, object]) -> None:
    JournalFile(path).append_logs(list(logs))


def test_what_is_appended_is_read(path: Path) -> None:
    journal = JournalFile(path)
    journal.append_logs([FIRST])
    journal.append_logs([SECOND, THIRD])
    assert list(journal.read_logs(0)) == [FIRST, SECOND, THIRD]
    assert list(journal.read_logs(2)) == [THIRD]
    assert list(journal.read_logs(3)) == []
    assert list(JournalFile(path).read_logs(1)) == [SECOND, THIRD]
    assert path.read_bytes() == numbered(FIRST, SECOND, THIRD)


def test_another_object_sees_what_was_appended(path: Path) -> None:
    first, second = JournalFile(path), JournalFile(path)
    first.append_logs([FIRST])
    assert second.read_logs(0) == [FIRST]
    second.append_logs([SECOND])
    assert first.read_logs(1) == [SECOND]


def test_the_folder_is_made_and_the_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = JournalFile("deep/down/a.journal")
    monkeypatch.chdir("/")
    journal.append_logs([FIRST])
    assert (tmp_path / "deep/down/a.journal").read_bytes() == numbered(FIRST)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_and_its_target_are_one_journal(tmp_path: Path) -> None:
    (tmp_path / "link.journal").symlink_to(tmp_path / "real.journal")
    through_link = JournalFile(tmp_path / "link.journal")
    assert through_link.lock is JournalFile(tmp_path / "real.journal").lock


WHOLE = lines(FIRST, SECOND)
HALF = lines(THIRD)[:-1]


@pytest.mark.parametrize("length", range(len(HALF)))
def test_an_incomplete_line_is_removed_before_a_write(path: Path, length: int) -> None:
    path.write_bytes(WHOLE + HALF[:length])
    journal = JournalFile(path)
    assert journal.read_logs(0) == [FIRST, SECOND]
    journal.append_logs([THIRD])
    assert path.read_bytes() == WHOLE + numbered(THIRD, first=3)
    assert journal.read_logs(0) == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("length", range(1, len(lines(FIRST)) - 1))
def test_an_incomplete_first_line_is_removed(path: Path, length: int) -> None:
    path.write_bytes(lines(FIRST)[:length])
    journal = JournalFile(path)
    assert journal.read_logs(0) == []
    journal.append_logs([SECOND])
    assert path.read_bytes() == numbered(SECOND)


def test_a_last_line_that_lacks_only_its_newline_is_kept(path: Path) -> None:
    path.write_bytes(WHOLE + HALF)
    journal = JournalFile(path)
    journal.repair()
    assert path.read_bytes() == lines(FIRST, SECOND, THIRD)
    assert journal.read_logs(0) == [FIRST, SECOND, THIRD]


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1).map(lambda text: text.replace(b"\n", b"")), st.booleans())
def test_garbage_in_the_last_line_is_removed(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, ends: bool
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "a.journal"
    path.write_bytes(WHOLE + garbage + (b"\n" if ends else b""))
    journal = JournalFile(path)
    assert journal.read_logs(0) == [FIRST, SECOND]
    journal.append_logs([THIRD])
    assert path.read_bytes() == WHOLE + numbered(THIRD, first=3)
    assert JournalFile(path).read_logs(0) == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("garbage", [b"\0" * 200_000, b"[" * 200_000, b'{"op_code":"x"}', b"\xff\xfe[]"])
def test_long_or_odd_garbage_is_removed(path: Path, garbage: bytes) -> None:
    path.write_bytes(WHOLE + garbage)
    append(path, THIRD)
    assert path.read_bytes() == WHOLE + numbered(THIRD, first=3)


def test_another_process_may_have_been_killed_since(path: Path) -> None:
    journal = JournalFile(path)
    journal.append_logs([FIRST, SECOND])
    assert len(journal.read_logs(0)) == 2
    with path.open("ab") as file:
        file.write(HALF[:7])
    assert journal.read_logs(2) == []
    journal.append_logs([THIRD])
    assert journal.read_logs(2) == [THIRD]


def test_damage_in_the_middle_names_line_and_file(path: Path) -> None:
    path.write_bytes(lines(FIRST) + b"oops\n" + lines(SECOND))
    with pytest.raises(StudyError) as caught:
        JournalFile(path).read_logs(0)
    assert str(caught.value) == (
        f"The journal {path} is damaged: line 2 is not an operation. Everything before it is valid; "
        "remove that line and all lines after it, or use another storage."
    )
    assert path.read_bytes() == lines(FIRST) + b"oops\n" + lines(SECOND)


@pytest.mark.parametrize(
    "content",
    [
        lines(FIRST).decode().encode("utf-16"),
        WHOLE.decode().encode("utf-16-le"),
        b"# My notes\nshort",
        b"\x89PNG\r\n\x1a\n\0\0",
        b"SQLite format 3\0",
        b'{"cells": []}',
        b"\nfoo",
        b"[1]",
    ],
)
def test_a_file_that_is_not_a_journal_is_not_changed(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    text = f"The file {path} is not a journal, and it was not changed. Name another file with storage."
    for use in (lambda journal: journal.read_logs(0), JournalFile.repair, lambda journal: journal.append_logs([FIRST])):
        with pytest.raises(StudyError) as caught:
            use(JournalFile(path))
        assert str(caught.value) == text
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "number", "stated"),
    [
        (lambda whole: [*whole[:3], *whole[2:]], 4, 3),
        (lambda whole: [*whole[:1], *whole[2:]], 2, 3),
        (lambda whole: whole[1:], 1, 2),
        (lambda whole: [*whole[:2], whole[3], whole[2], *whole[4:]], 3, 4),
    ],
    ids=["doubled", "missing", "first missing", "swapped"],
)
def test_a_line_that_is_missing_doubled_or_moved_is_noticed(path: Path, change: Any, number: int, stated: int) -> None:
    path.write_bytes(lines(FIRST))  # by an earlier version, or by Optuna
    append(path, SECOND, THIRD)
    JournalFile(path).append_logs([THIRD] * 3)
    assert len(JournalFile(path).read_logs(0)) == 6
    damaged = b"".join(change(path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(damaged)
    with pytest.raises(StudyError) as caught:
        open_storage(path)
    assert str(caught.value) == (
        f"The journal {path} is damaged: line {number} was written as line {stated}, so a line is missing, doubled or "
        "moved. Everything before it is valid; remove that line and all lines after it, or use another storage."
    )
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("code", [-1, 11, 10**30])
def test_an_operation_of_a_later_optuna_is_refused(path: Path, code: int) -> None:
    content = lines(FIRST, {"op_code": code, "worker_id": "w"}, SECOND) + b'{"op_code":'
    path.write_bytes(content)
    with pytest.raises(StudyError) as caught:
        open_storage(path)
    assert str(caught.value) == (
        f"Line 2 of the journal {path} is an operation {code}, which the installed Optuna does not know: a later one "
        "has written it. Update Optuna, or use another storage."
    )
    assert path.read_bytes() == content


def test_a_byte_order_mark_is_no_damage(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + lines(FIRST, SECOND))
    assert JournalFile(path).read_logs(0) == [FIRST, SECOND]


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        JournalFile(tmp_path)
    assert str(caught.value) == (
        f"A journal is a file, but {tmp_path} is a folder. Write for example {tmp_path}/nbcompress.journal."
    )


def test_a_path_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"^The journal .*a\.journal cannot be created: .*\.$"):
        JournalFile(tmp_path / "file" / "a.journal")


def test_a_missing_journal_is_not_made_for_a_reader(path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        JournalFile(path, create=False)
    assert str(caught.value) == f"There is no journal at {path}."
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed on Windows")
def test_a_removed_or_replaced_journal_is_an_error(path: Path) -> None:
    journal = JournalFile(path)
    journal.append_logs([FIRST, SECOND])
    journal.read_logs(0)
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(StudyError) as caught:
        journal.read_logs(2)
    assert str(caught.value) == f"The journal {path} was removed while it was in use."
    with pytest.raises(StudyError, match="cannot be opened for writing: No such file"):
        journal.append_logs([THIRD])
    assert not path.exists()
    path.write_bytes(content[:10])
    with pytest.raises(StudyError) as caught:
        journal.append_logs([THIRD])
    assert str(caught.value) == f"The journal {path} was replaced while it was in use. Open the study again."


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux")
def test_a_full_disk_leaves_the_journal_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = JournalFile(path)
    journal.append_logs([FIRST])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StudyError) as caught:
        journal.append_logs([SECOND])
    assert str(caught.value) == f"The journal {path} cannot be written: No space left on device."
    assert path.read_bytes() == numbered(FIRST)


def test_the_lock_is_one_per_file_and_may_be_entered_again(path: Path) -> None:
    path.touch()
    lock = lock_for(str(path))
    assert lock is lock_for(str(path))
    with lock, lock:
        pass
    with lock:
        pass


def test_threads_wait_for_each_other(path: Path) -> None:
    path.touch()
    lock, counter, seen = lock_for(str(path)), [0], []

    def work() -> None:
        for _ in range(50):
            with lock:
                value = counter[0]
                time.sleep(0)
                counter[0] = value + 1
                seen.append(value)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == list(range(200))


HOLDER = """
import sys, time
from nbcompress.study.journal import lock_for
with lock_for(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""

WRITER = """
import sys
from nbcompress.study.journal import JournalFile
journal = JournalFile(sys.argv[1])
for i in range(100):
    journal.append_logs([{"op_code": 4, "who": sys.argv[2], "i": i, "pad": "x" * 3000}])
"""


def test_the_lock_of_a_killed_process_is_released(path: Path) -> None:
    append(path, FIRST)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline().strip() == b"held"
    done = []
    waiting = threading.Thread(target=lambda: done.append(append(path, SECOND)))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    holder.kill()
    waiting.join(60)
    assert not waiting.is_alive()
    holder.wait()
    holder.stdout.close()
    assert path.read_bytes() == numbered(FIRST, SECOND)


def test_two_processes_never_mix_their_lines(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), who]) for who in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    logs = JournalFile(path).read_logs(0)
    for who in "ab":
        assert [log["i"] for log in logs if log["who"] == who] == list(range(100))


def test_optuna_reads_and_writes_the_same_file(path: Path) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    ours = optuna.storages.JournalStorage(JournalFile(path))
    study = ours.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "digits")
    ours.set_study_user_attr(study, "key", "ü" * 10)
    optuna_storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    assert optuna_storage.get_study_user_attrs(study) == {"key": "ü" * 10}
    optuna_storage.set_study_user_attr(study, "other", 1)
    assert ours.get_study_user_attrs(study) == {"key": "ü" * 10, "other": 1}


def test_a_journal_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.journal"
    path.write_text("")

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    # The tests may run as root, to whom nothing is forbidden.
    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(StudyError, match=r"cannot be written: Permission denied\.$"):
        JournalFile(path)


def test_blank_lines_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = JournalFile(path)
    logs = [{"op_code": 0, "worker_id": "w", "n": n} for n in range(4)]
    journal.append_logs(logs[:2])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\n  \n" + lines[1] + b"\n")
    again = JournalFile(path)
    assert again.read_logs(0) == logs[:2]
    again.append_logs(logs[2:3])
    assert again.read_logs(1) == logs[1:3]
    assert JournalFile(path).read_logs(0) == logs[:3]
    again.append_logs(logs[3:])
    assert JournalFile(path).read_logs(2) == logs[2:]


def test_a_process_that_waits_long_for_a_lock_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journal_module, "_LONG_WAIT_SECONDS", 0.0)
    path = str(tmp_path / "a.journal")
    JournalFile(path)
    holder, waiter = FileLock(path), FileLock(path)
    said = threading.Event()
    say = waiter._say_that_it_waits

    def say_and_tell() -> None:
        say()
        said.set()

    monkeypatch.setattr(waiter, "_say_that_it_waits", say_and_tell)
    holder.__enter__()
    thread = threading.Thread(target=lambda: waiter.__enter__().__exit__(None, None, None))
    thread.start()
    assert said.wait(60)
    holder.__exit__(None, None, None)
    thread.join()
    assert f"nbcompress waits for the lock of {path}" in capsys.readouterr().err
