"""Small numbers, texts and byte strings in a row, and reading them back without trust."""

from __future__ import annotations

from nbcompress.errors import ArtifactError

# No dimension, count or length in a file is larger; also bounds the loop that reads one.
_MOST_BITS = 63


class Row:
    """Bytes that grow."""

    def __init__(self) -> None:
        self.data = bytearray()

    def number(self, value: int) -> None:
        """A whole number from 0, 7 bits a byte, lowest first."""
        while value > 127:
            self.data.append(value & 127 | 128)
            value >>= 7
        self.data.append(value)

    def block(self, data: bytes) -> None:
        """A byte string with its length before it."""
        self.number(len(data))
        self.data += data

    def text(self, text: str) -> None:
        """A text in UTF-8 with its length before it."""
        self.block(text.encode("utf-8", "surrogatepass"))


class RowReader:
    """Reads what a `Row` holds.

    Raises:
        ArtifactError: From every method, where the bytes end early or cannot be what was asked for.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self.position = 0

    @property
    def left(self) -> memoryview:
        """What was not read yet."""
        return self._data[self.position :]

    def take(self, n: int) -> memoryview:
        """The next `n` bytes, not copied."""
        if n > len(self._data) - self.position:
            raise ArtifactError(f"the file is damaged: {n} bytes should follow, {len(self.left)} do")
        self.position += n
        return self._data[self.position - n : self.position]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        value = 0
        for shift in range(0, _MOST_BITS, 7):
            part = self.byte()
            value |= (part & 127) << shift
            if part < 128:
                return value
        raise ArtifactError("the file is damaged: a number in its header has no end")

    def block(self) -> memoryview:
        return self.take(self.number())

    def text(self) -> str:
        try:
            return bytes(self.block()).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as err:
            raise ArtifactError("the file is damaged: a name in its header is not text") from err


__all__ = ["Row", "RowReader"]
