"""Files in the place of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.errors import ArtifactError, MeasureError
from nbcompress.measure.files import OnnxModel, onnx_sizes


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 3))


class Files:
    """A model, its compressed copy, and both kinds of files of the copy."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        x = torch.randn(120, 32)
        self.data = x, (x @ torch.randn(32, 3)).argmax(1)
        self.model = net()
        nc.finetune(self.model, self.data, epochs=8, lr=0.01)
        self.small = nc.quantize(self.model, 3, granularity="group:16")
        self.nbz = nc.save(self.small, folder / "small.nbz")
        self.onnx = nc.export(self.small, folder / "small.onnx", example=x[:2], tolerance=1e-3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    with torch.random.fork_rng():
        return Files(tmp_path_factory.mktemp("files"))


def test_the_accuracy_is_that_of_the_file(files: Files) -> None:
    expected = nc.accuracy(files.small, files.data)
    assert float(expected) != float(nc.accuracy(files.model, files.data))
    for found in (nc.accuracy(str(files.onnx), files.data), nc.accuracy(files.nbz, files.data, into=net())):
        assert torch.equal(found.predictions, expected.predictions)


def test_an_instance_that_is_filled_stays_as_it_is(files: Files) -> None:
    instance = net()
    before = instance[0].weight.detach().clone()
    nc.accuracy(files.nbz, files.data, into=instance)
    assert torch.equal(instance[0].weight, before)


def test_the_footprint_is_that_of_the_file(files: Files) -> None:
    x = files.data[0]
    found = nc.footprint(files.onnx, x[:1], repeats=3)
    assert (found.name, found.size_bytes, found.parameters, found.macs) == (
        "small.onnx",
        files.onnx.stat().st_size,
        None,
        None,
    )
    assert found.latency is not None
    assert found.latency.runtime == "onnx"
    assert [layer.name for layer in found.layers] == ["0", "2"]
    # 4 bits a weight, a scale of 4 bytes for 16 weights, and a bias.
    assert found.layers[0].size_bytes == pytest.approx(32 * 48 / 2 + 4 * 2 * 48 + 4 * 48, abs=200)
    assert found.size_bytes == found.overhead_bytes + sum(layer.size_bytes for layer in found.layers)
    assert repr(found) == f"<Footprint of small.onnx: {found.size_bytes / 1000:.1f} kB>"
    table = nc.footprint({"model": files.model, "file": files.nbz, "onnx": files.onnx}, x[:1], repeats=3)
    assert [item.size_bytes for item in table[:2]] == [nc.size_bytes(files.model), files.nbz.stat().st_size]
    assert [item.latency and item.latency.runtime for item in table] == ["torch", "torch", "onnx"]
    assert "on 1 thread, onnx in ONNX Runtime and the others in torch, with its 95 % interval" in str(table)


def test_a_model_and_a_file_compare(files: Files) -> None:
    for file in (files.onnx, files.nbz):
        found = nc.compare(files.model, file, data=files.data, repeats=3)
        expected = nc.compare(files.model, files.small, data=files.data, repeats=0)
        assert found.accuracy is not None
        assert expected.accuracy is not None
        assert torch.equal(found.accuracy.after.predictions, expected.accuracy.after.predictions)
        assert found.after.size_bytes == file.stat().st_size
        assert found.speedup is not None
    assert nc.compare(files.nbz, files.onnx, data=files.data, repeats=0, into=net()).accuracy is not None


def test_milliseconds_of_a_file(files: Files) -> None:
    assert nc.latency_ms(files.onnx, files.data[0][:1], repeats=3) > 0
    assert nc.latency_ms(files.onnx, files.data[0][:1], repeats=3, runtime="onnx") > 0


def test_the_mistakes_are_named(files: Files, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"'small.nbz' holds weights and no code: pass into="):
        nc.accuracy(files.nbz, files.data)
    with pytest.raises(MeasureError, match="there is no file"):
        nc.footprint(str(tmp_path / "none.onnx"))
    with pytest.raises(MeasureError, match=r"got str 'model.pt': files end in \.onnx or \.nbz"):
        nc.accuracy("model.pt", files.data)
    with pytest.raises(MeasureError, match="Module can be measured, got int"):
        nc.compare(files.model, 3)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="the file holds a Sequential"):
        nc.accuracy(files.nbz, files.data, into=nn.Linear(3, 3))
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="ONNX Runtime must be able to load the model"):
        nc.accuracy(tmp_path / "broken.onnx", files.data)


class Two(nn.Module):
    """Named inputs, two outputs."""

    def forward(self, x: Tensor, shift: Tensor) -> dict[str, Tensor]:
        return {"scores": x + shift, "sum": x.sum(1)}


def test_inputs_by_name_and_several_outputs(tmp_path: Path) -> None:
    x, shift = torch.eye(3)[[0, 1, 2, 2]], torch.zeros(4, 3)
    path = nc.export(Two(), tmp_path / "two.onnx", example={"x": x, "shift": shift})
    scores, total = OnnxModel(str(path))(shift=shift + 1, x=x)
    torch.testing.assert_close(scores, x + 1)
    torch.testing.assert_close(total, x.sum(1))
    data = [{"shift": shift, "x": x, "labels": torch.tensor([0, 1, 2, 0])}]
    assert float(nc.accuracy(path, data, output=0)) == 0.75


def test_a_second_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbcompress.artifact.export import onnx_file

    monkeypatch.setattr(onnx_file, "_MAX_WEIGHT_BYTES", 1000)
    path = nc.export(net(), tmp_path / "large.onnx", example=torch.randn(2, 32))
    total, layers = onnx_sizes(path)
    assert total == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert layers["0"] >= 4 * 33 * 48
