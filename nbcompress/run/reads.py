"""Find out what a cell's body or a function reads from the notebook, directly or through functions that it reaches.

No code of the user's objects runs here. A notebook may hold objects that answer for any attribute, raise for any, or
report another class. `isinstance`, `hasattr` and `getattr` ask the object; the functions here only read its type and
its instance dict.
"""

from __future__ import annotations

import ast
import dis
import re
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

_MRO = type.__dict__["__mro__"]
_NOTHING = object()


def is_a(value: Any, *kinds: type[Any]) -> bool:
    """Return whether the type of `value` is one of `kinds` or derived from one, whatever its `__class__` says."""
    return issubclass(type(value), kinds)


def is_of_loaded(value: Any, module: str, *names: str) -> bool:
    """Return whether `value` is an instance of a class of a module that is loaded. Nothing is imported for that."""
    loaded = sys.modules.get(module)
    return loaded is not None and is_a(value, *(getattr(loaded, name) for name in names))


def is_declared(value: Any, name: str) -> bool:
    """Return whether the class of `value`, or a base of it, has an attribute of that name."""
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


def held_values(value: Any) -> dict[str, Any]:
    """Return the values in the `__slots__` and the instance dict of `value`, by name."""
    found: dict[str, Any] = {}
    for kind in reversed(_MRO.__get__(type(value))):
        if "__slots__" not in kind.__dict__:
            continue
        for name, slot in kind.__dict__.items():
            if type(slot) is MemberDescriptorType:
                try:
                    found[name] = slot.__get__(value, kind)
                except AttributeError:  # not filled
                    continue
    return {**found, **own_attributes(value)}


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
    """Return the items of a list, a tuple or a set, or the values of a dict; nothing for anything else."""
    for kind in (list, tuple, set, frozenset):
        if is_a(value, kind):
            return iter(kind.__iter__(value))
    return iter(list(dict.values(value)) if is_a(value, dict) else ())


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
    for part in _codes(code):
        found.update(step.argval for step in dis.get_instructions(part) if step.opname in _LOADS)
        if _MAGIC_CALLS & set(part.co_names):
            texts = [text for text in part.co_consts if isinstance(text, str)]
            found.update(name for text in texts for name in _IDENTIFIER.findall(text))
    return frozenset(found)


def imported_modules(code: CodeType) -> dict[str, ModuleType]:
    """Return the loaded modules that `code`, or code nested in it, imports itself, by their full names."""
    names = {
        str(step.argval) for part in _codes(code) for step in dis.get_instructions(part) if step.opname == "IMPORT_NAME"
    }
    return {name: sys.modules[name] for name in sorted(names) if is_a(sys.modules.get(name), ModuleType)}


def is_plain_function(value: Any, namespace: Mapping[str, Any]) -> bool:
    """Return whether `value`, without its decorators, is a function of `namespace` that has no closure."""
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
        called = waiting.pop()
        while is_a(called, partial):
            waiting += [value for value in (*called.args, *called.keywords.values()) if type(value) is FunctionType]
            found |= {**{f"argument {place}": value for place, value in enumerate(called.args, 1)}, **called.keywords}
            called = called.func
        waiting += _methods_of(called.__self__ if type(called) is MethodType else called)
        called = unwrapped(called.__func__ if type(called) is MethodType else called)
        if type(called) is not FunctionType or id(called) in seen:
            continue
        seen.add(id(called))
        here: dict[str, Any] = dict(imported_modules(called.__code__))
        here |= {name: called.__globals__[name] for name in global_names(called.__code__) if name in called.__globals__}
        for name, cell in zip(called.__code__.co_freevars, called.__closure__ or (), strict=True):
            try:
                here[name] = cell.cell_contents
            except ValueError:  # an empty cell
                continue
        found |= {name: value for name, value in here.items() if name not in found}
        inner = [unwrapped(value) for value in here.values()]
        waiting += [
            reached for reached in inner if type(reached) is FunctionType and reached.__globals__ is called.__globals__
        ]
    return found


def _methods_of(value: Any) -> list[FunctionType]:
    """Return the methods that a callable object, or the object of a bound method, has from its own module."""
    if callable(value) and type(value) in (FunctionType, type(len), type):
        return []
    kinds = [kind for kind in type(value).__mro__ if kind.__module__ == type(value).__module__ != "builtins"]
    return [var for kind in kinds for var in vars(kind).values() if type(var) is FunctionType]


@lru_cache(maxsize=256)
def assigned_expressions(tree: ast.AST) -> dict[str, tuple[ast.expr, ...]]:
    """Return by name the expressions that a variable of the code gets its values from.

    In `a, b = pair` the expression of `b` is `pair[1]`. What a loop or a comprehension goes through stands for each of
    its variables. The same tree gives the same expressions, the same objects.
    """
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        bound: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            bound = [part for target in node.targets for part in _unpacked(target, node.value)]
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value is not None:
            bound = [(node.target, node.value)]
        elif isinstance(node, (ast.For, ast.comprehension)):
            bound = [(node.target, node.iter)]
        for target, value in bound:
            for part in ast.walk(target):
                if isinstance(part, ast.Name):
                    found.setdefault(part.id, []).append(value)
    return {name: tuple(expressions) for name, expressions in found.items()}


def _unpacked(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield the parts of a target and what each gets; a target with a star is one part."""
    parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else []
    if not parts or any(isinstance(part, ast.Starred) for part in parts):
        yield target, value
        return
    for place, part in enumerate(parts):
        if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(parts):
            yield from _unpacked(part, value.elts[place])
        else:
            yield from _unpacked(part, ast.Subscript(value, ast.Constant(place), ast.Load()))
