"""Traced calls (profilers, debuggers, coverage) during and after a body that may be terminated.

What goes wrong here is a loop that even a signal does not end, so each case runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

START = """
import bdb, cProfile, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from nbcompress.run.termination import Termination, Terminator
from nbcompress.run.outcome import TrialEnded
from nbcompress.study import State

STOP = Termination(State.STOPPED)

def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        (lambda: 1)()
    return "ended"

def outcome(terminator, body, *arguments):
    try:
        return terminator.call(body, *arguments)
    except TrialEnded:
        return "terminated"

def tracer(frame, event, argument):
    return tracer

class Debugger(bdb.Bdb):
    n_lines = 0
    def user_line(self, frame):
        self.n_lines += 1
        self.set_step()

def call():
    return (lambda: 1)()

def traced_calls():
    sys.settrace(tracer); call(); assert sys.gettrace() is tracer; sys.settrace(None)
    heard = []
    sys.setprofile(lambda *what: heard.append(what)); call(); sys.setprofile(None)
    assert heard
    profile = cProfile.Profile(); profile.enable(); call(); profile.disable()
    assert profile.getstats()
    debugger = Debugger(); debugger.runcall(call)
    assert debugger.n_lines
"""

CASES = {
    "after a body that was not terminated": """
assert outcome(Terminator(), spin, 0.0) == "ended"
traced_calls()
""",
    "after a body that was terminated": """
assert outcome(Terminator((0.05, STOP)), spin, 100.0) == "terminated"
traced_calls()
""",
    "after a body that caught the termination": """
def body():
    try:
        spin(100.0)
    except BaseException:
        return "caught"
assert outcome(Terminator((0.05, STOP)), body) == "caught"
traced_calls()
""",
    "after a deferred termination": """
terminator = Terminator()
def body():
    with terminator.deferred():
        threading.Thread(target=terminator.terminate, args=[STOP]).start()
        while terminator.requested is None:
            spin(0.01)
assert outcome(terminator, body) == "terminated"
traced_calls()
""",
    "in a body": """
def body():
    traced_calls()
    sys.settrace(tracer)
    return call()
assert outcome(Terminator(), body) == 1
assert sys.gettrace() is tracer
assert outcome(Terminator(), call) == 1
assert sys.gettrace() is tracer
""",
    "in a body that is terminated": """
def body():
    sys.settrace(tracer)
    spin(100.0)
assert outcome(Terminator((0.05, STOP)), body) == "terminated"
sys.settrace(None)
traced_calls()
""",
    "in bodies on threads": """
threading.settrace(tracer)
with ThreadPoolExecutor(3) as pool:
    futures = [pool.submit(lambda: outcome(Terminator((0.05, STOP)), spin, 100.0)) for _ in range(6)]
    futures += [pool.submit(lambda: outcome(Terminator(), spin, 0.0)) for _ in range(6)]
    assert [future.result() for future in futures] == ["terminated"] * 6 + ["ended"] * 6
threading.settrace(None)
traced_calls()
""",
    "beside a terminated body that does not come back to Python": """
begun = threading.Event()
def body():
    begun.set()
    time.sleep(1000)
terminators = []
def work():
    terminators.append(Terminator())
    terminators[0].call(body)
threading.Thread(target=work, daemon=True).start()
begun.wait()
terminators[0].terminate(STOP)
spin(0.1)
traced_calls()
""",
    "after terminations at the very end of bodies": """
for offset in (0.0, 1e-6, 5e-6, 2e-5, 1e-4, 3e-4):
    for i in range(40):
        sys.settrace(tracer if i % 2 else None)
        terminator = Terminator()
        ready = threading.Event()
        def fire():
            ready.wait()
            spin(0.0008 + offset)
            terminator.terminate(STOP)
        thread = threading.Thread(target=fire)
        thread.start()
        ready.set()
        assert outcome(terminator, spin, 0.0008) in ("ended", "terminated")
        sys.settrace(None)
        traced_calls()
        thread.join()
""",
}


@pytest.mark.parametrize("case", CASES)
def test_traced_calls_go_on(case: str) -> None:
    done = subprocess.run([sys.executable, "-c", START + CASES[case]], timeout=120, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
