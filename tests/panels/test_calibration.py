"""Whether the surrogate can be trusted, in a sentence that follows from the numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from panel_studies import digits_study

from nbcompress.panels.bundle import study_bundle
from nbcompress.panels.calibration import calibration_data
from nbcompress.panels.expected import Expectations


def sentence(residuals: list[float]) -> str:
    found = calibration_data(residuals, "accuracy")
    assert found is not None
    return str(found["sentence"])


def test_the_sentence_follows_from_the_numbers() -> None:
    normal = np.random.default_rng(0).normal(size=100).tolist()
    inside = sum(abs(one) <= 1.959964 for one in normal)
    start = f"{inside} of 100 trials lie in the 95 % interval that the other trials foretell"
    assert sentence(normal) == f"{start}: the surrogate's bands can be trusted."
    assert sentence([3 * one for one in normal]).startswith("Only ")
    assert "too narrow" in sentence([3 * one for one in normal])
    assert "wider than they need be" in sentence([one / 10 for one in normal])
    assert "too few" in sentence([0.1, 0.2])


def test_one_of_eight_outside_is_no_reason_to_doubt() -> None:
    # At most 7 of 8 inside happens in 1 - .95**8 = 34 of 100 studies; at most 6 in 6, at most 5 in .6 of 100.
    assert "can be trusted" in sentence([1.0] * 7 + [2.5])
    assert "can be trusted" in sentence([1.0] * 6 + [2.5] * 2)
    assert "too narrow" in sentence([1.0] * 5 + [2.5] * 3)


def test_what_is_not_a_number_is_left_out() -> None:
    found = calibration_data([math.nan, math.inf, 1.0], "accuracy")
    assert found is not None
    assert (found["residuals"], found["inside"]) == ([1.0], 1.0)
    assert calibration_data([math.nan], "accuracy") is None


@pytest.mark.parametrize("n", [12, 500])
def test_is_part_of_the_saved_output(n: int) -> None:
    trust = calibration_data(np.random.default_rng(1).normal(size=n), "accuracy")
    bundle = study_bundle(digits_study(), expected=Expectations(importance={"amount": 1.0}, calibration=trust))
    assert trust is not None
    assert trust["sentence"].replace("'", "&#x27;") in bundle["text/html"]
    assert bundle["text/html"].count("<img") == 2
    assert "foretell of accuracy, in standard deviations" in bundle["text/html"]
