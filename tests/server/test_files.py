"""Which files the server reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nbcompress.server.files import FileRefused, ServedFiles


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "deep" / "deeper").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for name in ("a.journal", "deep/b.db", "deep/deeper/c.journal", ".hidden/d.journal", ".e.journal", "f.txt"):
        (root / name).write_text("")
    (tmp_path / "outside.journal").write_text("")
    (root / "link.journal").symlink_to(tmp_path / "outside.journal")
    (root / "out").symlink_to(tmp_path)
    (root / "inside.journal").symlink_to(root / "a.journal")
    (root / "to_hidden.journal").symlink_to(root / ".hidden" / "d.journal")
    os.mkfifo(root / "pipe.journal")
    return root


@pytest.mark.parametrize("path", ["a.journal", "deep/b.db", "deep/deeper/c.journal", "inside.journal"])
def test_files_below_the_root_are_served(root: Path, path: str) -> None:
    assert ServedFiles(root).resolve(path) == (root / path).resolve()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../outside.journal", "leads out"),
        ("deep/../../outside.journal", "leads out"),
        ("/etc/passwd", "leads out"),
        ("//etc/passwd", "leads out"),
        ("deep\\b.db", "no path"),
        ("a.journal\0", "no path"),
        ("", "no path"),
        (None, "no path"),
        (".hidden/d.journal", "hidden"),
        (".e.journal", "hidden"),
        ("to_hidden.journal", "link"),
        ("link.journal", "link"),
        ("out/outside.journal", "link"),
        ("f.txt", "is not one of"),
        ("pipe.journal", "no regular file"),
        ("deep", "is not one of"),
        ("missing.journal", "cannot be read"),
    ],
)
def test_other_paths_are_refused(root: Path, path: object, why: str) -> None:
    with pytest.raises(FileRefused, match=why):
        ServedFiles(root).resolve(path)


def test_a_long_file_is_refused(root: Path) -> None:
    (root / "a.journal").write_text("x" * 11)
    with pytest.raises(FileRefused, match="11 bytes; more than 10"):
        ServedFiles(root, max_bytes=10).resolve("a.journal")


def test_hidden_files_are_served_where_the_server_shows_them(root: Path) -> None:
    assert ServedFiles(root, allow_hidden=True).resolve(".e.journal").name == ".e.journal"


def test_a_listing_has_high_folders_first_and_follows_no_folder_out(root: Path) -> None:
    found = ServedFiles(root).find()
    assert found.is_complete
    files = [path for path in found.paths if not (root / path).is_symlink()]
    assert files == ["a.journal", "pipe.journal", "deep/b.db", "deep/deeper/c.journal"]
    assert not any(path.startswith("out/") for path in found.paths)
    assert ServedFiles(root).find("deep").paths == ("deep/b.db", "deep/deeper/c.journal")
    with pytest.raises(FileRefused, match="leads out"):
        ServedFiles(root).find("../")
    with pytest.raises(FileRefused, match="no folder"):
        ServedFiles(root).find("out")


def test_a_listing_of_very_many_files_stops(root: Path) -> None:
    found = ServedFiles(root, max_entries=3).find()
    assert not found.is_complete
    assert len(found.paths) <= 3


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    files = ServedFiles(tmp_path / "alias")
    assert files.resolve("a.journal") == root / "a.journal"
    assert files.find("deep").paths == ("deep/b.db", "deep/deeper/c.journal")
