"""Workers: this process, processes that ended, processes that never were, other hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from nbcompress.study.worker import Worker, this_worker


def test_this_process_lives() -> None:
    worker = this_worker("s")
    assert worker.is_this_process
    assert not worker.fate() == "dead"
    assert worker.pid == os.getpid()
    assert Worker.from_json(worker.to_json()) == worker


def test_a_later_process_with_the_same_id_is_another() -> None:
    worker = replace(this_worker("s"), started=this_worker("s").started - 3600)
    assert not worker.is_this_process
    assert worker.fate() == "dead"


def test_a_clock_that_was_set_does_not_kill() -> None:
    worker = replace(this_worker("s"), started=this_worker("s").started - 1)
    assert worker.is_this_process
    assert not worker.fate() == "dead"


def test_of_another_host_nothing_is_known() -> None:
    worker = replace(this_worker("s"), host="elsewhere", pid=2**22 + 1)
    assert not worker.is_this_process
    assert not worker.fate() == "dead"
    assert str(worker) == f"process {2**22 + 1} on elsewhere"


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
    while not worker.fate() == "dead":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.wait()
    assert worker.fate() == "dead"
