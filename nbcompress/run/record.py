"""How a search was run: what the record of its study holds in addition to the trials.

Data: shape, type and a hash of the data that a search reads, so that a reader can compare. The cost is bounded: of an
object with more than `HASHED_BYTES` only rows at equal distances are hashed, and the record says so. What may be data
and cannot be read is listed as a gap.

Fingerprints: hashes of the functions, models and numbers of the notebook that a search reads. A study warns when it is
continued after one of them has changed.

Versions and machine: `provenance`.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from nbcompress.run.reads import global_names, is_a, is_declared, is_of_loaded, items_of, own_attributes, unwrapped

if TYPE_CHECKING:
    from nbcompress.study import Study


HASHED_BYTES = 16 * 2**20
# This many hexadecimal digits of a hash are kept.
_DIGITS = 16
# How deep a data set is searched: a loader, its subset, the data set behind it, a list in that.
_DEPTH = 5
# A list of at least this many numbers or texts is data.
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
        try:
            parts = list(_parts(value))
        except Exception:  # noqa: BLE001 - an object of the person's that cannot be read; no reason to stop a search
            gaps.append(f"content of {name}{_form(value)}")
            continue
        digest, share = _digest(parts) if parts else ("", "")
        if digest:
            shapes = ", ".join(_shape(part) for part in parts[:4]) + (", ..." if len(parts) > 4 else "")
            described[name] = f"{shapes}, sha256 {share}{digest}{_form(value)}"
            if not is_a(parts[0], list, tuple):
                hashes[name] = digest
        elif _may_hold_data(value):
            gaps.append(f"content of {name}{_form(value)}")
    return DataFacts(described, hashes, tuple(gaps))


def _parts(value: Any, depth: int = _DEPTH) -> Iterator[Any]:
    """Yield the tensors, arrays and frames in `value`, in an order that does not change."""
    if is_array(value):
        yield value
    elif depth and is_a(value, Mapping):
        items = dict.items(value) if is_a(value, dict) else value.items()
        for _, part in sorted(items, key=lambda item: str(item[0])):
            yield from _parts(part, depth - 1)
    elif depth and is_a(value, list, tuple):
        held = list(items_of(value))
        if len(held) >= _LONG and all(is_a(item, *_PLAIN) for item in held):
            yield held if is_a(value, list) else tuple(held)
        for item in held if len(held) < _LONG else ():
            yield from _parts(item, depth - 1)
    elif depth and is_of_loaded(value, "torch.utils.data", "DataLoader"):
        yield from _parts(value.dataset, depth - 1)
    elif depth and is_of_loaded(value, "torch.utils.data", "Dataset"):
        for attribute in own_attributes(value).values():
            yield from _parts(attribute, depth - 1)


def data_parts(value: Any) -> list[Any]:
    """Return the tensors, arrays and frames of something that is data itself, not of a list or a dict that holds it."""
    is_data = is_array(value) or is_of_loaded(value, "torch.utils.data", "DataLoader", "Dataset")
    try:
        return list(_parts(value)) if is_data else []
    except Exception:  # noqa: BLE001 - a loader of the person's that cannot be read
        return []


def share_memory(left: Any, right: Any) -> bool:
    """Return whether two tensors, arrays or frames hold the same numbers in memory, at least some of them."""
    import numpy as np

    if left is right:
        return True
    arrays = [part.detach() if is_of_loaded(part, "torch", "Tensor") else part for part in (left, right)]
    if any(is_of_loaded(part, "torch", "Tensor") and part.device.type != "cpu" for part in arrays):
        pointers = [part.data_ptr() if is_of_loaded(part, "torch", "Tensor") else None for part in arrays]
        return pointers[0] is not None and pointers[0] == pointers[1]
    try:
        first, second = (np.asarray(part) for part in arrays)
        exact: Any = np.shares_memory  # its stub knows no bound of the work
        return bool(exact(first, second, max_work=10_000))
    except Exception:  # noqa: BLE001 - a type that NumPy lacks, or a layout that takes long to compare
        return False


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


def _content(data: Any, limit: int) -> tuple[bytes, bool]:
    """Return the bytes of an array, or of rows at equal distances, and whether that is all of it."""
    import numpy as np

    if is_a(data, list, tuple):
        text = repr(data[:limit]).encode()
        return text[:limit], len(text) <= limit and len(data) <= limit
    if is_of_loaded(data, "pandas", "DataFrame", "Series"):
        data = data.to_numpy()
    n_bytes = int(getattr(data, "nbytes", 0))
    is_whole = n_bytes <= limit or not data.shape or data.shape[0] < 2
    if not is_whole:
        n_rows = max(1, int(data.shape[0] * limit / n_bytes))
        data = data[:: max(1, -(-data.shape[0] // n_rows))]
    if is_of_loaded(data, "torch", "Tensor"):
        import torch

        data = data.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    array = np.ascontiguousarray(data)
    if array.dtype.hasobject:
        return repr(array.tolist()).encode(), is_whole
    return array.tobytes(), is_whole


def _shape(array: Any) -> str:
    if is_a(array, list, tuple):
        return f"{type(array).__name__}[{len(array)}]"
    kind = str(getattr(array, "dtype", "")).removeprefix("torch.") or type(array).__name__
    return f"{kind}{list(array.shape)}"


def _form(value: Any) -> str:
    """Say in parentheses what the value is, unless its shape says so."""
    if is_array(value) or is_a(value, list, tuple, dict):
        return ""
    inside = f" of {type(value.dataset).__name__}" if is_of_loaded(value, "torch.utils.data", "DataLoader") else ""
    return f" ({type(value).__name__}{inside})"


def is_array(value: Any) -> bool:
    """Return whether a value is a tensor, an array or a frame whose numbers can be read."""
    if is_of_loaded(value, "torch", "Tensor"):
        return str(value.layout) == "torch.strided" and not value.is_meta and not value.is_quantized
    return is_of_loaded(value, "numpy", "ndarray") or is_of_loaded(value, "pandas", "DataFrame", "Series")


def _may_hold_data(value: Any) -> bool:
    """Return whether a value that is no known kind of data may still be data, or lead to it."""
    if is_of_loaded(value, "torch.utils.data", "DataLoader", "Dataset") or is_of_loaded(value, "torch", "Tensor"):
        return True
    if callable(value) or is_a(value, ModuleType, list, tuple, dict):
        return False
    return is_a(value, Iterator) or is_declared(value, "read") or type(value).__module__.startswith("datasets.")


def fingerprints(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return hashes of the values that are the notebook's own, under names for a sentence.

    These are numbers, texts and tuples of them; functions and classes of the notebook or script and of modules that
    are not installed, and these modules; and models, by their parameters and buffers. Lists and dicts are left out,
    since they may be logs that grow.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if _is_plain(value):
            found[f"value of {name}"] = text_digits(repr(value))
        elif type(value) is FunctionType and value.__module__ == "__main__":
            found[f"version of {name}"] = code_digits(value)
        elif is_a(value, FunctionType, type, ModuleType):
            if digits := loaded_code_digits(value):
                found[f"version of {name}"] = {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "code": digits}
        elif _is_module(value) and (digits := _module_digits(value)):
            found[f"content of {name}"] = digits
    return found


def loaded_code_digits(value: FunctionType | type | ModuleType) -> str:
    """Return a hash of the code of a function, class or module of the person; an empty text for an installed one.

    The hash is of the code that is loaded: a file may have been edited since, and not been loaded again. Functions and
    classes that it reaches count too, unless they are installed. Another version of Python gives another hash.
    """
    found: dict[str, str] = {}
    waiting: list[Any] = [value]
    while waiting:
        part = waiting.pop()
        name = _own_name(part)
        if not name or name in found:
            continue
        found[name] = ""
        if is_a(part, FunctionType):
            found[name] = repr(tuple(code_parts(part.__code__)))
            waiting += [part.__globals__.get(word) for word in global_names(part.__code__)]
        elif is_a(part, type):
            held = [var.__func__ if type(var) in (staticmethod, classmethod) else var for var in vars(part).values()]
            waiting += [*part.__bases__, *(var.fget if type(var) is property else var for var in held)]
        else:
            waiting += [var for var in own_attributes(part).values() if _own_name(var).startswith(f"{name}.")]
    return text_digits(repr(sorted(found.items()))) if found else ""


def _own_name(part: Any) -> str:
    """Return the full name of a function, class or module of the person, or an empty text for anything else."""
    if is_a(part, ModuleType):
        name = str(own_attributes(part).get("__name__", ""))
        return "" if is_installed(name) else name
    if not is_a(part, FunctionType, type):
        return ""
    # A metaclass may answer for any attribute.
    read = type.__getattribute__ if is_a(part, type) else object.__getattribute__
    module = str(read(part, "__module__"))
    return "" if is_installed(module) else f"{module}.{read(part, '__qualname__')}"


def is_installed(module: str) -> bool:
    """Return whether a module belongs to Python, to an installed package or to nbcompress, and is not the person's."""
    top = module.partition(".")[0]
    if top in ("builtins", "nbcompress", *sys.stdlib_module_names) and module != "__main__":
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(PurePath(file).parts))


def code_parts(code: CodeType) -> Iterator[str]:
    """Yield texts that together are equal for equal code, wherever it stands."""
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))
    for constant in code.co_consts:
        if type(constant) is CodeType:
            yield from code_parts(constant)
        else:
            yield repr(sorted(map(repr, constant)) if type(constant) is frozenset else constant)


def code_and_models(values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return what the record says of models and functions of the notebook that a search reads; empty without any.

    A model is named by its class, its number of parameters and a hash of its weights, a function by a hash of its
    source.
    """
    models, functions = {}, {}
    for name, value in values.items():
        if _is_module(value):
            try:
                n = f"{sum(int(parameter.numel()) for parameter in value.parameters()):,}"
            except Exception:  # noqa: BLE001 - a lazy module, or one of the person's that cannot be read
                n = "an unknown number of"
            digits = _module_digits(value)
            models[name] = f"{type(value).__name__}, {n} parameters" + (f", sha256 {digits}" if digits else "")
        elif type(value) is FunctionType and value.__module__ == "__main__":
            functions[name] = f"sha256 of its source {code_digits(value)}"
    found = {"models": models, "functions": functions}
    return {kind: dict(sorted(items.items())) for kind, items in found.items() if items}


def code_digits(function: Callable[..., Any]) -> str:
    """Return a hash of a function's source."""
    inner = unwrapped(function)
    is_written = type(inner) in (FunctionType, MethodType) or is_a(inner, type)
    if type(inner) in (FunctionType, MethodType) and inner.__name__ == "<lambda>":
        text = lambda_source(inner.__code__) or ""
    else:
        try:
            text = inspect.getsource(inner) if is_written else ""
        except (OSError, TypeError):  # typed at a prompt
            text = ""
    if not text:  # that, or built in, or an object with `__call__`
        text = inner.__qualname__ if is_written or is_a(inner, BuiltinFunctionType) else type(inner).__qualname__
    return text_digits(text)


def lambda_source(code: CodeType) -> str | None:
    """Return the source of a lambda without the line around it, or None if it cannot be told."""
    try:
        tree = ast.parse("".join(inspect.findsource(code)[0]))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno]
    if len(found) > 1:
        # The instructions tell lambdas of one line apart. Of nested ones the innermost that holds all of them is it.
        places = [place for place in code.co_positions() if None not in place and place[0::2] != place[1::2]]
        starts, ends = [(line, at) for line, _, at, _ in places], [(line, at) for _, line, _, at in places]
        holding = [node for node in found if places and _holds(node.body, min(starts), max(ends))]
        found = sorted(holding, key=lambda node: node.col_offset)[-1:]
    return ast.unparse(found[0]) if found else None


def _holds(node: ast.expr, start: tuple[Any, Any], end: tuple[Any, Any]) -> bool:
    return (node.lineno, node.col_offset) <= start and end <= (node.end_lineno, node.end_col_offset)


def content_digits(value: Any) -> str:
    """Return a hash of an array, a frame, a loader, a data set or a model; an empty text for anything else."""
    return _module_digits(value) if _is_module(value) else digest_of(data_parts(value))


def _module_digits(module: Any) -> str:
    try:
        return digest_of([tensor for tensor in module.state_dict().values() if hasattr(tensor, "shape")])
    except Exception:  # noqa: BLE001 - a state of its own, or weights that are not made yet; no reason to stop a search
        return ""


def text_digits(text: str) -> str:
    """Return a hash of a text."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(_is_plain(item) for item in value)
    return type(value) in _PLAIN


def _is_module(value: Any) -> bool:
    return is_of_loaded(value, "torch.nn", "Module")


# Packages whose versions may change the proposed points or the measured values.
_PACKAGES = ("nbcompress", "torch", "numpy", "scipy", "botorch", "gpytorch", "optuna", "scikit-learn")


def note(study: Study, **facts: Any) -> None:
    """Store facts (JSON) with the study. Equal facts are not written again."""
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
