"""Sending what a trial needs to another process, and saying by name what cannot go."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle

from nbcompress.errors import TransportError
from nbcompress.run.looking import is_a, items_of, own_attributes

# How deep the search for the culprit goes: a function, its globals, an object there, its attributes, ...
_DEPTH = 6


def pack(value: Any) -> bytes:
    """Return `value` as bytes; functions and classes of the notebook travel whole, those of modules by name.

    Raises:
        TransportError: Something in it cannot be sent; the text names it.
    """
    try:
        return bytes(cloudpickle.dumps(value))
    except TransportError:  # it has said by itself what it is
        raise
    except Exception as error:
        path, culprit = _culprit(value, "", _DEPTH, set())
        what = f"{path!r} (a {type(culprit).__name__})" if path else f"A {type(culprit).__name__}"
        raise TransportError(
            f"{what} cannot be sent to another process: {error}. Make it inside the trial, or use the engine inline."
        ) from error


def _is_sendable(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:  # noqa: BLE001 - whatever keeps it from being pickled, it is what we look for
        return False
    return True


def _culprit(value: Any, path: str, depth: int, seen: set[int]) -> tuple[str, Any]:
    """Return the deepest part of `value` with a name that cannot be sent, and that name."""
    seen.add(id(value))
    if depth > 0:
        for name, part in _parts(value):
            if id(part) not in seen and not _is_sendable(part):
                return _culprit(part, name if _is_name(name) or not path else f"{path}{name}", depth - 1, seen)
    return path, value


def _is_name(text: str) -> bool:
    return text.isidentifier()


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if type(value) is FunctionType:
        names = set(_names_of(value.__code__))
        for name in sorted(names & value.__globals__.keys() - vars(builtins).keys()):
            yield name, value.__globals__[name]
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        yield from ((f"[{i}]", one) for i, one in enumerate(value.__defaults__ or ()))
    elif is_a(value, dict):
        yield from ((str(key) if str(key).isidentifier() else f"[{key!r}]", part) for key, part in dict.items(value))
    elif is_a(value, list, tuple, set, frozenset):
        yield from ((f"[{i}]", part) for i, part in enumerate(items_of(value)))
    elif not is_a(value, type, ModuleType):
        if type(value) in (MethodType, BuiltinMethodType) and value.__self__ is not None:
            yield type(value.__self__).__name__, value.__self__
        yield from own_attributes(value).items()


def _names_of(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_of(constant)
