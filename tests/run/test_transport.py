"""What cannot be sent has a name."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from nbcompress.errors import TransportError
from nbcompress.run.outcome import pack


class Holder:
    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)

    def method(self) -> None: ...


class Refusing:
    def __reduce__(self) -> Any:
        raise TransportError("'model' cannot be sent: own words")


def test_functions_travel_whole() -> None:
    factor = 3
    assert pickle.loads(pack(lambda x: x * factor))(2) == 6


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"data": threading.Lock()}, "data"),
        (Holder(first=1, second=Holder(lock=threading.Lock())), "lock"),
        (Holder(method=Holder(lock=threading.Lock()).method), "lock"),
        ([1, 2, threading.Lock()], "[2]"),
        (Holder(loaders=[1, threading.Lock()]), "loaders[1]"),
    ],
)
def test_it_is_named(value: Any, name: str) -> None:
    with pytest.raises(TransportError) as caught:
        pack(value)
    text = str(caught.value)
    assert text.startswith(f"{name!r} (a lock) cannot be sent to another process: ")
    assert text.endswith("Make it inside the trial, or use the engine inline.")


def test_who_says_it_by_itself_is_heard() -> None:
    with pytest.raises(TransportError, match="own words"):
        pack(Refusing())
