"""Read and change the integers that a module holds, itself or in plain objects such as a configuration.

An integer is named by a path: `n_heads`, `config.n_heads`, `shape[0]` or `options[n_heads]`. Paths may come from files,
so they reach integers only: no module, no tensor, nothing private, no class.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from copy import copy
from typing import Any

from torch import Tensor, nn

_STEP = re.compile(r"\.?([A-Za-z]\w*)|\[([A-Za-z]\w*)\]|\[(-?\d{1,9})\]", re.ASCII)

# Enough for a list in a configuration in a configuration.
_MAX_STEPS = 4
# A longer list holds data and does not describe the model.
_MAX_ITEMS = 64


def is_integer(value: object) -> bool:
    """Whether `value` is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def numbers_of(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Return every integer that a path reaches from `module`, with its path."""
    for name, value in vars(module).items():
        if not name.startswith("_"):
            yield from _inside(name, value, 1)


def _inside(path: str, value: object, depth: int) -> Iterator[tuple[str, int]]:
    if is_integer(value):
        yield path, value  # type: ignore[misc]
    elif depth < _MAX_STEPS:
        for step, inner in _steps_from(value):
            yield from _inside(f"{path}.{step}" if _is_plain(value) else f"{path}[{step}]", inner, depth + 1)


def _steps_from(value: object) -> Iterator[tuple[int | str, object]]:
    """The steps of a path that go on from `value`, and where they lead: attributes, list indices, dict keys."""
    if isinstance(value, (list, tuple)):
        yield from enumerate(value[:_MAX_ITEMS])
    elif isinstance(value, dict):
        keys = [key for key in value if is_integer(key) or (isinstance(key, str) and key.isidentifier())]
        yield from ((key, value[key]) for key in keys if not str(key).startswith("_"))
    elif _is_plain(value):
        attributes = getattr(value, "__dict__", {})
        yield from ((name, inner) for name, inner in attributes.items() if not name.startswith("_"))
        yield from ((name, getattr(value, name)) for name in _slots_of(value) if hasattr(value, name))


def _is_plain(value: object) -> bool:
    """Whether `value` is an object with attributes, such as a configuration."""
    kinds = (nn.Module, Tensor, type, list, tuple, dict)
    has_attributes = hasattr(value, "__dict__") or bool(_slots_of(value))
    return has_attributes and not isinstance(value, kinds) and not callable(value)


def _slots_of(value: object) -> list[str]:
    """Names of the attributes in `__slots__`, as in a data class with slots."""
    slots = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = [name for slot in slots for name in ([slot] if isinstance(slot, str) else slot)]
    return [name for name in names if not name.startswith("_")]


def number_at(module: nn.Module, path: str) -> int | None:
    """Return the integer at `path`; None if there is none."""
    steps = _parsed(path)
    value: object = module.__dict__.get(str(steps[0])) if steps else None
    for step in steps[1:]:
        value = dict(_steps_from(value)).get(step)
    return value if is_integer(value) else None  # type: ignore[return-value]


def set_number_(model: nn.Module, module: nn.Module, path: str, number: int) -> None:
    """Set the integer at `path` of `module`, in place. The path must exist.

    An object that holds it, such as the configuration that the user built the model from, does not change: every module
    of `model` that holds the object gets a changed copy of it.
    """
    first, *rest = _parsed(path)
    before = vars(module)[str(first)]
    after = _changed(before, rest, number)
    if not rest:
        setattr(module, str(first), after)
        return
    for owner in model.modules():
        for name in [name for name, value in vars(owner).items() if value is before]:
            setattr(owner, name, after)


def set_list_(model: nn.Module, module: nn.Module, name: str, field: str, items: list[object]) -> None:
    """Set the list `field` of the object that `module` holds under `name`, in place.

    As with `set_number_`, the object itself does not change: all modules that hold it get a changed copy.
    """
    before = vars(module)[name]
    after = _shallow(before)
    vars(after)[field] = items
    for owner in model.modules():
        for attribute in [attribute for attribute, value in vars(owner).items() if value is before]:
            setattr(owner, attribute, after)


def _changed(value: object, steps: list[int | str], number: int) -> object:
    """A copy of `value` with `number` at the end of `steps`."""
    if not steps:
        return number
    inner = _changed(dict(_steps_from(value))[steps[0]], steps[1:], number)
    if isinstance(value, tuple):
        return _like(value, [inner if index == steps[0] else item for index, item in enumerate(value)])
    # The setters of the class are bypassed: they may refuse the change because the class is frozen, or compare the new
    # number with others that change later. The changed object is a copy, so this is safe.
    new: Any = _shallow(value)
    if isinstance(new, list):
        list.__setitem__(new, int(steps[0]), inner)
    elif isinstance(new, dict):
        before = new[steps[0]]
        dict.__setitem__(new, steps[0], inner)
        attributes = getattr(new, "__dict__", {})
        if attributes.get(steps[0]) is before:
            attributes[steps[0]] = inner  # a dict whose items are also its attributes
    elif steps[0] in getattr(new, "__dict__", ()):
        vars(new)[str(steps[0])] = inner
    else:
        object.__setattr__(new, str(steps[0]), inner)
    return new


def _shallow(value: object) -> object:
    """A shallow copy of `value`."""
    try:
        return copy(value)
    except Exception:  # the class may raise anything when its copy is filled item by item
        if not isinstance(value, (list, dict)):
            raise
    kind: Any = next(base for base in (OrderedDict, dict, list) if isinstance(value, base))
    new = kind.__new__(type(value))
    vars(new).update(vars(value))
    for key, item in value.items() if isinstance(value, dict) else ():
        kind.__setitem__(new, key, item)
    if isinstance(value, list):
        list.extend(new, value)
    return new


def _like(value: tuple[object, ...], items: list[object]) -> object:
    """A tuple of the class of `value`, such as a named tuple, with other items."""
    kind: Any = type(value)
    try:
        new = tuple.__new__(kind, items)
    except TypeError:
        return kind(items)  # a class written in C, such as `torch.Size`
    if hasattr(value, "__dict__"):
        vars(new).update(vars(value))
    return new


def _parsed(path: str) -> list[int | str]:
    """The steps of a path; empty if the text is not a path."""
    steps: list[int | str] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None or len(steps) == _MAX_STEPS or (not steps and match.group(1) is None):
            return []
        steps.append(match.group(1) or match.group(2) or int(match.group(3)))
        position = match.end()
    return steps


__all__ = ["is_integer", "number_at", "numbers_of", "set_list_", "set_number_"]
