"""Prints the oldest versions that `pyproject.toml` allows, for pip; `make oldest-tests` installs them."""

from __future__ import annotations

import tomllib
from pathlib import Path


def oldest_versions() -> list[str]:
    """Return a line such as `torch==2.7` for each package that nbcompress needs."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    return [line.replace(">=", "==") for line in tomllib.loads(text)["project"]["dependencies"]]


if __name__ == "__main__":
    print("\n".join(oldest_versions()))
