"""Ending a body from outside, and never what comes after it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nbcompress.run.guard import Cut, Guard, guarded
from nbcompress.run.outcome import TrialEnded
from nbcompress.study import Failure, State

STOP = Cut(State.STOPPED)


def spin(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "ended"


def test_a_body_that_is_not_cut_returns() -> None:
    guard = Guard()
    assert guard.call(spin, 0.0) == "ended"
    assert guard.asked is None
    assert not guard.is_armed


def test_it_ends_at_the_next_instruction() -> None:
    guard = Guard()
    threading.Timer(0.05, guard.cut, [STOP]).start()
    started = time.monotonic()
    with pytest.raises(TrialEnded):
        guard.call(spin, 20.0)
    assert time.monotonic() - started < 5
    assert guard.asked == STOP


def test_a_limit_ends_the_body() -> None:
    guard = Guard((0.05, STOP))
    started = time.monotonic()
    with pytest.raises(TrialEnded):
        guard.call(spin, 20.0)
    assert time.monotonic() - started < 5
    assert guard.asked == STOP


def test_a_limit_is_not_about_what_comes_before_and_after_the_body() -> None:
    guard = Guard((0.2, STOP))
    spin(0.3)
    assert guard.call(spin, 0.0) == "ended"
    spin(0.3)
    assert guard.asked is None


def test_a_cut_before_the_start_ends_it_at_once() -> None:
    guard = Guard()
    guard.cut(STOP)
    with pytest.raises(TrialEnded):
        guard.call(spin, 20.0)


def test_the_first_cut_decides() -> None:
    guard = Guard()
    guard.cut(Cut(State.FAILED, Failure("Timeout", "")))
    guard.cut(STOP)
    assert guard.asked is not None
    assert guard.asked.state is State.FAILED


def test_a_cut_after_the_end_is_nothing() -> None:
    guard = Guard()
    guard.call(spin, 0.0)
    guard.cut(STOP)
    assert spin(0.05) == "ended"


def test_the_body_may_cut_itself() -> None:
    guard = Guard()

    def body() -> None:
        guard.cut(STOP)
        pytest.fail("went on")

    with pytest.raises(TrialEnded):
        guard.call(body)


def test_it_works_in_other_threads() -> None:
    def work() -> str:
        guard = Guard()
        timer = threading.Timer(0.05, guard.cut, [STOP])
        timer.start()
        try:
            return guard.call(spin, 20.0)
        except TrialEnded:
            return "cut"

    with ThreadPoolExecutor(3) as pool:
        assert [one.result() for one in [pool.submit(work) for _ in range(3)]] == ["cut"] * 3


def test_a_shield_is_left_whole() -> None:
    guard = Guard()
    steps: list[str] = []

    def body() -> None:
        with guard.shield():
            threading.Timer(0.02, guard.cut, [STOP]).start()
            steps.append(spin(0.2))
        steps.append("after")

    with pytest.raises(TrialEnded):
        guard.call(body)
    assert steps == ["ended"]


def test_a_shield_outside_of_a_body_does_not_arm() -> None:
    guard = Guard()
    with guarded(guard), guard.shield():
        assert not guard.is_armed
    assert not guard.is_armed


@pytest.mark.parametrize("offset", [0.0, 1e-6, 2e-6, 5e-6, 1e-5, 3e-5, 1e-4])
def test_nothing_arrives_after_the_body(offset: float) -> None:
    """Cut at the very end of the body, many times; the exception comes inside `call` or never."""
    duration = 0.0008
    cuts = 0
    for _ in range(60):
        guard = Guard()
        ready = threading.Event()

        def fire(guard: Guard = guard, ready: threading.Event = ready) -> None:
            ready.wait()
            spin(duration + offset)
            guard.cut(STOP)

        thread = threading.Thread(target=fire)
        thread.start()
        ready.set()
        try:
            guard.call(spin, duration)
        except TrialEnded:
            cuts += 1
        # Were an exception still under way, it would come here and fail the test.
        for _ in range(500):
            pass
        thread.join()
        spin(0.0001)
    assert 0 <= cuts <= 60
