"""Files that lie are refused in one line, or read; nothing else comes out, and nothing is run. See `fuzz.py`.

A few inputs of each kind run with all tests; `NBCOMPRESS_FAULTS=200 pytest tests/faults` runs 100 times as many.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults.fuzz import READERS, Watch, batch

N = int(os.environ.get("NBCOMPRESS_FAULTS", "2"))
N_INPUTS = {"model": 60, "kept": 150, "journal": 100, "database": 6}


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.filterwarnings("ignore")
def test_they_are_refused_or_read(kind: str, tmp_path: Path, watch: Watch) -> None:
    # The last inputs of a seed are other ones each time that more are asked for.
    result = batch(kind, seed=N, n=N * N_INPUTS[kind] // 2, folder=tmp_path, watch=watch)
    assert result["found"] == {}
    assert result["refused"] > result["n"] // 4
    assert result["slowest"] < 20
