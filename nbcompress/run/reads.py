"""What of a notebook or a module a body or a function reads, directly or through the functions it reaches."""

from __future__ import annotations

import dis
import re
from collections.abc import Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from nbcompress.run.looking import is_a, unwrapped

_LOADS = frozenset({"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_NAME", "DELETE_GLOBAL"})
_MAGIC_CALLS = frozenset({"run_line_magic", "run_cell_magic"})
_IDENTIFIER = re.compile(r"[^\W\d]\w*")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def global_names(code: CodeType) -> frozenset[str]:
    """Return every name that `code`, or code nested in it, looks up globally.

    A magic inside the body holds its Python expressions as text, so every identifier of that text counts too.
    """
    found: set[str] = set()
    for one in _codes(code):
        found.update(step.argval for step in dis.get_instructions(one) if step.opname in _LOADS)
        if _MAGIC_CALLS & set(one.co_names):
            texts = [text for text in one.co_consts if isinstance(text, str)]
            found.update(name for text in texts for name in _IDENTIFIER.findall(text))
    return frozenset(found)


def is_plain_function(value: Any, namespace: Mapping[str, Any]) -> bool:
    """Say whether `value` is a function without closure that was defined in `namespace`, also behind `__wrapped__`."""
    inner = unwrapped(value)
    return type(inner) is FunctionType and inner.__globals__ is namespace and inner.__closure__ is None


def reached_names(code: CodeType, namespace: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of `namespace` that `code` reads, directly or through the plain functions it reaches."""
    reached: set[str] = set()
    waiting = set(global_names(code))
    while waiting:
        name = waiting.pop()
        if name in reached or name not in namespace:
            continue
        reached.add(name)
        value = namespace[name]
        if is_plain_function(value, namespace):
            inner = unwrapped(value)
            waiting |= global_names(inner.__code__) - reached
    return frozenset(reached)


def missing_names(code: CodeType, namespace: Mapping[str, Any]) -> frozenset[str]:
    """Return the names that `code`, or a plain function it reaches, reads and `namespace` lacks."""
    reached = reached_names(code, namespace)
    names = set(global_names(code))
    for name in reached:
        if is_plain_function(namespace[name], namespace):
            names |= global_names(unwrapped(namespace[name]).__code__)
    return frozenset(names - set(namespace))


def values_read(function: Any) -> dict[str, Any]:
    """Return what a function reads from outside: globals, closures and the arguments of partials, by name.

    Functions of the same module that it reaches are followed; those of other modules are not.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [function]
    while waiting:
        one = waiting.pop()
        while is_a(one, partial):
            waiting += [value for value in (*one.args, *one.keywords.values()) if type(value) is FunctionType]
            found |= {**{f"argument {place}": value for place, value in enumerate(one.args, 1)}, **one.keywords}
            one = one.func
        waiting += _methods_of(one.__self__ if type(one) is MethodType else one)
        one = unwrapped(one.__func__ if type(one) is MethodType else one)
        if type(one) is not FunctionType or id(one) in seen:
            continue
        seen.add(id(one))
        here = {name: one.__globals__[name] for name in global_names(one.__code__) if name in one.__globals__}
        for name, cell in zip(one.__code__.co_freevars, one.__closure__ or (), strict=True):
            try:
                here[name] = cell.cell_contents
            except ValueError:  # an empty cell
                continue
        found |= {name: value for name, value in here.items() if name not in found}
        inner = [unwrapped(value) for value in here.values()]
        waiting += [one_ for one_ in inner if type(one_) is FunctionType and one_.__globals__ is one.__globals__]
    return found


def _methods_of(value: Any) -> list[FunctionType]:
    """Return the methods that a callable object, or the object of a bound method, has from its own module."""
    if callable(value) and type(value) in (FunctionType, type(len), type):
        return []
    kinds = [kind for kind in type(value).__mro__ if kind.__module__ == type(value).__module__ != "builtins"]
    return [one for kind in kinds for one in vars(kind).values() if type(one) is FunctionType]
