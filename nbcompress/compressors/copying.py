"""Deep copies of models, attribute by attribute, whatever their classes propose for copies.

`copy.deepcopy` follows `__reduce__` of a class. Keras proposes to save the model and to load it: the parameters of such
a copy have other names, and objects that were attached to the model are lost. So an empty instance of every such object
is made first and given to `deepcopy` as if it had been copied already; no class is changed.

The same is done for containers that count the items that are put into them, and for objects whose class looks up
missing attributes by itself. Python modules, which `deepcopy` refuses, are kept. A tensor that was computed, such as an
activation that the last call stored, is copied without its graph.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections import OrderedDict
from copy import deepcopy
from operator import is_
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from nbcompress.compressors.keras import repair_copy_
from nbcompress.errors import first_line

Value = TypeVar("Value")

# `deepcopy` returns these as they are, and does not look inside.
_ATOMS = (type, FunctionType, BuiltinFunctionType, ModuleType, str, bytes, bool, int, float, complex, type(None))
_CONTAINERS: tuple[type[Any], ...] = (OrderedDict, dict, list, set)


def deep_copy(value: Value, memo: dict[int, Any] | None = None) -> Value:
    """Return a deep copy of `value`, such as a model, with the modules in it copied attribute by attribute.

    Args:
        value: Anything that may hold modules.
        memo: As in `copy.deepcopy`: copies that were made before, by identity. New copies are added.

    Raises:
        Exception: Whatever `copy.deepcopy` raises.
    """
    memo = {} if memo is None else memo
    # Classes that propose their own way to be copied.
    owners: tuple[type, ...] = ()
    while True:
        reached = _reached(value, owners, memo)
        found = {_reduce_owner(type(item)) for item in reached if isinstance(item, nn.Module)} - {object}
        if found <= set(owners):
            break
        owners = (*owners, *found - set(owners))
    pairs: list[tuple[Any, Any]] = []
    for item in reached:
        if isinstance(item, ModuleType):
            memo[id(item)] = item
        elif isinstance(item, Tensor) and not item.is_leaf:
            memo[id(item)] = item.detach().clone()
        elif _uses_reduce_of(item, owners) or _is_custom_container(item) or _looks_up_attributes(item):
            memo[id(item)] = _empty(item)
            pairs.append((memo[id(item)], item))
    for new_item, item in pairs:
        _fill_(new_item, item, memo)
    new = deepcopy(value, memo)
    for item in reached:
        if isinstance(item, nn.Module) and id(item) in memo:
            _restore_hooks_(memo[id(item)], item, memo)
    if isinstance(new, nn.Module):
        repair_copy_(new)
    return new


def _restore_hooks_(new: nn.Module, old: nn.Module, memo: dict[int, Any]) -> None:
    """Give a copied module the hooks and the notes of ours that the state of its class leaves out.

    Some classes build a copy anew from their options, as the layers of einops do. Sizes that follow a cut are hooks.
    A class with `__deepcopy__` copies all it has, and may forbid to ask for its state, as parametrized modules do.
    """
    if new is old or hasattr(old, "__deepcopy__") or type(old).__setstate__ is nn.Module.__setstate__:
        return
    state = _state(old)
    left_out = set(vars(old)).difference(state if isinstance(state, dict) else ())
    for name in left_out:
        if "_hooks" in name or name.startswith("_nbcompress"):
            vars(new)[name] = deepcopy(vars(old)[name], memo)


# The collector looks at every object of the process: .1 s with torch loaded, .5 s with many libraries.
_SMALL_BYTES = 4 * 2**20


def release_memory(model: nn.Module, *, collect: bool) -> None:
    """Give the memory of freed copies back to the system. The allocator of glibc would keep what lies between others.

    Copies of a small model are left to Python, because to free them at once takes longer than all other steps of a cut.

    Args:
        model: What was copied.
        collect: Run the collector before, which frees what is held in cycles of references, as a trace holds its model.
    """
    tensors = (*model.parameters(), *model.buffers())
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) < _SMALL_BYTES:
        return
    if collect:
        gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def without_shape(model: nn.Module) -> str:
    """Return a sentence about a parameter or buffer without a shape, as in a lazy layer; empty if there is none."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = (name for name, tensor in tensors if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)))
    name = next(lazy, None)
    return "" if name is None else f"{name!r} has no shape yet: run the model once on an example"


def why_uncopied(model: nn.Module, err: BaseException) -> str:
    """Return a text about `err`, which copying `model` raised: the attribute that it comes from, and what to do."""
    text = first_line(err)
    for path, module in model.named_modules():
        attributes = {**vars(module), **module._parameters, **module._buffers}
        for name in [name for name in attributes if name not in ("_modules", "_parameters", "_buffers")]:
            try:
                deep_copy(attributes[name])
            except Exception:  # noqa: BLE001 - a class may raise anything
                where = f"{path}.{name}" if path else name
                return f"its attribute {where!r} raises {text} (set it to None before, or give its class __deepcopy__)"
    return f"copying it raised {text}"


def _reached(value: object, owners: tuple[type, ...], memo: dict[int, Any]) -> list[Any]:
    """Every object that `deepcopy` would reach from `value`, without the insides of objects that copy themselves.

    Instances of `owners` are searched attribute by attribute.
    """
    found: dict[int, Any] = {}
    waiting = [value, *(value.modules() if isinstance(value, nn.Module) else ())]
    while waiting:
        item = waiting.pop()
        if id(item) not in found and id(item) not in memo:
            found[id(item)] = item
            waiting.extend(_inside(item, owners))
    return list(found.values())


def _inside(item: Any, owners: tuple[type, ...]) -> list[Any]:
    """The objects that `deepcopy` copies when it copies `item`."""
    if isinstance(item, _ATOMS) or (hasattr(item, "__deepcopy__") and not isinstance(item, nn.Module)):
        return []
    if isinstance(item, MethodType):
        return [item.__self__]
    inside: list[Any] = list(vars(item).values()) if hasattr(item, "__dict__") else []
    if isinstance(item, dict):
        return [*inside, *item.keys(), *item.values()]
    if isinstance(item, (list, tuple, set, frozenset)):
        return [*inside, *item]
    if isinstance(item, (nn.Module, *owners)):
        return inside
    try:
        proposed = item.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - a class may raise anything; `deepcopy` raises it again if it gets here
        return inside
    # Either a name, or a tuple: a function, its arguments, the attributes, the items of a list, those of a dict.
    return [] if isinstance(proposed, str) else [*proposed[1:3], *(list(part) for part in proposed[3:5] if part)]


def _uses_reduce_of(item: object, owners: tuple[type, ...]) -> bool:
    """Whether Python would copy `item` as one of `owners` proposes."""
    return isinstance(item, owners) and not hasattr(item, "__deepcopy__")


def _reduce_owner(kind: type) -> type:
    """The class of the MRO of `kind` that defines how instances are copied."""
    return next(base for base in kind.__mro__ if "__reduce__" in vars(base) or "__reduce_ex__" in vars(base))


def _is_custom_container(item: object) -> bool:
    """Whether `item` is a container with attributes, of a class that Python would fill item by item."""
    if not isinstance(item, _CONTAINERS) or not getattr(item, "__dict__", None) or hasattr(item, "__deepcopy__"):
        return False
    return _reduce_owner(type(item)) in (object, OrderedDict) and not hasattr(item, "__setstate__")


def _looks_up_attributes(item: object) -> bool:
    """Whether the class of `item` looks up missing attributes, but does not define how it is copied.

    `deepcopy` asks an instance without attributes for a method. Code that finds attributes through other attributes, as
    the preprocessing layers of Keras find their backend by its name, then recurses without end.
    """
    kind = type(item)
    hooks = ("__setstate__", "__deepcopy__", "__getnewargs__", "__getnewargs_ex__")
    if not hasattr(kind, "__getattr__") or any(hasattr(kind, name) for name in hooks) or not hasattr(item, "__dict__"):
        return False
    return (
        _reduce_owner(kind) is object
        and not isinstance(item, (*_ATOMS, *_CONTAINERS))
        and isinstance(_state(item), dict)
    )


def _state(item: object) -> object:
    """The attributes of `item` for a copy; with slots they are a pair, which is left to `deepcopy`."""
    return item.__getstate__()


def _empty(item: object) -> Any:
    kind: Any = type(item)
    return kind.__new__(kind)


def _fill_(new: Any, old: Any, memo: dict[int, Any]) -> None:
    # `__getstate__` of a module leaves out what it creates again, such as the compiled function of a compiled module.
    state: Any = _state(old) if isinstance(old, nn.Module) or _looks_up_attributes(old) else vars(old)
    attributes = {
        name: _rebound(value, memo) if isinstance(value, FunctionType) else value for name, value in state.items()
    }
    attributes = deepcopy(attributes, memo)
    if isinstance(new, nn.Module):
        new.__setstate__(attributes)  # type: ignore[no-untyped-call]
    else:
        vars(new).update(attributes)
    if not isinstance(new, _CONTAINERS):
        return
    kind = next(container for container in _CONTAINERS if isinstance(new, container))
    if issubclass(kind, dict):
        items = deepcopy([*cast("dict[Any, Any]", old).items()], memo)
        for key, value in items:
            kind.__setitem__(new, key, value)
    else:
        add = kind.extend if kind is list else kind.update
        add(new, deepcopy([*old], memo))


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """The function with a closure over copies, if its closure holds objects that are copied.

    Keras stores such functions: after `fit`, the one that makes a training step.
    """

    def inner(value: Any) -> Any:
        if isinstance(value, FunctionType):
            return _rebound(value, memo)
        return deepcopy(value, memo) if isinstance(value, MethodType) else memo.get(id(value), value)

    before = [cell.cell_contents for cell in function.__closure__ or ()]
    after = [inner(value) for value in before]
    if all(map(is_, before, after)):
        return function
    cells = tuple(map(CellType, after))
    new = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    new.__kwdefaults__ = function.__kwdefaults__
    vars(new).update({name: inner(value) for name, value in vars(function).items()})
    return new


__all__ = ["deep_copy", "release_memory", "why_uncopied", "without_shape"]
