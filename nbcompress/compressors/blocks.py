"""Remove whole blocks from a model: items of an `nn.ModuleList` or `nn.Sequential`, or single modules.

A model that lost items of a container must also know that it has fewer: it may count its layers (`num_layers`, or a
number in a configuration), each layer may know its own index (attention finds its cache by it), and a configuration may
list a kind for each layer. `remove_items_` changes all of these. It works from the model alone, so that a file only
needs to say which items stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from nbcompress.compressors.numbers import numbers_of, set_list_, set_number_
from nbcompress.errors import CompressionError

# Names of the number of layers, and of the index of a layer among them.
_COUNT = re.compile(r"^(n|num|number_of)_(\w+_)?(layers?|blocks?)$|^\w*layers$|^depth$")
_INDEX = re.compile(r"^(layer|block)_?(idx|id|index|number|num)$")
_SIDES = ("encoder", "decoder")


def packed_indices(indices: Sequence[int]) -> int | bytes:
    """Return ascending indices in few bytes: the first n as the number n, others as a bit for each up to the last."""
    if not indices or indices[-1] == len(indices) - 1:
        return len(indices)
    bits = np.zeros(indices[-1] + 1, dtype=np.uint8)
    bits[list(indices)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def unpacked_indices(packed: int | bytes) -> tuple[int, ...]:
    """Return the indices that `packed_indices` packed."""
    if isinstance(packed, int):
        return tuple(range(packed))
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little")
    return tuple(np.flatnonzero(bits).tolist())


def name_after_removal(name: str, container: str, positions: tuple[int, ...]) -> str | None:
    """Return the name that a module or tensor has after `container` lost all items except those at `positions`.

    Returns:
        None if the module was removed.
    """
    start = f"{container}." if container else ""
    if not name.startswith(start):
        return name
    item, dot, rest = name.removeprefix(start).partition(".")
    if not item.isdigit():
        return name
    if int(item) not in positions:
        return None
    return f"{start}{positions.index(int(item))}{dot}{rest}"


def name_before_removal(name: str, container: str, positions: tuple[int, ...]) -> str:
    """Return the name that a module had before the removal; see `name_after_removal`."""
    start = f"{container}." if container else ""
    item, dot, rest = name.removeprefix(start).partition(".")
    if not name.startswith(start) or not item.isdigit() or int(item) >= len(positions):
        return name
    return f"{start}{positions[int(item)]}{dot}{rest}"


def is_container(module: nn.Module) -> bool:
    """Whether `module` is a list of modules that can lose items: a `ModuleList` or `Sequential` with numbered items."""
    names = [name for name, item in module._modules.items() if item is not None]
    return isinstance(module, (nn.ModuleList, nn.Sequential)) and names == [str(index) for index in range(len(names))]


def remove_items_(model: nn.Module, path: str, positions: tuple[int, ...]) -> None:
    """Remove all items of a container except those at `positions`, in place, and change what counts them.

    Args:
        model: The model.
        path: Name of the container.
        positions: Ascending, and at least one.

    Raises:
        CompressionError: There is no such container, or it has no such items.
    """
    try:
        container = model.get_submodule(path)
    except AttributeError as err:
        raise CompressionError(
            f"the model has no module {path!r}: pass a fresh instance of the original class"
        ) from err
    items = [item for item in container._modules.values() if item is not None]
    if not is_container(container) or not positions or positions[-1] >= len(items):
        raise CompressionError(
            f"module {path!r} has no items {positions} that could be kept: pass a fresh instance of the original class"
        )
    for owner, name in list(_counts(model, path, len(items))):
        set_number_(model, owner, name, len(positions))
    for owner, attribute, field, values in list(_lists(model, path, len(items))):
        set_list_(model, owner, attribute, field, [values[position] for position in positions])
    container._modules.clear()
    for new, old in enumerate(positions):
        item = items[old]
        container._modules[str(new)] = item
        _renumber_(model, item, old, new)


def bypass_(model: nn.Module, path: str) -> None:
    """Replace the module `path` by `nn.Identity`, in place.

    Raises:
        CompressionError: There is no such module.
    """
    try:
        if not path:
            raise AttributeError
        model.get_submodule(path)
    except AttributeError as err:
        raise CompressionError(
            f"the model has no module {path!r}: pass a fresh instance of the original class"
        ) from err
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = nn.Identity()


def _around(model: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules around `path` with their names, innermost first."""
    while path:
        path = path.rpartition(".")[0]
        yield path, model.get_submodule(path)


def _counts(model: nn.Module, path: str, n_items: int) -> Iterator[tuple[nn.Module, str]]:
    """The numbers that count the items: the module that holds each, and its path there."""
    side = next((side for side in _SIDES if side in path), "")
    for where, module in _around(model, path):
        found = [
            name for name, value in numbers_of(module) if value == n_items and _COUNT.match(name.rpartition(".")[2])
        ]
        # A model with two stacks may count each, by a name of its own. A stack with its own configuration may count its
        # layers by either name.
        own = [name for name in found if side and side in name]
        neutral = [name for name in found if not any(other in name for other in _SIDES)]
        of_stack = [name for name in neutral if side and side in where and not _is_shared(model, module, name)]
        yield from ((module, name) for name in [*own, *of_stack] or neutral)


def _is_shared(model: nn.Module, module: nn.Module, name: str) -> bool:
    """Whether the model itself holds the object that has the number."""
    first, dot, _ = name.partition(".")
    return bool(dot) and any(value is vars(module).get(first) for value in vars(model).values())


def _lists(model: nn.Module, path: str, n_items: int) -> Iterator[tuple[nn.Module, str, str, list[object]]]:
    """Lists of a configuration with one item for each layer, such as its kind of attention."""
    for _, module in _around(model, path):
        for attribute, holder in vars(module).items():
            if attribute.startswith("_") or isinstance(holder, nn.Module) or not hasattr(holder, "__dict__"):
                continue
            for field, value in vars(holder).items():
                if isinstance(value, list) and len(value) == n_items and "layer" in field and not field.startswith("_"):
                    yield module, attribute, field, value


def _renumber_(model: nn.Module, item: nn.Module, old: int, new: int) -> None:
    """Change the index that the parts of a layer know, in place."""
    for module in item.modules():
        for name, value in list(numbers_of(module)):
            # Some count from 1.
            if _INDEX.match(name) and value - old in (0, 1):
                set_number_(model, module, name, value - old + new)


__all__ = [
    "bypass_",
    "is_container",
    "name_after_removal",
    "name_before_removal",
    "packed_indices",
    "remove_items_",
    "unpacked_indices",
]
