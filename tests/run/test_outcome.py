"""Which values are metrics."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import ipywidgets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbcompress.run import TrialEnded
from nbcompress.run.outcome import MAX_DISPLAYED, DisplayedOutputs, Outcome, mean_outcome, number_of, step_of
from nbcompress.study import State, Trial


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60))
def test_a_number_is_itself(value: float) -> None:
    assert number_of("a", value) == float(value)
    assert number_of("a", np.float64(value)) == float(value)
    assert number_of("a", torch.tensor(float(value), dtype=torch.float64)) == float(value)


class Three:
    """Like results of ours, which say by themselves which number they are."""

    def __float__(self) -> float:
        return 3.0


@pytest.mark.parametrize(
    "value",
    [
        np.int64(3),
        np.array(3),
        torch.tensor(3),
        Fraction(3),
        Decimal(3),
        torch.nn.Parameter(torch.tensor(3.0)),
        Three(),
    ],
)
def test_numbers_without_dimensions(value: Any) -> None:
    number = number_of("a", value)
    assert number == 3.0
    assert type(number) is float


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (True, "NotANumber", "but got the bool True. Write float(a)."),
        (np.True_, "NotANumber", "the bool"),
        (torch.tensor(True), "NotANumber", "the bool"),
        ("0.5", "NotANumber", "but got the str '0.5'"),
        (None, "NotANumber", "but got the NoneType None"),
        (1j, "NotANumber", "but got the complex 1j"),
        ([1.0], "NotANumber", "but got the list [1.0]"),
        (
            torch.zeros(2, 3),
            "NotANumber",
            "the Tensor of shape (2, 3). Take one value of it, such as its .mean()",
        ),
        (np.zeros(1), "NotANumber", "the ndarray of shape (1,)"),
        (float("nan"), "NotFinite", "The metric 'a' is a finite number, but got nan."),
        (float("-inf"), "NotFinite", "but got -inf."),
        (torch.tensor(float("inf")), "NotFinite", "but got inf."),
        (10**400, "NotFinite", "but got inf."),
    ],
    ids=repr,
)
def test_what_is_refused(value: Any, kind: str, text: str) -> None:
    with pytest.raises(TrialEnded) as caught:
        number_of("a", value)
    assert caught.value.state is State.FAILED
    assert caught.value.failure is not None
    assert caught.value.failure.kind == kind
    assert text in caught.value.failure.message


@pytest.mark.parametrize("name", ["number", "state", "seconds"])
def test_taken_names(name: str) -> None:
    with pytest.raises(TrialEnded, match=f"The metric name '{name}' is taken"):
        number_of(name, 1.0)


def test_steps() -> None:
    assert step_of(3) == step_of(np.int64(3)) == step_of(torch.tensor(3)) == 3
    for wrong in (-1, 1.5, True, "1"):
        with pytest.raises(TrialEnded, match="The step of a report is an integer of at least 0, but got"):
            step_of(wrong)


def test_a_report_without_names_says_how_to_give_them() -> None:
    with pytest.raises(TrialEnded, match=r"Metrics are given by name: report\(accuracy=0.9\)"):
        step_of("accuracy")


def test_what_a_trial_displays_is_bounded_and_has_no_widgets() -> None:
    displayed = DisplayedOutputs()
    displayed.add({"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%|  |"})
    displayed.add({"image/png": "p" * 400_000})
    displayed.add({"image/png": "p" * 200_000})
    for i in range(MAX_DISPLAYED):
        displayed.add({"text/plain": str(i)})
    first, picture, *others, last = displayed.bundles()
    assert first == {"text/plain": "0%|  |"}
    assert len(picture["image/png"]) == 400_000
    assert len(others) == MAX_DISPLAYED - 2
    assert last == {"text/plain": "3 more outputs of this trial are left out."}
    assert DisplayedOutputs().bundles() == ()


def test_a_trial_of_two_runs_lasts_from_the_begin_of_the_first_to_the_end_of_the_second() -> None:
    # Recorded at 100 s of the monotonic clock and 5,000 s of the clock of the day; a worker was free 2 s later.
    running = Trial(0, State.RUNNING, {}, started=5_000.0)
    first = Outcome(State.COMPLETE, {"loss": 1.0}, seconds=3.0, worker="a:1", began=102.0, ended=105.0)
    second = Outcome(State.COMPLETE, {"loss": 2.0}, seconds=4.0, worker="b:2", began=105.5, ended=109.5)
    trial = mean_outcome([first, second]).recorded(running, 100.0)
    assert (trial.started, trial.ended, trial.seconds, trial.worker) == (5_002.0, 5_009.5, 7.0, "a:1")
    failed = mean_outcome([first, replace(second, state=State.FAILED)]).recorded(running, 100.0)
    assert (failed.started, failed.ended, failed.worker) == (5_002.0, 5_009.5, "b:2")
    # One that never came to a worker has no times of its own; the study sets the end.
    assert Outcome(State.INTERRUPTED).recorded(running, 100.0).started == 5_000.0


def test_a_progress_bar_is_kept_as_it_is_at_the_end() -> None:
    bar = ipywidgets.FloatProgress(value=0, max=3)
    left, right = ipywidgets.HTML("ep:   0%"), ipywidgets.HTML(" 0/3 [00:00&lt;?, ?it/s]")
    displayed = DisplayedOutputs()
    for widget, text in (
        (ipywidgets.HBox([left, bar, right]), "ep:   0%| 0/3"),
        (ipywidgets.HTML("<b>x</b>"), "HTML()"),
    ):
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        displayed.add({"application/vnd.jupyter.widget-view+json": view, "text/plain": text})
    bar.value, left.value, right.value = 3, "ep: 100%", " 3/3 [00:00&lt;00:00, 9.5it/s]"
    assert displayed.bundles() == (
        {"text/plain": "ep: 100% 3/3 [00:00<00:00, 9.5it/s]"},
        {"text/plain": "HTML()"},
    )
