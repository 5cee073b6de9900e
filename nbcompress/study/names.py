"""Names of studies and their generations: `digits`, then `digits~2`, `digits~3`, ..."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nbcompress.errors import StudyError

# Optuna's tables hold 512 characters; the rest is for the generation.
_MAX_LENGTH = 500
_GENERATION = re.compile(r"(.*)~([1-9][0-9]*)", re.DOTALL)


def check_name(name: str) -> str:
    """Return the name if it can be stored, else raise StudyError."""
    if not name.strip() or not name.isprintable():
        raise StudyError(f"A study's name is printable text, but got {name!r}.")
    if len(name) > _MAX_LENGTH:
        raise StudyError(f"A study's name has at most {_MAX_LENGTH} characters, but got {len(name)}.")
    return name


def split_name(name: str) -> tuple[str, int]:
    """Return base and generation: `"digits~2"` is `("digits", 2)`, `"digits"` is `("digits", 1)`."""
    match = _GENERATION.fullmatch(name)
    return (match[1], int(match[2])) if match and match[1] else (name, 1)


def join_name(base: str, generation: int) -> str:
    return base if generation == 1 else f"{base}~{generation}"


def latest_name(name: str, stored: Iterable[str]) -> str:
    """Return the stored name that `name` means: a generation that is named, else the latest one.

    A name that is not stored yet is returned as it would be.
    """
    base, generation = split_name(name)
    if name != base:
        return join_name(base, generation)  # `digits~1` is stored as `digits`
    return join_name(base, max((one for other, one in map(split_name, stored) if other == base), default=1))


def next_name(name: str, stored: Iterable[str]) -> str:
    """Return the name of the generation after the latest stored one."""
    base = split_name(name)[0]
    return join_name(base, 1 + max((one for other, one in map(split_name, stored) if other == base), default=0))
