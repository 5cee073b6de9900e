"""Errors of functions speak of keywords, such as `amount=`; whoever typed a magic reads of `--amount`."""

from __future__ import annotations

import re
from collections.abc import Iterable


def in_options(text: str, options: Iterable[str]) -> str:
    """Return `text` with keywords written as options.

    Args:
        text: Such as `criterion='hessian' needs data: pass data=, such as (inputs, labels)`.
        options: Those of the magic, such as `--criterion`; other keywords stay as they are.

    Returns:
        Such as `--criterion hessian needs data: pass --data, such as (inputs, labels)`.
    """
    keywords = "|".join(re.escape(one.removeprefix("--").replace("-", "_")) for one in options)
    if not keywords:
        return text

    def option(found: re.Match[str]) -> str:
        word, value = found["word"], found["value"]
        return f"--{(found['first'] or found['name']).replace('_', '-')} {word or value or ''}".rstrip()

    pattern = (
        # A text that begins with the keyword itself: `amount must be ...`.
        rf"^(?P<first>{keywords})(?= (?:must|is|are) )"
        # A keyword with what it is set to: a quoted word without spaces loses its quotes.
        rf"|(?<![\w.\-])(?P<name>{keywords})=(?:'(?P<word>[^'\s]+)'|(?P<value>[\w\[(\"'-][^\s,;]*))?"
    )
    return re.sub(pattern, option, text)
