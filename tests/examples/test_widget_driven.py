"""The notebook with sliders, executed in its short mode without a person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbcompress.study import read_study

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


def test_it_runs_without_a_person(tmp_path: Path, outputs_of: Callable[[str], list[Any]]) -> None:
    outputs = outputs_of("widget-driven.ipynb")
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    study = read_study("by-hand", tmp_path / "nbcompress.journal")
    # The sliders' first values are the first trial and the point from the queue; no person has moved them.
    assert len(study.trials) == 7
    points = [(trial.params["amount"], trial.params["bits"]) for trial in study.all_trials]
    assert points[0] == (0.8, 3)
    assert (0.85, 3) in points[4:]
