"""A study that is searched elsewhere is followed until its search, or the view of it, ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nbcompress.panels import following
from nbcompress.panels.following import StudyFollower, follow
from nbcompress.panels.live import LivePanel, StudyWidget, make_panel
from nbcompress.panels.view import MIME
from nbcompress.run.callbacks import Controls, Ending
from nbcompress.space import Float, Space
from nbcompress.study import Study, delete_study, open_study, read_study
from nbcompress.study.goal import Goal, State

WIDGET = "application/vnd.jupyter.widget-view+json"


class Page:
    """An output that remembers what it was given."""

    def __init__(self) -> None:
        self.shown: list[Mapping[str, Any]] = []

    def show(self, bundle: Mapping[str, Any]) -> None:
        self.shown.append(bundle)

    def print(self, text: str) -> None: ...

    def follow(self) -> None: ...


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Poll often, and hear what a page would hear."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(following, "POLL_INTERVAL", 0.02)
    monkeypatch.setattr(following, "START_TIMEOUT", 0.1)
    monkeypatch.setattr("nbcompress.panels.live.asset", lambda name: "export default {}")
    monkeypatch.setattr(following, "asset", lambda name: "export default {}")
    monkeypatch.setattr(StudyWidget, "send", lambda self, content: sent.append(content))
    yield sent
    for follower in following._FOLLOWERS.values():
        follower.stop()
        if follower.thread is not None:
            follower.thread.join(60)
    following._FOLLOWERS.clear()


@pytest.fixture
def writer(tmp_path: Path) -> Study:
    study = open_study("s", Space({"x": Float(0, 1)}), Goal.of(["score"]), storage=str(tmp_path / "a.journal"))
    study.annotate(budget={"trials": 5})
    return study


def nobody() -> None:
    """What proposes is not known."""


def reader(writer: Study) -> Study:
    return read_study("s", writer.storage)


def run_one(study: Study, x: float) -> None:
    trial = study.begin({"x": x})
    study.finish(replace(trial, state=State.COMPLETE, values={"score": x}, seconds=0.1))


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def numbers(sent: list[dict[str, Any]]) -> set[int]:
    """Return the trials that a page has heard have ended."""
    trials = [
        trial
        for message in sent
        for trial in message.get("trials", message.get("state", {}).get("study", message).get("trials", []))
    ]
    return {trial["number"] for trial in trials if trial["state"] == "complete"}


def left(message: dict[str, Any]) -> float | None:
    """Return the seconds that a page is told the search will still take."""
    fields = message["state"]["study"] if message["kind"] == "whole" else message["set"]
    found: float | None = fields.get("left")
    return found


def test_what_another_process_does_arrives_until_its_search_ends(writer: Study, hurried: list[dict[str, Any]]) -> None:
    run_one(writer, 0.1)
    running = writer.begin({"x": 0.5})
    page = Page()
    found = follow(reader(writer), page, None, nobody)
    assert isinstance(found, StudyFollower)
    assert found.thread is not None
    assert WIDGET in page.shown[0]
    writer.finish(replace(running, state=State.COMPLETE, values={"score": 0.5}, seconds=0.1))
    until(lambda: 1 in numbers(hurried))
    run_one(writer, 0.9)
    until(lambda: 2 in numbers(hurried))
    writer.annotate(ending={"kind": "stopped", "reason": "Stopped at 3 of 5 trials.", "warnings": []})
    found.thread.join(60)
    assert not found.thread.is_alive()
    view = page.shown[-1][MIME]
    assert view["ending"] == "Stopped at 3 of 5 trials."
    assert view["state"] == "ended"
    assert len(view["trials"]) == 3
    assert all(message.get("set", {}).get("elapsed") is None for message in hurried), "nobody knows when it began"


def test_the_time_left_is_told_by_trials_that_end_while_it_is_watched(
    writer: Study, hurried: list[dict[str, Any]]
) -> None:
    running = writer.begin({"x": 0.5})
    page = Page()

    def slow_to_load() -> None:
        run_one(writer, 0.1)

    found = follow(reader(writer), page, None, slow_to_load)
    assert found is not None
    until(lambda: 1 in numbers(hurried))
    assert all(left(message) is None for message in hurried), "the trial ended before anybody watched"
    writer.finish(replace(running, state=State.COMPLETE, values={"score": 0.5}, seconds=0.1))
    until(lambda: any(left(message) is not None for message in hurried))


def test_a_search_whose_process_is_gone_is_over_after_a_while(writer: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "IDLE_SECONDS", 0.1)
    running = writer.begin({"x": 0.5})
    page = Page()
    found = follow(reader(writer), page, None, nobody)
    assert found is not None
    assert found.thread is not None
    writer.finish(replace(running, state=State.INTERRUPTED))
    found.thread.join(60)
    assert page.shown[-1][MIME]["ending"] == "The process that ran the search has ended."


def remove_file(storage: str) -> None:
    Path(storage).unlink()


def damage_file(storage: str) -> None:
    with Path(storage).open("a", encoding="utf-8") as file:
        file.write("nothing that was ever meant\nto stand here\n")


@pytest.mark.parametrize(("lose", "why"), [(remove_file, "was removed"), (damage_file, "is damaged")])
def test_a_study_that_cannot_be_read_any_more_ends_the_view_with_a_sentence(
    writer: Study, lose: Callable[[str], None], why: str
) -> None:
    run_one(writer, 0.1)
    writer.begin({"x": 0.5})
    page = Page()
    found = follow(reader(writer), page, None, nobody)
    assert found is not None
    assert found.thread is not None
    lose(writer.storage)
    found.thread.join(60)
    view = page.shown[-1][MIME]
    assert view["state"] == "ended"
    assert view["ending"].startswith(
        f"This view cannot follow the study any longer: The journal {writer.storage} {why}"
    )
    assert len(view["trials"]) == 2
    assert view["record"]["budget"] == {"trials": 5}


def test_a_study_that_is_deleted_ends_the_view_with_a_sentence(writer: Study) -> None:
    run_one(writer, 0.1)  # four trials are missing, so that it may be between two of them
    page = Page()
    found = StudyFollower(reader(writer), page)
    shown = make_panel("live", reader(writer), output=page, trials=5)
    assert isinstance(shown, LivePanel)
    found.start(shown)
    delete_study("s", writer.storage)
    assert found.thread is not None
    found.thread.join(60)
    assert page.shown[-1][MIME]["ending"] == (
        f"This view cannot follow the study any longer: The study was deleted from {writer.storage} "
        "while it was in use."
    )


def test_a_second_follower_takes_over_and_a_closed_widget_ends_it(writer: Study) -> None:
    writer.begin({"x": 0.5})
    first, second = (follow(reader(writer), Page(), None, nobody) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.thread is not None
    assert second.thread is not None
    first.thread.join(60)
    assert not first.thread.is_alive()
    assert second.thread.is_alive()
    second.stop()
    second.thread.join(60)
    assert not second.thread.is_alive()


def test_a_study_that_nobody_searches_is_not_followed(writer: Study) -> None:
    run_one(writer, 0.1)
    assert follow(reader(writer), Page(), None, nobody) is None


def test_a_search_of_this_process_shows_its_own_panel_with_its_buttons(writer: Study) -> None:
    first, again = Page(), Page()
    shown = make_panel("live", writer, output=first, trials=5, controls=Controls())
    assert isinstance(shown, LivePanel)
    shown.show()
    writer.begin({"x": 0.5})
    assert follow(reader(writer), again, None, nobody) is not None
    assert again.shown[0][WIDGET]["model_id"] == first.shown[0][WIDGET]["model_id"]
    assert follow(read_study("s", writer.storage), Page(), None, nobody) is not None
    writer.abandon()
    shown.finish(Ending("stopped", "Stopped."))
    assert first.shown[-1][MIME] == again.shown[-1][MIME]
    assert follow(reader(writer), Page(), None, nobody) is None
