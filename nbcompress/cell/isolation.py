"""The globals of one trial: what it reads comes from the notebook, what it writes stays its own."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from types import CellType, FunctionType
from typing import Any

from nbcompress.errors import SearchError
from nbcompress.run.looking import is_a, items_of, own_attributes, wrapped_in
from nbcompress.run.reads import is_plain_function

_CONTAINERS = (dict, list, tuple, set, frozenset)


def _stateful_types() -> tuple[type, ...]:
    """Modules, optimizers and schedulers: what training changes in place. None exist while torch is not loaded."""
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
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if is_a(one, *wanted):
            yield one
        elif is_a(one, *_CONTAINERS):
            waiting.extend(items_of(one))


def trial_globals(namespace: dict[str, Any], names: Iterable[str], functions: frozenset[str]) -> dict[str, Any]:
    """Return the dict of globals that one trial runs in.

    Args:
        namespace: The notebook's namespace, or the part of it that was sent to this process.
        names: The names that the body reaches; what is stateful under them arrives as copies, made together, so
            that an optimizer still belongs to its module.
        functions: Names of plain functions of the notebook: they see the trial's globals.

    Raises:
        SearchError: Something stateful cannot be copied; the text names it.
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
    """Copy everything stateful in `values` with one memo; return the copies by the identity of their originals."""
    memo: dict[int, Any] = {}
    copies: dict[int, Any] = {}
    for name, value in values.items():
        for one in stateful_in(value):
            # Where something is stateful, torch is there.
            from torch import nn

            from nbcompress.compress.copying import deep_copy, why_uncopied

            try:
                copies[id(one)] = deep_copy(one, memo)
            except Exception as err:  # a user's class may refuse in any way
                is_module = isinstance(one, nn.Module)
                why = why_uncopied(one, err) if is_module else f"copying it raised {type(err).__name__}: {err}"
                raise SearchError(
                    f"A trial works on a copy of {name!r}, but {why}. Build it inside the cell instead."
                ) from err
            _track_steps_(one, copies[id(one)])
    return copies


def _track_steps_(original: Any, copied: Any) -> None:
    """Let a copied optimizer be tracked by its copied scheduler, in place, as the original was.

    A scheduler patches `optimizer.step` to notice calls; copying an optimizer loses the patch, and the scheduler
    would warn that `step` was overridden.
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
    """Return `value` with everything stateful in it replaced; containers without any arrive as they are."""
    if id(value) in copies:
        return copies[id(value)]
    if type(value) not in _CONTAINERS or not any(id(one) in copies for one in stateful_in(value)):
        return value
    if id(value) in rebuilt:
        return rebuilt[id(value)]
    if isinstance(value, dict):
        fresh: Any = rebuilt.setdefault(id(value), {})
        fresh.update({key: _with_copies(one, copies, rebuilt) for key, one in value.items()})
    elif isinstance(value, list):
        fresh = rebuilt.setdefault(id(value), [])
        fresh.extend(_with_copies(one, copies, rebuilt) for one in value)
    else:
        fresh = type(value)(_with_copies(one, copies, rebuilt) for one in value)
        rebuilt[id(value)] = fresh
    return fresh


def _bound_to(function: Any, trial: dict[str, Any], done: dict[int, Any]) -> Any:
    """Return `function` reading the trial's globals; a decorated one is wrapped anew around the bound function."""
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
            # A cache shared between trials would hand one trial's results to the next.
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
