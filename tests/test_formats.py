"""What docs/formats.md says of versions is what the code writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nbcompress.artifact import container
from nbcompress.panels import view
from nbcompress.run import kept
from nbcompress.space import space
from nbcompress.study import opening

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
VERSIONS = {
    "file": container.VERSION,
    "note": kept.VERSION,
    "study": opening.FORMAT,
    "space": space.VERSION,
    "bundle": view.VERSION,
}


@pytest.mark.parametrize("name", VERSIONS)
def test_the_table_has_the_versions_of_the_code(name: str) -> None:
    row = re.search(rf"^\| {name} \|.*?\| (\d+) \| `([\w/]+\.py)`", TEXT, re.MULTILINE)
    assert row is not None
    assert int(row[1]) == VERSIONS[name]
    assert (ROOT / "nbcompress" / row[2]).is_file()


def test_the_mime_type_and_the_schema_have_the_version_of_the_bundle() -> None:
    schema = json.loads((ROOT / "nbcompress/panels/schema/study.v1.schema.json").read_text(encoding="utf-8"))
    assert schema["properties"]["version"]["const"] == view.VERSION
    assert f"application/vnd.nbcompress.study.v{view.VERSION}+json" in TEXT


def test_every_key_of_a_study_is_listed() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "nbcompress/study").glob("*.py"))
    keys = set(re.findall(r'"(nbcompress:[\w:]+)"', source))
    assert keys
    assert {key for key in keys if f"`{key}" not in TEXT} == set()


@pytest.mark.parametrize("version", range(1, container.VERSION + 1))
def test_there_is_a_sample_of_every_version_of_the_file(version: int) -> None:
    assert (ROOT / f"tests/golden/artifact/version-{version}.safetensors").is_file()
