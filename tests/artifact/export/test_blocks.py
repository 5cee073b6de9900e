"""Weights in packed blocks: the bytes of `MatMulNBits`, the level that is chosen, and tables that stay shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_nets import Encoder, constants, error, operators, ran
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.artifact.export.agreement import changed_predictions
from nbcompress.artifact.export.blocks import EXACT_LEVEL, INTEGER_LEVEL, in_blocks
from nbcompress.artifact.export.onnx_graph import IntegerWeight
from nbcompress.errors import ArtifactError


def levels(path: Path) -> list[int]:
    """Return the `accuracy_level` of each packed product in the file."""
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "MatMulNBits"]
    return [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "accuracy_level"]


def row(codes: list[int], zero: int | None = None, block: int = 0) -> IntegerWeight:
    dtype = np.int8 if zero is None else np.uint8
    zeros = None if zero is None else np.array([zero], np.uint8)
    return IntegerWeight("w", np.array([codes], dtype), np.array([0.5], np.float32), zeros, block)


def test_bytes_by_hand() -> None:
    # In 4 bits -8 ... 7 become 0 ... 15, the first code in the low half of a byte.
    found = in_blocks(row([-8, 7, 0, 5] + [0] * 12), INTEGER_LEVEL)
    assert found is not None
    assert (found.bits, found.block, found.zero) == (4, 16, None)
    assert found.packed[0, 0, :3].tolist() == [0xF0, 0xD8, 0x88]
    # In 2 bits -2 ... 1 become 0 ... 3. A row of 16 codes is filled up to a block of 32 with zeros, whose code is 2.
    found = in_blocks(row([-2, -1, 0, 1] * 4), INTEGER_LEVEL)
    assert found is not None
    assert (found.bits, found.block, found.zero) == (2, 32, None)
    assert found.packed[0, 0].tolist() == [0b11100100] * 4 + [0b10101010] * 4
    # -1 ... 2 need another code for zero.
    found = in_blocks(row([-1, 0, 1, 2] * 4), INTEGER_LEVEL)
    assert found is not None
    assert (found.bits, found.packed[0, 0, 0], found.zero.tolist()) == (2, 0b11100100, [[1]])  # type: ignore[union-attr]
    # 8 bits: the code of zero is 128, or the zero point of the grid.
    found = in_blocks(row([-100, 100] * 8), INTEGER_LEVEL)
    assert found is not None
    assert (found.bits, found.packed[0, 0, :2].tolist(), found.zero) == (8, [28, 228], None)
    found = in_blocks(row([0, 255] * 8, zero=3), INTEGER_LEVEL)
    assert found is not None
    assert (found.packed[0, 0, :2].tolist(), found.zero.tolist()) == ([0, 255], [[3]])  # type: ignore[union-attr]


def test_what_no_kernel_reads_fast_is_left() -> None:
    assert in_blocks(row([1] * 15), INTEGER_LEVEL) is None  # a block has at least 16 weights
    assert in_blocks(row([100] * 16), EXACT_LEVEL) is None  # 8 bits in floating point are slower than decoded ones
    assert in_blocks(row([7] * 16), EXACT_LEVEL) is not None


@pytest.mark.parametrize("granularity", ["channel", "tensor", "group:16", "group:48", "group:512"])
@pytest.mark.parametrize(
    ("bits", "scheme"), [(1, "symmetric"), (2, "symmetric"), (2, "affine"), (4, "affine"), (8, "affine")]
)
def test_products_are_those_of_the_weights(bits: int, scheme: str, granularity: str, tmp_path: Path) -> None:
    torch.manual_seed(bits)
    # Rows of 50 and 600 weights are no multiple of a block.
    model = nn.Sequential(nn.Linear(50, 600), nn.ReLU(), nn.Linear(600, 7))
    small, x = nc.quantize(model, bits, scheme=scheme, granularity=granularity), torch.randn(5, 50)
    path = nc.export(small, tmp_path / "small.onnx", example=x)
    found = operators(path)
    assert (found["MatMulNBits"], found["DequantizeLinear"], found["Gemm"]) == (2, 0, 0)
    assert found["Reshape"] == 0  # the file holds weights as the product reads them
    with torch.no_grad():
        expected = small(x)
    assert error(expected, ran(path, x, is_exact=True)) < 1e-5
    assert error(expected, ran(path, x)) < 0.05
    assert path.report is not None
    assert {product.name for product in path.report.products} == {"0.weight", "2.weight"}


def test_groups_that_no_block_divides_are_decoded(tmp_path: Path) -> None:
    small, x = nc.quantize(nn.Linear(40, 20), 4, granularity="group:10"), torch.randn(3, 40)
    path = nc.export(small, tmp_path / "small.onnx", example=x)
    assert operators(path)["MatMulNBits"] == 0
    assert path.report is not None
    assert path.report.decoded == ("weight",)


def test_sizes_are_those_of_the_bits(tmp_path: Path) -> None:
    model, x = nn.Linear(256, 512), torch.randn(2, 256)
    for bits, per_weight in ((2, 2 + 32 / 32), (4, 4 + 32 / 32), (8, 8 + 32 / 32)):
        small = nc.quantize(model, bits, granularity="group:32", rest="float32")
        path = nc.export(small, tmp_path / "small.onnx", example=x)
        weights = 256 * 512 * per_weight / 8
        # Zero points of 2 bits, and the graph.
        assert weights <= path.stat().st_size < weights + (1024 if bits == 2 else 0) + 4 * 512 + 1500


@pytest.mark.parametrize("granularity", ["group:16", "channel"])
def test_a_head_shares_the_table_of_the_embedding(granularity: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = nc.quantize(Encoder(48).eval(), 4, granularity=granularity)
    tokens = torch.arange(28).reshape(4, 7)
    path = nc.export(small, tmp_path / "small.onnx", example=tokens)
    found = operators(path)
    assert (found["MatMulNBits"], found["GatherBlockQuantized"], found["Gather"]) == (6, 1, 0)
    tables = [array for array in constants(path).values() if array.dtype == np.uint8 and array.shape[0] == 40]
    assert len(tables) == 1
    with torch.no_grad():
        expected = small(tokens)["logits"]
    assert error(expected, ran(path, tokens, is_exact=True)) < 1e-5


def test_rows_of_a_table_that_is_padded(tmp_path: Path) -> None:
    small, tokens = nc.quantize(nn.Embedding(30, 20), 4, granularity="group:16"), torch.arange(12).reshape(3, 4)
    path = nc.export(small, tmp_path / "small.onnx", example=tokens)
    assert operators(path)["GatherBlockQuantized"] == 1
    torch.testing.assert_close(ran(path, tokens), small(tokens))


class Outliers(nn.Module):
    """Two inputs are a hundred thousand times as large as the others and cancel out in every output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 8)
        with torch.no_grad():
            self.linear.weight[:, 1] = self.linear.weight[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        large = x[:, :1] * 1e5
        return self.linear(torch.cat([large, -large, x[:, 2:]], dim=1))


@pytest.mark.parametrize(("bits", "expected"), [(4, [1]), (8, [])])
def test_outliers_are_computed_in_floats(bits: int, expected: list[int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    small, x = nc.quantize(Outliers(), bits, granularity="group:32"), torch.randn(6, 64)
    path = nc.export(small, tmp_path / "small.onnx", example=x)
    assert levels(path) == expected
    with torch.no_grad():
        assert error(small(x), ran(path, x)) < 1e-2
    report = path.report
    assert report is not None
    assert "products compute in floating point, because inputs in 8 bits give outputs off by" in report.why
    assert report.decoded == (() if bits == 4 else ("linear.weight",))


def test_a_smaller_tolerance_decides_for_floats(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small, x = nc.quantize(nn.Linear(64, 8), 4, granularity="group:32"), torch.randn(6, 64)
    path = nc.export(small, tmp_path / "small.onnx", example=x)
    assert levels(path) == [4]
    assert path.report is not None
    assert path.report.why.startswith("accuracy_level 4: inputs in 8 bits agree, outputs off by 0.00")
    assert levels(nc.export(small, tmp_path / "small.onnx", example=x, tolerance=1e-4)) == [1]


def test_groups_with_dynamic_activations_compute_in_integers(tmp_path: Path) -> None:
    small = nc.quantize(nn.Linear(64, 8), 4, granularity="group:32", activations="dynamic")
    path = nc.export(small, tmp_path / "small.onnx", example=torch.randn(6, 64))
    assert levels(path) == [4]
    assert path.report is not None
    assert path.report.why == "accuracy_level 4: inputs in 8 bits, as quantize(activations=...) asked"


def test_clear_changes_of_predictions_count() -> None:
    expected = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.99, 2.0], [0.0, 1.0, 2.0]])
    # The largest moves in the first row, in a near tie, and not at all.
    actual = torch.tensor([[0.0, 3.0, 2.0], [0.0, 2.1, 2.0], [0.0, 1.0, 5.0]])
    assert changed_predictions([expected], [actual]) == pytest.approx(1 / 3)
    assert changed_predictions([expected[:, :1]], [actual[:, :1]]) == 0


def test_the_report_names_layers_by_shape(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 16))
    path = nc.export(nc.quantize(model, 4), tmp_path / "small.onnx", example=torch.randn(2, 3, 32))
    assert path.report is not None
    speeds = path.report.speeds()
    assert [(speed.names, speed.product.n_rows) for speed in speeds] == [
        (("0.weight", "1.weight"), 3),
        (("2.weight",), 3),
    ]
    assert all(speed.speedup > 0 for speed in speeds)
    assert "3 matrix products read weights in 4 bits (MatMulNBits)" in str(path.report)
    assert path.parent.joinpath("other").exists() is False
    assert (path / "x").report is None  # type: ignore[attr-defined]


def test_weights_above_the_limit_go_into_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbcompress.artifact.export import onnx_file

    monkeypatch.setattr(onnx_file, "_MAX_WEIGHT_BYTES", 10_000)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64)), torch.randn(4, 64)
    path = nc.export(model, tmp_path / "large.onnx", example=x)
    assert path.report is not None
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "large.onnx.data"] == list(path.report.files)
    assert path.stat().st_size < 5_000 < 4 * 2 * 64 * 96 <= (tmp_path / "large.onnx.data").stat().st_size
    assert path.report.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    with torch.no_grad():
        torch.testing.assert_close(ran(path, x), model(x))
    assert nc.latency_ms(path, x, repeats=3) > 0
    # In few bits, and once more in place of what is there.
    small = nc.export(nc.quantize(model, 8), tmp_path / "large.onnx", example=x)
    assert levels(small) == [4, 4]
    with pytest.raises(ArtifactError, match="off by"):
        nc.export(nc.quantize(model, 8, activations="dynamic"), path, example=x, tolerance=1e-9)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
