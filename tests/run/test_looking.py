"""A person's objects are looked at without running code of theirs."""

from __future__ import annotations

import functools
import json
from types import FunctionType
from typing import Any
from unittest import mock

import pytest

from nbcompress.run.data_record import data_facts
from nbcompress.run.fingerprints import fingerprints
from nbcompress.run.looking import is_a, items_of, own_attributes, unwrapped, wrapped_in
from nbcompress.run.reads import is_plain_function, reached_names, values_read
from nbcompress.run.taking import taken


class Config(dict[str, Any]):
    """An attribute dict as many write it."""

    __getattr__ = dict.__getitem__


class Invents:
    """Has every attribute."""

    def __getattr__(self, name: str) -> Invents:
        return Invents()


class InventsItems(dict[str, Any]):
    """Has every attribute and every key, as those of packages for attribute dicts do."""

    def __missing__(self, key: str) -> InventsItems:
        return InventsItems()

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Refuses:
    """Raises whatever it is asked for."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"asked for {name}")


class RefusesItems(dict[str, Any]):
    """Raises when its content is asked for."""

    def _refuse(self) -> Any:
        raise RuntimeError("asked for its content")

    __iter__ = keys = values = items = __len__ = _refuse


class Endless(list[int]):
    def __iter__(self) -> Any:
        while True:
            yield 1


class HidesItsDict:
    @property
    def __dict__(self) -> Any:
        raise RuntimeError("asked for its dict")


class HidesItsClass:
    @property
    def __class__(self) -> Any:
        raise RuntimeError("asked for its class")


class _Asked(type):
    def __getattr__(cls, name: str) -> Any:
        raise KeyError(name)


class OfAnUnusualMetaclass(metaclass=_Asked):
    pass


def plain(x: float) -> float:
    return x


HOSTILE: dict[str, Any] = {
    "config": Config(a=1),
    "invents": Invents(),
    "items": InventsItems(a=1),
    "refuses": Refuses(),
    "no_items": RefusesItems(a=1),
    "endless": Endless([1]),
    "no_dict": HidesItsDict(),
    "no_class": HidesItsClass(),
    "metaclass": OfAnUnusualMetaclass,
    "call": mock.call,
    "mock": mock.MagicMock(),
    "like_a_function": mock.Mock(spec=plain),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_objects_are_neither_asked_nor_taken_for_something_else(name: str) -> None:
    value = HOSTILE[name]
    assert unwrapped(value) is value
    assert not is_a(value, FunctionType)
    namespace = {name: value}
    assert not is_plain_function(value, namespace)
    assert reached_names(compile(f"y = {name}", "<body>", "exec"), namespace) == {name}
    assert fingerprints(namespace) == {}
    data_facts(namespace)
    values_read(value)
    # Neither as something that is read nor as something that belongs to a function.
    for search in (taken(namespace), taken({}, functools.partial(plain, value)), taken({}, value)):
        json.dumps(search.to_json())


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__module__", "__qualname__", "__name__", "__mro__", "__dict__"):
            return super().__getattribute__(name)
        raise RuntimeError(f"asked for {name}")


def test_instances_of_a_hostile_class() -> None:
    value = HostileMeta("Hostile", (), {})()
    for search in (taken({"k": value}), taken({}, functools.partial(plain, value))):
        json.dumps(search.to_json())
    assert data_facts({"k": value}).gaps == ()


def test_wrapped_functions_are_followed() -> None:
    @functools.wraps(plain)
    def outer(x: float) -> float:
        return plain(x)

    cached = functools.lru_cache(outer)
    assert unwrapped(cached) is plain
    assert wrapped_in(cached) is outer
    assert wrapped_in(plain) is None
    outer.__dict__["__wrapped__"] = outer
    assert unwrapped(outer) is outer


def test_the_instance_dict_is_the_object_itself() -> None:
    assert own_attributes(Refuses()) == {}
    config = Config()
    config.__dict__["a"] = 1
    assert own_attributes(config) is config.__dict__
    assert own_attributes(3) == own_attributes(HidesItsDict()) == {}


def test_content_is_read_by_the_base_class() -> None:
    assert list(items_of(RefusesItems(a=1))) == [1]
    assert list(items_of(Endless([1, 2]))) == [1, 2]
    assert sorted(items_of({3, 4})) == [3, 4]
    assert list(items_of(7)) == []
