"""What the README and the other documents promise, as far as a machine can check it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nbcompress.magics import CELL_MAGIC, LINE_MAGICS
from nbcompress.public import HOMES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def anchors_of(document: Path) -> set[str]:
    """Return the anchors that the headings of a document get where it is shown as a page."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_both_commands_stand_on_a_line_of_their_own_in_a_code_block() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert "make demo" in lines
    assert "make test" in lines


@pytest.mark.parametrize("name", [CELL_MAGIC, *LINE_MAGICS])
def test_every_magic_is_named(name: str) -> None:
    assert f"%{name}" in README


def test_every_python_name_exists() -> None:
    assert {name for name in re.findall(r"\bnc\.(\w+)", README) if name not in HOMES} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_path_of_the_project_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:nbcompress|examples|tests|labextension)(?:/[\w./-]*)?)`", text):
        assert (ROOT / path).exists(), path


def test_every_picture_exists() -> None:
    for path in re.findall(r"!\[[^]]*]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_link_to_a_file_or_a_heading_leads_there(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target), link


def test_every_heuristic_of_the_code_has_its_heading_in_the_benchmarks() -> None:
    known = anchors_of(ROOT / "docs" / "benchmarks.md")
    for path in sorted((ROOT / "nbcompress").rglob("*.py")):
        for anchor in re.findall(r"benchmarks\.md#([\w-]+)", path.read_text(encoding="utf-8")):
            assert anchor in known, f"{path.relative_to(ROOT)} names benchmarks.md#{anchor}"


def test_the_version_is_in_one_place() -> None:
    from nbcompress._version import __version__

    package = (ROOT / "labextension" / "package.json").read_text(encoding="utf-8")
    assert f'"version": "{__version__}"' in package
