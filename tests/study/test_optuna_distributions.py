"""Our parameters as Optuna's distributions: the same values, and no warning of Optuna."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from nbcompress.space import Choice, Float, Int, Space
from nbcompress.study.optuna_distributions import distribution_of, distributions_of, parameter_of


@pytest.mark.parametrize(
    ("parameter", "distribution"),
    [
        (Float(0.2, 0.98), FloatDistribution(0.2, 0.98)),
        (Float(1e-4, 1e-1, log=True), FloatDistribution(1e-4, 1e-1, log=True)),
        (Float(0.0, 0.95, step=0.25), FloatDistribution(0.0, 0.75, step=0.25)),
        (Int(1, 10), IntDistribution(1, 10)),
        (Int(1, 10, step=4), IntDistribution(1, 9, step=4)),
        (Int(4, 64, log=True), IntDistribution(4, 64, log=True)),
        (Choice(2, 4, 8), CategoricalDistribution([2, 4, 8])),
        (Choice("a", None, True), CategoricalDistribution(["a", None, True])),
    ],
)
def test_table(parameter: Float | Int | Choice, distribution: object) -> None:
    assert distribution_of(parameter) == distribution


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-3, 0.9))
def test_every_step_is_taken_without_a_warning(low: float, width: float, share: float) -> None:
    parameter = Float(low, low + width, step=width * share)
    distribution = distribution_of(parameter)
    assert distribution.low == parameter.low
    assert parameter.low <= distribution.high <= parameter.high


def test_all_of_a_space_by_flat_name() -> None:
    space = Space({"a": Float(0, 1, each=["x", "y"]), "b": Choice(1, 2)})
    assert list(distributions_of(space)) == ["a[x]", "a[y]", "b"]


@pytest.mark.parametrize(
    "parameter",
    [
        Float(-1, 2),
        Float(1e-4, 1, log=True),
        Float(0, 1, step=0.25),
        Int(1, 10, step=3),
        Int(1, 64, log=True),
        Choice(4, 2),
    ],
    ids=repr,
)
def test_there_and_back(parameter: Float | Int | Choice) -> None:
    assert parameter_of(distribution_of(parameter)) == parameter
    assert distribution_of(parameter, keep_step=True) == distribution_of(parameter)


def test_a_step_that_is_not_exact_is_kept_for_samplers_only() -> None:
    parameter = Float(1 / 3, 10 + 1 / 3, step=0.1)
    assert distribution_of(parameter) == FloatDistribution(parameter.low, parameter.high)
    with pytest.warns(UserWarning, match="not divisible by"):
        sampled = distribution_of(parameter, keep_step=True)
    assert isinstance(sampled, FloatDistribution)
    assert sampled.step == 0.1


def test_a_parent_is_a_choice() -> None:
    assert parameter_of(distribution_of(Int(1, 3)), is_parent=True) == Choice(1, 2, 3)
