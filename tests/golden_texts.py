"""Texts that are compared as a whole, kept under tests/golden/ and reviewed as text.

Run with `NBCOMPRESS_REFRESH_GOLDEN=1` to write what comes out now, and look at the difference before committing.
"""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Compare `text` with the file `name` under tests/golden/."""
    path = GOLDEN / name
    if os.environ.get("NBCOMPRESS_REFRESH_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    assert path.is_file(), f"no golden text {name}: run once with NBCOMPRESS_REFRESH_GOLDEN=1"
    assert text + "\n" == path.read_text(encoding="utf-8")


__all__ = ["check_golden"]
