"""How two searches differ in what they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbcompress.errors import StudyChanged
from nbcompress.space import Float, Space
from nbcompress.study import Study, list_studies, open_study
from nbcompress.study.goal import Goal
from nbcompress.study.trial import State
from nbcompress.study.values import Values, changed_paths, differences, path_text

SPACE, GOAL = Space({"x": Float(0, 1)}), Goal.of(minimize=["loss"])


def compared(before: Any, now: Any, **options: Any) -> list[tuple[str, bool]]:
    found = differences({"reads": {"k": before}}, Values({"k": now}), **options)
    assert all(one.kind == "value" for one in found)
    return [(one.name, one.is_close) for one in found]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (1, 1, []),
        (1, 1.0, []),
        (1, True, [("k", False)]),
        (0, None, [("k", False)]),
        (1000, 1001, [("k", False)]),
        (1000, 1001.0, [("k", True)]),
        (0.812, 0.815, [("k", True)]),
        (0.1, 0.1011, [("k", False)]),
        (0.0, 1e-12, [("k", False)]),
        (-0.5, 0.5, [("k", False)]),
        ("a", "b", [("k", False)]),
        ([1, 2], [1, 3], [("k[1]", False)]),
        ([1, 2], [1, 2, 3], [("k", False)]),
        ({"items": {"a": 1, "b": 2}}, {"items": {"b": 2, "a": 1}}, []),
        ({"items": {"lr": 0.1}}, {"items": {"lr": 0.2}}, [("k.lr", False)]),
        ({"items": {"lr": 0.1}}, {"items": {"lr": 0.1, "a b": 3}}, [("k[a b]", False)]),
        ({"fields": {"lr": 0.1}}, {"fields": {"lr": 0.1001}}, [("k.lr", True)]),
        ({"items": {"lr": 0.1}}, {"fields": {"lr": 0.1}}, [("k", False)]),
        ({"float": "nan"}, {"float": "nan"}, []),
        (None, {"other": "Net"}, [("k", False)]),
        ({"other": "Net"}, {"other": "Sequential"}, []),
        ({"code": "", "fields": {"a": 1}}, {"other": "type"}, None),
        ({"code": "", "fields": {"a": 1}}, {"code": "", "fields": {"b": 1}}, []),
        ({"code": "", "fields": {"a": 1}}, {"code": "", "fields": {"a": 2}}, [("k.a", False)]),
    ],
)
def test_differences(before: Any, now: Any, expected: list[tuple[str, bool]] | None) -> None:
    if expected is None:
        assert [one.kind for one in differences({"reads": {"k": before}}, Values({"k": now}))] == ["code"]
    else:
        assert compared(before, now) == expected


def test_names_that_one_of_both_reads_are_none() -> None:
    assert differences({"reads": {"a": 1}}, Values({"b": 2})) == []
    assert differences({}, Values({"b": 2}, own={"code": "x"})) == []


def test_what_the_body_writes_into_does_not_count() -> None:
    before, now = {"items": {"n": 1, "lr": 0.1}}, {"items": {"n": 5, "lr": 0.2}}
    assert compared(before, now, written=[("k", "n")]) == [("k.lr", False)]
    assert compared(before, now, written=[("k",)]) == []
    given = Values({"k": now}, written=frozenset({("k", "lr")}))
    assert [one.name for one in differences({"reads": {"k": before}}, given)] == ["k.n"]


def test_what_was_written_between_two_takings() -> None:
    before = Values({"a": 1, "cache": {"items": {}}, "c": {"fields": {"n": 0, "lr": 1}}}, own={"fields": {"log": []}})
    now = Values(
        {"a": 1, "cache": {"items": {"x": 1}}, "c": {"fields": {"n": 3, "lr": 1}}}, own={"fields": {"log": [1]}}
    )
    assert changed_paths(before, now) == {("cache",), ("c", "n"), ("log",)}
    assert path_text(()) == "the function"


@pytest.fixture(params=["journal", "database"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "j") if request.param == "journal" else f"sqlite:///{tmp_path / 'a.db'}"


def opened(storage: str, reads: dict[str, Any] | None, name: str = "s", **options: Any) -> Study:
    values = None if reads is None else Values(reads)
    return open_study(name, SPACE, GOAL, storage=storage, values=values, **options)


def test_a_named_study_is_not_continued_with_another_value(storage: str) -> None:
    opened(storage, {"lr": 0.1, "n": 3})
    assert opened(storage, {"lr": 0.1, "n": 3}).warnings == ()
    with pytest.raises(StudyChanged) as caught:
        opened(storage, {"lr": 0.2, "n": 4})
    text = str(caught.value)
    assert "lr = 0.1 before and 0.2 now; n = 3 before and 4 now" in text
    for way in ("fresh=True", "another study", "accept_changes=True"):
        assert way in text
    (said,) = opened(storage, {"lr": 0.1001, "n": 3}).warnings
    assert "less than 1 %" in said
    accepting = opened(storage, {"lr": 0.2, "n": 3}, accept_changes=True)
    assert accepting.accepted == {"lr": 0.2}
    assert "lr = 0.1 before and 0.2 now" in accepting.warnings[0]
    fresh = opened(storage, {"lr": 0.2, "n": 3}, fresh=True)
    assert (fresh.name, fresh.warnings, fresh.accepted) == ("s~2", (), {})
    assert opened(storage, {"lr": 0.2, "n": 3}).name == "s~2"


def test_an_unnamed_study_is_the_newest_generation_whose_values_agree(storage: str) -> None:
    def name(lr: float, **options: Any) -> str:
        return opened(storage, {"lr": lr}, is_made=True, **options).name

    assert [name(lr) for lr in (1, 2, 1, 2, 3)] == ["s", "s~2", "s", "s~2", "s~3"]
    assert name(1, fresh=True) == "s~4"
    assert name(1) == "s~4"
    assert name(7, accept_changes=True) == "s~4"
    (said,) = opened(storage, {"lr": 8}, is_made=True).warnings
    assert said == "Study 's~5' begins, since 's~4' was begun with something else: lr = 1 before and 8 now."
    assert len(list_studies(storage)) == 5


def test_studies_of_earlier_versions_go_on(storage: str) -> None:
    digits = {"value of lr": "1a", "body": "b"}
    opened(storage, None, identity=digits)
    assert opened(storage, {"lr": 1}, identity=digits, is_made=True).name == "s"
    assert opened(storage, {"lr": 1}, identity=digits).warnings == ()
    other = opened(storage, {"lr": 2}, identity={**digits, "value of lr": "2b"})
    assert "another value of lr" in other.warnings[0]
    assert opened(storage, {"lr": 2}, identity={**digits, "value of lr": "2b"}, is_made=True).name == "s~2"


def test_code_and_content_that_belong_to_a_function(storage: str) -> None:
    def values(code: str, content: str, *unknown: str) -> Values:
        return Values({}, {"code": code, "fields": {"data": {"content": content}}}, unknown)

    def study(given: Values, **options: Any) -> Study:
        return open_study("s", SPACE, GOAL, storage=storage, values=given, **options)

    study(values("a", "1"))
    assert "another body" in study(values("b", "1")).warnings[0]
    assert "another content of data" in study(values("a", "2")).warnings[0]
    assert study(values("a", "2"), is_made=True).name == "s~2"
    assert study(values("a", "1"), is_made=True).name == "s"
    assert (
        "data (a TextIOWrapper) cannot be known"
        in study(values("a", "1", "data (a TextIOWrapper)"), is_made=True).warnings[0]
    )


def test_what_was_written_is_stored(storage: str) -> None:
    study = opened(storage, {"log": [], "n": 1})
    study.annotate_written({("log",)})
    study.annotate_written({("c", "n")})
    assert opened(storage, {"log": [1, 2], "n": 1}).warnings == ()
    with pytest.raises(StudyChanged, match="n = 1 before and 2 now"):
        opened(storage, {"log": [1, 2], "n": 2})
    assert "written" not in study.record
    assert State.RUNNING not in [one.state for one in study.all_trials]
