"""The page of a report is one file whose data no HTML parser reads as markup; the built front end is small."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from panel_studies import digits_study, hostile_study

import nbcompress
from nbcompress.panels.page import script_json, study_page


def test_page_is_one_file_with_data_and_plain_form() -> None:
    page = study_page(digits_study())
    assert page.startswith("<!doctype html>")
    found = re.search(r'<script type="application/json" id="nbcompress-study">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    assert json.loads(found[1])["name"] == "digits"
    assert "The front, best in accuracy first" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)


def test_hostile_data_cannot_leave_its_element() -> None:
    page = study_page(hostile_study())
    source = page.split('id="nbcompress-study">')[1].split("</script>")[0]
    assert not set("<>&") & set(source)
    assert json.loads(source)["record"]["cell"].startswith("<script>alert(1)</script>")
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_json_in_a_script_is_unchanged_json() -> None:
    data = {"a": "</script><!-- & ", "b": [1, None, True]}
    assert json.loads(script_json(data)) == data


def test_without_scripts_the_plain_form_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbcompress.panels.page.asset", lambda name: None)
    page = study_page(digits_study())
    assert "The front, best in accuracy first" in page
    assert page.count("<script") == 1


MAX_BYTES = 150_000
MAX_TOTAL = 250_000
PACKAGE = Path(nbcompress.__file__).parent
BUILT = [*PACKAGE.glob("panels/static/*.js"), *PACKAGE.glob("labextension/static/*.js")]


@pytest.mark.parametrize("path", BUILT, ids=lambda path: path.name.split(".")[0])
def test_scripts_are_small(path: Path) -> None:
    assert 10_000 < path.stat().st_size < MAX_BYTES


def test_the_front_end_is_built() -> None:
    assert len(BUILT) == 2, "panel.js, and what JupyterLab loads"
    assert sum(path.stat().st_size for path in BUILT) < MAX_TOTAL
