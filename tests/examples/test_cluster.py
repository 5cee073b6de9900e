"""The notebook for clusters, executed in its short mode: both cells on Dask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbcompress.study import read_study

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


def test_it_runs(tmp_path: Path, outputs_of: Callable[[str], list[Any]]) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'nbcompress[dask]'")
    outputs = outputs_of("cluster.ipynb")
    for name in ("on-dask", "on-ray"):
        assert len(read_study(name, tmp_path / "nbcompress.journal").all_trials) == 3
    assert "Linear(" in "".join(output.text for output in outputs if output.output_type == "stream")
