"""What a search reads beside data, in a few digits: functions, models and numbers of the notebook.

Who trains the model again, or mends a function, and then runs a search's cell again continues the study of the old
one. With these digits the study can say so. Data has digits of its own, which also stand in the record; see
`data_record.py`.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from nbcompress.run.data_record import data_parts, digest_of
from nbcompress.run.looking import is_a, unwrapped

_SCALARS = (bool, int, float, complex, str, bytes, type(None))


def fingerprints(values: Mapping[str, Any]) -> dict[str, str]:
    """Return digits for what is the notebook's own among `values`, under names that a sentence can hold.

    Numbers, texts and tuples of them; functions written in the notebook or script itself; models, by their parameters
    and buffers. Lists and dicts are left out: what is read there may be a log that grows.
    """
    found: dict[str, str] = {}
    for name, value in values.items():
        if _is_plain(value):
            found[f"value of {name}"] = _digits(repr(value))
        elif type(value) is FunctionType and value.__module__ == "__main__":
            found[f"version of {name}"] = code_digits(value)
        elif _is_module(value) and (digits := _module_digits(value)):
            found[f"content of {name}"] = digits
    return found


def code_digits(function: Callable[..., Any]) -> str:
    """Return digits of a function's text."""
    inner = unwrapped(function)
    is_written = type(inner) in (FunctionType, MethodType) or is_a(inner, type)
    try:
        text = inspect.getsource(inner) if is_written else ""
    except (OSError, TypeError):  # typed at a prompt
        text = ""
    if not text:  # that, or built in, or an object with `__call__`
        text = inner.__qualname__ if is_written or is_a(inner, BuiltinFunctionType) else type(inner).__qualname__
    return _digits(text)


def content_digits(value: Any) -> str:
    """Return digits of an array, a frame, a loader, a data set or a model; an empty text for anything else."""
    return _module_digits(value) if _is_module(value) else digest_of(data_parts(value))


def _module_digits(module: Any) -> str:
    try:
        return digest_of([one for one in module.state_dict().values() if hasattr(one, "shape")])
    except Exception:  # noqa: BLE001 - a state of its own, or weights that are not made yet; no reason to stop a search
        return ""


def _digits(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(_is_plain(one) for one in value)
    return type(value) in _SCALARS


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and is_a(value, torch.nn.Module)
