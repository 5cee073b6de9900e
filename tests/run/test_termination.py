"""Ending a body from outside, and never what comes after it.

Ctrl-C: once inside a body, noted elsewhere, raised the second time."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nbcompress.run.outcome import TrialEnded
from nbcompress.run.termination import Cut, Guard, Interrupts, guarded, uninterrupted
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


def test_the_first_one_is_noted_and_the_second_one_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.count == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_inside_a_body_it_raises_at_once() -> None:
    guard = Guard()
    with Interrupts() as interrupts, guarded(guard):
        with pytest.raises(KeyboardInterrupt):
            guard.call(signal.raise_signal, signal.SIGINT)
        assert interrupts.count == 1


def test_between_set_up_and_body_the_body_does_not_start() -> None:
    guard = Guard()
    with Interrupts(), guarded(guard):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(TrialEnded):
            guard.call(pytest.fail, "started")


def test_in_a_shield_it_waits() -> None:
    guard = Guard()
    steps: list[str] = []

    def body() -> None:
        with guard.shield():
            signal.raise_signal(signal.SIGINT)
            steps.append("whole")
        steps.append("after")

    with Interrupts(), guarded(guard), pytest.raises(TrialEnded):
        guard.call(body)
    assert steps == ["whole"]


def test_other_threads_get_none() -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with Interrupts():
            assert signal.getsignal(signal.SIGINT) is before

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_one_who_ignores_interrupts_is_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
            assert interrupts.count == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_uninterrupted_drops_interrupts_and_puts_the_handler_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
