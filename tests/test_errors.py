"""An error keeps the options that its text names, and each reader sees them as they type them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from nbcompress.errors import (
    CompressionError,
    SearchError,
    SearchFailed,
    SpaceSyntaxError,
    check_integer,
    first_line,
    option,
    shown,
)

OPTIONS = ["--amount", "--criterion", "--data", "--finetune", "--fresh", "--layers", "--rank", "--trial-timeout"]


@pytest.mark.parametrize(
    ("text", "in_python", "as_typed"),
    [
        (option("trial_timeout"), "trial_timeout", "--trial-timeout"),
        (option("data="), "data=", "--data"),
        (option("finetune=EPOCHS"), "finetune=EPOCHS", "--finetune EPOCHS"),
        (option("rank", 0.0625), "rank=0.0625", "--rank 0.0625"),
        (option("layers", "block.*.fc"), "layers='block.*.fc'", "--layers block.*.fc"),
        (option("layers", "a b"), "layers='a b'", '--layers "a b"'),
        (option("layers", ["a", "b"]), "layers=['a', 'b']", "--layers ['a', 'b']"),
        (option("layers", None), "layers=None", "--layers None"),
        (option("fresh", True), "fresh=True", "--fresh"),
        (
            f"{option('criterion', 'hessian')} needs data: pass {option('data=')}, so",
            "criterion='hessian' needs data: pass data=, so",
            "--criterion hessian needs data: pass --data, so",
        ),
        (
            f"prune needs {option('amount=')}, a share, or {option('threshold=')}",
            "prune needs amount=, a share, or threshold=",
            "prune needs --amount, a share, or threshold=",
        ),
        ("amount must be small: data=3", "amount must be small: data=3", "amount must be small: data=3"),
    ],
)
def test_options_are_shown_as_the_reader_types_them(text: str, in_python: str, as_typed: str) -> None:
    error = CompressionError(text)
    for copied in (error, pickle.loads(pickle.dumps(error))):
        assert (str(copied), copied.args) == (in_python, (in_python,))
        assert copied.as_typed(OPTIONS) == as_typed
        assert copied.as_typed([]) == in_python


def test_a_value_cannot_pass_for_an_option() -> None:
    error = CompressionError(f"{option('layers', option('data='))} matches nothing")
    assert str(error) == f"layers={option('data=')!r} matches nothing"


def test_an_error_with_a_place_is_shown_with_it() -> None:
    error = SpaceSyntaxError("A name is missing.", 3, 7, "Write one.")
    assert error.as_typed(OPTIONS) == str(error) == "line 3, column 7: A name is missing. Write one."


def test_a_failed_search_holds_its_study() -> None:
    error = SearchFailed("Stopped.", "the study")
    assert (str(error), error.study) == ("Stopped.", "the study")
    assert pickle.loads(pickle.dumps(error)).args == ("Stopped.",)


@pytest.mark.parametrize("value", [1, 8, np.int64(3)])
def test_an_integer_comes_back_as_one_of_python(value: Any) -> None:
    assert type(check_integer("bits", value, 1, 8)) is int
    assert check_integer("bits", value, 1, 8) == value


@pytest.mark.parametrize("value", [0, 9, True, np.True_, 2.0, "2", None])
def test_what_is_no_integer_in_its_range_is_refused(value: Any) -> None:
    with pytest.raises(CompressionError) as caught:
        check_integer("bits", value, 1, 8, error=CompressionError)
    assert str(caught.value) == f"bits is an integer from 1 to 8, but got {value!r}."
    assert caught.value.as_typed(["--bits"]).startswith("--bits is an integer from 1 to 8, but got")


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (None, None, "seed is an integer, but got 0.5."),
        (1, None, "seed is an integer of at least 1, but got 0.5."),
        (None, 9, "seed is an integer of at most 9, but got 0.5."),
    ],
)
def test_the_text_names_the_range(low: int | None, high: int | None, text: str) -> None:
    with pytest.raises(SearchError) as caught:
        check_integer("seed", 0.5, low, high)
    assert str(caught.value) == text


def test_a_long_value_is_cut() -> None:
    assert shown("a") == "'a'"
    assert shown("a" * 100) == "'" + "a" * 76 + "..."


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no data\nin 3 batches"), "ValueError: no data"),
        (RuntimeError("\n  \n  shapes differ\n"), "RuntimeError: shapes differ"),
        (KeyError(), "KeyError"),
    ],
)
def test_first_line_of_an_error(error: Exception, text: str) -> None:
    assert first_line(error) == text
