"""ONNX files: the integers of grids, integer operators, and agreement with the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_nets import (
    Encoder,
    Recurrent,
    Residual,
    constants,
    error,
    operators,
    perceptron,
    ran,
    running,
    settled,
)
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compressors import ActivationRange, Record, attach_, codes_of, record_of
from nbcompress.compressors.layers import copied
from nbcompress.errors import ArtifactError, NbcompressWarning


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def output(model: nn.Module, *inputs: Tensor) -> Tensor:
    with torch.no_grad():
        found = model(*inputs)
    return next(iter(found.values())) if isinstance(found, dict) else found


IMAGES, TOKENS = torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(28).reshape(4, 7)
WEIGHTS_ONLY: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "perceptron": (lambda: nc.quantize(perceptron(), 8), torch.randn(6, 12)),
    "perceptron-4-affine": (lambda: nc.quantize(perceptron(), 4, scheme="affine"), torch.randn(6, 12)),
    "residual-groups": (
        lambda: nc.quantize(settled(Residual(), IMAGES), 4, granularity="group:16"),
        IMAGES,
    ),
    "encoder": (lambda: nc.quantize(Encoder().eval(), 8), TOKENS),
    "encoder-6-affine": (lambda: nc.quantize(Encoder().eval(), 6, scheme="affine"), TOKENS),
    "recurrent": (lambda: nc.quantize(Recurrent().eval(), 8), TOKENS % 20),
}


@pytest.mark.parametrize("name", WEIGHTS_ONLY)
def test_weights_only_is_the_model(name: str, tmp_path: Path) -> None:
    make, x = WEIGHTS_ONLY[name]
    model = make().eval()
    path = nc.export(model, tmp_path / "small.onnx", example=x)
    for n in (1, 3):
        assert error(output(model, x[:n]), ran(path, x[:n], is_exact=True)) < 1e-5
    assert operators(path)["MatMulInteger"] == operators(path)["QuantizeLinear"] == 0
    onnx.checker.check_model(onnx.load(path), full_check=True)


@pytest.fixture(scope="module")
def small_perceptron(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nc.quantize(perceptron(), 8, activations="dynamic")
        return model, nc.export(model, tmp_path_factory.mktemp("p") / "p.onnx", example=torch.randn(4, 12))


def test_integers_in_the_file_are_ours(small_perceptron: tuple[nn.Module, Path]) -> None:
    model, path = small_perceptron
    found = constants(path)
    for name, record in record_of(model).tensors.items():
        assert record.grid is not None
        codes = codes_of(model.get_parameter(name), record) - record.grid.zero[:, None]
        np.testing.assert_array_equal(found[f"{name}.codes"], codes.numpy())
        np.testing.assert_array_equal(found[f"{name}.scale"], record.grid.scale.numpy())


def test_dynamic_is_what_the_integers_say(small_perceptron: tuple[nn.Module, Path]) -> None:
    model, path = small_perceptron
    x = torch.randn(5, 12)
    value = x.numpy()
    for place in (0, 2, 4):
        layer = model[place]
        low, high = min(value.min(), 0), max(value.max(), 0)
        scale = np.float32((high - low) / np.float32(255))
        middle = np.clip(np.rint(-low / scale), 0, 255)
        integers = np.clip(np.rint(value / scale) + middle, 0, 255) - middle
        value = (integers * scale) @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        value = np.maximum(value, 0) if place < 4 else value
    # The last bit of a sum decides the code of an activation that lies half way between two codes.
    assert error(torch.from_numpy(value).float(), ran(path, x)) < 2e-3
    assert error(output(model, x), ran(path, x)) < 0.05


def test_dynamic_operators_and_nothing_else_in_the_file(
    small_perceptron: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    _, path = small_perceptron
    found = operators(path)
    assert (found["DynamicQuantizeLinear"], found["MatMulInteger"], found["MatMul"], found["Gemm"]) == (3, 3, 0, 0)
    assert running(path, tmp_path)["DynamicQuantizeMatMul"] == 3
    file = onnx.load(path)
    assert not file.graph.value_info  # stale shapes there are what breaks other tools
    assert file.producer_name == "nbcompress"
    assert str(Path(__file__).parent).encode() not in path.read_bytes()  # no trace of the user's files
    shape = file.graph.input[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, shape[1].dim_value) == ("batch", 12)
    assert [entry.name for entry in path.parent.iterdir()] == ["p.onnx"]


def test_dynamic_encoder_with_a_shared_weight(tmp_path: Path) -> None:
    model = nc.quantize(Encoder(32).eval(), 8, activations="dynamic")
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[:, 5:] = False
    example = {"tokens": TOKENS, "mask": mask}
    path = nc.export(model, tmp_path / "small.onnx", example=example)
    assert error(output(model, TOKENS, mask), ran(path, TOKENS, mask)) < 0.05
    found = running(path, tmp_path)
    # Query, key and value share the rounding of their input.
    assert (found["DynamicQuantizeMatMul"], found["MatMulIntegerToFloat"], found["DynamicQuantizeLinear"]) == (3, 3, 1)
    # The table is there once, in 8 bits, though it is read as rows and as a matrix.
    assert sum(array.size for array in constants(path).values() if array.shape in ((40, 32), (32, 40))) == 40 * 32
    plain = nc.export(Encoder(32).eval(), tmp_path / "plain.onnx", example=example)
    assert path.stat().st_size < 0.5 * plain.stat().st_size


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = settled(Residual(), IMAGES)
        with torch.no_grad():
            model.norm1.weight[0], model.norm1.weight[1] = -1.5, 0.0  # turned, and switched off
            model.norm2.weight[2], model.norm2.bias[2] = 1e-9, 0.5  # too faint for its bias
        data = (IMAGES, torch.zeros(16, dtype=torch.int64))
        small = nc.quantize(model, 8, activations="static", data=data)
        return small, nc.export(small, tmp_path_factory.mktemp("r") / "r.onnx", example=IMAGES, data=data)


def test_static_runs_in_integers_from_end_to_end(residual: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model, path = residual
    assert operators(path)["BatchNormalization"] == 0
    found = running(path, tmp_path)
    assert (found["QLinearConv"], found["QLinearAdd"], found["QGemm"]) == (3, 1, 1)
    assert found["Conv"] == found["FusedConv"] == found["Relu"] == 0
    for n in (1, 7):
        assert error(output(model, IMAGES[:n]), ran(path, IMAGES[:n])) < 0.05


def test_integers_survive_batch_norms(residual: tuple[nn.Module, Path]) -> None:
    model, path = residual
    record = record_of(model).tensors["conv1.weight"]
    assert record.grid is not None
    codes = (codes_of(model.conv1.weight, record) - record.grid.zero[:, None, None, None]).numpy()
    sign = np.sign(model.norm1.weight.detach().numpy()).astype(np.int8)[:, None, None, None]
    np.testing.assert_array_equal(constants(path)["conv1.weight.codes"], codes * sign)
    assert sign.min() == -1
    assert 0 in sign


class Dense(nn.Module):
    """A layer that is used twice, a concatenation, a gate, and convolutions whose outputs are returned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last, self.other = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.nn.functional.relu6(self.first(x))
        y = torch.relu(self.again(torch.relu(self.again(x))))
        y = torch.cat([x, y], dim=1)
        return self.last(y), torch.sigmoid(self.other(y))


def test_static_outputs_and_branches(tmp_path: Path) -> None:
    data = (IMAGES, torch.zeros(16, 3, 8, 8))
    model = nc.quantize(Dense(), 8)
    ranges = {"first": ActivationRange(-4.0, 4.0), "again": ActivationRange(0.0, 3.0)}
    ranges |= {"last": ActivationRange(0.0, 3.0), "other": ActivationRange(0.0, 2.9)}
    attach_(model, Record(record_of(model).tensors, activations=ranges))
    path = nc.export(model, tmp_path / "small.onnx", example=IMAGES, data=data)
    with torch.no_grad():
        expected = model(IMAGES)[0]
    assert error(expected, ran(path, IMAGES)) < 0.05
    found = running(path, tmp_path)
    assert (found["QLinearConv"], found["QLinearConcat"], found["Conv"], found["FusedConv"]) == (5, 1, 0, 0)


def test_static_product_by_hand(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -1.0, 0.0], [2.0, 0.5, -0.5]]))
        layer.bias.copy_(torch.tensor([0.25, -1.0]))
    small = nc.quantize(layer, 8, scale="absmax")
    record = record_of(small)
    attach_(small, Record(record.tensors, activations={"": ActivationRange(-1.0, 1.55)}))
    x = torch.tensor([[1.0, -0.5, 3.0], [0.014, 0.006, -7.0]])
    path = nc.export(small, tmp_path / "small.onnx", example=x, tolerance=10.0)
    # Steps of 0.01, clipped to -1 ... 1.55.
    rounded = torch.tensor([[1.0, -0.5, 1.55], [0.01, 0.01, -1.0]])
    torch.testing.assert_close(ran(path, x), output(small, rounded), atol=1e-4, rtol=0)


def test_few_bits_take_4(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64)), torch.randn(4, 64)
    sizes = {}
    for bits in (3, 8):
        small = nc.quantize(model, bits, activations="dynamic", rest="float32")
        path = nc.export(small, tmp_path / f"{bits}.onnx", example=x)
        sizes[bits] = path.stat().st_size
        assert running(path, tmp_path)["DynamicQuantizeMatMul"] == 2
        assert error(output(small, x), ran(path, x)) < 0.05
    assert sizes[8] - sizes[3] == pytest.approx(2 * 64 * 96 / 2, abs=400)


def test_half_precision_is_exported_in_float32(tmp_path: Path) -> None:
    model = nc.quantize(perceptron().bfloat16(), 6)
    x = torch.randn(4, 12)
    path = nc.export(model, tmp_path / "small.onnx", example=x.bfloat16())
    assert error(output(model, x.bfloat16()).float(), ran(path, x.bfloat16().float())) < 0.02
    assert next(model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_weights_are_shared_and_stay_as_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nc.quantize(nn.Linear(256, 257).to(dtype), 6)
    before, x = copy.deepcopy(model.state_dict()), torch.randn(4, 256)
    path = nc.export(model, tmp_path / "small.onnx", example=x.to(dtype))
    assert error(output(model, x.to(dtype)).float(), ran(path, x.to(dtype).float())) < 0.02
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    shared = copied(model, shares_weights=True)
    places = [[layer.weight.data_ptr(), layer.bias.data_ptr()] for layer in (model, shared)]
    assert places[0][0] == places[1][0]
    assert places[0][1] != places[1][1]


def test_constants_do_not_replace_those_of_the_model() -> None:
    import onnx_ir as ir

    from nbcompress.artifact.export.onnx_graph import GraphEditor

    existing = ir.val("relu.scale", const_value=ir.tensor(np.ones(3, np.float32), name="relu.scale"))
    editor = GraphEditor(ir.Model(ir.Graph([], [], nodes=[], initializers=[existing]), ir_version=10))
    added = editor.constant("relu.scale", np.zeros((), np.float32))
    assert added is not existing
    assert added is editor.constant("relu.scale", np.zeros((), np.float32))
    assert set(editor.graph.initializers) == {"relu.scale", "relu.scale.integers"}


def test_what_cannot_be_integer_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turned, self.grouped = nn.ConvTranspose1d(3, 4, 2), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.turned(x).sum(1) + self.grouped(x).sum(1)[:, :1]

    model, x = Odd(), torch.randn(3, 3, 8)
    small = nc.quantize(nc.quantize(model, 8, layers="turned"), 8, layers="grouped", granularity="group:4")
    activations = {"turned": "dynamic", "grouped": "dynamic"}
    attach_(small, Record(record_of(small).tensors, activations=activations))
    with pytest.warns(NbcompressWarning) as caught:
        path = nc.export(small, tmp_path / "small.onnx", example=x)
    (text,) = {str(warning.message) for warning in caught}
    assert "'turned.weight': the operator ConvTranspose that reads it has no counterpart in integers" in text
    assert "'grouped.weight': its scales are by group" in text
    assert error(output(small, x), ran(path, x, is_exact=True)) < 1e-5


def test_a_collapse_is_refused_and_leaves_what_was_there(tmp_path: Path) -> None:
    small = nc.quantize(perceptron(), 8)
    ranges = {name: ActivationRange(0.0, 1e-3) for name in ("0", "2", "4")}
    attach_(small, Record(record_of(small).tensors, activations=ranges))
    path = tmp_path / "small.onnx"
    path.write_text("before")
    with pytest.raises(ArtifactError, match=r"ONNX Runtime on 6 examples gives outputs that are off by .* \(cosine"):
        nc.export(small, path, example=torch.randn(6, 12))
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]


def test_digits_in_int8_are_as_good_as_in_float(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    train, test = (x[:1300], y[:1300]), (x[1300:], y[1300:])
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 16, 10),
    )
    nc.finetune(model, train, epochs=6, lr=3e-3)
    model.eval()
    small = nc.quantize(model, 8, activations="static", data=train)
    path = nc.export(small, tmp_path / "digits.onnx", example=train[0][:8], data=train)
    before = (output(model, test[0]).argmax(1) == test[1]).float().mean()
    after = (ran(path, test[0]).argmax(1) == test[1]).float().mean()
    assert before > 0.9
    assert abs(float(before - after)) < 0.01
    found = running(path, tmp_path)
    assert (found["QLinearConv"], found["QGemm"], found["NhwcMaxPool"]) == (2, 1, 1)
    assert found["DequantizeLinear"] == 0
