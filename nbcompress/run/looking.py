"""Looking at a person's objects without running code of theirs.

A notebook holds objects that answer for any attribute, that raise on any, or that say they are of another class.
`isinstance`, `hasattr` and `getattr` ask the object; the functions here only read its type and its own dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

_MRO = type.__dict__["__mro__"]
_NOTHING = object()


def is_a(value: Any, *kinds: type[Any]) -> bool:
    """Whether the type of `value` is one of `kinds` or derived from one, whatever its `__class__` says."""
    return issubclass(type(value), kinds)


def is_declared(value: Any, name: str) -> bool:
    """Whether the class of `value`, or a base of it, has an attribute of that name."""
    return any(name in kind.__dict__ for kind in _MRO.__get__(type(value)))


def own_attributes(value: Any) -> dict[str, Any]:
    """Return the instance dict of `value`, the object itself; empty if it has none or computes it."""
    for kind in _MRO.__get__(type(value)):
        described = kind.__dict__.get("__dict__")
        if described is not None and type(described) not in (GetSetDescriptorType, MemberDescriptorType):
            return {}
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if is_a(found, dict) else {}


def wrapped_in(value: Any) -> Any:
    """Return what `value` states as its `__wrapped__`, or None."""
    if is_a(value, type):
        return None
    found = own_attributes(value).get("__wrapped__", _NOTHING)
    if found is not _NOTHING:
        return found
    for kind in _MRO.__get__(type(value)):
        described = kind.__dict__.get("__wrapped__", _NOTHING)
        if type(described) in (GetSetDescriptorType, MemberDescriptorType):  # a field of a class written in C
            try:
                return described.__get__(value, type(value))
            except (AttributeError, ValueError):  # not filled yet
                return None
    return None


def unwrapped(function: Any) -> Any:
    """Follow `__wrapped__` to the innermost callable."""
    seen: set[int] = set()
    while id(function) not in seen:
        seen.add(id(function))
        inner = wrapped_in(function)
        if inner is None:
            break
        function = inner
    return function


def items_of(value: Any) -> Iterator[Any]:
    """Yield what a list, a tuple, a set or the values of a dict hold; nothing of anything else."""
    for kind in (list, tuple, set, frozenset):
        if is_a(value, kind):
            return iter(kind.__iter__(value))
    return iter(list(dict.values(value)) if is_a(value, dict) else ())
