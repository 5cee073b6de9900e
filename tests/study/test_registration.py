"""A kernel lists the storages that it uses for the Jupyter server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import nbcompress as nc
from nbcompress.study.registration import MAX_STORAGES, register_study, registered, registration_file


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this process look like a kernel, and return the folder of its connection file."""
    application = SimpleNamespace(abs_connection_file=str(tmp_path / "kernel-1-2.json"))
    kernel_app = SimpleNamespace(initialized=lambda: True, instance=lambda: application)
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", SimpleNamespace(IPKernelApp=kernel_app))
    return tmp_path


def test_a_search_in_a_kernel_registers_its_storage(kernel: Path) -> None:
    storage = kernel / "a.journal"
    for name in ("s", "s", "t"):
        nc.search(
            lambda x: {"loss": x}, {"x": nc.Float(0, 1)}, minimize="loss", trials=1, storage=str(storage), study=name
        )
    entries = registered(kernel, "1-2")
    assert entries == [{"storage": str(storage), "study": name, "is_searched": True} for name in ("t", "s")]
    file = kernel / "nbcompress-1-2.json"
    assert file.stat().st_mode & 0o077 == 0
    assert [path.name for path in kernel.glob("*.tmp")] == []


def test_a_study_that_is_only_read_is_not_searched_here(kernel: Path) -> None:
    register_study("/a.journal", "s")
    assert [entry["is_searched"] for entry in registered(kernel, "1-2")] == [False]
    register_study("/a.journal", "s", is_searched=True)
    register_study("/a.journal", "s")
    assert registered(kernel, "1-2") == [{"storage": "/a.journal", "study": "s", "is_searched": True}]


def test_a_password_never_leaves_the_kernel(kernel: Path) -> None:
    storage = f"sqlite:///{kernel / 'a.db'}?password=hunter2&x=1"
    register_study("postgresql://me:***@host/db", "s")
    assert "hunter2" not in (kernel / "nbcompress-1-2.json").read_text()
    assert storage not in (kernel / "nbcompress-1-2.json").read_text()


def test_memory_is_not_registered(kernel: Path) -> None:
    nc.search(lambda x: {"loss": x}, {"x": nc.Float(0, 1)}, minimize="loss", trials=1)
    assert registered(kernel, "1-2") == []


def test_outside_of_a_kernel_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel.kernelapp", raising=False)
    register_study(str(tmp_path / "a.journal"), "s")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_counts_as_empty_and_a_long_list_is_cut(tmp_path: Path) -> None:
    for text in ("", "[]", "{", '{"studies": 3}', '{"studies": [1, {"storage": 2, "study": "s"}]}'):
        (tmp_path / "nbcompress-1.json").write_text(text)
        assert registered(tmp_path, "1") == []
    many = [{"storage": f"/{number}", "study": "s"} for number in range(MAX_STORAGES + 5)]
    (tmp_path / "nbcompress-1.json").write_text(json.dumps({"studies": many}))
    assert len(registered(tmp_path, "1")) == MAX_STORAGES


def test_the_file_belongs_to_a_kernel() -> None:
    assert registration_file("/run/other.json") is None
    assert registration_file("") is None
