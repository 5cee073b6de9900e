"""Whole numbers that a module holds, itself or in plain objects such as a configuration, by path.

A path is `n_heads`, `config.n_heads`, `shape[0]` or `options[n_heads]`: names of attributes, and keys in brackets.
Paths come from files too, so they reach nothing but numbers: no module, no tensor, nothing private, no class.
"""

from __future__ import annotations

import re
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
        yield from ((name, one) for name, one in vars(value).items() if not name.startswith("_"))


def _is_plain(value: object) -> bool:
    kinds = (nn.Module, Tensor, type, list, tuple, dict)
    return hasattr(value, "__dict__") and not isinstance(value, kinds) and not callable(value)


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
        row = [inner if place == steps[0] else one for place, one in enumerate(value)]
        kind: Any = type(value)
        return tuple(row) if kind is tuple else kind(*row)  # the second for named tuples
    new = copy(value)
    if isinstance(new, (list, dict)):
        new[steps[0]] = inner  # type: ignore[index]
    else:
        setattr(new, str(steps[0]), inner)
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
