"""Whole numbers that a module holds, itself or in plain objects such as a configuration, by path.

A path is `n_heads`, `config.n_heads`, `shape[0]` or `options[n_heads]`: names of attributes, and keys in brackets.
Paths come from files too, so they reach nothing but numbers: no module, no tensor, nothing private, no class.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from copy import copy
from typing import Any

from torch import Tensor, nn

_STEP = re.compile(r"\.?([A-Za-z]\w*)|\[([A-Za-z]\w*)\]|\[(-?\d{1,9})\]", re.ASCII)

# As deep as a configuration in a configuration with a list in it.
_MOST_STEPS = 4
# A longer list is data, not a description of the model.
_MOST_ITEMS = 64


def is_number(value: object) -> bool:
    """Whether `value` is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def numbers_of(module: nn.Module) -> Iterator[tuple[str, int]]:
    """Every whole number that can be reached from `module`, with its path."""
    for name, value in vars(module).items():
        if not name.startswith("_"):
            yield from _inside(name, value, 1)


def _inside(path: str, value: object, depth: int) -> Iterator[tuple[str, int]]:
    if is_number(value):
        yield path, value  # type: ignore[misc]
    elif depth < _MOST_STEPS:
        for step, inner in _steps_from(value):
            yield from _inside(f"{path}.{step}" if _is_plain(value) else f"{path}[{step}]", inner, depth + 1)


def _steps_from(value: object) -> Iterator[tuple[int | str, object]]:
    """The ways on from a plain object: attributes, places in a list, keys that are names or numbers."""
    if isinstance(value, (list, tuple)):
        yield from enumerate(value[:_MOST_ITEMS])
    elif isinstance(value, dict):
        keys = [key for key in value if is_number(key) or (isinstance(key, str) and key.isidentifier())]
        yield from ((key, value[key]) for key in keys if not str(key).startswith("_"))
    elif _is_plain(value):
        yield from ((name, one) for name, one in getattr(value, "__dict__", {}).items() if not name.startswith("_"))
        yield from ((name, getattr(value, name)) for name in _slots_of(value) if hasattr(value, name))


def _is_plain(value: object) -> bool:
    kinds = (nn.Module, Tensor, type, list, tuple, dict)
    has_attributes = hasattr(value, "__dict__") or bool(_slots_of(value))
    return has_attributes and not isinstance(value, kinds) and not callable(value)


def _slots_of(value: object) -> list[str]:
    """Names of the attributes for which the class of `value` keeps places, as a data class with slots does."""
    slots = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = [name for one in slots for name in ([one] if isinstance(one, str) else one)]
    return [name for name in names if not name.startswith("_")]


def number_at(module: nn.Module, path: str) -> int | None:
    """The number at `path`; None if there is no number."""
    steps = _parsed(path)
    value: object = module.__dict__.get(str(steps[0])) if steps else None
    for step in steps[1:]:
        value = dict(_steps_from(value)).get(step)
    return value if is_number(value) else None  # type: ignore[return-value]


def set_number_(model: nn.Module, module: nn.Module, path: str, number: int) -> None:
    """Change the number at `path`, which must exist, of `module` in `model`.

    A plain object that holds it, as the configuration that the user built the model from, is left as it is: the model
    gets a changed copy of it wherever one of its modules holds it.
    """
    first, *rest = _parsed(path)
    before = vars(module)[str(first)]
    after = _changed(before, rest, number)
    if not rest:
        setattr(module, str(first), after)
        return
    for owner in model.modules():
        for name in [name for name, one in vars(owner).items() if one is before]:
            setattr(owner, name, after)


def _changed(value: object, steps: list[int | str], number: int) -> object:
    if not steps:
        return number
    inner = _changed(dict(_steps_from(value))[steps[0]], steps[1:], number)
    if isinstance(value, tuple):
        return _like(value, [inner if place == steps[0] else one for place, one in enumerate(value)])
    # What is changed is a copy, so what a class does when one of its attributes or items is set (refuse it, because
    # it is frozen; compare it with the others, which change as well) does not matter, and is passed by.
    new: Any = _shallow(value)
    if isinstance(new, list):
        list.__setitem__(new, int(steps[0]), inner)
    elif isinstance(new, dict):
        before = new[steps[0]]
        dict.__setitem__(new, steps[0], inner)
        attributes = getattr(new, "__dict__", {})
        if attributes.get(steps[0]) is before:
            attributes[steps[0]] = inner  # a dict whose items are attributes as well
    elif steps[0] in getattr(new, "__dict__", ()):
        vars(new)[str(steps[0])] = inner
    else:
        object.__setattr__(new, str(steps[0]), inner)
    return new


def _shallow(value: object) -> object:
    """A copy of `value` that holds the same things."""
    try:
        return copy(value)
    except Exception:  # a class raises what it likes when its copy is filled item by item
        if not isinstance(value, (list, dict)):
            raise
    kind: Any = next(one for one in (OrderedDict, dict, list) if isinstance(value, one))
    new = kind.__new__(type(value))
    vars(new).update(vars(value))
    for key, item in value.items() if isinstance(value, dict) else ():
        kind.__setitem__(new, key, item)
    if isinstance(value, list):
        list.extend(new, value)
    return new


def _like(value: tuple[object, ...], row: list[object]) -> object:
    """A tuple of the class of `value`, such as a named tuple, with the items `row`."""
    kind: Any = type(value)
    try:
        new = tuple.__new__(kind, row)
    except TypeError:
        return kind(row)  # a class that is not written in Python, such as `torch.Size`
    if hasattr(value, "__dict__"):
        vars(new).update(vars(value))
    return new


def _parsed(path: str) -> list[int | str]:
    """The steps of a path, or none if it is not one."""
    steps: list[int | str] = []
    place = 0
    while place < len(path):
        found = _STEP.match(path, place)
        if found is None or len(steps) == _MOST_STEPS or (not steps and found.group(1) is None):
            return []
        steps.append(found.group(1) or found.group(2) or int(found.group(3)))
        place = found.end()
    return steps


__all__ = ["is_number", "number_at", "numbers_of", "set_number_"]
