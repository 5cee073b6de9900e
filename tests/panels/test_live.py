"""The panels of a search, shown in an output made for the test, and the messages to the page."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from panel_studies import HandMadeStudy, digits_study, single_study

from nbcompress.optimize import History, proposer
from nbcompress.panels.live import MIN_INTERVAL, ControlsWidget, DeltaBuilder, LivePanel, StudyWidget, make_panel
from nbcompress.panels.surrogate_data import SurrogateInsight
from nbcompress.panels.text_panel import SearchClock
from nbcompress.panels.view import MIME, SearchStatus, schema, study_view
from nbcompress.run.callbacks import Controls, Ending
from nbcompress.study.goal import State, Trial

RUNNING = SearchStatus(running=True, trials=40, elapsed=1.0)


def page_after(study: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    """What the page does with a delta (see messages.ts)."""
    trials = {trial["number"]: trial for trial in [*study["trials"], *delta["trials"]]}
    after = {**study, **delta["set"], "trials": [trials[number] for number in sorted(trials)]}
    if delta["progress"]:
        head = {key: value for key, value in delta["progress"].items() if key != "from"}
        same = study["progress"]["values"][: delta["progress"]["from"]]
        after["progress"] = {**head, "values": same + delta["progress"]["values"]}
    return after


def begun(trial: Trial) -> Trial:
    return Trial(trial.number, State.RUNNING, trial.params, seed=trial.seed)


def test_deltas_lead_to_the_same_data_as_a_fresh_view() -> None:
    for whole in (digits_study(40), single_study(20)):
        study = replace(whole, all_trials=whole.all_trials[:5])
        changes = DeltaBuilder(study, "r", None, RUNNING)
        page = changes.state["study"]
        for trial in whole.all_trials[5:]:
            for event in (begun(trial), trial):
                changes.add_trial(event)
                delta = json.loads(json.dumps(changes.delta(RUNNING), allow_nan=False))
                page = page_after(page, delta)
                jsonschema.Draft202012Validator(schema()).validate(page)
                assert page == json.loads(json.dumps(changes.state["study"]))
        fresh = study_view(whole, status=RUNNING)
        assert page == json.loads(json.dumps(fresh))


def test_what_trials_keep_is_told_while_the_search_runs() -> None:
    """A trial that leaves the front may lose what it keeps."""
    whole = single_study(12)
    stored = {trial.number: {"small": 1} for trial in whole.all_trials}
    trials = tuple(replace(trial, kept=stored[trial.number]) for trial in whole.all_trials)
    changes = DeltaBuilder(replace(whole, all_trials=trials[:1]), "r", None, RUNNING)
    page = changes.state["study"]
    assert page["kept"] == {"0": ["small"]}
    best = min(trials, key=lambda trial: trial.values["loss"])
    stored[0].clear()
    changes.add_trial(best)
    page = page_after(page, changes.delta(RUNNING))
    assert page["kept"] == {str(best.number): ["small"]}


def test_several_events_make_one_delta_with_only_what_changed() -> None:
    whole = digits_study(40)
    changes = DeltaBuilder(replace(whole, all_trials=whole.all_trials[:38]), "r", None, RUNNING)
    for trial in whole.all_trials[38:]:
        changes.add_trial(begun(trial))
        changes.add_trial(trial)
    delta = changes.delta(RUNNING)
    assert [trial["number"] for trial in delta["trials"]] == [38, 39]
    assert len(json.dumps(delta)) < 2_000
    quiet = changes.delta(RUNNING)
    assert quiet == {"kind": "delta", "seq": 2, "trials": [], "progress": None, "set": {}}


def test_what_is_empty_stays_and_a_warning_is_shown() -> None:
    changes = DeltaBuilder(digits_study(10), "r", None, RUNNING)
    changes.set_insight(SurrogateInsight(importance={"amount": 0.75}))
    assert changes.delta(RUNNING)["set"] == {"importance": {"amount": 0.75}}
    changes.set_insight(SurrogateInsight(warning="It failed."))
    assert changes.delta(RUNNING)["set"] == {"warnings": ["It failed."]}
    assert changes.state["study"]["importance"] == {"amount": 0.75}


def test_warnings_of_the_search_come_with_the_next_update() -> None:
    class WarnedStudy(HandMadeStudy):
        warnings = ("'weight': stored in full. (trial 2)",)

    changes = DeltaBuilder(WarnedStudy(**vars(digits_study(3))), "r", None, RUNNING)
    assert changes.delta(RUNNING)["set"] == {"warnings": ["'weight': stored in full. (trial 2)"]}
    changes.set_insight(SurrogateInsight(warning="It failed."))
    assert changes.delta(RUNNING)["set"]["warnings"][1:] == ["It failed."]


def test_state_is_replaced_and_never_altered() -> None:
    whole = digits_study(10)
    changes = DeltaBuilder(replace(whole, all_trials=whole.all_trials[:9]), "r", None, RUNNING)
    before, copy = changes.state, json.dumps(changes.state)
    changes.add_trial(whole.all_trials[9])
    changes.delta(RUNNING)
    assert json.dumps(before) == copy
    assert changes.state["seq"] == 1


def test_clock_estimates_from_what_this_run_did() -> None:
    now = [100.0]
    clock = SearchClock(10, None, lambda: now[0])
    study = single_study(6)
    clock.start(study.all_trials[:4])
    now[0] = 104.0
    assert clock.running().left is None
    for trial in study.all_trials[4:]:
        clock.count(trial)
    assert clock.running().left == 4 * 4.0 / 2
    assert clock.ended("Done.").elapsed == 4.0


def test_clock_counts_no_pause_and_stops_when_the_search_ends() -> None:
    now, paused = [100.0], [0.0]
    clock = SearchClock(10, None, lambda: now[0], lambda: paused[0])
    study = single_study(6)
    clock.start(study.all_trials[:4])
    for trial in study.all_trials[4:]:
        clock.count(trial)
    now[0], paused[0] = 164.0, 60.0
    assert clock.running().left == 4 * 4.0 / 2
    clock.stop()
    now[0] = 168.0  # the pictures are drawn
    clock.stop()
    assert clock.running().elapsed == clock.ended("Done.").elapsed == 4.0


def test_clock_of_a_run_that_ran_nothing() -> None:
    clock = SearchClock(4, 60.0)
    clock.start(single_study(4).all_trials)
    assert clock.ended("Done.").elapsed is None
    assert clock.running().left is None


WIDGET = "application/vnd.jupyter.widget-view+json"
DONE = Ending("done", "Ended after 24 trials.", ("The kernel was slow.",))


class Page:
    """An output that remembers what it was given."""

    def __init__(self) -> None:
        self.shown: list[Mapping[str, Any]] = []
        self.lines: list[str] = []

    def show(self, bundle: Mapping[str, Any]) -> None:
        self.shown.append(bundle)

    def print(self, text: str) -> None:
        self.lines.append(text)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_text_adds_a_line_for_each_trial_and_then_the_bundle() -> None:
    page, whole = Page(), digits_study()
    study = replace(whole, all_trials=whole.all_trials[:5])
    watching = make_panel("text", study, output=page, trials=24)
    watching.show()
    for trial in whole.all_trials[5:7]:
        watching.trial_started(begun(trial))
        watching.trial_ended(trial)
    study.all_trials = whole.all_trials
    watching.finish(DONE)
    assert page.lines[0] == (
        "Study digits: maximize accuracy, minimize kilobytes, subject to kilobytes <= 60, 5 trials so far"
    )
    assert page.lines[1].startswith("#5   failed")
    assert "RuntimeError: mat1 and mat2" in page.lines[1]
    assert len(page.lines) == 3
    assert len(page.shown) == 1
    assert page.shown[0][MIME]["ending"] == "Ended after 24 trials."
    assert page.shown[0][MIME]["warnings"] == ["The kernel was slow."]


def test_off_says_one_line_at_the_end() -> None:
    page = Page()
    watching = make_panel("off", digits_study(), output=page)
    watching.show()
    assert page.lines == []
    watching.finish(replace(DONE, warnings=()))
    assert page.shown == []
    assert len(page.lines) == 1
    assert page.lines[0].startswith(
        "Study digits: 24 trials: 16 complete, 2 stopped, 4 infeasible, 2 failed; best in accuracy: #8"
    )
    assert page.lines[0].endswith("Ended after 24 trials.")


def test_without_a_built_front_end_live_falls_back_to_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbcompress.panels.live.asset", lambda name: None)
    page = Page()
    watching = make_panel("live", digits_study(), output=page)
    watching.show()
    assert page.lines


class Wire:
    """What a live panel sends, and the way to press its buttons."""

    def __init__(self, study: HandMadeStudy, monkeypatch: pytest.MonkeyPatch, proposer: Any = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.page, self.controls = Page(), Controls()
        monkeypatch.setattr(StudyWidget, "send", lambda _, content, buffers=None: self._send(content))
        # A slow machine draws seldom, and the tests would wait for it.
        monkeypatch.setattr("nbcompress.panels.live.IDLE_RATIO", 0)
        self.panel = LivePanel(
            study, self.page, SearchClock(24), {"accuracy": 0.98}, proposer, self.controls, "export default {}"
        )
        self.panel.show()

    def _send(self, content: dict[str, Any]) -> None:
        self.sent.append(content)
        self.times.append(time.monotonic())

    @property
    def run(self) -> str:
        run: str = self.panel._deltas.state["run"]
        return run

    def press(self, control: str, run: str | None = None, **more: Any) -> None:
        assert self.panel._controls_widget is not None
        message = {"kind": "press", "control": control, "run": run or self.run, **more}
        self.panel._controls_widget._handle_custom_msg(message, [])

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.sent if message["kind"] == kind]


@pytest.fixture
def whole() -> HandMadeStudy:
    return digits_study()


@pytest.fixture
def wire(whole: HandMadeStudy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    wire = Wire(replace(whole, all_trials=whole.all_trials[:5]), monkeypatch)
    yield wire
    wire.panel.finish(DONE)


def test_live_shows_a_widget_whose_state_catches_up(wire: Wire, whole: HandMadeStudy) -> None:
    assert set(wire.page.shown[0]) == {WIDGET, "text/plain"}
    widget = wire.panel._widget
    assert widget is not None
    assert len(widget.get_state()["state"]["study"]["trials"]) == 5
    wire.panel.trial_started(begun(whole.all_trials[5]))
    until(lambda: len(widget.get_state()["state"]["study"]["trials"]) == 6)
    # A page that may still be loading is sent everything.
    assert wire.of("whole")


def gaps(wire: Wire, trial: Trial, redraws: int) -> list[float]:
    """Return the seconds between redraws while there is always news."""
    before = len(wire.sent)

    def more() -> bool:
        wire.panel.trial_started(begun(trial))
        wire.panel.trial_ended(trial)
        return len(wire.times) > before + redraws

    until(more)
    times = wire.times[before:]
    return [later - earlier for earlier, later in pairwise(times)]


def test_live_sends_deltas_and_at_most_five_a_second(
    wire: Wire, whole: HandMadeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbcompress.panels.live.LOADING_SECONDS", -1.0)
    until(lambda: bool(wire.sent))
    before = len(wire.sent)
    # A wait may end a little early, by the clock's own grain.
    assert min(gaps(wire, whole.all_trials[6], 3)) > 0.9 * MIN_INTERVAL
    assert {message["kind"] for message in wire.sent[before:]} == {"delta"}
    assert {trial["number"] for message in wire.sent[before:] for trial in message["trials"]} == {6}


def test_a_redraw_that_takes_long_is_seldom(wire: Wire, whole: HandMadeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbcompress.panels.live.IDLE_RATIO", 20)
    delta = DeltaBuilder.delta

    def slow(changes: DeltaBuilder, *arguments: Any, **more: Any) -> dict[str, Any]:
        time.sleep(0.03)
        return delta(changes, *arguments, **more)

    monkeypatch.setattr(DeltaBuilder, "delta", slow)
    until(lambda: bool(wire.sent))
    assert min(gaps(wire, whole.all_trials[6], 2)[1:]) > 0.9 * 20 * 0.03


def test_live_tells_what_the_surrogate_expects(whole: HandMadeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbcompress.panels.surrogate_refresh.IDLE_RATIO", 0)
    monkeypatch.setattr("nbcompress.panels.live.LOADING_SECONDS", -1.0)
    gp = proposer("gp", whole.space, n_objectives=2, n_constraints=1)
    wire = Wire(replace(whole, all_trials=whole.all_trials[:12]), monkeypatch, gp)
    try:
        wire.panel.trial_started(begun(whole.all_trials[12]))
        until(lambda: any("surrogate" in message["set"] for message in wire.of("delta")), 20)
        told = next(message["set"] for message in wire.of("delta") if "surrogate" in message["set"])
        assert {"surrogate", "importance", "calibration"} <= set(told)
        jsonschema.Draft202012Validator(schema()).validate(wire.panel._deltas.state["study"])
    finally:
        wire.panel.finish(DONE)


def test_buttons_are_acknowledged_and_heard(wire: Wire) -> None:
    wire.press("hello")
    assert wire.of("ack")[-1] == {"kind": "ack", "control": "hello", "run": wire.run, "paused": False, "note": ""}
    wire.press("pause")
    assert wire.controls.is_paused
    assert wire.of("ack")[-1]["paused"]
    wire.press("resume")
    assert not wire.controls.is_paused
    heard: list[str] = []
    with wire.controls.listening(heard.append):
        wire.press("skip")
        wire.press("stop")
    assert heard == ["skip", "stop"]
    assert wire.controls.is_stopped


def test_a_point_from_the_page_is_queued_or_refused_in_a_sentence(
    wire: Wire, whole: HandMadeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [0.5, 1, 0.01, 1, 12]
    wire.press("next", values=values)
    assert wire.of("ack")[-1]["note"] == "This search takes no points."
    queued: list[Mapping[str, Any]] = []

    def queue(_: HandMadeStudy, point: Mapping[str, Any]) -> bool:
        queued.append(point)
        return len(queued) == 1

    monkeypatch.setattr(HandMadeStudy, "queue", queue, raising=False)
    wire.press("next", values=values)
    assert wire.of("ack")[-1]["note"] == "Queued: it runs after the trials that are running now."
    assert queued == [{"amount": 0.5, "bits": 4, "lr": 0.01, "method": "cluster", "clusters": 12}]
    wire.press("next", values=values)
    assert "is queued already" in wire.of("ack")[-1]["note"]
    wire.press("next", values=[7, 1, 0.01, 1, 12])
    assert wire.of("ack")[-1]["note"].startswith("Not queued: ")


def test_a_button_of_another_run_does_nothing(wire: Wire) -> None:
    wire.press("stop", run="another")
    assert not wire.controls.is_stopped
    assert wire.of("ack") == []


def test_unknown_messages_are_ignored(wire: Wire) -> None:
    wire.press("explode")
    assert wire.panel._controls_widget is not None
    wire.panel._controls_widget._handle_custom_msg("stop", [])
    assert wire.of("ack") == []


def test_finish_replaces_the_widget_and_closes_it(whole: HandMadeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(whole, monkeypatch)
    widget, buttons = wire.panel._widget, wire.panel._controls_widget
    wire.panel.finish(None)
    assert set(wire.page.shown[-1]) == {MIME, "text/html", "text/latex", "image/png", "text/plain"}
    assert wire.page.shown[-1][MIME]["ending"] == "The search ended with an exception."
    assert wire.page.shown[-1][MIME]["baseline"] == {"accuracy": 0.98}
    assert widget is not None
    assert buttons is not None
    assert widget.comm is None
    assert buttons.comm is None
    assert widget.layout.comm is None
    assert not [thread for thread in threading.enumerate() if thread.name == "nbcompress panel" and thread.is_alive()]


def test_a_page_that_was_loaded_again_keeps_its_widget(wire: Wire) -> None:
    widget, buttons = wire.panel._widget, wire.panel._controls_widget
    assert widget is not None
    assert buttons is not None
    for page in ("one", "one", "two"):
        buttons._handle_custom_msg({"kind": "press", "control": "hello", "run": wire.run, "page": page}, [])
    wire.panel.finish(DONE)
    try:
        assert widget.comm is not None
        assert widget.get_state()["state"]["study"]["ending"] == "Ended after 24 trials."
        assert buttons.comm is None
    finally:
        widget.close()


def test_the_controls_comm_forgets_its_shell() -> None:
    widget = ControlsWidget()
    try:
        assert not hasattr(widget.comm, "_reply_subshell_id")
    finally:
        widget.close()


def test_limits_from_the_page_narrow_the_proposer_and_are_shown(
    whole: HandMadeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    gp = proposer("gp", whole.space, n_objectives=2, n_constraints=1)
    wire = Wire(replace(whole, all_trials=whole.all_trials[:4]), monkeypatch, gp)
    try:
        wire.press("narrow", limits=[[0.5, 0.8], None, None, [1], None])
        narrowed = [message["set"]["narrowed"] for message in wire.of("delta") if "narrowed" in message["set"]]
        assert narrowed == [{"amount": [0.5, 0.8], "method": ["cluster"]}]
        assert wire.of("ack")[-1]["note"] == "Applies from the next proposal on."
        found = gp.propose(4, History.empty(2, 1))
        assert 0.5 <= found.point["amount"] <= 0.8
        assert found.point["method"] == "cluster"
        wire.press("narrow", limits=[[0.8, 0.5], None, None, None, None])
        assert wire.of("ack")[-1]["note"].startswith("Not narrowed: The range of 'amount'")
        jsonschema.Draft202012Validator(schema()).validate(wire.panel._deltas.state["study"])
    finally:
        wire.panel.finish(DONE)


def test_a_sampler_that_cannot_be_narrowed_says_so(wire: Wire) -> None:
    wire.press("narrow", limits=[None] * 5)
    assert wire.of("ack")[-1]["note"] == "Only a search with the sampler gp can be narrowed."
    assert "narrowed" not in wire.panel._deltas.state["study"]
