"""Which data a search read: shape, type and a hash of the content, so that readers can tell whether theirs is the same.

The cost is bounded: of an object with more than `HASHED_BYTES` only rows at equal distances are hashed, and the
record says so. What may be data and cannot be read here is named as a gap.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from nbcompress.run.looking import is_a, is_declared, items_of, own_attributes

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
        try:
            parts = list(_parts(value))
        except Exception:  # noqa: BLE001 - an object of the person's that cannot be read; no reason to stop a search
            gaps.append(f"content of {name}{_form(value)}")
            continue
        digest, share = _digest(parts) if parts else ("", "")
        if digest:
            shapes = ", ".join(_shape(one) for one in parts[:4]) + (", ..." if len(parts) > 4 else "")
            described[name] = f"{shapes}, sha256 {share}{digest}{_form(value)}"
            if not is_a(parts[0], list, tuple):
                hashes[name] = digest
        elif _may_hold_data(value):
            gaps.append(f"content of {name}{_form(value)}")
    return DataFacts(described, hashes, tuple(gaps))


def _parts(value: Any, depth: int = _DEPTH) -> Iterator[Any]:
    """Yield the tensors, arrays and frames in `value`, in an order that does not change."""
    if _is_array(value):
        yield value
    elif depth and is_a(value, Mapping):
        items = dict.items(value) if is_a(value, dict) else value.items()
        for _, one in sorted(items, key=lambda item: str(item[0])):
            yield from _parts(one, depth - 1)
    elif depth and is_a(value, list, tuple):
        held = list(items_of(value))
        if len(held) >= _LONG and all(is_a(one, *_PLAIN) for one in held):
            yield held if is_a(value, list) else tuple(held)
        for one in held if len(held) < _LONG else ():
            yield from _parts(one, depth - 1)
    elif depth and _is_a(value, "torch.utils.data", "DataLoader"):
        yield from _parts(value.dataset, depth - 1)
    elif depth and _is_a(value, "torch.utils.data", "Dataset"):
        for one in own_attributes(value).values():
            yield from _parts(one, depth - 1)


def data_parts(value: Any) -> list[Any]:
    """Return the tensors, arrays and frames of something that is data itself, not of a list or a dict that holds it."""
    is_data = _is_array(value) or _is_a(value, "torch.utils.data", "DataLoader", "Dataset")
    try:
        return list(_parts(value)) if is_data else []
    except Exception:  # noqa: BLE001 - a loader of the person's that cannot be read
        return []


def digest_of(parts: list[Any]) -> str:
    """Return a hash of tensors, arrays or frames, or an empty text if there is none, or one that cannot be read."""
    return _digest(parts)[0] if parts else ""


def _digest(parts: list[Any]) -> tuple[str, str]:
    """Return the hash of all parts, and in words how much of them it is of; empty texts if one cannot be read."""
    digest = hashlib.sha256()
    limit, is_sample = HASHED_BYTES // len(parts), False
    for one in parts:
        try:
            content, is_whole = _content(one, limit)
        except (RuntimeError, TypeError, ValueError):  # an exotic layout; a record is no reason to stop a search
            return "", ""
        digest.update(f"{_shape(one)};".encode())
        digest.update(content)
        is_sample |= not is_whole
    return digest.hexdigest()[:_DIGITS], "of a sample " if is_sample else ""


def _content(one: Any, limit: int) -> tuple[bytes, bool]:
    """Return the bytes of an array, or of rows at equal distances, and whether that is all of it."""
    import numpy as np

    if is_a(one, list, tuple):
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
    if is_a(one, list, tuple):
        return f"{type(one).__name__}[{len(one)}]"
    kind = str(getattr(one, "dtype", "")).removeprefix("torch.") or type(one).__name__
    return f"{kind}{list(one.shape)}"


def _form(value: Any) -> str:
    """Say in parentheses what the value is, unless its shape says so."""
    if _is_array(value) or is_a(value, list, tuple, dict):
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
    if callable(value) or is_a(value, ModuleType, list, tuple, dict):
        return False
    return is_a(value, Iterator) or is_declared(value, "read") or type(value).__module__.startswith("datasets.")


def _is_a(value: Any, module: str, *names: str) -> bool:
    """Whether `value` is of a class of a package that is loaded; nothing is loaded for the question."""
    loaded = sys.modules.get(module)
    kinds = tuple(getattr(loaded, name) for name in names) if loaded is not None else ()
    return is_a(value, *kinds)
