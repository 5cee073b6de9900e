"""Ctrl-C: once inside a body, noted elsewhere, raised the second time."""

from __future__ import annotations

import signal
import threading

import pytest

from nbcompress.run.guard import Guard, guarded
from nbcompress.run.interrupts import Interrupts, uninterrupted
from nbcompress.run.outcome import TrialEnded


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
