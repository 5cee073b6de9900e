"""The README's promises that a machine can check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nbcompress.magics import CELL_MAGIC, LINE_MAGICS
from nbcompress.public import HOMES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_every_folder_and_picture_exists() -> None:
    for path in re.findall(r"`((?:nbcompress|examples|tests|labextension)(?:/[\w./-]*)?)`", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"!\[[^]]*]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_the_version_is_in_one_place() -> None:
    from nbcompress._version import __version__

    package = (ROOT / "labextension" / "package.json").read_text(encoding="utf-8")
    assert f'"version": "{__version__}"' in package
