"""What a trial prints goes to its record, not into the cell.

`contextlib.redirect_stdout` would swap `sys.stdout` for every thread. Here a router stands in for it while trials
run: text goes to the trial of the writer's context, and to the stream that was there when there is none.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

HEAD = 2_000
TAIL = 6_000


class Printed:
    """Text of bounded length: its first `HEAD` characters, its last `TAIL`, and how much lies between."""

    def __init__(self) -> None:
        self._head = ""
        self._tail: deque[str] = deque()
        self._tail_length = 0
        self._left_out = 0

    def write(self, text: str) -> None:
        room = HEAD - len(self._head)
        if room > 0:
            self._head += text[:room]
            text = text[room:]
        if not text:
            return
        self._tail.append(text)
        self._tail_length += len(text)
        while self._tail_length > TAIL:
            surplus = self._tail_length - TAIL
            first = self._tail.popleft()
            if len(first) > surplus:
                self._tail.appendleft(first[surplus:])
            dropped = min(surplus, len(first))
            self._tail_length -= dropped
            self._left_out += dropped

    def __str__(self) -> str:
        gap = f"\n... {self._left_out} characters left out ...\n" if self._left_out else ""
        return self._head + gap + "".join(self._tail)


_printed: ContextVar[Printed | None] = ContextVar("nbcompress_printed", default=None)


class _Router:
    """Stands in for one stream; everything but writing is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        printed = _printed.get()
        if printed is None:
            written = self._stream.write(text)
            return len(text) if written is None else int(written)
        printed.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if _printed.get() is None:
            self._stream.flush()

    def isatty(self) -> bool:
        return _printed.get() is None and bool(self._stream.isatty())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_lock = threading.Lock()
_users = 0
_routers: dict[str, _Router] = {}


def _install() -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                if stream is not None:
                    _routers[name] = _Router(stream)
                    setattr(sys, name, _routers[name])


def _uninstall() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            for name, router in _routers.items():
                # A body that has put its own stream there keeps it: it asked for that.
                if getattr(sys, name) is router:
                    setattr(sys, name, router._stream)
            _routers.clear()


@contextmanager
def printed_text() -> Iterator[Printed]:
    """Collect what this context writes to `sys.stdout` and `sys.stderr` inside the `with` block."""
    printed = Printed()
    _install()
    token = _printed.set(printed)
    try:
        yield printed
    finally:
        _printed.reset(token)
        _uninstall()
