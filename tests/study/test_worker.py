"""Workers: this process, processes that ended, processes that never were, other hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import psutil
import pytest

from nbcompress.study.worker import Worker, this_worker

linux = pytest.mark.skipif(sys.platform != "linux", reason="tells ticks, boots and namespaces")


def here(**changes: Any) -> Worker:
    return replace(this_worker("s"), **changes)


def test_this_process_lives() -> None:
    worker = here()
    assert worker.is_this_process
    assert worker.fate() == "alive"
    assert worker.pid == os.getpid()
    assert Worker.from_json(worker.to_json()) == worker


def test_a_record_without_the_newer_facts_is_read() -> None:
    worker = Worker.from_json({"host": "h", "pid": 3, "started": 1.5, "session": "s"})
    assert worker == Worker("h", 3, 1.5, "s")
    assert worker.to_json() == {"host": "h", "pid": 3, "started": 1.5, "session": "s"}


@linux
def test_a_later_process_with_the_same_id_is_another() -> None:
    worker = here(ticks=this_worker("s").ticks - 1)
    assert not worker.is_this_process
    assert worker.fate() == "dead"


@linux
@pytest.mark.parametrize("seconds", [-1e6, -3600.0, -1.0, 3600.0])
def test_a_clock_that_was_set_does_not_kill(seconds: float) -> None:
    worker = here(started=this_worker("s").started + seconds)
    assert worker.is_this_process
    assert worker.fate() == "alive"


def test_nor_does_it_where_the_system_tells_no_ticks() -> None:
    worker = here(started=this_worker("s").started - 3600, ticks=-1)
    assert not worker.is_this_process
    assert worker.fate() == "unseen"
    assert here(started=this_worker("s").started - 1, ticks=-1).fate() == "alive"


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "elsewhere"},
        {"namespace": "pid:[4026532999]"},
        {"boot": "another", "machine": "another"},
        {"boot": "another", "machine": ""},
    ],
    ids=str,
)
@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["this process", "no process"])
def test_of_what_cannot_be_seen_nothing_is_known(changes: dict[str, str], pid: int) -> None:
    worker = here(**changes, pid=pid)
    assert not worker.is_this_process
    assert worker.fate() == "unseen"
    assert str(worker) == f"process {pid} on {worker.host}"


@pytest.mark.parametrize(("namespace", "fate"), [("pid:[4026531836]", "dead"), ("pid:[4026532999]", "unseen")])
def test_a_machine_that_was_started_anew(monkeypatch: pytest.MonkeyPatch, namespace: str, fate: str) -> None:
    earlier = here(boot="first", machine="m", namespace=namespace)
    later = replace(earlier, boot="second")
    monkeypatch.setattr("nbcompress.study.worker._this_process", lambda _: later)
    assert later.is_this_process
    assert not earlier.is_this_process
    assert earlier.fate() == fate


@linux
def test_a_process_that_the_system_hides_may_live(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(psutil, "Process", hidden)
    assert here().fate() == "unseen"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no zombies")
def test_a_process_that_ended_is_dead_before_and_after_it_is_waited_for() -> None:
    code = "from nbcompress.study.worker import this_worker as w; import json; print(json.dumps(w('s').to_json()))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    text = process.stdout.read()
    process.stdout.close()
    import json
    import time

    worker = Worker.from_json(json.loads(text))
    deadline = time.monotonic() + 20
    while worker.fate() != "dead":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.wait()
    assert worker.fate() == "dead"
