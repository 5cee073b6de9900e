"""One range coder for writing and for reading, behind one face.

The models in `adaptive.py` learn from what was coded before, so writer and reader must walk the same path. Both
therefore run the same function: a `Writer` codes the symbols it is handed, a `Reader` is handed `None` and
returns what it finds. Symbols are coded with `constriction`; bytes that no model shortens go past it.
"""

from __future__ import annotations

from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from nbcompress.errors import ArtifactError

Symbols = NDArray[np.int32]
Bytes = NDArray[np.uint8]


class Coder(Protocol):
    """What a model needs: code `n` symbols under a `constriction` model, or pass `n` bytes through."""

    def code(self, symbols: NDArray[Any] | None, n: int, model: Any, *parameters: NDArray[np.float64]) -> Symbols: ...

    def plain(self, data: Bytes | None, n: int) -> Bytes: ...


class Writer:
    """Codes what it is handed and returns it."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()
        self.plain_parts: list[Bytes] = []
        self._n_plain = 0

    def code(self, symbols: NDArray[Any] | None, n: int, model: Any, *parameters: NDArray[np.float64]) -> Symbols:
        found = np.ascontiguousarray(_given(symbols, n), dtype=np.int32)
        self._encoder.encode(found, model, *parameters)
        return found

    def plain(self, data: Bytes | None, n: int) -> Bytes:
        found = _given(data, n)
        self.plain_parts.append(found)
        self._n_plain += n
        return found

    @property
    def n_bytes(self) -> int:
        """Bytes so far; the coded part in whole words of 4."""
        return 4 * int(self._encoder.num_words()) + self._n_plain

    def coded(self) -> bytes:
        """The coded part, most significant byte first, without trailing zero bytes (a reader puts them back)."""
        words: NDArray[np.uint32] = self._encoder.get_compressed()
        return words.astype(">u4").tobytes().rstrip(b"\0")


def _given(data: NDArray[Any] | None, n: int) -> NDArray[Any]:
    if data is None or len(data) != n:
        raise TypeError(f"a writer is handed what it writes: {n} symbols")
    return data


class Reader:
    """Returns what a `Writer` was handed, in the same order of calls.

    Raises:
        ArtifactError: The stream does not decode, or ends early.
    """

    def __init__(self, coded: memoryview, plain: memoryview) -> None:
        padded = bytes(coded) + bytes(-len(coded) % 4)
        self._decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, dtype=">u4").astype(np.uint32))
        self._plain = np.frombuffer(plain, dtype=np.uint8)
        self._position = 0

    def code(self, symbols: NDArray[Any] | None, n: int, model: Any, *parameters: NDArray[np.float64]) -> Symbols:  # noqa: ARG002
        try:
            found: Symbols = self._decoder.decode(model, *(parameters or (n,)))
        except (AssertionError, ValueError, KeyError) as err:
            raise ArtifactError(f"the coded part of the file does not decode: {err}") from err
        return found

    def plain(self, data: Bytes | None, n: int) -> Bytes:  # noqa: ARG002
        end = self._position + n
        if end > len(self._plain):
            raise ArtifactError(f"the file ends early: {end - len(self._plain)} bytes of values are missing")
        found = self._plain[self._position : end]
        self._position = end
        return found

    def check_end(self) -> None:
        """Refuse a file that holds more than was read."""
        left = len(self._plain) - self._position
        if left or not self._decoder.maybe_exhausted():
            raise ArtifactError(f"the file holds more than the model: {left} bytes of values are left over")


__all__ = ["Bytes", "Coder", "Reader", "Symbols", "Writer"]
