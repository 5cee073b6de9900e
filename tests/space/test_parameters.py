"""`Float`, `Int` and `Choice`: their values, the unit interval, and the arguments that they refuse."""

from __future__ import annotations

import copy
import math
import pickle
from decimal import localcontext
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from strategies import choices, floats, ints, parameters

from nbcompress.errors import ParameterError, PointError, SpaceError
from nbcompress.space import Choice, Float, Int, Parameter

units = st.floats(0, 1)


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


# --- numbers by hand


@pytest.mark.parametrize(
    ("parameter", "value", "unit"),
    [
        (Float(0, 4), 1, 0.25),
        (Float(-1, 1), 0, 0.5),
        (Float(1e-4, 1, log=True), 1e-2, 0.5),
        (Float(0, 1, step=0.25), 0.75, 0.75),
        (Float(0, 1, step=0.3), 0.3, 1 / 3),
        (Float(2, 2), 2, 0.0),
        (Int(0, 10), 3, 0.3),
        (Int(1, 100, log=True), 10, 0.5),
        (Int(2, 11, step=3), 5, 1 / 3),
        (Int(7, 7), 7, 0.0),
        (Choice("a", "b", "c"), "b", 0.5),
        (Choice("a"), "a", 0.0),
        (Choice(8, 2, 4), 8, 1.0),
        (Choice(8, 2, 4), 2, 0.0),
        (Choice(8, 2, 4, ordered=False), 8, 0.0),
        (Choice(8, 2, 4, ordered=True), 4, 0.5),
        (Choice("low", "high", "higher", ordered=True), "high", 0.5),
    ],
)
def test_place_on_the_unit_interval(parameter: Parameter, value: Any, unit: float) -> None:
    assert parameter.to_unit(value) == pytest.approx(unit, abs=1e-12)
    found = parameter.from_unit(unit)
    assert found == value if isinstance(value, str) else found == pytest.approx(value)


@pytest.mark.parametrize(
    ("parameter", "u", "value"),
    [
        (Int(0, 10), 0.26, 3),
        (Int(0, 10), 0.24, 2),
        (Int(0, 10, step=5), 0.7, 5),
        (Float(0, 1, step=0.25), 0.6, 0.5),
        (Choice("a", "b", "c"), 0.7, "b"),
        (Choice("a", "b", "c"), 0.76, "c"),
        # Half way between 1 and 2 on a logarithmic axis is their geometric mean, about 1.41.
        (Int(1, 1000, log=True), math.log(1.40) / math.log(1000), 1),
        (Int(1, 1000, log=True), math.log(1.42) / math.log(1000), 2),
        (Int(0, 10), 1.0000001, 10),
        (Int(0, 10), -0.1, 0),
    ],
)
def test_back_to_the_nearest_value(parameter: Parameter, u: float, value: Any) -> None:
    assert parameter.from_unit(u) == value


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        (Float(0, 1, step=0.1), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        (Float(0, 1, step=0.3), (0.0, 0.3, 0.6, 0.9)),
        (Float(0.1, 0.1), (0.1,)),
        (Int(0, 10, step=3), (0, 3, 6, 9)),
        (Int(-2, 1), (-2, -1, 0, 1)),
        (Choice(8, 2, 4), (2, 4, 8)),
        (Choice("b", None, True, 2.5), ("b", None, True, 2.5)),
    ],
)
def test_values(parameter: Parameter, values: tuple[Any, ...]) -> None:
    assert parameter.values() == values
    assert parameter.n_values == len(values)
    assert not parameter.is_continuous


def test_high_becomes_the_last_value_of_the_grid() -> None:
    assert Float(0, 1, step=0.3).high == 0.9
    assert Int(0, 10, step=3).high == 9
    assert Float(0, 1, step=0.1).high == 1.0
    assert Float(0.1, 0.1 + 0.2, step=0.2).high == 0.3  # 0.1 + 0.2 is a little more than 0.3
    assert Float(0.7, 0.7 + 0.1, step=0.1).high == 0.8  # 0.7 + 0.1 is a little less than 0.8
    assert repr(Float(0, 1, step=0.3)) == "Float(0.0, 0.9, step=0.3)"


@pytest.mark.parametrize(
    ("parameter", "is_ordered", "is_continuous", "n_values"),
    [
        (Float(0, 1), True, True, None),
        (Float(0, 1, step=0.5), True, False, 3),
        (Float(1, 1), True, False, 1),
        (Int(1, 4), True, False, 4),
        (Choice(1, 2.5), True, False, 2),
        (Choice(1, 2, ordered=False), False, False, 2),
        (Choice("a", "b"), False, False, 2),
        (Choice("a", "b", ordered=True), True, False, 2),
        (Choice(True, False), False, False, 2),
        (Choice(2, True), False, False, 2),
        (Choice(1, None), False, False, 2),
    ],
)
def test_kinds(parameter: Parameter, is_ordered: bool, is_continuous: bool, n_values: int | None) -> None:
    assert (parameter.is_ordered, parameter.is_continuous, parameter.n_values) == (is_ordered, is_continuous, n_values)


# --- what they take


@pytest.mark.parametrize(
    ("parameter", "value", "plain"),
    [
        (Float(0, 1), 1, 1.0),
        (Float(0, 1), np.float64(0.5), 0.5),
        (Float(0, 1), np.float32(0.5), 0.5),
        (Float(0, 1), np.array(0.5), 0.5),
        (Float(0, 1, step=0.1), 0.1 + 0.2, 0.3),
        (Int(0, 5), 3.0, 3),
        (Int(0, 5), np.int64(3), 3),
        (Int(0, 5), Size.BIG, 3),
        (Choice(2, 4), 4.0, 4),
        (Choice(2.0, 4), np.int32(2), 2.0),
        (Choice("red"), Colour.RED, "red"),
        (Choice("red"), np.str_("red"), "red"),
        (Choice(True, 2), np.True_, True),
        (Choice(None, 1), None, None),
    ],
)
def test_takes_and_makes_plain(parameter: Parameter, value: Any, plain: Any) -> None:
    assert parameter.contains(value)
    found = parameter.check(value)
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize(
    ("parameter", "value", "text"),
    [
        (Float(0, 1), 2, "Float(0.0, 1.0) does not reach 2."),
        (Float(0, 1), True, "Float(0.0, 1.0) takes numbers, but got True."),
        (Float(0, 1), math.nan, "Float(0.0, 1.0) takes numbers, but got nan."),
        (Float(0, 1), "0.5", "Float(0.0, 1.0) takes numbers, but got '0.5'."),
        (Float(0, 1), np.array([0.5]), "Float(0.0, 1.0) takes numbers, but got array([0.5])."),
        (Float(0, 1, step=0.3), 0.4, "Float(0.0, 0.9, step=0.3) takes steps of 0.3 from 0.0, but got 0.4."),
        (Float(0, 1, step=0.3), 1.0, "Float(0.0, 0.9, step=0.3) does not reach 1.0."),
        (Int(0, 5), 2.5, "Int(0, 5) takes whole numbers, but got 2.5."),
        (Int(0, 5), np.True_, "Int(0, 5) takes numbers, but got True."),
        (Int(0, 5), 6, "Int(0, 5) does not reach 6."),
        (Int(0, 10, step=5), 3, "Int(0, 10, step=5) takes steps of 5 from 0, but got 3."),
        (Choice(1, 2), True, "Choice(1, 2) has no option True."),
        (Choice(True, False), 1, "Choice(True, False) has no option 1."),
        (Choice("1"), 1, "Choice('1') has no option 1."),
        (Choice("a", None), [], "Choice('a', None) has no option []."),
    ],
)
def test_does_not_take(parameter: Parameter, value: Any, text: str) -> None:
    assert not parameter.contains(value)
    for method in (parameter.check, parameter.to_unit):
        with pytest.raises(PointError) as caught:
            method(value)
        assert str(caught.value).replace("np.True_", "True") == text


def test_nan_has_no_place() -> None:
    with pytest.raises(PointError, match="is a number, but got NaN"):
        Int(0, 1).from_unit(math.nan)


def test_continuous_values_cannot_be_listed() -> None:
    with pytest.raises(SpaceError, match="cannot be listed: it is continuous"):
        Float(0, 1).values()


# --- what cannot be constructed

REFUSED: list[tuple[Any, str, str]] = [
    (lambda: Float(1, 0), "low", "low <= high must hold, but got 1.0 and 0.0. Write Float(0.0, 1.0)."),
    (lambda: Float("a", 0), "low", "low is a number, but got 'a'."),
    (lambda: Float(0, None), "high", "high is a number, but got None."),
    (lambda: Float(True, 2), "low", "low is a number, but got True."),
    (lambda: Float(0, math.inf), "high", "high is a finite number, but got inf."),
    (lambda: Float(math.nan, 1), "low", "low is a finite number, but got nan."),
    (lambda: Float(10**400, 10**401), "low", "A Float's bounds fit into a float; got a larger integer."),
    (
        lambda: Float(-1e308, 1e308),
        "high",
        "The width high - low is a finite number, but got -1e+308 and 1e+308. Take a smaller range or log.",
    ),
    (lambda: Float(0, 1, log=True), "low", "With log, low is above 0, but got 0.0."),
    (lambda: Float(0, 1, "yes"), "log", "log is True or False, but got 'yes'."),
    (lambda: Float(0, 1, 0.1), "log", "log is True or False, but got 0.1. Write step=0.1 if you mean the step."),
    (
        lambda: Float(1, 2, log=True, step=0.1),
        "step",
        "A Float with log has no step, but got step=0.1. Leave out one of them, or list the values with Choice.",
    ),
    (lambda: Float(0, 1, step=0), "step", "step is above 0, but got 0."),
    (lambda: Float(0, 1, step=-0.1), "step", "step is above 0, but got -0.1."),
    (lambda: Float(0, 1, step=True), "step", "step is a number, but got True."),
    (lambda: Float(0, 1, step=math.nan), "step", "step is a finite number, but got nan."),
    (lambda: Float(0, 1, step=2), "step", "step is at most high - low = 1.0, but got step=2.0."),
    (lambda: Float(0, 1, step=1e-15), "step", "A grid has at most 1,000,000,000,000 steps, but got step=1e-15."),
    (lambda: Float(1e17, 2e17, step=1), "step", "step is wide enough to change low and high, but got step=1.0."),
    (lambda: Int(0.5, 2), "low", "An Int's low is a whole number, but got 0.5. Write Float for others."),
    (lambda: Int(5, 2), "low", "low <= high must hold, but got 5 and 2. Write Int(2, 5)."),
    (lambda: Int(0, 5, log=True), "low", "With log, low is above 0, but got 0."),
    (lambda: Int(0, 5, step=0), "step", "step is above 0, but got 0."),
    (lambda: Int(0, 5, step=1.5), "step", "An Int's step is a whole number, but got 1.5. Write Float for others."),
    (lambda: Int(0, 5, step=6), "step", "step is at most high - low = 5, but got step=6."),
    (lambda: Int(0, 5, step=None), "step", "step is a number, but got None."),
    (
        lambda: Int(1, 5, log=True, step=2),
        "step",
        "An Int with log has step 1, but got step=2. Leave out one of them, or list the values with Choice.",
    ),
    (
        lambda: Int(0, 10**13),
        "high",
        "An Int's bounds lie within a trillion, 10**12, but got high=10000000000000. Take a Float.",
    ),
    (lambda: Choice(), "options", "A Choice has at least one option. Write for example Choice(2, 4, 8)."),
    (
        lambda: Choice([1, 2]),
        "options",
        "An option of a Choice is None, a bool, an int, a float or a str, but got [1, 2]. "
        "Write Choice(*options) with a star, if these are the options.",
    ),
    (
        lambda: Choice("a", len),
        "options",
        "An option of a Choice is None, a bool, an int, a float or a str, but got <built-in function len>.",
    ),
    (lambda: Choice(1, math.inf), "options", "A number among the options is finite, but got inf."),
    (
        lambda: Choice("a", "b", "a"),
        "options",
        "The options of a Choice differ, but got 'a' and 'a', which are equal. Leave out one of them.",
    ),
    (
        lambda: Choice(1, 2, 1.0),
        "options",
        "The options of a Choice differ, but got 1 and 1.0, which are equal to Python. Leave out one of them.",
    ),
    (
        lambda: Choice(0, False),
        "options",
        "The options of a Choice differ, but got 0 and False, which are equal to Python. Leave out one of them.",
    ),
    (lambda: Choice(1, ordered="yes"), "ordered", "ordered is None, True or False, but got 'yes'."),
    (lambda: Float(0, 1, each="conv"), "each", "each= is a list of names, but got 'conv'. Write each=[...]."),
    (lambda: Float(0, 1, each=3), "each", "each= is a list of names, but got 3. Write each=[...]."),
    (lambda: Float(0, 1, each=[]), "each", "each= has at least one name, but got an empty list."),
    (lambda: Float(0, 1, each=["a", 1]), "each", "each= is a list of names, that is texts, but got 1 in it."),
    (lambda: Float(0, 1, each=["a", ""]), "each", "each= is a list of names, that is texts, but got '' in it."),
    (lambda: Choice(1, each=["a", "a"]), "each", "The names in each= differ, but got 'a' twice."),
    (lambda: Int(0, 1, when="method"), "when", ", but got 'method'."),
    (lambda: Int(0, 1, when={}), "when", ", but got {}."),
    (lambda: Int(0, 1, when=[]), "when", ", but got []."),
    (lambda: Int(0, 1, when={"a": ()}), "when", ", but got no value for 'a'."),
    (lambda: Int(0, 1, when={"a": {}}), "when", ", but got {} for 'a'."),
    (lambda: Int(0, 1, when={3: 1}), "when", ", but got the key 3."),
]


@pytest.mark.parametrize(("make", "argument", "text"), REFUSED, ids=[text for _, _, text in REFUSED])
def test_refused(make: Any, argument: str, text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        make()
    assert str(caught.value).endswith(text)
    assert caught.value.argument == argument
    if argument == "when":
        assert str(caught.value).startswith("when= is a dict from the name of a Choice to the value, or a tuple of")
    else:
        assert str(caught.value) == text


def test_refusal_names_the_option_and_survives_a_pickle() -> None:
    with pytest.raises(ParameterError) as caught:
        Choice("a", "b", len)
    assert caught.value.index == 2
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.argument, again.index) == (str(caught.value), "options", 2)


def test_frozen() -> None:
    for parameter in (Float(0, 1), Int(0, 1), Choice(1, 2)):
        with pytest.raises(AttributeError):
            parameter.each = ("a",)  # type: ignore[misc,assignment]


def test_equal_by_type_of_option() -> None:
    assert Choice(1, 2) != Choice(1.0, 2.0)
    assert Choice(0, 2) != Choice(False, 2)
    assert Choice(2, 4) == Choice(2, 4, ordered=True) != Choice(2, 4, ordered=False)
    assert Float(0, 1) == Float(0.0, np.float64(1)) != Int(0, 1)
    assert len({Float(0, 1), Float(0, 1.0), Int(0, 1)}) == 2
    assert Float(-0.0, 1) == Float(0.0, 1)
    assert Int(0, 9, step=3) == Int(0, 11, step=3)
    assert Float(0, 1) != 1


def test_repr_reads_as_the_declaration() -> None:
    assert repr(Float(1e-4, 0.1, log=True)) == "Float(0.0001, 0.1, log=True)"
    assert repr(Int(4, 64, True)) == "Int(4, 64, log=True)"
    assert repr(Choice("a", None, 2.5, ordered=True)) == "Choice('a', None, 2.5, ordered=True)"
    assert repr(Float(0, 1, each=("a", "b"))) == "Float(0.0, 1.0, each=['a', 'b'])"
    assert repr(Int(0, 1, when={"m": "a", "n": (1, 2)})) == "Int(0, 1, when={'m': 'a', 'n': (1, 2)})"
    assert repr(Int(0, 1, when=[{"m": "a"}, {"m": "b"}])) == "Int(0, 1, when=[{'m': 'a'}, {'m': 'b'}])"


# --- laws


@st.composite
def grids(draw: st.DrawFn) -> Float:
    """A `Float` with any step, also one of a few units in the last place of its bounds."""
    low = draw(st.floats(-1e6, 1e6, allow_subnormal=False))
    high = draw(st.floats(low, 1e6, allow_subnormal=False).filter(lambda high: high > low))
    finest = max(2 * math.ulp(max(abs(low), abs(high))), (high - low) / 10**12)
    step = draw(st.one_of(st.floats(finest, max(finest, high - low)), st.sampled_from([1e-5, 0.1, 1 / 3, finest])))
    return Float(low, high, step=min(max(step, finest), max(finest, high - low)))


@given(st.data())
def test_a_grid_is_the_same_after_any_number_of_round_trips(data: st.DataObject) -> None:
    try:
        grid = data.draw(grids())
    except ParameterError:  # a range that is finer than its step may be
        reject()
    assert grid.step is not None
    assert grid.n_values is not None
    again = grid
    for _ in range(3):
        again = Float(again.low, again.high, again.log, again.step)
        assert (repr(again), again.n_values) == (repr(grid), grid.n_values)
    last = grid.n_values - 1
    for index in {min(1, last), last // 3, last // 2, max(0, last - 1), last}:
        value = grid.from_unit(index / max(1, last))
        assert grid.check(value) == value
        assert grid.from_unit(grid.to_unit(value)) == value
        assert grid.to_unit(value) == index / max(1, last)
    assert grid.from_unit(1.0) == grid.high


def test_the_grid_of_a_fine_step_keeps_its_last_value() -> None:
    grid = Float(1 / 3, 1e4, step=1e-5)
    again = Float(grid.low, grid.high, step=grid.step)
    assert (again, again.high, again.n_values) == (grid, grid.high, grid.n_values)
    with localcontext() as context:
        context.prec = 3  # set by a trial
        assert Float(1 / 3, 1e4, step=1e-5) == grid


@given(parameters(each=["a", "b"], when={"method": ("x", None, 1)}))
def test_repr_evaluates_to_an_equal_parameter(parameter: Parameter) -> None:
    assert eval(repr(parameter), {"Float": Float, "Int": Int, "Choice": Choice}) == parameter


@given(parameters())
def test_copies_and_pickles_are_equal(parameter: Parameter) -> None:
    assert copy.deepcopy(parameter) == parameter == pickle.loads(pickle.dumps(parameter))


@given(parameters(), units)
def test_from_unit_lands_inside(parameter: Parameter, u: float) -> None:
    value = parameter.from_unit(u)
    assert parameter.contains(value)
    assert parameter.check(value) == value
    assert type(parameter.check(value)) is type(value)
    assert 0 <= parameter.to_unit(value) <= 1


@given(st.one_of(ints(), choices(), floats().filter(lambda parameter: parameter.n_values is not None)), units)
def test_countable_values_come_back_exactly(parameter: Parameter, u: float) -> None:
    value = parameter.from_unit(u)
    again = parameter.from_unit(parameter.to_unit(value))
    assert again == value
    assert type(again) is type(value)


@given(floats(), units)
def test_real_values_come_back_within_rounding(parameter: Float, u: float) -> None:
    value = parameter.from_unit(u)
    assert parameter.to_unit(parameter.from_unit(parameter.to_unit(value))) == pytest.approx(
        parameter.to_unit(value), abs=1e-6 if parameter.high - parameter.low < 1e-6 * abs(parameter.high) else 1e-9
    )


@given(st.one_of(floats(), ints()), units, units)
def test_order_is_kept(parameter: Parameter, u: float, v: float) -> None:
    low, high = sorted([u, v])
    assert parameter.from_unit(low) <= parameter.from_unit(high)  # type: ignore[operator]
    smaller, larger = sorted([parameter.from_unit(u), parameter.from_unit(v)])  # type: ignore[type-var]
    assert parameter.to_unit(smaller) <= parameter.to_unit(larger)


@given(choices())
def test_options_are_spread_evenly(parameter: Choice) -> None:
    k = len(parameter.options)
    assert [parameter.to_unit(value) for value in parameter.values()] == [i / max(k - 1, 1) for i in range(k)]
    assert sorted(map(repr, parameter.values())) == sorted(map(repr, parameter.options))


@given(ints(max_width=50), units)
def test_no_other_value_is_nearer(parameter: Int, u: float) -> None:
    distance = abs(parameter.to_unit(parameter.from_unit(u)) - u)
    assert distance <= min(abs(parameter.to_unit(value) - u) for value in parameter.values()) + 1e-12
