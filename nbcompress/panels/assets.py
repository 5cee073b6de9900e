"""The built front end, as it lies in the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def asset(name: str) -> str | None:
    """Return a built script, or None where the package was installed without its front end."""
    path = files("nbcompress.panels").joinpath(f"static/{name}")
    return path.read_text(encoding="utf-8") if path.is_file() else None
