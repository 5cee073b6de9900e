"""Terminate a body from another thread, and never what comes after it; and the user's interrupt.

The first interrupt raises inside a body and is noted elsewhere; the second one raises.
"""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nbcompress.run import Assignment, RunningTrial
from nbcompress.run.outcome import TrialEnded
from nbcompress.run.termination import Interrupts, Termination, Terminator, uninterrupted
from nbcompress.run.trial import current_terminator
from nbcompress.study import Failure, State

STOP = Termination(State.STOPPED)


def spin(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "ended"


def test_a_body_that_is_not_terminated_returns() -> None:
    terminator = Terminator()
    assert terminator.call(spin, 0.0) == "ended"
    assert terminator.requested is None
    assert not terminator.is_armed


def test_it_ends_at_the_next_instruction() -> None:
    terminator = Terminator()
    threading.Timer(0.05, terminator.terminate, [STOP]).start()
    started = time.monotonic()
    with pytest.raises(TrialEnded):
        terminator.call(spin, 100.0)
    assert time.monotonic() - started < 50
    assert terminator.requested == STOP


def test_a_limit_ends_the_body() -> None:
    terminator = Terminator((0.05, STOP))
    started = time.monotonic()
    with pytest.raises(TrialEnded):
        terminator.call(spin, 100.0)
    assert time.monotonic() - started < 50
    assert terminator.requested == STOP


def test_a_limit_is_not_about_what_comes_before_and_after_the_body() -> None:
    terminator = Terminator((1.0, STOP))
    time.sleep(1.1)
    assert terminator.call(spin, 0.0) == "ended"
    time.sleep(1.1)
    assert terminator.requested is None


def test_a_termination_before_the_start_ends_it_at_once() -> None:
    terminator = Terminator()
    terminator.terminate(STOP)
    with pytest.raises(TrialEnded):
        terminator.call(spin, 100.0)


def test_the_first_termination_decides() -> None:
    terminator = Terminator()
    terminator.terminate(Termination(State.FAILED, Failure("Timeout", "")))
    terminator.terminate(STOP)
    assert terminator.requested is not None
    assert terminator.requested.state is State.FAILED


def test_a_termination_after_the_end_is_nothing() -> None:
    terminator = Terminator()
    terminator.call(spin, 0.0)
    terminator.terminate(STOP)
    assert spin(0.05) == "ended"


def test_the_body_may_terminate_itself() -> None:
    terminator = Terminator()

    def body() -> None:
        terminator.terminate(STOP)
        pytest.fail("went on")

    with pytest.raises(TrialEnded):
        terminator.call(body)


def test_it_works_in_other_threads() -> None:
    def work() -> str:
        terminator = Terminator()
        timer = threading.Timer(0.05, terminator.terminate, [STOP])
        timer.start()
        try:
            return terminator.call(spin, 100.0)
        except TrialEnded:
            return "terminated"

    with ThreadPoolExecutor(3) as pool:
        assert [future.result() for future in [pool.submit(work) for _ in range(3)]] == ["terminated"] * 3


def test_a_shield_is_left_whole() -> None:
    terminator = Terminator()
    steps: list[str] = []

    def body() -> None:
        with terminator.deferred():
            threading.Timer(0.02, terminator.terminate, [STOP]).start()
            steps.append(spin(0.2))
        steps.append("after")

    with pytest.raises(TrialEnded):
        terminator.call(body)
    assert steps == ["ended"]


def test_a_shield_outside_of_a_body_does_not_arm() -> None:
    terminator = Terminator()
    with RunningTrial(Assignment(0, {}, 0), terminator=terminator).entered(), terminator.deferred():
        assert not terminator.is_armed
    assert not terminator.is_armed


@pytest.mark.parametrize("offset", [0.0, 1e-6, 2e-6, 5e-6, 1e-5, 3e-5, 1e-4])
def test_nothing_arrives_after_the_body(offset: float) -> None:
    """Cut at the very end of the body, many times; the exception comes inside `call` or never."""
    duration = 0.0008
    n_terminated = 0
    for _ in range(60):
        terminator = Terminator()
        ready = threading.Event()

        def fire(terminator: Terminator = terminator, ready: threading.Event = ready) -> None:
            ready.wait()
            spin(duration + offset)
            terminator.terminate(STOP)

        thread = threading.Thread(target=fire)
        thread.start()
        ready.set()
        try:
            terminator.call(spin, duration)
        except TrialEnded:
            n_terminated += 1
        # Were an exception still under way, it would come here and fail the test.
        for _ in range(500):
            pass
        thread.join()
        spin(0.0001)
    assert 0 <= n_terminated <= 60


def test_the_first_one_is_noted_and_the_second_one_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(current_terminator) as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.count == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_inside_a_body_it_raises_at_once() -> None:
    terminator = Terminator()
    with (
        Interrupts(current_terminator) as interrupts,
        RunningTrial(Assignment(0, {}, 0), terminator=terminator).entered(),
    ):
        with pytest.raises(KeyboardInterrupt):
            terminator.call(signal.raise_signal, signal.SIGINT)
        assert interrupts.count == 1


def test_between_set_up_and_body_the_body_does_not_start() -> None:
    terminator = Terminator()
    with Interrupts(current_terminator), RunningTrial(Assignment(0, {}, 0), terminator=terminator).entered():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(TrialEnded):
            terminator.call(pytest.fail, "started")


def test_in_a_shield_it_waits() -> None:
    terminator = Terminator()
    steps: list[str] = []

    def body() -> None:
        with terminator.deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("whole")
        steps.append("after")

    with (
        Interrupts(current_terminator),
        RunningTrial(Assignment(0, {}, 0), terminator=terminator).entered(),
        pytest.raises(TrialEnded),
    ):
        terminator.call(body)
    assert steps == ["whole"]


def test_other_threads_get_none() -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with Interrupts(current_terminator):
            assert signal.getsignal(signal.SIGINT) is before

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_one_who_ignores_interrupts_is_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts(current_terminator) as interrupts:
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
