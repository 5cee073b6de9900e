"""Which files the server may read: regular, visible files below its root, of a limited size, that no link leads out of.

Every refusal raises `FileRefused`. Its text is for the server's log; a client learns only that there is no such file.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nbcompress.errors import NbcompressError

JOURNAL = ".journal"
DATABASES = (".db", ".sqlite", ".sqlite3")
MODEL = ".nbz"
SUFFIXES = (JOURNAL, *DATABASES, MODEL)
# Folders of programs, which hold many files and no studies of the user.
_SKIPPED = frozenset({"node_modules", "__pycache__", "site-packages"})


class FileRefused(NbcompressError):
    """A path that the server does not read."""


@dataclass(frozen=True)
class FoundFiles:
    """Files that may hold studies.

    Attributes:
        paths: Relative to the root, with slashes, those in high folders first.
        is_complete: Whether every folder was looked at.
    """

    paths: tuple[str, ...]
    is_complete: bool


@dataclass(frozen=True)
class ServedFiles:
    """The files below a root.

    Attributes:
        root: The folder that the server serves.
        max_bytes: Longer files are refused.
        max_entries: A listing stops after so many files and folders.
        allow_hidden: Whether names that begin with a dot are served.
    """

    root: Path
    max_bytes: int = 256 * 10**6
    max_entries: int = 20_000
    allow_hidden: bool = False

    def resolve(self, path: object) -> Path:
        """Return the real path of a file below the root.

        Args:
            path: Relative to the root, with slashes.

        Raises:
            FileRefused: It is no such path, leads out of the root, is hidden, is no regular file, or is too long.
        """
        relative = self._checked(path)
        root = Path(os.path.realpath(self.root))
        real = Path(os.path.realpath(root / relative))
        if not real.is_relative_to(root) or not self._is_visible(real.relative_to(root).parts):
            raise FileRefused(f"{path!r} is a link to a file that is not served")
        if real.suffix not in SUFFIXES:
            raise FileRefused(f"{path!r} is not one of {', '.join(SUFFIXES)}")
        try:
            status = real.stat()
        except OSError as error:
            raise FileRefused(f"{path!r} cannot be read: {error.strerror}") from error
        self.check_status(str(path), status)
        return real

    def check_status(self, path: str, status: os.stat_result) -> None:
        """Check that a file is regular (a pipe would block for ever) and short enough.

        Raises:
            FileRefused: It is not.
        """
        if not stat.S_ISREG(status.st_mode):
            raise FileRefused(f"{path!r} is no regular file")
        if status.st_size > self.max_bytes:
            raise FileRefused(f"{path!r} has {status.st_size} bytes; more than {self.max_bytes} are not read")

    def _checked(self, path: object) -> PurePosixPath:
        if not isinstance(path, str) or not path or "\0" in path or "\\" in path:
            raise FileRefused(f"{path!r} is no path")
        relative = PurePosixPath(path)
        if relative.is_absolute() or ".." in relative.parts or Path(path).drive:
            raise FileRefused(f"{path!r} leads out of the root")
        if not self._is_visible(relative.parts):
            raise FileRefused(f"{path!r} is hidden")
        return relative

    def _is_visible(self, parts: tuple[str, ...]) -> bool:
        return self.allow_hidden or not any(part.startswith(".") for part in parts)

    def find(self, folder: str = "") -> FoundFiles:
        """Return the files below a folder that may hold studies; links to folders are not followed.

        Raises:
            FileRefused: There is no such folder below the root.
        """
        start = Path(self.root)
        if folder:
            relative = self._checked(folder)
            start = Path(os.path.realpath(start / relative))
            if not start.is_relative_to(os.path.realpath(self.root)) or not start.is_dir():
                raise FileRefused(f"{folder!r} is no folder that is served")
        left = self.max_entries
        paths: list[str] = []
        waiting = deque([start])
        while waiting:
            here = waiting.popleft()
            for entry in self._entries(here):
                left -= 1
                if left < 0:
                    return FoundFiles(tuple(paths), False)
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _SKIPPED:
                        waiting.append(Path(entry.path))
                elif entry.name.endswith((JOURNAL, *DATABASES)):
                    inside = os.path.relpath(entry.path, os.path.realpath(self.root) if folder else self.root)
                    paths.append(Path(inside).as_posix())
        return FoundFiles(tuple(paths), True)

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        """Yield the visible entries of a folder by name; nothing if it cannot be read."""
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            return
        yield from (entry for entry in found if self._is_visible((entry.name,)))
