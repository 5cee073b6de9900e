"""How a search was run: what its study's record holds beside the trials.

What a search reads beside data, in a few digits: functions, models and numbers of the notebook.

Who trains the model again, or mends a function, and then runs a search's cell again continues the study of the old
one. With these digits the study can say so. Data has digits of its own, which also stand in the record; see
`data_record.py`.

What of a notebook or a module a body or a function reads, directly or through the functions it reaches.

Which data a search read: shape, type and a hash of the content, so that readers can tell whether theirs is the same.

The cost is bounded: of an object with more than `HASHED_BYTES` only rows at equal distances are hashed, and the
record says so. What may be data and cannot be read here is named as a gap.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbcompress.study import Study


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
        elif isinstance(value, FunctionType) and value.__module__ == "__main__":
            found[f"version of {name}"] = code_digits(value)
        elif _is_module(value) and (digits := _module_digits(value)):
            found[f"content of {name}"] = digits
    return found


def code_digits(function: Callable[..., Any]) -> str:
    """Return digits of a function's text."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt, built in, or an object with `__call__`
        text = getattr(function, "__qualname__", type(function).__qualname__)
    return _digits(text)


def _module_digits(module: Any) -> str:
    try:
        return digest_of([tensor for tensor in module.state_dict().values() if hasattr(tensor, "shape")])
    except Exception:  # noqa: BLE001 - a state of its own, or weights that are not made yet; no reason to stop a search
        return ""


def _digits(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return type(value) in _SCALARS


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


_LOADS = frozenset({"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_NAME", "DELETE_GLOBAL"})
_MAGIC_CALLS = frozenset({"run_line_magic", "run_cell_magic"})
_IDENTIFIER = re.compile(r"[^\W\d]\w*")


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def global_names(code: CodeType) -> frozenset[str]:
    """Return every name that `code`, or code nested in it, looks up globally.

    A magic inside the body holds its Python expressions as text, so every identifier of that text counts too.
    """
    found: set[str] = set()
    for one in _codes(code):
        found.update(step.argval for step in dis.get_instructions(one) if step.opname in _LOADS)
        if _MAGIC_CALLS & set(one.co_names):
            texts = [text for text in one.co_consts if isinstance(text, str)]
            found.update(name for text in texts for name in _IDENTIFIER.findall(text))
    return frozenset(found)


def unwrapped(function: Any) -> Any:
    """Follow `__wrapped__` to the innermost callable."""
    seen: set[int] = set()
    while hasattr(function, "__wrapped__") and id(function) not in seen:
        seen.add(id(function))
        function = function.__wrapped__
    return function


def is_plain_function(value: Any, namespace: Mapping[str, Any]) -> bool:
    """Say whether `value` is a function without closure that was defined in `namespace`, also behind `__wrapped__`."""
    inner = unwrapped(value)
    return isinstance(inner, FunctionType) and inner.__globals__ is namespace and inner.__closure__ is None


def reached_names(code: CodeType, namespace: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of `namespace` that `code` reads, directly or through the plain functions it reaches."""
    reached: set[str] = set()
    waiting = set(global_names(code))
    while waiting:
        name = waiting.pop()
        if name in reached or name not in namespace:
            continue
        reached.add(name)
        value = namespace[name]
        if is_plain_function(value, namespace):
            inner = unwrapped(value)
            waiting |= global_names(inner.__code__) - reached
    return frozenset(reached)


def missing_names(code: CodeType, namespace: Mapping[str, Any]) -> frozenset[str]:
    """Return the names that `code`, or a plain function it reaches, reads and `namespace` lacks."""
    reached = reached_names(code, namespace)
    names = set(global_names(code))
    for name in reached:
        if is_plain_function(namespace[name], namespace):
            names |= global_names(unwrapped(namespace[name]).__code__)
    return frozenset(names - set(namespace))


def values_read(function: Any) -> dict[str, Any]:
    """Return what a function reads from outside: globals, closures and the arguments of partials, by name.

    Functions of the same module that it reaches are followed; those of other modules are not.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [function]
    while waiting:
        one = waiting.pop()
        while isinstance(one, partial):
            waiting += [value for value in (*one.args, *one.keywords.values()) if isinstance(value, FunctionType)]
            found |= {**{f"argument {place}": value for place, value in enumerate(one.args, 1)}, **one.keywords}
            one = one.func
        one = unwrapped(getattr(one, "__func__", one))
        if not isinstance(one, FunctionType) or id(one) in seen:
            continue
        seen.add(id(one))
        here = {name: one.__globals__[name] for name in global_names(one.__code__) if name in one.__globals__}
        for name, cell in zip(one.__code__.co_freevars, one.__closure__ or (), strict=True):
            try:
                here[name] = cell.cell_contents
            except ValueError:  # an empty cell
                continue
        found |= {name: value for name, value in here.items() if name not in found}
        inner = [unwrapped(value) for value in here.values()]
        waiting += [one_ for one_ in inner if getattr(one_, "__globals__", None) is one.__globals__]
    return found


HASHED_BYTES = 16 * 2**20
# Hexadecimal digits of a hash that are kept.
_DIGITS = 16
# So deep a data set is looked into: a loader, its subset, the data set behind it, a list in that.
_DEPTH = 5
# A list of so many numbers or texts is data.
_LONG = 20
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclass(frozen=True)
class DataFacts:
    """What is known of the data under some names.

    Attributes:
        described: For each name what it is: shapes, types, a hash.
        hashes: The hash alone, for each name of tensors, arrays or frames; a list may be a log that grows.
        gaps: What could not be recorded.
    """

    described: Mapping[str, str]
    hashes: Mapping[str, str]
    gaps: tuple[str, ...]

    @property
    def identity(self) -> dict[str, str]:
        """What a study warns about when another search continues it."""
        return {f"content of {name}": digest for name, digest in self.hashes.items()}

    def to_json(self) -> dict[str, Any]:
        """What a study's record says: `data`, and what was `not recorded`, each only if there is something to say."""
        found: dict[str, Any] = {"data": dict(self.described)} if self.described else {}
        return found | ({"not recorded": list(self.gaps)} if self.gaps else {})


def data_facts(values: Mapping[str, Any]) -> DataFacts:
    """Return what is known of the data among `values`; functions, models and plain numbers are none."""
    described, hashes, gaps = {}, {}, []
    for name in sorted(values):
        value = values[name]
        parts = list(_parts(value))
        digest, share = _digest(parts) if parts else ("", "")
        if digest:
            shapes = ", ".join(_shape(part) for part in parts[:4]) + (", ..." if len(parts) > 4 else "")
            described[name] = f"{shapes}, sha256 {share}{digest}{_form(value)}"
            if not isinstance(parts[0], (list, tuple)):
                hashes[name] = digest
        elif _may_hold_data(value):
            gaps.append(f"content of {name}{_form(value)}")
    return DataFacts(described, hashes, tuple(gaps))


def _parts(value: Any, depth: int = _DEPTH) -> Iterator[Any]:
    """Yield the tensors, arrays and frames in `value`, in an order that does not change."""
    if _is_array(value):
        yield value
    elif depth and isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _parts(value[key], depth - 1)
    elif depth and isinstance(value, (list, tuple)):
        if len(value) >= _LONG and all(isinstance(item, _PLAIN) for item in value):
            yield value
        for item in value if len(value) < _LONG else ():
            yield from _parts(item, depth - 1)
    elif depth and _is_a(value, "torch.utils.data", "DataLoader"):
        yield from _parts(value.dataset, depth - 1)
    elif depth and _is_a(value, "torch.utils.data", "Dataset"):
        for var in vars(value).values():
            yield from _parts(var, depth - 1)


def digest_of(parts: list[Any]) -> str:
    """Return a hash of tensors, arrays or frames, or an empty text if there is none, or one that cannot be read."""
    return _digest(parts)[0] if parts else ""


def _digest(parts: list[Any]) -> tuple[str, str]:
    """Return the hash of all parts, and in words how much of them it is of; empty texts if one cannot be read."""
    digest = hashlib.sha256()
    limit, is_sample = HASHED_BYTES // len(parts), False
    for part in parts:
        try:
            content, is_whole = _content(part, limit)
        except (RuntimeError, TypeError, ValueError):  # an exotic layout; a record is no reason to stop a search
            return "", ""
        digest.update(f"{_shape(part)};".encode())
        digest.update(content)
        is_sample |= not is_whole
    return digest.hexdigest()[:_DIGITS], "of a sample " if is_sample else ""


def _content(one: Any, limit: int) -> tuple[bytes, bool]:
    """Return the bytes of an array, or of rows at equal distances, and whether that is all of it."""
    import numpy as np

    if isinstance(one, (list, tuple)):
        text = repr(one[:limit]).encode()
        return text[:limit], len(text) <= limit and len(one) <= limit
    if _is_a(one, "pandas", "DataFrame", "Series"):
        one = one.to_numpy()
    n_bytes = int(getattr(one, "nbytes", 0))
    is_whole = n_bytes <= limit or not one.shape or one.shape[0] < 2
    if not is_whole:
        n_rows = max(1, int(one.shape[0] * limit / n_bytes))
        one = one[:: max(1, -(-one.shape[0] // n_rows))]
    if _is_a(one, "torch", "Tensor"):
        import torch

        one = one.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    array = np.ascontiguousarray(one)
    if array.dtype.hasobject:
        return repr(array.tolist()).encode(), is_whole
    return array.tobytes(), is_whole


def _shape(one: Any) -> str:
    if isinstance(one, (list, tuple)):
        return f"{type(one).__name__}[{len(one)}]"
    kind = str(getattr(one, "dtype", "")).removeprefix("torch.") or type(one).__name__
    return f"{kind}{list(one.shape)}"


def _form(value: Any) -> str:
    """Say in parentheses what the value is, unless its shape says so."""
    if _is_array(value) or isinstance(value, (list, tuple, dict)):
        return ""
    inside = f" of {type(value.dataset).__name__}" if _is_a(value, "torch.utils.data", "DataLoader") else ""
    return f" ({type(value).__name__}{inside})"


def _is_array(value: Any) -> bool:
    if _is_a(value, "torch", "Tensor"):
        return str(value.layout) == "torch.strided" and not value.is_meta and not value.is_quantized
    return _is_a(value, "numpy", "ndarray") or _is_a(value, "pandas", "DataFrame", "Series")


def _may_hold_data(value: Any) -> bool:
    """Whether a value that is no known data may still be, or lead to, data."""
    if _is_a(value, "torch.utils.data", "DataLoader", "Dataset") or _is_a(value, "torch", "Tensor"):
        return True
    if callable(value) or isinstance(value, ModuleType):
        return False
    return isinstance(value, Iterator) or hasattr(value, "read") or type(value).__module__.startswith("datasets.")


def _is_a(value: Any, module: str, *names: str) -> bool:
    """Whether `value` is of a class of a package that is loaded; nothing is loaded for the question."""
    loaded = sys.modules.get(module)
    kinds = tuple(getattr(loaded, name) for name in names) if loaded is not None else ()
    return isinstance(value, kinds)


# Packages whose versions decide which points are proposed and which numbers come out.
_PACKAGES = ("nbcompress", "torch", "numpy", "scipy", "botorch", "gpytorch", "optuna", "scikit-learn")


def note(study: Study, **facts: Any) -> None:
    """Note facts (JSON) with the study; what is noted already is not written again, so a rerun adds nothing."""
    known = study.record
    changed = {name: fact for name, fact in facts.items() if known.get(name) != fact}
    if changed:
        study.annotate(**changed)


def provenance() -> dict[str, Any]:
    """Return `{"versions": {...}, "machine": {...}}`, as JSON. Names no person and no path."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    machine: dict[str, Any] = {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        machine["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            machine["cuda"] = torch.cuda.get_device_name()
    return {"versions": versions, "machine": machine}
