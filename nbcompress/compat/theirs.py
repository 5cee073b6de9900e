"""Options of theirs: which change what is computed, and which only tune a surrogate that is not ours."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from nbcompress.errors import NbcompressWarning, SearchError


def refuse(call: str, options: Mapping[str, Any], hints: Mapping[str, str]) -> None:
    """Raise an error that names the first option that is set and cannot be honoured.

    Args:
        hints: What to do instead, by option; unknown ones have none.

    Raises:
        SearchError: An option is set.
    """
    for name, value in options.items():
        if value is not None:
            hint = hints.get(name, "")
            raise SearchError(f"{call} here has no option {name}, but got {value!r:.80}. {hint}".rstrip())


def pass_over(call: str, options: dict[str, Any], instead: Mapping[str, str]) -> None:
    """Take the options out that only say how the other package does its work, with one warning that names them.

    A script that sets them runs as it is; what they would have tuned is done in another way here.

    Args:
        options: As given by name; those of `instead` are removed.
        instead: What is done here, by option.
    """
    found = {name: options.pop(name) for name in [one for one in options if one in instead]}
    parts = [f"{name}={value!r:.40} ({instead[name]})" for name, value in found.items() if value is not None]
    if parts:
        warnings.warn(f"{call} here passes over {', '.join(parts)}.", NbcompressWarning, stacklevel=3)
