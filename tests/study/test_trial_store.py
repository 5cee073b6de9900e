"""Records in attributes of Optuna: short ones as they are, long ones in pieces."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbcompress as nc
from nbcompress.errors import StudyError
from nbcompress.study import Goal, State, open_study, read_study, trial_store
from nbcompress.study.trial_store import attribute_items, pack_number, read_attribute, write_attribute

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON, st.integers(0, 4))
def test_what_is_written_is_read(data: object, size: int) -> None:
    record = {"data": data, "padding": "ü" * (size * 10_000)}
    attributes: dict[str, object] = {}
    write_attribute(attributes.__setitem__, "key", record, "it")
    assert read_attribute(attributes, "key") == record
    # MySQL holds 65,535 bytes.
    assert all(len(str(value).encode()) < 32_000 for value in attributes.values())


def test_the_key_itself_comes_last() -> None:
    items = attribute_items("key", "x" * 100_000, "it")
    assert [key for key, _ in items] == ["key/0", "key/1", "key/2", "key/3", "key"]
    attributes = dict(items[:-1])
    assert read_attribute(attributes, "key") is None


def test_a_longer_record_may_be_replaced_by_a_shorter_one() -> None:
    attributes: dict[str, object] = {}
    write_attribute(attributes.__setitem__, "key", "x" * 100_000, "it")
    write_attribute(attributes.__setitem__, "key", [1], "it")
    assert read_attribute(attributes, "key") == [1]


def test_what_is_not_json_is_named() -> None:
    with pytest.raises(StudyError) as caught:
        attribute_items("key", {"a": {1}}, "the note")
    assert str(caught.value) == (
        "What is stored with a study is plain JSON, but the note is not: Object of type set is not JSON serializable."
    )


@given(st.floats())
def test_numbers_come_back(value: float) -> None:
    packed = pack_number(value)
    assert isinstance(packed, float) == math.isfinite(value)
    assert float(packed) == value or math.isnan(value)


def test_start_and_end_of_a_trial_are_stored_and_a_clock_that_is_set_back_does_not_change_its_length(
    tmp_path: Path,
) -> None:
    clocks = SimpleNamespace(time=lambda: 1_000_000.0, monotonic=lambda: 50.0)
    space, goal, path = nc.Space({"x": nc.Float(0, 1)}), Goal.of(minimize=["loss"]), tmp_path / "a.journal"
    with mock.patch.object(trial_store, "time", clocks):
        study = open_study("s", space, goal, storage=path)
        trial = study.begin({"x": 0.5})
        assert (trial.started, trial.ended, trial.worker) == (1_000_000.0, None, "")
        assert read_study("s", path).all_trials[0].started == 1_000_000.0
        clocks.time, clocks.monotonic = lambda: 900_000.0, lambda: 54.5
        study.finish(replace(trial, state=State.COMPLETE, values={"loss": 1.0}, worker="node7:4711"))
        assert study.begin({"x": 0.25}).started == 900_000.0
    stored = read_study("s", path).all_trials[0]
    assert (stored.started, stored.ended, stored.worker) == (1_000_000.0, 1_000_004.5, "node7:4711")
