"""The notebook on speech, executed in its short mode."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]


def test_it_runs_without_a_warning(outputs_of: Callable[[str], list[Any]]) -> None:
    outputs = outputs_of("speech.ipynb")
    streams = [output for output in outputs if output.output_type == "stream"]
    assert {output.name for output in streams} == {"stdout"}
    table = "".join(output.text for output in streams)
    rows = re.findall(r"^(.{16}) *(\d+\.\d) +\d+\.\d % \(", table, flags=re.MULTILINE)
    sizes = {name.strip(): float(size) for name, size in rows}
    assert list(sizes) == ["recogniser", "narrow", "narrow, 4 bits", "student"]
    assert sizes["recogniser"] > 3 * sizes["narrow"] > 12 * sizes["narrow, 4 bits"]
    # Three cards of compressors, the picture, and the card of the explanation, which no `print` shows.
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert "explain" in outputs[-1].data["text/plain"].splitlines()[0]
