"""A magic's line, split the way people write it."""

from __future__ import annotations

from IPython.core.error import UsageError

_OPENING = {"(": ")", "[": "]", "{": "}"}


def split_line(text: str) -> list[str]:
    """Split at white space that is outside quotes and brackets; drop a comment at the end.

    So `--data (X, y)` and `--subject-to "kilobytes <= 60"` are two words each. A word that is quoted as a whole
    loses its quotes.

    Raises:
        UsageError: A quote or a bracket is left open.
    """
    words: list[str] = []
    word = ""
    quote = ""
    closing: list[str] = []
    index = 0
    while index < len(text):
        letter = text[index]
        if quote:
            word += letter
            if letter == "\\" and index + 1 < len(text):
                index += 1
                word += text[index]
            elif letter == quote:
                quote = ""
        elif letter in "\"'":
            quote = letter
            word += letter
        elif letter == "#" and not word and not closing:
            break
        elif letter.isspace() and not closing:
            if word:
                words.append(word)
            word = ""
        else:
            if letter in _OPENING:
                closing.append(_OPENING[letter])
            elif closing and letter == closing[-1]:
                closing.pop()
            word += letter
        index += 1
    if quote:
        raise UsageError(f"A quote {quote} is opened and not closed: {text.strip()}")
    if closing:
        raise UsageError(f"A bracket is opened and not closed, {closing[-1]!r} is missing: {text.strip()}")
    return [_unquoted(one) for one in [*words, *([word] if word else [])]]


def _unquoted(word: str) -> str:
    if len(word) >= 2 and word[0] == word[-1] and word[0] in "\"'" and word[0] not in word[1:-1].replace("\\" + word[0], ""):
        return word[1:-1].replace("\\" + word[0], word[0])
    return word
