"""A magic's line, split the way people write it."""

from __future__ import annotations

import re

from IPython.core.error import UsageError

_PIECE = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')  # a whole quoted text
      | (?P<open_text>["'])                            # a quote that is never closed
      | (?P<opening>[(\[{])
      | (?P<closing>[)\]}])
      | (?P<comment>(?<!\S)\#.*)
      | (?P<space>\s+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


def split_line(line: str) -> list[str]:
    """Split at white space that is outside quotes and brackets; drop a comment at the end.

    So `--data (X, y)` and `--subject-to "kilobytes <= 60"` are two words each. A word that is quoted as a whole
    loses its quotes.

    Raises:
        UsageError: A quote or a bracket is left open.
    """
    words = [""]
    depth = 0
    for piece in _PIECE.finditer(line):
        kind, text = piece.lastgroup, piece.group()
        if kind == "open_text":
            raise UsageError(f"a quote {text} is opened and not closed in: {line.strip()}")
        if kind == "comment" and not depth:
            break
        if kind == "space" and not depth:
            words.append("")
            continue
        depth += (kind == "opening") - (kind == "closing" and depth > 0)
        words[-1] += text
    if depth:
        raise UsageError(f"a bracket is opened and not closed in: {line.strip()}")
    return [_unquoted(word) for word in words if word]


def _unquoted(word: str) -> str:
    whole = _PIECE.fullmatch(word)
    if whole is None or whole.lastgroup != "text":
        return word
    return word[1:-1].replace("\\" + word[0], word[0])
