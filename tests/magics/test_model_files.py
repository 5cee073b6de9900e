"""`%footprint` of a file, without its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Notebook


def test_a_file_shows_what_it_holds(notebook: Notebook) -> None:
    notebook.must("import torch, nbcompress as nc\nnc.save(nc.quantize(torch.nn.Linear(8, 4), bits=4), 'small.nbz')")
    ran = notebook.must('contents = %footprint "small.nbz"')
    assert "4 bits, symmetric, by channel" in ran.shown[0]["text/plain"]
    assert "<table" in ran.shown[0]["text/html"]
    assert notebook.names["contents"].class_name == "Linear"
    notebook.must("path = 'small.nbz'")
    assert "Linear" in notebook.must("%footprint path").shown[0]["text/plain"]


def test_nothing_of_a_file_is_run(notebook: Notebook) -> None:
    line = notebook.refused('%footprint "small.nbz" --example 1')
    assert "holds weights and no code" in line
    assert "small.nbz" in notebook.refused('%footprint "small.nbz"')
