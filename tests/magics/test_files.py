"""`%export` and `%compare` in a shell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import nbcompress as nc

if TYPE_CHECKING:
    from conftest import Notebook


@pytest.fixture
def ready(notebook: Notebook) -> Notebook:
    torch.manual_seed(0)
    x = torch.randn(60, 32)
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 3))
    notebook.names.update(
        model=model, x=x, y=torch.arange(60) % 3, nn=nn, small=nc.quantize(model, 4, granularity="group:16")
    )
    return notebook


def test_export_measures_the_file(ready: Notebook) -> None:
    ran = ready.must("name = 'small'\npath = %export small {name}.onnx --data (x, y)")
    path = ready.names["path"]
    assert path == Path("small.onnx")
    assert path.is_file()
    (card,) = ran.shown
    text = card["text/plain"]
    head = text.splitlines()[2].split()
    assert head == ["small", "small.onnx", "gain"]
    for row in ("size", "ms a call", "accuracy"):
        assert any(line.startswith(row) for line in text.splitlines())
    assert "agreement with the model: outputs are off by" in text
    assert "accuracy_level 4: inputs in 8 bits agree" in text
    assert f"written: {path.stat().st_size / 1000:.1f} kB to small.onnx" in text
    assert "of flash for the file, and about" in text
    assert "size, small.onnx" in text
    assert card["image/png"]
    assert "accuracy" in card["text/html"]


def test_export_of_other_formats(ready: Notebook) -> None:
    ran = ready.must("path = %export model model.safetensors --example x")
    assert "safetensors files are not run here" in ran.shown[0]["text/plain"]
    assert "FILE" in ready.refused("%export model")
    assert "must end in" in ready.refused("%export model model.txt --example x")
    assert "%export: to export a model as a program, give an input that it runs on: --example x" in ready.refused(
        "%export model model.onnx"
    )


def test_compare_of_two(ready: Notebook) -> None:
    ready.must("path = %export small small.onnx --example x")
    nc.save(ready.names["small"], "small.nbz")
    for line in ("%compare model small", "%compare model small.onnx", "%compare model 'small.nbz'"):
        ran = ready.must(f"found = {line} --data (x, y) --evaluate (lambda net: float(net(x).sum().detach()))")
        text = ran.shown[0]["text/plain"]
        assert text.splitlines()[2].split() == ["model", line.split()[-1].strip("'"), "gain"]
        assert "accuracy" in text
        assert "lambda net" in text
        assert ready.names["found"].accuracy is not None


def test_compare_of_more(ready: Notebook) -> None:
    nc.save(ready.names["small"], "small.nbz")
    ran = ready.must("found = %compare model small small.nbz --data (x, y) --threads 1")
    text = ran.shown[0]["text/plain"]
    assert text.splitlines()[2].split() == ["model", "small", "small.nbz"]
    assert len(ready.names["found"]) == 3
    assert "model to small.nbz:" in text
    assert ready.names["found"][1].size_bytes == ready.names["found"][2].size_bytes
    without_data = ready.must("%compare model small small.nbz").shown[0]["text/plain"]
    assert "accuracy" not in without_data


def test_what_cannot_be_compared(ready: Notebook) -> None:
    assert "two models or files or more" in ready.refused("%compare model")
    assert "there is no file 'none.onnx'" in ready.refused("%compare model none.onnx")
    nc.save(ready.names["small"], "small.nbz")
    assert "pass --into" in ready.refused("%compare small.nbz small.nbz")
    assert "MODEL must be a torch.nn.Module, but 3 is an int. Names of files end in .onnx or .nbz." in ready.refused(
        "%compare model 3"
    )


def test_footprint_takes_files(ready: Notebook) -> None:
    ready.must("path = %export small small.onnx --example x")
    ran = ready.must("costs = %footprint model small.onnx --example x[:1]")
    assert "small.onnx in ONNX Runtime and the others in torch" in ran.shown[0]["text/plain"]


def test_milliseconds_are_an_objective_in_one_line(ready: Notebook) -> None:
    ready.must(
        "%%bo_search --trials 2 --minimize ms --panel off\n"
        "bits = Choice(4, 8)\n"
        "ms = latency_ms(quantize(model, bits=bits, granularity='group:16'), x[:1], runtime='onnx', repeats=3)"
    )
    assert all(trial > 0 for trial in ready.names["study"].trials.ms)
