"""Names of studies and their generations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcompress.study.opening import join_name, latest_name, next_name, split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("digits", ("digits", 1)),
        ("digits~2", ("digits", 2)),
        ("digits~12", ("digits", 12)),
        ("digits~02", ("digits~02", 1)),
        ("digits~0", ("digits~0", 1)),
        ("digits~", ("digits~", 1)),
        ("~2", ("~2", 1)),
        ("a~2~3", ("a~2", 3)),
    ],
)
def test_parts_of_names(name: str, parts: tuple[str, int]) -> None:
    assert split_name(name) == parts


@pytest.mark.parametrize(
    ("name", "stored", "latest", "following"),
    [
        ("a", [], "a", "a"),
        ("a", ["a"], "a", "a~2"),
        ("a", ["a", "a~2", "a~10", "b~30"], "a~10", "a~11"),
        ("a~2", ["a", "a~2", "a~10"], "a~2", "a~11"),
        ("a~1", ["a", "a~2"], "a", "a~3"),
        ("a", ["a~3"], "a~3", "a~4"),
    ],
)
def test_latest_and_next(name: str, stored: list[str], latest: str, following: str) -> None:
    assert latest_name(name, stored) == latest
    assert next_name(name, stored) == following


@given(st.text(min_size=1), st.integers(2, 10**6))
def test_split_undoes_join(base: str, generation: int) -> None:
    assert split_name(join_name(base, generation)) == (base, generation)


@given(st.lists(st.sampled_from(["a", "a~2", "a~3", "a~7", "b"])))
def test_the_next_name_is_new(stored: list[str]) -> None:
    assert next_name("a", stored) not in stored
