"""Deep copies of models, attribute by attribute, whatever their classes propose.

`copy.deepcopy` makes what a class proposes in `__reduce__`. Keras proposes to save the model and to load it: then the
parameters have other names, and what was attached to the model is gone. So an empty instance of every such object is
made first, and given to `deepcopy` as if it had been copied already; nothing about any class is changed. The same
way, containers that count what is put into them are filled without being told, objects whose class looks up missing
attributes by itself are filled without being asked for any, and Python modules, which `deepcopy` refuses, stay what
they are. A tensor that was computed, such as an activation that the last call left behind, is copied without the graph
that led to it.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from operator import is_
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from nbcompress.compress.keras_layers import mend_copy_

Value = TypeVar("Value")

# What `deepcopy` does not copy, and nothing lies behind.
_ATOMS = (type, FunctionType, BuiltinFunctionType, ModuleType, str, bytes, bool, int, float, complex, type(None))
_CONTAINERS: tuple[type[Any], ...] = (OrderedDict, dict, list, set)


def deep_copy(value: Value, memo: dict[int, Any] | None = None) -> Value:
    """A deep copy of `value`, such as a model, with the modules in it copied attribute by attribute.

    Args:
        value: Anything that may hold modules.
        memo: As for `copy.deepcopy`: what was copied before, by identity. More is added.

    Raises:
        Exception: Whatever `copy.deepcopy` raises.
    """
    memo = {} if memo is None else memo
    owners: tuple[type, ...] = ()
    while True:
        reached = _reached(value, owners, memo)
        found = {_proposer(type(one)) for one in reached if isinstance(one, nn.Module)} - {object}
        if found <= set(owners):
            break
        owners = (*owners, *found - set(owners))
    empty: list[Any] = []
    for one in reached:
        if isinstance(one, ModuleType):
            memo[id(one)] = one
        elif isinstance(one, Tensor) and not one.is_leaf:
            memo[id(one)] = one.detach().clone()
        elif _is_made_anew(one, owners) or _is_own_container(one) or _looks_up_attributes(one):
            memo[id(one)] = _empty(one)
            empty.append(one)
    for one in empty:
        _fill_(memo[id(one)], one, memo)
    new = deepcopy(value, memo)
    if isinstance(new, nn.Module):
        mend_copy_(new)
    return new


def without_shape(model: nn.Module) -> str:
    """Which parameter or buffer of `model` has no shape yet, as in a lazy layer, in a sentence; empty if all have."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = (name for name, one in tensors if isinstance(one, (UninitializedParameter, UninitializedBuffer)))
    name = next(lazy, None)
    return "" if name is None else f"{name!r} has no shape yet: run the model once on an example"


def why_uncopied(model: nn.Module, err: BaseException) -> str:
    """What to say of `err`, which copying `model` raised: the attribute that it comes from, and what to do."""
    text = f"{type(err).__name__}: {next(iter(str(err).splitlines()), '')}"
    for path, module in model.named_modules():
        held = {**vars(module), **module._parameters, **module._buffers}
        for name in [name for name in held if name not in ("_modules", "_parameters", "_buffers")]:
            try:
                deep_copy(held[name])
            except Exception:  # noqa: BLE001 - a class refuses in any way
                where = f"{path}.{name}" if path else name
                return f"its attribute {where!r} raises {text} (set it to None before, or give its class __deepcopy__)"
    return f"copying it raised {text}"


def _reached(value: object, owners: tuple[type, ...], memo: dict[int, Any]) -> list[Any]:
    """Everything that `deepcopy` comes to from `value`, except behind what copies itself.

    Instances of `owners` are looked at attribute by attribute.
    """
    found: dict[int, Any] = {}
    waiting = [value, *(value.modules() if isinstance(value, nn.Module) else ())]
    while waiting:
        one = waiting.pop()
        if id(one) not in found and id(one) not in memo:
            found[id(one)] = one
            waiting.extend(_inside(one, owners))
    return list(found.values())


def _inside(one: Any, owners: tuple[type, ...]) -> list[Any]:
    """What `deepcopy` copies in turn when it copies `one`."""
    if isinstance(one, _ATOMS) or (hasattr(one, "__deepcopy__") and not isinstance(one, nn.Module)):
        return []
    if isinstance(one, MethodType):
        return [one.__self__]
    inside: list[Any] = list(vars(one).values()) if hasattr(one, "__dict__") else []
    if isinstance(one, dict):
        return [*inside, *one.keys(), *one.values()]
    if isinstance(one, (list, tuple, set, frozenset)):
        return [*inside, *one]
    if isinstance(one, (nn.Module, *owners)):
        return inside
    try:
        proposed = one.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - a class refuses in any way; `deepcopy` will say so, if it comes here at all
        return inside
    # A name; or a function, its arguments, the attributes, and what a container holds.
    return [] if isinstance(proposed, str) else [*proposed[1:3], *(list(one) for one in proposed[3:5] if one)]


def _is_made_anew(one: object, owners: tuple[type, ...]) -> bool:
    """Whether Python would copy `one` by what one of `owners` proposes."""
    return isinstance(one, owners) and not hasattr(one, "__deepcopy__")


def _proposer(kind: type) -> type:
    """The class that says how instances of `kind` are made again."""
    return next(one for one in kind.__mro__ if "__reduce__" in vars(one) or "__reduce_ex__" in vars(one))


def _is_own_container(one: object) -> bool:
    """Whether `one` is a container of a class of its own, with attributes, which Python would fill item by item."""
    if not isinstance(one, _CONTAINERS) or not getattr(one, "__dict__", None) or hasattr(one, "__deepcopy__"):
        return False
    return _proposer(type(one)) in (object, OrderedDict) and not hasattr(one, "__setstate__")


def _looks_up_attributes(one: object) -> bool:
    """Whether the class of `one` looks up attributes that are missing, but says nothing about copies.

    `deepcopy` asks an instance that has no attributes yet for a method. Code that finds attributes through others, as
    the layers of Keras for preprocessing find their backend by its name, then looks for these without end.
    """
    kind = type(one)
    said = ("__setstate__", "__deepcopy__", "__getnewargs__", "__getnewargs_ex__")
    if not hasattr(kind, "__getattr__") or any(hasattr(kind, name) for name in said) or not hasattr(one, "__dict__"):
        return False
    return _proposer(kind) is object and not isinstance(one, (*_ATOMS, *_CONTAINERS)) and isinstance(_state(one), dict)


def _state(one: object) -> object:
    """The attributes of `one` as a copy takes them; with those in slots a pair, which is left to `deepcopy`."""
    return one.__getstate__()


def _empty(one: object) -> Any:
    kind: Any = type(one)
    return kind.__new__(kind)


def _fill_(new: Any, old: Any, memo: dict[int, Any]) -> None:
    # A module leaves out what it makes anew, as a compiled one does with the function that runs what it wraps.
    state: Any = _state(old) if isinstance(old, nn.Module) or _looks_up_attributes(old) else vars(old)
    attributes = {name: _rebound(one, memo) if isinstance(one, FunctionType) else one for name, one in state.items()}
    attributes = deepcopy(attributes, memo)
    if isinstance(new, nn.Module):
        new.__setstate__(attributes)  # type: ignore[no-untyped-call]
    else:
        vars(new).update(attributes)
    if not isinstance(new, _CONTAINERS):
        return
    kind = next(one for one in _CONTAINERS if isinstance(new, one))
    if issubclass(kind, dict):
        items = deepcopy([*cast("dict[Any, Any]", old).items()], memo)
        for key, value in items:
            kind.__setitem__(new, key, value)
    else:
        add = kind.extend if kind is list else kind.update
        add(new, deepcopy([*old], memo))


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """The function as the copy needs it, if it works on something that is copied, such as the object that holds it.

    Keras keeps such functions: after `fit`, one that makes a step of training.
    """

    def inner(one: Any) -> Any:
        if isinstance(one, FunctionType):
            return _rebound(one, memo)
        return deepcopy(one, memo) if isinstance(one, MethodType) else memo.get(id(one), one)

    before = [cell.cell_contents for cell in function.__closure__ or ()]
    after = [inner(one) for one in before]
    if all(map(is_, before, after)):
        return function
    cells = tuple(map(CellType, after))
    new = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    new.__kwdefaults__ = function.__kwdefaults__
    vars(new).update({name: inner(one) for name, one in vars(function).items()})
    return new


__all__ = ["deep_copy", "why_uncopied", "without_shape"]
