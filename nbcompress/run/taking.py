"""Take what a search reads, as it is when the search starts: plain values, and what a function holds by itself.

`study/values.py` has the form, and compares. Nothing here runs code of the person's; see `looking.py`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

from nbcompress.run.fingerprints import content_digits
from nbcompress.run.looking import is_a, is_declared, items_of, own_attributes, wrapped_in
from nbcompress.study.values import Path, Values

# How deep values lie in each other, how many are looked at, and from how many on a list is stored by its digits.
_DEPTH, _BUDGET, _LONG = 8, 20_000, 500
_LONG_TEXT = 200
_LONG_NUMBER = 4096  # bits; Python writes out about three times as many
_WRITTEN_OUT = (Decimal, Fraction, PurePath, range)
_SCALARS = (bool, int, float, complex, str, bytes, type(None), *_WRITTEN_OUT)
# Texts under such names are stored by their digits.
_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
# What IPython itself puts into the notebook's namespace, and changes.
_OF_IPYTHON = re.compile(r"In|Out|_+|_[0-9]+|_i+[0-9]*|_[oid]h")
# Of the standard library, and no result depends on them.
_IMMATERIAL = frozenset({"logging", "threading", "_thread"})
_PLAIN_METHODS = frozenset({"__init__", "__repr__", "__str__", "__eq__", "__hash__", "__getattr__", "__getitem__"})


def taken(
    reads: Mapping[str, Any], function: Callable[..., Any] | None = None, written: Collection[Path] = ()
) -> Values:
    """Return what a search reads.

    Args:
        reads: What the body or the function reads from outside, by name.
        function: What is searched, if it is a function.
        written: Where the body writes.
    """
    named = {name: value for name, value in reads.items() if not _OF_IPYTHON.fullmatch(name)}
    trees = {name: _Reader(name).tree(value) for name, value in named.items()}
    if function is None:
        return Values(trees, written=frozenset(written))
    owner = _Owner("")
    own = owner.tree(function)
    return Values(trees, own, tuple(owner.unknown), is_told_by_its_text(function), frozenset(written))


def is_told_by_its_text(function: Any) -> bool:
    """Whether the text of a function says which one it is: it holds nothing, and no other one shares its lines."""
    if type(function) is not FunctionType or function.__closure__ or function.__defaults__ or function.__kwdefaults__:
        return False
    return _text_of(function.__code__) is not None


class _Reader:
    """Makes trees of what is read from outside: plain values count, and nothing else is looked into."""

    def __init__(self, name: str) -> None:
        self._names = [name]
        self._left = _BUDGET
        self._above: set[int] = set()  # what holds the value that is looked at

    def tree(self, value: Any) -> Any:
        self._left -= 1
        if is_a(value, *_SCALARS) or _is_numpy_number(value) or is_a(value, Enum):
            return self._scalar(value)
        if id(value) in self._above:
            return {"other": type(value).__name__}
        if len(self._above) >= _DEPTH or self._left < 0:
            return self._other(value)
        self._above.add(id(value))
        try:
            return self._held(value)
        finally:
            self._above.discard(id(value))

    def _held(self, value: Any) -> Any:
        if is_a(value, dict):
            return self._items(value)
        if is_a(value, list, tuple):
            return self._sequence(list(items_of(value)))
        if is_a(value, set, frozenset):
            return {"set": sorted(self._sequence(list(items_of(value)), in_order=False), key=json.dumps)}
        fields = self._fields(value)
        if fields is None or (type(value) is FunctionType and not fields):
            return self._other(value)
        # Whether a function that is read was written anew has digits elsewhere; see `fingerprints.py`.
        is_written = type(value) is FunctionType or is_a(value, type)
        return {**({"code": ""} if is_written else {}), "fields": self._by_name(fields)}

    def _fields(self, value: Any) -> Mapping[str, Any] | None:
        """Return what an object of named values holds, or None if it is not one."""
        if type(value) is FunctionType:
            return _held_by(value, with_defaults=value.__module__ == "__main__")
        if is_a(value, partial):
            return _arguments(value)
        attributes = own_attributes(value)
        if is_a(value, type):
            if value.__module__ != "__main__":
                return None
            return {name: one for name, one in vars(value).items() if name[:2] != "__" and is_a(one, *_SCALARS)}
        if is_declared(value, "__dataclass_fields__"):
            names = type(value).__dict__.get("__slots__", ())
            slots = {} if isinstance(names, str) else {name: _slot(value, name) for name in names}
            return {**slots, **attributes}
        return attributes if is_a(value, SimpleNamespace, Namespace) or _only_holds(type(value)) else None

    def _scalar(self, value: Any) -> Any:
        if is_a(value, Enum):
            return f"{type(value).__name__}.{own_attributes(value).get('_name_', '')}"
        if _is_numpy_number(value):
            value = value.item()
        if is_a(value, bool) or value is None:
            return value
        if is_a(value, int):
            number = int.__int__(value)
            return number if number.bit_length() < _LONG_NUMBER else {"digest": _digits(hex(number))}
        if is_a(value, float):
            real = float.__float__(value)
            return real if math.isfinite(real) else {"float": float.__repr__(real)}
        if is_a(value, complex):
            return {"complex": complex.__repr__(value)}
        if is_a(value, str):
            text = str.__str__(value)
            is_hidden = len(text) > _LONG_TEXT or any(_SECRET.search(name) for name in self._names)
            return {"digest": _digits(text)} if is_hidden else text
        if is_a(value, bytes):
            return {"bytes": hashlib.blake2b(value, digest_size=8).hexdigest()}
        return f"{type(value).__name__}({value})"

    def _items(self, value: dict[Any, Any]) -> Any:
        keys = {_key(key): one for key, one in dict.items(value)}
        if len(keys) <= _LONG:
            return {"items": self._by_name(keys)}
        return {"digest": _digits(json.dumps(sorted(keys)) + json.dumps(self._sequence(list(keys.values()))))}

    def _sequence(self, held: list[Any], *, in_order: bool = True) -> Any:
        if len(held) <= _LONG or not in_order:
            return [self.tree(one) for one in held[: self._left]]
        if not all(is_a(one, *_SCALARS) for one in held):
            held = [len(held), *held[:: max(1, len(held) // _LONG)]]
        scalars = [self._scalar(one) if is_a(one, *_SCALARS) else self.tree(one) for one in held]
        return {"digest": _digits(json.dumps(scalars))}

    def _by_name(self, held: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, value in held.items():
            self._names.append(name)
            found[name] = self.tree(value)
            self._names.pop()
        return found

    def _other(self, value: Any) -> Any:
        return {"other": type(value).__name__}


class _Owner(_Reader):
    """Makes the tree of a function with all that belongs to it: code, arguments, closures, the object of a method."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.unknown: list[str] = []

    def _held(self, value: Any) -> Any:
        digits = content_digits(value)
        if digits:
            return {"content": digits}
        if type(value) is FunctionType:
            return {"code": _code_digits(value), "fields": self._by_name(_held_by(value, with_defaults=True))}
        if is_a(value, partial):
            return {"fields": self._by_name({"function": value.func, **_arguments(value)})}
        if type(value) is MethodType:
            return {"fields": self._by_name({"function": value.__func__, "self": value.__self__})}
        if is_a(value, BuiltinFunctionType, type, ModuleType):
            name = f"{getattr(value, '__module__', '')}.{value.__name__}"
            return {"code": _class_digits(value) if is_a(value, type) else _digits(name)}
        if is_a(value, dict, list, tuple, set, frozenset):
            return super()._held(value)
        if _top(type(value)) in sys.stdlib_module_names and not is_a(value, SimpleNamespace, Namespace):
            inner = wrapped_in(value)
            return self._other(value) if inner is None else {"fields": {"function": self.tree(inner)}}
        attributes = dict(self._fields(value) or own_attributes(value))
        inner = wrapped_in(value)
        if inner is not None:
            attributes["__wrapped__"] = inner
        if not attributes and not callable(value):
            return self._other(value)
        return {"code": _class_digits(type(value)), "fields": self._by_name(attributes)}

    def _other(self, value: Any) -> Any:
        if type(value).__module__ not in _IMMATERIAL:
            where = ".".join(name for name in self._names if name) or "the function"
            self.unknown.append(f"{where} (a {type(value).__name__})")
        return super()._other(value)


def _held_by(function: FunctionType, *, with_defaults: bool) -> dict[str, Any]:
    """Return what a function closes over, and the defaults of its arguments."""
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
    return {**{f"argument {place}": one for place, one in enumerate(given.args, 1)}, **given.keywords}


def _slot(value: Any, name: str) -> Any:
    try:
        return type(value).__dict__[name].__get__(value, type(value))
    except AttributeError:  # not filled
        return None


def _only_holds(kind: type) -> bool:
    """Whether a class of the notebook only holds values: it has no methods of its own."""
    if kind.__module__ != "__main__" or kind.__bases__ != (object,):
        return False
    return all(name in _PLAIN_METHODS for name, one in vars(kind).items() if type(one) is FunctionType)


def _code_digits(function: FunctionType) -> str:
    text = _text_of(function.__code__)
    return _digits(repr(tuple(_parts_of(function.__code__))) if text is None else text)


def _text_of(code: CodeType) -> str | None:
    """Return the text of a function, or None where there is none, or where it may be of another function, too."""
    try:
        text = inspect.getsource(code)
    except (OSError, TypeError, SyntaxError):
        return None
    return None if code.co_name == "<lambda>" and text.count("lambda") > 1 else text


def _parts_of(code: CodeType) -> Iterable[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))
    for constant in code.co_consts:
        if type(constant) is CodeType:
            yield from _parts_of(constant)
        else:
            yield repr(sorted(map(repr, constant)) if type(constant) is frozenset else constant)


def _class_digits(kind: type) -> str:
    """Return digits of the methods of a class and of its bases; of a package that is installed the name alone."""
    found = [f"{kind.__module__}.{kind.__qualname__}"]
    for base in kind.__mro__:
        if _is_installed(base):
            continue
        for name, one in vars(base).items():
            inner = one.__func__ if type(one) in (staticmethod, classmethod) else one
            inner = inner.fget if type(inner) is property else inner
            if type(inner) is FunctionType:
                found.append(f"{name} {_code_digits(inner)}")
    return _digits("\n".join(found))


def _top(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _is_installed(kind: type) -> bool:
    if _top(kind) in ("builtins", *sys.stdlib_module_names) and kind.__module__ != "__main__":
        return True
    file = getattr(sys.modules.get(_top(kind)), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(PurePath(file).parts))


def _key(key: Any) -> str:
    return str.__str__(key) if is_a(key, str) else repr(key) if type(key) in _SCALARS else f"a {type(key).__name__}"


def _is_numpy_number(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and is_a(value, numpy.number, numpy.bool_)


def _digits(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
