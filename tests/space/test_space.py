"""Spaces: active parameters, points, the unit cube, text and JSON."""

from __future__ import annotations

import copy
import json
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import points_of, spaces, spaces_with_points

from nbcompress.cell.parser import find_declarations
from nbcompress.errors import PointError, SpaceError
from nbcompress.space import Choice, Float, Int, Point, Space
from nbcompress.space.conditions import MAX_COMBINATIONS


def digits() -> Space:
    """The space of the design's example, with a group and a condition over a conditional choice."""
    return Space(
        {
            "amount": Float(0.2, 0.98),
            "bits": Choice(2, 4, 8),
            "method": Choice("plain", "cluster"),
            "clusters": Int(4, 64, log=True, when={"method": "cluster"}),
            "start": Choice("linear", "density", "random", when={"method": "cluster"}),
            "tries": Int(1, 3, when={"start": ("density", "random")}),
            "shares": Float(0, 1, step=0.25, each=["conv1", "fc"]),
        }
    )


PLAIN = {"amount": 0.5, "bits": 4, "method": "plain", "shares[conv1]": 0.25, "shares[fc]": 1.0}
CLUSTER = {**PLAIN, "method": "cluster", "clusters": 16, "start": "random", "tries": 2}


def parsed(text: str) -> Space:
    import ast

    return find_declarations(text).resolve(lambda node: ast.literal_eval(node))


def test_names_and_parameters() -> None:
    space = digits()
    assert space.names == tuple(space)
    assert space.names[-2:] == ("shares[conv1]", "shares[fc]")
    assert len(space) == 8
    assert space["clusters"] == Int(4, 64, log=True)
    assert space["shares[fc]"] == Float(0, 1, step=0.25)
    assert "tries" in space
    assert "shares" not in space
    assert space.groups == {"shares": ("shares[conv1]", "shares[fc]")}
    with pytest.raises(KeyError):
        space["shares"]


def test_activity() -> None:
    space = digits()
    assert space.has_conditions
    assert space.parents("amount") == ()
    assert space.parents("clusters") == ("method",)
    assert space.parents("tries") == ("method", "start")
    assert not space.is_active("tries", {"method": "plain"})
    assert not space.is_active("tries", {"method": "cluster", "start": "linear"})
    assert space.is_active("tries", {"method": "cluster", "start": "density"})
    always = ("amount", "bits", "method", "shares[conv1]", "shares[fc]")
    assert space.active({"method": "plain"}) == always
    assert set(space.active({"method": "cluster", "start": "linear"})) == {*always, "clusters", "start"}
    assert not Space({"x": Float(0, 1)}).has_conditions


def test_text() -> None:
    assert str(digits()) == (
        "amount = Float(0.2, 0.98)\n"
        "bits = Choice(2, 4, 8)\n"
        "method = Choice('plain', 'cluster')\n"
        "if method == 'cluster':\n"
        "    clusters = Int(4, 64, log=True)\n"
        "    start = Choice('linear', 'density', 'random')\n"
        "if method == 'cluster' and start in ('density', 'random'):\n"
        "    tries = Int(1, 3)\n"
        "shares = Float(0.0, 1.0, step=0.25, each=['conv1', 'fc'])"
    )


def test_equal_conditions_in_other_words() -> None:
    a, b = Choice("x", "y", "z"), Choice(1, 2)
    plain = Space({"a": a, "b": b, "n": Int(0, 1, when={"a": ("x", "y")})})
    wordy = [{"a": "y", "b": 1}, {"a": "x"}, {"b": 2, "a": ["x", "y"]}]
    assert Space({"a": a, "b": b, "n": Int(0, 1, when=wordy)}) == plain
    assert Space({"a": a, "b": b, "n": Int(0, 1, when={"a": {"x", "y", "z"}})}).parents("n") == ()
    # A conditional parent brings its own condition with it.
    inner = Space({"a": a, "b": Choice(1, 2, when={"a": "x"}), "n": Int(0, 1, when={"b": 1})})
    assert inner == Space({"a": a, "b": Choice(1, 2, when={"a": "x"}), "n": Int(0, 1, when={"a": "x", "b": 1})})
    # Every value of `b` will do, so only its being there counts.
    assert Space({"a": a, "b": Choice(1, 2, when={"a": "x"}), "n": Int(0, 1, when={"b": (1, 2)})}).parents("n") == (
        "a",
    )


def test_check_makes_plain_and_orders() -> None:
    given_ = {"bits": 4.0, "amount": np.float64(0.5), "shares": {"fc": 1, "conv1": 0.25}, "method": np.str_("plain")}
    checked = digits().check(given_)
    assert checked == PLAIN
    assert list(checked) == [name for name in digits().names if name in PLAIN]
    assert [type(value) for value in checked.values()] == [float, int, str, float, float]
    assert digits().check(CLUSTER) == CLUSTER


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"amout": 0.5}, "There is no parameter 'amout'. Did you mean 'amount'? The space has amount, bits, method, "),
        ({3: 0.5}, "There is no parameter 3. The space has amount, "),
        ({"clusters": 16}, "'clusters' is inactive when method = 'plain', but got 16. Leave it out."),
        ({"clusters": None}, "'clusters' is inactive when method = 'plain', but got None. Leave it out."),
        ({"method": "cluster"}, "The point lacks 'clusters', which is active when method = 'cluster': clusters = Int("),
        (
            {"method": "cluster", "clusters": 4, "start": "linear", "tries": 1},
            "'tries' is inactive when method = 'cluster', start = 'linear', but got 1. Leave it out.",
        ),
        ({"amount": 2}, "'amount' is outside its parameter: Float(0.2, 0.98) does not reach 2."),
        ({"bits": 3}, "'bits' is outside its parameter: Choice(2, 4, 8) has no option 3."),
        ({"shares": 0.5}, "'shares' has one value for each of conv1, fc: a dict, but got 0.5."),
        ({"shares": {"conv2": 0.5}}, "'shares' has no 'conv2'. Did you mean 'conv1'?"),
    ],
)
def test_refused_points(change: dict[Any, Any], text: str) -> None:
    with pytest.raises(PointError) as caught:
        digits().check({**PLAIN, **change})
    assert str(caught.value).startswith(text)


def test_missing_and_no_dict() -> None:
    with pytest.raises(PointError, match=r"^The point lacks 'amount', which is active: amount = Float\(0.2, 0.98\)\.$"):
        digits().check({})
    with pytest.raises(PointError, match=r"^A point is a dict of values by name, but got \[1\]\.$"):
        digits().check([1])  # type: ignore[arg-type]
    with pytest.raises(PointError, match=r"^The point lacks 'amount': amount = Float\(0.2, 0.98\)\.$"):
        digits().encode([{}])


def test_cube_by_hand() -> None:
    rows = digits().encode([PLAIN, CLUSTER])
    assert rows.dtype == np.float64
    nan = np.nan
    expected = [[0.3 / 0.78, 0.5, 0, nan, nan, nan, 0.25, 1], [0.3 / 0.78, 0.5, 1, 0.5, 1, 0.5, 0.25, 1]]
    np.testing.assert_allclose(rows, expected)
    assert digits().encode([]).shape == (0, 8)
    # What stands in the columns of inactive parameters does not matter, and countable values take the nearest.
    assert digits().decode([0.0, 0.4, 0.2, 0.9, 0.9, 0.9, 0.3, 0.9]) == {
        "amount": 0.2,
        "bits": 4,
        "method": "plain",
        "shares[conv1]": 0.25,
        "shares[fc]": 1.0,
    }


def test_refused_rows() -> None:
    with pytest.raises(PointError, match=r"^A row has one number a parameter, that is 8, but got 2\.$"):
        digits().decode([0, 1])
    with pytest.raises(PointError, match=r"^The row has NaN for 'bits', which is active: bits = Choice\(2, 4, 8\)\.$"):
        digits().decode([0.5, np.nan, 0, 0, 0, 0, 0, 0])


def test_grouped() -> None:
    assert digits().grouped(PLAIN) == {
        "amount": 0.5,
        "bits": 4,
        "method": "plain",
        "shares": {"conv1": 0.25, "fc": 1.0},
    }


def test_points_of_a_finite_space() -> None:
    space = Space({"m": Choice("a", "b"), "k": Int(1, 2, when={"m": "b"}), "z": Choice(5, 6)})
    assert list(space.points()) == [
        {"m": "a", "z": 5},
        {"m": "a", "z": 6},
        {"m": "b", "k": 1, "z": 5},
        {"m": "b", "k": 1, "z": 6},
        {"m": "b", "k": 2, "z": 5},
        {"m": "b", "k": 2, "z": 6},
    ]
    assert space.n_points == 6


def test_continuous_points_cannot_be_listed() -> None:
    assert digits().n_points is None
    with pytest.raises(SpaceError, match=r"^The points cannot be listed: amount = Float\(0.2, 0.98\) is continuous\."):
        digits().points()


def test_many_conditions_are_counted_at_once() -> None:
    # A method decides over 60 choices, each of which decides over a number: 3 + 10 * (1 + 4) ** 60 would take for ever.
    parameters: dict[str, Any] = {"method": Choice("none", "each")}
    for index in range(60):
        parameters[f"c{index}"] = Choice("off", "on", when={"method": "each"})
        parameters[f"n{index}"] = Int(1, 4, when={f"c{index}": "on"})
    assert Space(parameters).n_points == 1 + 5**60


# --- what cannot be constructed

A = Choice("x", "y")
REFUSED: list[tuple[Any, str]] = [
    ({}, "A space has at least one parameter. Write for example {'lr': Float(1e-4, 1e-1, log=True)}."),
    ([1], "A space is made from a dict of parameters by name, but got [1]."),
    ({"lr": 3}, "'lr' is a Float, an Int or a Choice, but got 3."),
    ({"lr rate": A}, "A parameter is named by a Python identifier, but got 'lr rate'."),
    ({"class": A}, "A parameter is named by a Python identifier, but got 'class'."),
    ({1: A}, "A parameter is named by a Python identifier, but got 1."),
    ({"ﬁt": A}, "Python reads the name 'ﬁt' as 'fit'. Write 'fit'."),
    ({"seconds": A}, "The name 'seconds' is taken by a column of the trials; choose another."),
    (
        {"method": A, "n": Int(0, 1, when={"metod": "x"})},
        "'n' is to be active at values of 'metod', but there is no such parameter. Did you mean 'method'?",
    ),
    (
        {"n": Int(0, 1, when={"a": "x"}), "a": A},
        "'n' is to be active at values of 'a', but that is declared later. Declare 'a' before 'n'.",
    ),
    (
        {"i": Int(0, 1), "n": Int(0, 1, when={"i": 1})},
        "'n' is to be active at values of 'i', but that is Int(0, 1). A condition reads a Choice.",
    ),
    (
        {"a": Choice(1, 2, each=["u"]), "n": Int(0, 1, when={"a": 1})},
        "'n' is to be active at values of 'a', but that is a group. Name one of it, such as 'a[u]'.",
    ),
    (
        {"a": Choice("plain", "cluster"), "n": Int(0, 1, when={"a": "clustr"})},
        "'n' is to be active when 'a' is 'clustr', but that is no option of a = Choice('plain', 'cluster')."
        " Did you mean 'cluster'?",
    ),
    (
        {"a": Choice(1, 2), "n": Int(0, 1, when={"a": True})},
        "'n' is to be active when 'a' is True, but that is no option of a = Choice(1, 2).",
    ),
    (
        {"a": A, "b": Choice(1, 2, when={"a": "x"}), "n": Int(0, 1, when={"a": "y", "b": 1})},
        "'n' is never active: nothing fulfils {'a': 'y', 'b': 1}.",
    ),
    (
        {"a": Choice(*range(101), each=["u", "v"]), "n": Int(0, 1, when={"a[u]": 1, "a[v]": 1})},
        f"A condition may read choices with at most {MAX_COMBINATIONS:,} combinations in all, but a[u], a[v] "
        "have more.",
    ),
]


@pytest.mark.parametrize(("parameters", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_refused(parameters: Any, text: str) -> None:
    with pytest.raises(SpaceError) as caught:
        Space(parameters)
    assert str(caught.value) == text


# --- JSON and differences


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], r"^A stored space is a dict with a version, but got \[\]\.$"),
        ({"version": 2}, r"^This space was stored in version 2; this nbcompress reads 1\.$"),
        ({"version": 1}, r"^The stored space cannot be read: KeyError: 'parameters'\.$"),
        ({"version": 1, "parameters": [{"name": "a", "kind": "Real"}]}, r"cannot be read: KeyError: 'Real'"),
        ({"version": 1, "parameters": [{"name": "a", "kind": "Int", "low": 3, "high": 1}]}, r"^low <= high must hold"),
        ({"version": 1, "parameters": [{"name": "a", "kind": "Int", "width": 3}]}, r"cannot be read: TypeError"),
    ],
)
def test_refused_json(data: Any, text: str) -> None:
    with pytest.raises(SpaceError, match=text):
        Space.from_json(data)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, ""),
        ({"amount": Float(0.2, 0.9)}, "The parameter 'amount' was Float(0.2, 0.98) and is Float(0.2, 0.9)."),
        ({"lr": Float(0, 1)}, "The parameter 'lr' = Float(0.0, 1.0) is new."),
        ({"amount": None}, "The parameter 'amount' was Float(0.2, 0.98) and is gone."),
        (
            {"amount": None, "bits": Choice(2, 4)},
            "The parameter 'amount' was Float(0.2, 0.98) and is gone (1 more differs).",
        ),
        (
            {"amount": None, "bits": Choice(2, 4), "lr": Int(0, 1)},
            "The parameter 'amount' was Float(0.2, 0.98) and is gone (2 more differ).",
        ),
        (
            {"clusters": Int(4, 64, log=True)},
            "The parameter 'clusters' was Int(4, 64, log=True, when={'method': 'cluster'}) and is "
            "Int(4, 64, log=True).",
        ),
        ({"bits": Choice(2.0, 4, 8)}, "The parameter 'bits' was Choice(2, 4, 8) and is Choice(2.0, 4, 8)."),
    ],
)
def test_difference(change: dict[str, Any], text: str) -> None:
    changed = {
        name: parameter for name, parameter in {**digits().declared(), **change}.items() if parameter is not None
    }
    assert digits().difference(Space(changed)) == text
    assert (digits() == Space(changed)) == (text == "")


def test_difference_in_order() -> None:
    first, second = Space({"a": A, "b": A}), Space({"b": A, "a": A})
    assert first.difference(second) == "The order of the parameters was a, b and is b, a."


# --- laws


@given(spaces_with_points(n=3))
def test_points_are_accepted_and_come_back_from_the_cube(drawn: tuple[Space, list[Point]]) -> None:
    space, points = drawn
    assert [space.check(point) for point in points] == points
    assert [space.check(space.grouped(point)) for point in points] == points
    rows = space.encode(points)
    assert rows.shape == (3, len(space))
    for point, row in zip(points, rows, strict=True):
        assert tuple(point) == space.active(point) == tuple(np.array(space.names)[~np.isnan(row)])
        again = space.decode(np.where(np.isnan(row), 0.5, row))
        assert tuple(again) == tuple(point)
        for name, value in point.items():
            if not space[name].is_continuous:
                assert again[name] == value
                assert type(again[name]) is type(value)
        np.testing.assert_allclose(space.encode([again])[0], row, atol=1e-6)


@given(spaces())
def test_printed_then_parsed_is_the_identity(space: Space) -> None:
    assert parsed(str(space)) == space
    assert space.difference(parsed(str(space))) == ""


@given(spaces())
def test_json_comes_back(space: Space) -> None:
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert hash(again) == hash(space)


@given(spaces())
def test_copies_evaluate_and_pickle(space: Space) -> None:
    assert copy.deepcopy(space) == space == pickle.loads(pickle.dumps(space))
    assert eval(repr(space), {"Space": Space, "Float": Float, "Int": Int, "Choice": Choice}) == space


@settings(deadline=None, max_examples=50)
@given(spaces(finite=True, max_size=4))
def test_points_are_all_points_once(space: Space) -> None:
    points = list(space.points())
    assert space.n_points == len(points)
    assert [space.check(point) for point in points] == points
    assert len({repr(point) for point in points}) == len(points)


@given(st.data())
def test_parents_decide(data: st.DataObject) -> None:
    space = data.draw(spaces())
    first, second = data.draw(points_of(space)), data.draw(points_of(space))
    for name in space:
        parents = space.parents(name)
        assert all(isinstance(space[parent], Choice) for parent in parents)
        assert all(
            space.names.index(earlier) < space.names.index(later) for earlier, later in pairwise((*parents, name))
        )
        if all(
            (parent in first) == (parent in second) and first.get(parent) == second.get(parent) for parent in parents
        ):
            assert (name in first) == (name in second)
