"""Snapshot of the values that a search reads when it starts: plain values, and what a function holds by itself.

`study/snapshot.py` defines the form and compares two snapshots. No code of the user's objects runs here; see
`reads.py`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

from nbcompress.run.reads import held_values, is_a, is_declared, is_of_loaded, items_of, own_attributes, wrapped_in
from nbcompress.run.record import code_parts, content_digits, is_installed, lambda_source, text_digits
from nbcompress.study.snapshot import KeyPath, Snapshot

# The depth of nested values, how many values are read, and the length from which a list is stored as a hash.
_DEPTH, _BUDGET, _LONG = 8, 20_000, 500
_LONG_TEXT = 200
_LONG_NUMBER = 4096  # bits; Python writes out about three times as many
_WRITTEN_OUT = (Decimal, Fraction, PurePath, range)
_SCALARS = (bool, int, float, complex, str, bytes, type(None), *_WRITTEN_OUT)
# Texts under such names are stored as a hash.
_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
# Names that IPython itself puts into the notebook's namespace.
_OF_IPYTHON = re.compile(r"In|Out|_+|_[0-9]+|_i+[0-9]*|_[oid]h")
# Modules of the standard library on which no result depends.
_IRRELEVANT_MODULES = frozenset({"logging", "threading", "_thread"})
_HARMLESS_METHODS = frozenset({"__init__", "__repr__", "__str__", "__eq__", "__hash__", "__getattr__", "__getitem__"})


def snapshot_values(
    reads: Mapping[str, Any], function: Callable[..., Any] | None = None, written: Collection[KeyPath] = ()
) -> Snapshot:
    """Return a snapshot of what a search reads.

    Args:
        reads: What the body or the function reads from outside, by name.
        function: The function that is searched, if it is one.
        written: The places of these values that the body writes into.
    """
    named = {name: value for name, value in reads.items() if not _OF_IPYTHON.fullmatch(name)}
    trees = {name: _Reader(name).tree(value) for name, value in named.items()}
    if function is None:
        return Snapshot(trees, written=frozenset(written))
    owner = _FunctionReader("")
    tree = owner.tree(function)
    return Snapshot(trees, tree, tuple(owner.unknown), is_identified_by_source(function), frozenset(written))


def is_identified_by_source(function: Any) -> bool:
    """Return whether its source identifies a function: it has no closure or defaults, and its lines are its own."""
    if type(function) is not FunctionType or function.__closure__ or function.__defaults__ or function.__kwdefaults__:
        return False
    return _source_of(function.__code__) is not None


class _Reader:
    """Makes trees of values that are read from outside. Only plain values count."""

    def __init__(self, name: str) -> None:
        self._names = [name]
        self._budget_left = _BUDGET
        self._parents: set[int] = set()  # the ids of the values that contain the current one

    def tree(self, value: Any) -> Any:
        self._budget_left -= 1
        if is_a(value, *_SCALARS) or _is_numpy_number(value) or is_a(value, Enum):
            return self._scalar(value)
        if id(value) in self._parents:
            return {"other": type(value).__name__}
        if len(self._parents) >= _DEPTH or self._budget_left < 0:
            return self._other(value)
        self._parents.add(id(value))
        try:
            return self._tree_of(value)
        finally:
            self._parents.discard(id(value))

    def _tree_of(self, value: Any) -> Any:
        if is_a(value, dict):
            return self._items(value)
        if is_a(value, list, tuple):
            return self._sequence(list(items_of(value)))
        if is_a(value, set, frozenset):
            return {"set": sorted(self._sequence(list(items_of(value)), in_order=False), key=json.dumps)}
        fields = self._fields(value)
        if fields is None or (type(value) is FunctionType and not fields):
            return self._other(value)
        # A new version of a function is detected by its hash; see `record.fingerprints`.
        is_written = type(value) is FunctionType or is_a(value, type)
        return {**({"code": ""} if is_written else {}), "fields": self._by_name(fields)}

    def _fields(self, value: Any) -> Mapping[str, Any] | None:
        """Return the named values of an object, or None if it is not made of named values."""
        if type(value) is FunctionType:
            return _held_by_function(value, with_defaults=value.__module__ == "__main__")
        if is_a(value, partial):
            return _arguments(value)
        if is_a(value, type):
            if value.__module__ != "__main__":
                return None
            return {name: var for name, var in vars(value).items() if name[:2] != "__" and is_a(var, *_SCALARS)}
        is_plain = is_declared(value, "__dataclass_fields__") or is_a(value, SimpleNamespace, Namespace)
        return held_values(value) if is_plain or _only_holds(type(value)) else None

    def _scalar(self, value: Any) -> Any:
        if is_a(value, Enum):
            return f"{type(value).__name__}.{own_attributes(value).get('_name_', '')}"
        if _is_numpy_number(value):
            value = value.item()
        if is_a(value, bool) or value is None:
            return value
        if is_a(value, int):
            number = int.__int__(value)
            return number if number.bit_length() < _LONG_NUMBER else {"digest": text_digits(hex(number))}
        if is_a(value, float):
            real = float.__float__(value)
            return real if math.isfinite(real) else {"float": float.__repr__(real)}
        if is_a(value, complex):
            return {"complex": complex.__repr__(value)}
        if is_a(value, str):
            text = str.__str__(value)
            is_hidden = len(text) > _LONG_TEXT or any(_SECRET.search(name) for name in self._names)
            return {"digest": text_digits(text)} if is_hidden else text
        if is_a(value, bytes):
            return {"bytes": hashlib.blake2b(value, digest_size=8).hexdigest()}
        return f"{type(value).__name__}({value})"

    def _items(self, value: dict[Any, Any]) -> Any:
        keys = {_key(key): item for key, item in dict.items(value)}
        if len(keys) <= _LONG:
            return {"items": self._by_name(keys)}
        return {"digest": text_digits(json.dumps(sorted(keys)) + json.dumps(self._sequence(list(keys.values()))))}

    def _sequence(self, held: list[Any], *, in_order: bool = True) -> Any:
        if len(held) <= _LONG or not in_order:
            return [self.tree(parameter) for parameter in held[: self._budget_left]]
        if not all(is_a(parameter, *_SCALARS) for parameter in held):
            held = [len(held), *held[:: max(1, len(held) // _LONG)]]
        scalars = [
            self._scalar(parameter) if is_a(parameter, *_SCALARS) else self.tree(parameter) for parameter in held
        ]
        return {"digest": text_digits(json.dumps(scalars))}

    def _by_name(self, held: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, value in held.items():
            self._names.append(name)
            found[name] = self.tree(value)
            self._names.pop()
        return found

    def _other(self, value: Any) -> Any:
        return {"other": type(value).__name__}


class _FunctionReader(_Reader):
    """Makes the tree of a function with its code, arguments, closure, and the object of a method."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.unknown: list[str] = []

    def _tree_of(self, value: Any) -> Any:
        digits = content_digits(value)
        if digits:
            return {"content": digits}
        if type(value) is FunctionType:
            return {"code": _code_digits(value), "fields": self._by_name(_held_by_function(value, with_defaults=True))}
        if is_a(value, partial):
            arguments = _arguments(value)
            # A keyword of that name must not hide the function.
            callee = "function" if "function" not in arguments else "the function"
            return {"fields": self._by_name({callee: value.func, **arguments})}
        if type(value) is MethodType:
            return {"fields": self._by_name({"function": value.__func__, "self": value.__self__})}
        if is_a(value, BuiltinFunctionType, MethodWrapperType) and not is_a(
            value.__self__, ModuleType, type, type(None)
        ):
            function = {"code": text_digits(value.__qualname__)}
            return {"fields": {"function": function, **self._by_name({"self": value.__self__})}}
        if is_a(value, BuiltinFunctionType, type, ModuleType):
            name = f"{getattr(value, '__module__', '')}.{value.__name__}"
            return {"code": _class_digits(value) if is_a(value, type) else text_digits(name)}
        if is_a(value, dict, list, tuple, set, frozenset):
            return super()._tree_of(value)
        if _top(type(value)) in sys.stdlib_module_names and not is_a(value, SimpleNamespace, Namespace):
            inner = wrapped_in(value)
            return self._other(value) if inner is None else {"fields": {"function": self.tree(inner)}}
        attributes = dict(self._fields(value) or held_values(value))
        inner = wrapped_in(value)
        if inner is not None:
            attributes["__wrapped__"] = inner
        if not attributes and (not callable(value) or _is_compiled(type(value))):
            return self._other(value)
        return {"code": _class_digits(type(value)), "fields": self._by_name(attributes)}

    def _other(self, value: Any) -> Any:
        if type(value).__module__ not in _IRRELEVANT_MODULES:
            where = ".".join(name for name in self._names if name) or "the function"
            self.unknown.append(f"{where} (a {type(value).__name__})")
        return super()._other(value)


def _held_by_function(function: FunctionType, *, with_defaults: bool) -> dict[str, Any]:
    """Return the closure of a function and the defaults of its arguments."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # an empty cell
            continue
    if with_defaults:
        code, defaults = function.__code__, function.__defaults__ or ()
        names = code.co_varnames[: code.co_argcount][code.co_argcount - len(defaults) :]
        for name, default in (*zip(names, defaults, strict=True), *(function.__kwdefaults__ or {}).items()):
            found[f"default of {name}"] = default
    return found


def _arguments(given: partial[Any]) -> dict[str, Any]:
    return {**{f"argument {place}": arg for place, arg in enumerate(given.args, 1)}, **given.keywords}


def _only_holds(kind: type) -> bool:
    """Return whether a class of the notebook has no methods of its own, so that it only holds values."""
    if kind.__module__ != "__main__" or kind.__bases__ != (object,):
        return False
    return all(name in _HARMLESS_METHODS for name, var in vars(kind).items() if type(var) is FunctionType)


def _code_digits(function: FunctionType) -> str:
    text = _source_of(function.__code__)
    return text_digits(repr(tuple(code_parts(function.__code__))) if text is None else text)


def _source_of(code: CodeType) -> str | None:
    """Return the source of a function; None if there is none, or if it may belong to another function, too."""
    if code.co_name == "<lambda>":
        return lambda_source(code)
    try:
        return inspect.getsource(code)
    except (OSError, TypeError, SyntaxError):
        return None


def _class_digits(kind: type) -> str:
    """Return a hash of the methods of a class and its bases; of installed packages only the name counts."""
    found = [f"{kind.__module__}.{kind.__qualname__}"]
    for base in kind.__mro__:
        if is_installed(base.__module__):
            continue
        for name, var in vars(base).items():
            inner = var.__func__ if type(var) in (staticmethod, classmethod) else var
            inner = inner.fget if type(inner) is property else inner
            if type(inner) is FunctionType:
                found.append(f"{name} {_code_digits(inner)}")
    return text_digits("\n".join(found))


def _is_compiled(kind: type) -> bool:
    """Return whether no class of the value is written in Python, so that it may hold what cannot be read here."""
    return not any(type(var) is FunctionType for base in kind.__mro__ for var in vars(base).values())


def _top(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _key(key: Any) -> str:
    return str.__str__(key) if is_a(key, str) else repr(key) if type(key) in _SCALARS else f"a {type(key).__name__}"


def _is_numpy_number(value: Any) -> bool:
    return is_of_loaded(value, "numpy", "number", "bool_")
