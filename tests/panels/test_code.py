"""What the view copies as code is what the search cell reads."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from nbcompress.magics.search_options import search_parser

# The TypeScript tests write the same lines from the same points.
CASES = json.loads((Path(__file__).parents[1] / "samples" / "code" / "points.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("point", "code"), CASES)
def test_a_copied_point_is_read_back(point: dict[str, Any], code: str) -> None:
    arguments = search_parser().read(f"--trials 3 --maximize score {code} --study s")
    assert ast.literal_eval(arguments.start) == [point]
    assert arguments.study == "s"
