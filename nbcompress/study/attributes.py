"""Our records inside Optuna's attributes: JSON under keys of ours, cut into pieces where a database limits a text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from nbcompress.errors import StudyError

# MySQL holds 65,535 bytes in the column of an attribute, and a character of JSON text may take 12 when it is
# encoded once more (an emoji as two escapes). Our JSON is ASCII, so quoting at most doubles a piece.
_PIECE_LENGTH = 30_000


def to_text(data: object, what: str) -> str:
    """Return `data` as ASCII JSON.

    Raises:
        StudyError: It is not JSON; `what` names it.
    """
    try:
        return json.dumps(data, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise StudyError(f"What is stored with a study is plain JSON, but {what} is not: {error}.") from error


def write_attribute(write: Callable[[str, Any], None], key: str, data: object, what: str) -> None:
    """Store `data` under `key`. Pieces go first, so the record is there as a whole or not at all."""
    for name, value in attribute_items(key, data, what):
        write(name, value)


def attribute_items(key: str, data: object, what: str) -> list[tuple[str, Any]]:
    """Return the attributes to set, in this order, to store `data` under `key`."""
    text = to_text(data, what)
    if len(text) <= _PIECE_LENGTH:
        return [(key, data)]
    pieces = [text[start : start + _PIECE_LENGTH] for start in range(0, len(text), _PIECE_LENGTH)]
    return [*((f"{key}/{i}", piece) for i, piece in enumerate(pieces)), (key, {"pieces": len(pieces)})]


def read_attribute(attributes: Mapping[str, Any], key: str) -> Any:
    """Return what was stored under `key`, or None."""
    data = attributes.get(key)
    if isinstance(data, dict) and data.keys() == {"pieces"}:
        return json.loads("".join(attributes[f"{key}/{i}"] for i in range(data["pieces"])))
    return data


def pack_number(value: float) -> float | str:
    """Return a float as JSON allows it: NaN and infinities become `"nan"`, `"inf"`, `"-inf"`."""
    number = float(value)
    return number if math.isfinite(number) else str(number)
