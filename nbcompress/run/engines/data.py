"""What trials read, sent once: large arrays, tensors and bytes as blobs, each named by a hash of its content.

`pack_parts` pickles a value and takes the large ones out of the pickle. Where trials run, `BlobFiles` holds each blob
in a file, and the process of a trial maps it: pages are shared by all trials of a machine, and a trial that writes into
an array changes its own copy of the page only. A second search whose data is partly equal sends the other part alone.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import pickle
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import IO, Any

import cloudpickle

from nbcompress.run.outcome import packed_by

# Smaller values stay in the pickle. A file and a mapping for each of them would cost more.
MIN_BLOB = 1 << 16
_IS_LINUX = sys.platform.startswith("linux")


@dataclass(frozen=True)
class PackedParts:
    """A pickled value without its large parts.

    Attributes:
        skeleton: The hash of the pickle; its bytes are one of the blobs, too.
        blobs: Hash -> content. The content may be a view of the notebook's own memory: send it before a cell can
            change it, and drop it then.
    """

    skeleton: str
    blobs: Mapping[str, Any]

    @property
    def n_bytes(self) -> int:
        return sum(memoryview(blob).nbytes for blob in self.blobs.values())


def digest_of(data: Any) -> str:
    """Return the hash that names a blob."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def pack_parts(value: Any) -> PackedParts:
    """Pickle `value`, with its large arrays, CPU tensors and bytes taken out.

    Raises:
        TransportError: Something in it cannot be sent; the text names it.
    """
    blobs: dict[str, Any] = {}

    def take_out(data: Any) -> str:
        digest = digest_of(data)
        blobs[digest] = data
        return digest

    pickled = packed_by(lambda given: _dumps(given, take_out), value)
    skeleton = digest_of(pickled)
    blobs[skeleton] = pickled
    return PackedParts(skeleton, blobs)


def check_sendable(value: Any) -> None:
    """Check that `pack_parts` can pickle a value, without reading its large parts.

    Raises:
        TransportError: Something in it cannot be sent; the text names it.
    """
    packed_by(lambda given: _dumps(given, lambda _data: ""), value)


def _dumps(value: Any, take_out: Callable[[Any], str]) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file, take_out).dump(value)
        return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: IO[bytes], take_out: Callable[[Any], str]) -> None:
        super().__init__(file)
        self._take_out = take_out

    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        kind = type(value)
        if kind is bytes:
            return ("bytes", self._take_out(value)) if len(value) >= MIN_BLOB else None
        if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
            return self._array(value)
        if kind.__module__ == "torch.storage" and kind.__name__ == "TypedStorage":
            return self._storage(value)
        return None

    def _array(self, array: Any) -> tuple[Any, ...] | None:
        if (
            array.dtype.hasobject
            or array.nbytes < MIN_BLOB
            or not (array.flags.c_contiguous or array.flags.f_contiguous)
        ):
            return None
        order = "C" if array.flags.c_contiguous else "F"
        flat = array.reshape(-1, order=order).view("uint8")  # a view: nothing is copied
        return "array", self._take_out(flat.data), array.dtype, array.shape, order, array.flags.writeable

    def _storage(self, storage: Any) -> tuple[Any, ...] | None:
        untyped = storage._untyped_storage
        if untyped.device.type != "cpu" or untyped.nbytes() < MIN_BLOB:
            return None
        import torch

        flat = torch.tensor([], dtype=torch.uint8).set_(untyped).numpy()
        return "storage", self._take_out(flat.data), storage.dtype, untyped.nbytes()


def load_parts(skeleton: str, paths: Mapping[str, str]) -> Any:
    """Return the value that `pack_parts` has pickled. Arrays and tensors are private mappings of the files.

    Args:
        skeleton: The hash of the pickle.
        paths: Hash -> path of the file with the content.
    """
    with open(paths[skeleton], "rb") as file:
        return _Unpickler(file, paths).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], paths: Mapping[str, str]) -> None:
        super().__init__(file)
        self._paths = paths

    def persistent_load(self, pid: Any) -> Any:
        kind, digest, *rest = pid
        path = self._paths[digest]
        if kind == "bytes":
            with open(path, "rb") as file:
                return file.read()
        if kind == "array":
            import numpy as np

            dtype, shape, order, is_writeable = rest
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            array: Any = np.ndarray(shape, dtype, mapped, order=order)
            array.flags.writeable = is_writeable
            return array
        import torch

        dtype, n_bytes = rest
        untyped = torch.UntypedStorage.from_file(path, shared=False, nbytes=n_bytes)
        typed: Any = torch.storage.TypedStorage
        return typed(wrap_storage=untyped, dtype=dtype, _internal=True)


class BlobFiles:
    """Blobs in files of this process, for processes on the same machine.

    On Linux the files have no name in any folder, so the system removes them when this process ends, however it ends.
    Elsewhere they lie in a temporary folder, which `close` removes.
    """

    def __init__(self) -> None:
        self._files: dict[str, IO[bytes]] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all_, self._files)

    def missing(self, digests: Collection[str]) -> list[str]:
        """Return those of the blobs that are not here."""
        with self._lock:
            return [digest for digest in digests if digest not in self._files]

    def add(self, blobs: Mapping[str, Any]) -> None:
        """Write those of the blobs that are not here yet."""
        for digest in self.missing(blobs.keys()):
            file: Any = tempfile.TemporaryFile() if _IS_LINUX else tempfile.NamedTemporaryFile()  # noqa: SIM115 - it stays open
            file.write(blobs[digest])
            file.flush()
            with self._lock:
                if digest in self._files:  # another thread was faster
                    file.close()
                else:
                    self._files[digest] = file

    def paths(self, digests: Collection[str]) -> dict[str, str]:
        """Return where processes of this user on this machine can open the blobs."""
        with self._lock:
            found = {digest: self._files[digest] for digest in digests}
        if _IS_LINUX:
            return {digest: f"/proc/{os.getpid()}/fd/{file.fileno()}" for digest, file in found.items()}
        return {digest: str(file.name) for digest, file in found.items()}

    def contents(self) -> dict[str, Any]:
        """Return the blobs as mappings of their files."""
        with self._lock:
            return {
                digest: mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for digest, file in self._files.items()
            }

    def retain(self, digests: Collection[str]) -> None:
        """Remove all blobs but these."""
        with self._lock:
            for digest in self._files.keys() - set(digests):
                self._files.pop(digest).close()

    def close(self) -> None:
        self.retain(())


def _close_all_(files: dict[str, IO[bytes]]) -> None:
    while files:
        files.popitem()[1].close()
