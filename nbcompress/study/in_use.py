"""Which studies are searched in this process right now: one search at a time, and none is deleted under it.

Searches of other processes are seen by the trials that they run; this is for searches in threads of one process, such
as one in the background of a notebook, also between two trials.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nbcompress.errors import StudyError

if TYPE_CHECKING:
    from nbcompress.study.storage import Ledger

_Key = tuple[str, int, str]
_lock = threading.Lock()
_searched: set[_Key] = set()


@contextmanager
def searched(ledger: Ledger, study: str) -> Iterator[None]:
    """Note that a study is searched inside the `with` block.

    Raises:
        StudyError: Another search of it runs in this process.
    """
    key = _key(ledger, study)
    with _lock:
        _refuse(key, study)
        _searched.add(key)
    try:
        yield
    finally:
        with _lock:
            _searched.discard(key)


def check_free(ledger: Ledger, study: str) -> None:
    """Check that no search of a study runs in this process.

    Raises:
        StudyError: One does.
    """
    with _lock:
        _refuse(_key(ledger, study), study)


def _refuse(key: _Key, study: str) -> None:
    if key in _searched:
        raise StudyError(
            f"Study {study!r} is being searched in this process, perhaps in the background. "
            "Stop that search first, or wait until it has ended."
        )


def _key(ledger: Ledger, study: str) -> _Key:
    # What is in memory has no place to tell it from others.
    return ledger.place, id(ledger.storage) if ledger.folder is None else 0, study
