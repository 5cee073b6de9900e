"""What a body reads.

A person's objects are looked at without running code of theirs."""

from __future__ import annotations

import functools
import json
from types import FunctionType
from typing import Any
from unittest import mock

import pytest

from nbcompress.run.reads import (
    global_names,
    is_a,
    is_plain_function,
    items_of,
    missing_names,
    own_attributes,
    reached_names,
    unwrapped,
    values_read,
    wrapped_in,
)
from nbcompress.run.record import data_facts, fingerprints
from nbcompress.run.snapshot import snapshot_values


def notebook(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"functools": functools}
    exec(source, namespace)
    return namespace


def read(body: str, namespace: dict[str, Any]) -> set[str]:
    return set(reached_names(compile(body, "<body>", "exec"), namespace)) - {"functools"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = a + 1", {"a"}),
        ("a = 1", set()),
        ("y = [a for _ in b]", {"a", "b"}),
        ("def f():\n    return a", {"a"}),
        ("y = (lambda: a)()", {"a"}),
        ("class K:\n    x = a", {"a"}),
        ("y = b.a", {"b"}),
        ("y = f'{a}'", {"a"}),
        ("get_ipython().run_line_magic('prune', 'a --amount b')", {"a", "b"}),
        ("print('a b')", set()),
    ],
)
def test_names_read_directly(body: str, expected: set[str]) -> None:
    assert read(body, notebook("a = b = 1")) == expected


def test_names_read_through_functions() -> None:
    namespace = notebook("a = 1\nb = 2\ndef g(): return a\ndef f(): return g()\ndef h(): return b")
    assert read("f()", namespace) == {"f", "g", "a"}


def test_names_read_behind_a_decorator() -> None:
    namespace = notebook(
        "def twice(fn):\n"
        "    @functools.wraps(fn)\n"
        "    def inner(*args): return fn(*args) * 2\n"
        "    return inner\n"
        "a = 1\n"
        "@twice\n"
        "def f(): return a\n"
    )
    assert read("f()", namespace) == {"f", "a"}
    assert is_plain_function(namespace["f"], namespace)


def test_functions_that_call_each_other_end() -> None:
    namespace = notebook("a = 1\ndef f(n): return g(n) + a\ndef g(n): return f(n)")
    assert read("f(1)", namespace) == {"f", "g", "a"}


def test_closures_and_foreign_functions_are_not_plain() -> None:
    namespace = notebook("def make():\n    x = 1\n    def f(): return x\n    return f\nf = make()")
    assert not is_plain_function(namespace["f"], namespace)
    assert not is_plain_function(functools.reduce, namespace)


def test_missing_names() -> None:
    namespace = notebook("def f(): return prune")
    assert missing_names(compile("f(); report; print", "<body>", "exec"), namespace) == {
        "prune",
        "report",
        "print",
    } - set(namespace)


def test_names_in_nested_code_are_found() -> None:
    code = compile("def f():\n    def g():\n        return deep\n    return g", "<body>", "exec")
    assert "deep" in global_names(code)


def test_values_that_a_function_reads() -> None:
    namespace = notebook("a = 1\nb = 2\nc = 3\ndef g(): return a\ndef f(x, y): return g() + x")
    inner = namespace["f"]
    local = 5

    def closing() -> Any:
        return local + inner(1, 2)

    assert values_read(namespace["f"]) == {"g": namespace["g"], "a": 1}
    assert values_read(functools.partial(inner, 7, y=8)) == {"argument 1": 7, "y": 8, "g": namespace["g"], "a": 1}
    assert {name: value for name, value in values_read(closing).items() if not callable(value)} == {"local": 5}
    assert values_read(len) == {}


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
    assert set(fingerprints(namespace)) <= {f"version of {name}"}
    data_facts(namespace)
    values_read(value)
    # Neither as something that is read nor as something that belongs to a function.
    for search in (
        snapshot_values(namespace),
        snapshot_values({}, functools.partial(plain, value)),
        snapshot_values({}, value),
    ):
        json.dumps(search.to_json())


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__module__", "__qualname__", "__name__", "__mro__", "__dict__"):
            return super().__getattribute__(name)
        raise RuntimeError(f"asked for {name}")


def test_instances_of_a_hostile_class() -> None:
    value = HostileMeta("Hostile", (), {})()
    for search in (snapshot_values({"k": value}), snapshot_values({}, functools.partial(plain, value))):
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
