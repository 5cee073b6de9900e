"""Structural changes: made once on a copy, recorded, and replayed on a fresh instance when a file is loaded.

Whole numbers that a module holds, itself or in plain objects such as a configuration, by path.

A path is `n_heads`, `config.n_heads`, `shape[0]` or `options[n_heads]`: names of attributes, and keys in brackets.
Paths come from files too, so they reach nothing but numbers: no module, no tensor, nothing private, no class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.compressors.attention import free_
from nbcompress.compressors.factorize import low_rank_like
from nbcompress.compressors.keras import settle_
from nbcompress.compressors.record import Surgery
from nbcompress.errors import CompressionError

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
        yield from ((name, var) for name, var in vars(value).items() if not name.startswith("_"))


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
        for name in [name for name, var in vars(owner).items() if var is before]:
            setattr(owner, name, after)


def _changed(value: object, steps: list[int | str], number: int) -> object:
    if not steps:
        return number
    inner = _changed(dict(_steps_from(value))[steps[0]], steps[1:], number)
    if isinstance(value, tuple):
        row = [inner if place == steps[0] else item for place, item in enumerate(value)]
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


def replay_surgery_(model: nn.Module, surgery: Surgery) -> None:
    """Make the change that `surgery` describes on `model`, in place.

    Weights become zeros of the new shapes, on the same device and in the same dtype: values are filled in later.
    Everything is checked before anything is changed, since a description may come from a file. A parameter that
    several modules share is cut in all of them.

    Raises:
        CompressionError: The model has no such module, parameter or attribute: it is not a fresh instance of the
            class that was changed, or the description was tampered with.
    """
    if surgery.kind == "factorize":
        _factorize_(model, surgery)
    elif surgery.kind == "cut":
        _cut_(model, surgery)
    else:
        raise CompressionError(f"a surgery is cut or factorize, got {surgery.kind!r}")


def _module(model: nn.Module, surgery: Surgery) -> nn.Module:
    try:
        return model.get_submodule(surgery.module)
    except AttributeError as err:
        raise CompressionError(
            f"the model has no module {surgery.module!r} to {surgery.kind}: pass a fresh instance of the original class"
        ) from err


def _factorize_(model: nn.Module, surgery: Surgery) -> None:
    module = _module(model, surgery)
    rank = surgery.attributes.get("rank")
    if not isinstance(rank, int) or not surgery.module:
        raise CompressionError(f"factorizing {surgery.module!r} needs its rank, got {rank!r}")
    parent, _, name = surgery.module.rpartition(".")
    setattr(model.get_submodule(parent), name, low_rank_like(module, rank))


def _cut_(model: nn.Module, surgery: Surgery) -> None:
    module = _module(model, surgery)
    for name, value in surgery.attributes.items():
        _check_attribute(module, surgery.module, name, value)
    if surgery.shapes:
        free_(module)
    found = {name: _tensor(module, surgery.module, name, shape) for name, shape in surgery.shapes.items()}
    for name, shape in surgery.shapes.items():
        old = found[name]
        # The object stays, so that everything that holds it does: other modules, and layers that are no modules.
        old.data = torch.zeros(shape, dtype=old.dtype, device=old.device)
        old.grad = None
    for path, value in surgery.attributes.items():
        if isinstance(value, int):
            set_number_(model, module, path, value)
        else:
            setattr(module, path, tuple(value))
    settle_(model)


def _tensor(module: nn.Module, where: str, name: str, shape: tuple[int, ...]) -> Tensor:
    path, _, last = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:
        owner = nn.Module()
    found = owner._parameters.get(last)
    tensor = found if found is not None else owner._buffers.get(last)
    if tensor is None:
        raise CompressionError(f"module {where!r} has no parameter or buffer {name!r}: pass a fresh instance")
    is_smaller = len(shape) == tensor.ndim and all(
        isinstance(size, int) and not isinstance(size, bool) and 0 < size <= before
        for size, before in zip(shape, tensor.shape, strict=True)
    )
    if not is_smaller:
        raise CompressionError(
            f"{name!r} of module {where!r} can only be cut, from {tuple(tensor.shape)}, but the record says {shape}"
        )
    return tensor


def _check_attribute(module: nn.Module, where: str, path: str, value: object) -> None:
    """Only numbers that the instance has already, and rows of them: nothing else can be set from a file."""
    is_same_kind = number_at(module, path) is not None and is_number(value)
    before = module.__dict__.get(path)
    if isinstance(before, (tuple, list)) and isinstance(value, (tuple, list)):
        is_same_kind = len(before) == len(value) and all(map(is_number, (*before, *value)))
    if not is_same_kind:
        raise CompressionError(f"module {where!r} has no number {path!r} that could become {value!r}")
