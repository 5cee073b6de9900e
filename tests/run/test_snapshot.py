"""Snapshots of what a search reads."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import functools
import json
import threading
from collections import namedtuple
from decimal import Decimal
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nbcompress.run.snapshot import is_identified_by_source, snapshot_values
from nbcompress.study.snapshot import differences


class Config(dict[str, Any]):
    __getattr__ = dict.__getitem__


@dataclasses.dataclass
class Settings:
    lr: float
    layers: list[int]


@dataclasses.dataclass(slots=True)
class Slotted:
    lr: float


class Colour(enum.Enum):
    RED = 1


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "tree"),
    [
        (3, 3),
        (True, True),
        (None, None),
        ("a", "a"),
        (0.5, 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (float("nan"), {"float": "nan"}),
        ((1, [2, {"a": None}]), [1, [2, {"items": {"a": None}}]]),
        (Pair(1, 2), [1, 2]),
        ({2, 1}, {"set": [1, 2]}),
        (Config(a=1), {"items": {"a": 1}}),
        (Settings(0.1, [1]), {"fields": {"lr": 0.1, "layers": [1]}}),
        (Slotted(0.1), {"fields": {"lr": 0.1}}),
        (SimpleNamespace(a=1), {"fields": {"a": 1}}),
        (argparse.Namespace(a=1), {"fields": {"a": 1}}),
        (Colour.RED, "Colour.RED"),
        (Decimal("1.5"), "Decimal(1.5)"),
        (PurePosixPath("a/b"), "PurePosixPath(a/b)"),
        ([torch.ones(2), 0.5], [{"other": "Tensor"}, 0.5]),
        (threading, {"other": "module"}),
        ({3: "x"}, {"items": {"3": "x"}}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_trees(value: Any, tree: Any) -> None:
    found = snapshot_values({"k": value}).reads["k"]
    assert found == tree
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_long_and_secret_values_are_stored_by_their_digits() -> None:
    long = list(range(10_000))
    reads = {"long": long, "text": "a" * 500, "huge": 10**5000, "api_key": "abc", "c": {"token": "abc"}}
    found = snapshot_values(reads).reads
    assert "abc" not in json.dumps(found)
    assert len(json.dumps(found)) < 300
    assert snapshot_values({"long": long}).reads["long"] != snapshot_values({"long": [*long[:-1], 0]}).reads["long"]


def test_what_contains_itself_and_what_is_deep_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    assert snapshot_values({"loop": loop, "deep": deep, "wide": [[0] * 100] * 100_000}).reads["loop"] == [
        {"other": "list"}
    ]


def test_what_ipython_keeps_is_none() -> None:
    assert set(snapshot_values({"In": [1], "_": 1, "_i3": "", "_12": 3, "_lr": 3, "Inner": 4}).reads) == {
        "_lr",
        "Inner",
    }


def scaled(x: float, factor: float) -> float:
    return x * factor


def halved(x: float, factor: float) -> float:
    return x / factor


class Model:
    def __init__(self, depth: int) -> None:
        self.depth, self.lock = depth, threading.Lock()

    def score(self, x: float) -> float:
        return x * self.depth

    def loss(self, x: float) -> float:
        return -x * self.depth

    def __call__(self, x: float) -> float:
        return x


class Other(Model):
    def __call__(self, x: float) -> float:
        return -x


class Shifted:
    __slots__ = ("__by", "lock")

    def __init__(self, by: Any) -> None:
        self.__by = by

    def __call__(self, x: float) -> float:
        return x + self.__by


class ShiftedFurther(Shifted):
    __slots__ = ()


def closing(over: Any) -> Any:
    return lambda x: x * over


def with_default(value: float) -> Any:
    def f(x: float, k: float = value) -> float:
        return x * k

    return f


def decorated(factor: float) -> Any:
    @functools.wraps(scaled)
    def wrapper(x: float) -> float:
        return scaled(x, factor)

    return wrapper


# fmt: off
ON_ONE_LINE = (lambda x: x, lambda x: -x)
# fmt: on


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (functools.partial(scaled, factor=1), functools.partial(halved, factor=1)),
        (functools.partial(scaled, factor=1), functools.partial(scaled, factor=2)),
        (functools.partial(scaled, 1), functools.partial(scaled, 2)),
        (functools.partial(scaled, factor=np.ones(3)), functools.partial(scaled, factor=np.zeros(3))),
        (
            functools.partial(scaled, factor=torch.nn.Linear(2, 2)),
            functools.partial(scaled, factor=torch.nn.Linear(2, 2)),
        ),
        (Model(1).score, Model(2).score),
        (Model(1).score, Model(1).loss),
        (Model(1), Model(2)),
        (Model(1), Other(1)),
        (ON_ONE_LINE[0], ON_ONE_LINE[1]),
        (closing(1), closing(2)),
        (closing({"a": [1]}), closing({"a": [2]})),
        (closing(scaled), closing(halved)),
        (with_default(1), with_default(2)),
        (decorated(1), decorated(2)),
        (np.sin, np.cos),
        (Shifted(1), Shifted(2)),
        (ShiftedFurther(1), ShiftedFurther(2)),
        (Shifted(np.ones(3)).__call__, Shifted(np.zeros(3)).__call__),
        (functools.partial(scaled, function=1), functools.partial(halved, function=1)),
        ({"a": 1}.get, {"a": 2}.get),
        ({"a": 1}.get, {"a": 1}.pop),
        ((2.0).__add__, (3.0).__add__),
    ],
)
def test_two_functions_differ_and_each_is_itself(one: Any, other: Any) -> None:
    stored = snapshot_values({}, one).to_json()
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored
    assert differences(stored, snapshot_values({}, one)) == []
    assert differences(stored, snapshot_values({}, other)) != []


def test_the_function_of_a_partial_is_called_the_function() -> None:
    stored = snapshot_values({}, functools.partial(scaled, factor=1)).to_json()
    (found,) = differences(stored, snapshot_values({}, functools.partial(halved, factor=1)))
    assert str(found) == "another version of the function"


def test_what_cannot_be_compared_is_named() -> None:
    with open("/dev/null") as file:
        assert snapshot_values({}, functools.partial(scaled, factor=file)).unknown == ("factor (a TextIOWrapper)",)
        assert snapshot_values({}, closing([1, file])).unknown == ("over (a TextIOWrapper)",)
    assert snapshot_values({}, scaled).unknown == snapshot_values({}, Model(1).score).unknown == ()


def test_whether_the_text_tells_a_function() -> None:
    assert is_identified_by_source(scaled)
    assert is_identified_by_source(ON_ONE_LINE[0])
    for function in (closing(1), Model(1).score, Model(1), functools.partial(scaled), with_default(1)):
        assert not is_identified_by_source(function)
