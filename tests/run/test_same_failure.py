"""When a search has a mistake rather than bad luck."""

from __future__ import annotations

import pytest

from nbcompress.run.same_failure import all_failed, begun_in_vain, in_short, same_failure
from nbcompress.study import Failure, State, Trial


def failed(number: int, message: str = "boom") -> Trial:
    return Trial(number, State.FAILED, {}, failure=Failure("ValueError", message))


def test_three_equal_ones_at_the_beginning() -> None:
    trials = [failed(0), failed(1), failed(2)]
    assert same_failure(trials[:2], 2) is None
    assert same_failure(trials, 3) == Failure("ValueError", "boom")


def test_addresses_do_not_tell_errors_apart() -> None:
    assert same_failure([failed(i, f"<Net at 0x7f{i}a>") for i in range(3)], 3) is not None


@pytest.mark.parametrize(
    "messages",
    [
        ["got the str '0.5'", "got the str '1e-05'", "got the str '12'"],
        ["the bool True", "the bool False", "the bool True"],
        ["bad x 0.25", "bad x 0.75", "bad x 1"],
    ],
)
def test_what_varies_with_the_point_does_not_tell_errors_apart(messages: list[str]) -> None:
    trials = [failed(number, message) for number, message in enumerate(messages)]
    assert same_failure(trials, 3) is not None
    assert begun_in_vain(trials) == 3


def test_too_little_memory_is_a_matter_of_the_point() -> None:
    trials = [
        Trial(i, State.FAILED, {}, failure=Failure("OutOfMemoryError", f"Tried to allocate {i} GiB")) for i in range(3)
    ]
    assert same_failure(trials, 3) is None


def test_when_all_have_failed_the_last_one_is_named() -> None:
    trials = [failed(0), failed(1, "bang")]
    assert all_failed(trials) == " All failed, the last one with ValueError: bang"
    assert all_failed([*trials, Trial(2, State.INFEASIBLE, {})]) == ""
    assert all_failed([]) == ""
    assert repr(trials[0]) == "<Trial 0: failed, ValueError ()>"


def test_different_ones_go_on() -> None:
    assert same_failure([failed(0), failed(1, "bang"), failed(2)], 3) is None


def test_a_success_means_that_it_can_work() -> None:
    assert same_failure([Trial(0, State.COMPLETE, {}), failed(1), failed(2), failed(3)], 3) is None
    assert same_failure([failed(0), failed(1), Trial(2, State.INFEASIBLE, {})], 3) is None


def test_later_ones_go_on() -> None:
    assert same_failure([failed(0, "bang"), *[failed(i) for i in range(1, 4)]], 4) is None


def test_continued_without_a_repair_it_ends_after_one_more() -> None:
    assert same_failure([failed(i) for i in range(3)], 0) is None
    assert same_failure([failed(i) for i in range(4)], 1) is not None


def test_interrupted_ones_say_nothing() -> None:
    trials = [failed(0), Trial(1, State.INTERRUPTED, {}), failed(2), failed(3)]
    assert same_failure(trials, 3) is not None


def test_a_search_that_began_in_vain() -> None:
    same = [failed(number, "nosuch") for number in range(3)]
    assert begun_in_vain(same) == 3
    assert begun_in_vain(same[:2]) == 0
    assert begun_in_vain([*same, Trial(3, State.COMPLETE, {}), failed(4, "nosuch")]) == 3
    assert begun_in_vain([failed(0, "other"), *[failed(number, "nosuch") for number in (1, 2, 3)]]) == 0


def test_a_failure_in_short_is_one_line_of_bounded_length() -> None:
    assert in_short(Failure("ValueError", "two\n  lines")) == "ValueError: two lines"
    text = in_short(Failure("ValueError", "long " * 1000))
    assert text.startswith("ValueError: long long")
    assert text.endswith(" ...")
    assert len(text) < 210
