"""Which stored study a function continues: with a name that study, without one that of the same function and values."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import nbcompress as nc
from nbcompress.errors import StudyChanged
from nbcompress.study import State

SPACE = {"x": nc.Float(0.0, 1.0)}
calls: list[str] = []
settings: dict[str, Any] = {"offset": 0.0}
counted = {"n": 0}


def left(x: float, data: Any) -> float:
    calls.append("left")
    return -((x - 0.2) ** 2)


def right(x: float, data: Any) -> float:
    calls.append("right")
    return -((x - 0.8) ** 2)


class Around:
    def __init__(self, center: float) -> None:
        self.center, self.calls = center, 0

    def value(self, x: float) -> float:
        self.calls += 1
        return -((x - self.center) ** 2)

    __call__ = value


def around(center: float) -> Any:
    return lambda x: -((x - center) ** 2)


def reading(x: float) -> float:
    counted["n"] += 1
    return x + settings["offset"]


def found(function: Any, folder: Path, trials: int = 3, **options: Any) -> nc.Study:
    return nc.maximize(function, SPACE, trials, storage=folder / "journal", sampler="sobol", **options)


# fmt: off
LAMBDAS = (lambda x: -((x - 0.2) ** 2), lambda x: -((x - 0.8) ** 2))
# fmt: on


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (partial(left, data=[1]), partial(right, data=[1])),
        (partial(left, data=[1]), partial(left, data=[2])),
        (Around(0.2).value, Around(0.8).value),
        (Around(0.2), Around(0.8)),
        (around(0.2), around(0.8)),
    ],
)
def test_two_functions_are_two_studies(one: Any, other: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls.clear()
    first, second = found(one, tmp_path), found(other, tmp_path)
    assert second.name == f"{first.name}~2"
    assert "was begun with something else" in caplog.text
    if calls:
        assert len(calls) == 6
    # Each goes on with its own, also after it counted its calls.
    caplog.clear()
    for function, study in ((one, first), (other, second)):
        again = found(function, tmp_path)
        assert again.name == study.name
    assert [record.getMessage() for record in caplog.records] == [
        f"The study {study.name!r} has its 3 trials already; none was run again." for study in (first, second)
    ]


def test_two_lambdas_of_one_line_are_two_studies(tmp_path: Path) -> None:
    first, second = (found(function, tmp_path) for function in LAMBDAS)
    assert first.name != second.name
    assert first.best_value != second.best_value


def test_more_trials_of_a_lambda_continue_its_study(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = found(lambda x: x, tmp_path, 3)
    more = found(lambda x: x, tmp_path, 4)
    assert (more.name, len(more.trials)) == (first.name, 4)
    assert caplog.text == ""


def test_what_cannot_be_known_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open("/dev/null") as one, open("/dev/null") as other:
        found(partial(left, data=one), tmp_path)
        assert caplog.text == ""
        with caplog.at_level(logging.WARNING):
            found(partial(left, data=other), tmp_path)
    assert "it may belong to another function: data (a TextIOWrapper) cannot be compared. Give each" in caplog.text


def test_values_that_a_function_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(counted, "n", 0)
    assert found(reading, tmp_path, study="s").name == "s"
    assert found(reading, tmp_path).name == found(reading, tmp_path).name
    assert counted["n"] == 6
    monkeypatch.setitem(settings, "offset", 1.0)
    assert found(reading, tmp_path).name.endswith("~2")
    with pytest.raises(StudyChanged, match=r"settings\.offset = 0\.0 before and 1\.0 now.*accept_changes=True"):
        found(reading, tmp_path, study="s")
    study = found(reading, tmp_path, 4, study="s", accept_changes=True)
    assert [trial.note.get("values") for trial in study.all_trials] == [None, None, None, {"settings.offset": 1.0}]
    assert found(reading, tmp_path, study="s", fresh=True).name == "s~2"


def test_a_named_study_of_another_partial_function_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found(partial(left, data=1), tmp_path, study="s")
    found(partial(right, data=1), tmp_path, study="s")
    assert "'s' was begun with another body" in caplog.text
    with pytest.raises(StudyChanged, match="data = 1 before and 2 now"):
        found(partial(left, data=2), tmp_path, study="s")


def mended(x: float) -> float:
    calls.append("mended")
    return x


def failing(x: float) -> float:
    calls.append("failing")
    if x < 0.5:
        raise ValueError("no such layer")
    return x


def test_trials_that_failed_in_another_body_are_run_again_under_their_own_numbers(tmp_path: Path) -> None:
    first = found(failing, tmp_path, 6, study="s")
    failed = [trial.number for trial in first.all_trials if trial.state is State.FAILED]
    assert 0 < len(failed) < 6
    again = found(failing, tmp_path, 6, study="s")
    assert [trial.state for trial in again.all_trials] == [trial.state for trial in first.all_trials]
    calls.clear()
    now = found(mended, tmp_path, 6, study="s")
    assert calls == ["mended"] * len(failed)
    assert [trial.state for trial in now.all_trials] == [State.COMPLETE] * 6
    assert [trial.params for trial in now.all_trials] == [trial.params for trial in first.all_trials]
    calls.clear()
    more = found(mended, tmp_path, 7, study="s")
    assert calls == ["mended"]
    assert len(more.trials) == 7
    # With the first body again, its own failures were run by now, and those of the other body are none.
    assert len(found(failing, tmp_path, 7, study="s").trials) == 7


def test_a_trial_that_fails_again_in_the_changed_body_is_not_run_a_third_time(tmp_path: Path) -> None:
    def other(x: float) -> float:
        calls.append("other")
        return failing(x)

    first = found(failing, tmp_path, 6, study="s")
    calls.clear()
    states = [trial.state for trial in found(other, tmp_path, 6, study="s").all_trials]
    assert states == [trial.state for trial in first.all_trials]
    assert calls.count("other") == states.count(State.FAILED)
    calls.clear()
    found(other, tmp_path, 6, study="s")
    assert calls == []


def test_a_complete_study_of_another_body_says_how_to_begin_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found(mended, tmp_path, 3, study="s")
    found(partial(left, data=1), tmp_path, 3, study="s")
    assert "They were run with another body; the option fresh begins anew." in caplog.text
