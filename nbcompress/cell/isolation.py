"""The globals of one trial: a copy of the notebook's namespace, with copies of models, optimizers and schedulers."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from types import CellType, FunctionType
from typing import Any

from nbcompress.errors import SearchError
from nbcompress.run.reads import is_a, is_plain_function, items_of, own_attributes, wrapped_in

_CONTAINERS = (dict, list, tuple, set, frozenset)


def _stateful_types() -> tuple[type, ...]:
    """Return the types that training changes in place: modules, optimizers, schedulers. Empty without torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return ()
    return (torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)


def stateful_in(value: Any, kinds: tuple[type, ...] | None = None) -> Iterator[Any]:
    """Yield the modules, optimizers and schedulers that `value` is or holds in lists, tuples, sets and dicts."""
    wanted = _stateful_types() if kinds is None else kinds
    seen: set[int] = set()
    waiting = [value]
    while wanted and waiting:
        candidate = waiting.pop()
        if id(candidate) in seen:
            continue
        seen.add(id(candidate))
        if is_a(candidate, *wanted):
            yield candidate
        elif is_a(candidate, *_CONTAINERS):
            waiting.extend(items_of(candidate))


def trial_globals(namespace: dict[str, Any], names: Iterable[str], functions: frozenset[str]) -> dict[str, Any]:
    """Return the dict of globals that one trial runs in.

    Args:
        namespace: The notebook's namespace, or the part of it that was sent to this process.
        names: The names that the body reaches. The stateful objects under them are copied together, so that the copy
            of an optimizer refers to the copy of its module.
        functions: The names of plain functions of the notebook; their copies read the trial's globals.

    Raises:
        SearchError: A stateful object cannot be copied; the message names it.
    """
    trial = dict(namespace)
    copies = _copies_of({name: namespace[name] for name in names if name in namespace})
    rebuilt: dict[int, Any] = {}
    for name in names:
        if name in namespace and copies:
            trial[name] = _with_copies(namespace[name], copies, rebuilt)
    bound: dict[int, Any] = {}
    for name in functions:
        trial[name] = _bound_to(namespace[name], trial, bound)
    return trial


def plain_functions(namespace: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the plain functions that were defined in `namespace` itself."""
    return frozenset(name for name, value in namespace.items() if is_plain_function(value, namespace))


def _copies_of(values: Mapping[str, Any]) -> dict[int, Any]:
    """Copy the stateful objects in `values` with one memo; return the copies by the `id` of their originals."""
    memo: dict[int, Any] = {}
    copies: dict[int, Any] = {}
    for name, value in values.items():
        for item in stateful_in(value):
            # Where something is stateful, torch is there.
            from torch import nn

            from nbcompress.compressors.copying import deep_copy, why_uncopied

            try:
                copies[id(item)] = deep_copy(item, memo)
            except Exception as err:  # a user's class may refuse in any way
                is_module = isinstance(item, nn.Module)
                why = why_uncopied(item, err) if is_module else f"copying it raised {type(err).__name__}: {err}"
                raise SearchError(
                    f"A trial works on a copy of {name!r}, but {why}. Build it inside the cell instead."
                ) from err
            _track_steps_(item, copies[id(item)])
    return copies


def _track_steps_(original: Any, copied: Any) -> None:
    """Patch `step` of a copied optimizer, as a scheduler patched the original.

    A scheduler patches `optimizer.step` to notice calls. The patch is lost in a copy, and the scheduler would warn
    that `step` was overridden.
    """
    if not hasattr(getattr(original, "step", None), "_wrapped_by_lr_sched"):
        return
    owner, step = weakref.ref(copied), type(copied).step

    @functools.wraps(step)
    def tracked(*args: Any, **kwargs: Any) -> Any:
        optimizer = owner()
        optimizer._opt_called = True  # type: ignore[union-attr]
        return step(optimizer, *args, **kwargs)

    tracked._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    copied.step = tracked


def _with_copies(value: Any, copies: Mapping[int, Any], rebuilt: dict[int, Any]) -> Any:
    """Return `value` with the stateful objects in it replaced by copies; a container without any is not copied."""
    if id(value) in copies:
        return copies[id(value)]
    if type(value) not in _CONTAINERS or not any(id(item) in copies for item in stateful_in(value)):
        return value
    if id(value) in rebuilt:
        return rebuilt[id(value)]
    if isinstance(value, dict):
        fresh: Any = rebuilt.setdefault(id(value), {})
        fresh.update({key: _with_copies(item, copies, rebuilt) for key, item in value.items()})
    elif isinstance(value, list):
        fresh = rebuilt.setdefault(id(value), [])
        fresh.extend(_with_copies(item, copies, rebuilt) for item in value)
    else:
        fresh = type(value)(_with_copies(item, copies, rebuilt) for item in value)
        rebuilt[id(value)] = fresh
    return fresh


def _bound_to(function: Any, trial: dict[str, Any], done: dict[int, Any]) -> Any:
    """Return a copy of `function` that reads the trial's globals; a decorator is applied to the copy again."""
    if id(function) in done:
        return done[id(function)]
    inner = wrapped_in(function)
    if inner is None:
        fresh = _copy_of_function(function, globals_=trial, closure=function.__closure__)
    else:
        bound = _bound_to(inner, trial, done)
        if type(function) is FunctionType:
            cells = tuple(_cell_with(cell, inner, bound) for cell in function.__closure__ or ())
            fresh = _copy_of_function(function, globals_=function.__globals__, closure=cells or None)
        elif "cache_parameters" in own_attributes(function):
            # With a shared cache, a trial would get results of an earlier trial.
            fresh = functools.lru_cache(**function.cache_parameters())(bound)
        else:
            return function
        fresh.__dict__["__wrapped__"] = bound
    done[id(function)] = fresh
    return fresh


def _cell_with(cell: CellType, old: Any, new: Any) -> CellType:
    try:
        return CellType(new) if cell.cell_contents is old else cell
    except ValueError:  # an empty cell
        return cell


def _copy_of_function(
    function: FunctionType, globals_: dict[str, Any], closure: tuple[CellType, ...] | None
) -> FunctionType:
    fresh = FunctionType(function.__code__, globals_, function.__name__, function.__defaults__, closure)
    fresh.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(fresh, function, updated=("__dict__",))
    if "__wrapped__" not in function.__dict__:
        del fresh.__dict__["__wrapped__"]
    return fresh
