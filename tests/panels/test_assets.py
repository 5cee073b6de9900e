"""The built front end is small."""

from __future__ import annotations

from pathlib import Path

import pytest

import nbcompress

MOST_BYTES = 150_000
PACKAGE = Path(nbcompress.__file__).parent
BUILT = [*PACKAGE.glob("panels/static/*.js"), *PACKAGE.glob("labextension/static/*.js")]


@pytest.mark.parametrize("path", BUILT, ids=lambda path: path.name.split(".")[0])
def test_scripts_are_small(path: Path) -> None:
    assert 10_000 < path.stat().st_size < MOST_BYTES


def test_the_front_end_is_built() -> None:
    assert len(BUILT) == 3, "panel.js, page.js and the viewer of saved notebooks"
