"""Plain values come back equal, of the same types, and nothing else is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_zoo import CASES, Perceptron, bits_equal
from torch import nn

import nbcompress as nc
from nbcompress.artifact import Handle, load_value, save, save_value
from nbcompress.artifact.container import file_parts
from nbcompress.compressors.record import record_of
from nbcompress.errors import ArtifactError, NbcompressWarning

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(SCALARS, inner, max_size=4)
    ),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    """Equal, with equal types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(map(same, a, b)) and all(map(same, a.values(), b.values()))
    return bool(a == b)


@given(VALUES)
@settings(deadline=None)
def test_plain_values_come_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.nbz"
    assert same(load_value(save_value(value, path)), value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.randn(3, 4).t(),
        torch.randn(5).bfloat16(),
        torch.tensor(7),
        torch.tensor([True, False]),
        torch.zeros(0, 3),
        torch.randn(3, dtype=torch.complex128),
        torch.randn(2, 2).to(torch.float8_e4m3fn),
        nn.Parameter(torch.tensor([math.nan, math.inf, -0.0])),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{list(tensor.shape)}",
)
def test_tensors_come_back(tensor: torch.Tensor, tmp_path: Path) -> None:
    found = load_value(save_value([tensor], tmp_path / "value.nbz"))[0]
    if tensor.dtype == torch.float8_e4m3fn:
        tensor, found = tensor.float(), found.float()
    assert bits_equal(found, tensor.detach())
    assert torch.equal(torch.signbit(found.real), torch.signbit(tensor.detach().real))


@pytest.mark.parametrize(
    "array",
    [np.arange(6).reshape(2, 3), np.float32(1.5), np.array(2, dtype=">i4"), np.ones((0, 2)), np.arange(6)[::-2] * 1j],
    ids=repr,
)
def test_arrays_come_back(array: Any, tmp_path: Path) -> None:
    found = load_value(save_value({"a": array}, tmp_path / "value.nbz"))["a"]
    assert type(found) is type(array)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(found, array)


def test_nan_comes_back(tmp_path: Path) -> None:
    assert math.isnan(load_value(save_value(math.nan, tmp_path / "value.nbz")))


def test_a_module_comes_back_as_a_handle_or_into_an_instance(tmp_path: Path) -> None:
    model = CASES[2].make()
    path = save_value({"small": model, "note": ["a", 1]}, tmp_path / "value.nbz")
    handle = load_value(path)["small"]
    assert isinstance(handle, Handle)
    assert repr(handle).startswith("<a kept Perceptron, ")
    assert repr(handle).endswith(" B: .load(into=Perceptron()) fills a fresh instance>")
    for found in (handle.load(into=Perceptron()), load_value(path, into=Perceptron())["small"]):
        assert all(map(torch.equal, model.state_dict().values(), found.state_dict().values()))
        assert record_of(found).tensors == record_of(model).tensors
    assert load_value(path, into=Perceptron())["note"] == ["a", 1]
    with pytest.raises(ArtifactError, match="holds a Perceptron and the instance is a Linear"):
        load_value(path, into=nn.Linear(1, 1))


@pytest.mark.parametrize("value", [1, [nn.Linear(1, 1), nn.Linear(1, 1)]], ids=["none", "two"])
def test_an_instance_needs_one_module(value: object, tmp_path: Path) -> None:
    path = save_value(value, tmp_path / "value.nbz")
    with pytest.raises(ArtifactError, match=r"into= needs a value with one module in it, but .* holds [02]"):
        load_value(path, into=nn.Linear(1, 1))


def test_a_kept_module_that_left_its_grid_is_named(tmp_path: Path) -> None:
    model = nc.quantize(Perceptron(), bits=2)
    with torch.no_grad():
        model.fc1.weight.add_(0.01)
    with pytest.warns(NbcompressWarning, match=r"^'fc1\.weight': stored in full"):
        save_value([model], tmp_path / "value.nbz")


def _holding_itself() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


class Number(int):
    pass


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: {"a": [1, object()]},
            r"^the value\['a'\]\[1\] is a object, which cannot be kept: keep modules, tensors",
        ),
        (lambda: {1, 2}, "^the value is a set, which cannot be kept"),
        (lambda: print, "^the value is a builtin_function_or_method"),
        (lambda: Number(3), "^the value is a Number"),
        (lambda: [{(1, 2): 3}], r"^a key of the value\[0\] is a tuple"),
        (lambda: [np.array(["a"])], r"^the value\[0\] is an array of <U1; arrays of numbers"),
        (lambda: np.array([None]), "is an array of object"),
        (lambda: torch.eye(2).to_sparse(), r"^the value is a tensor that cannot be kept \(torch\.sparse_coo"),
        (_holding_itself, "is nested more than 100 deep, or holds itself"),
    ],
)
def test_what_cannot_be_kept_is_named(make: Callable[[], object], text: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=text):
        save_value(make(), tmp_path / "value.nbz")
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_no_value(tmp_path: Path) -> None:
    path = save(Perceptron(), tmp_path / "model.nbz")
    with pytest.raises(
        ArtifactError, match=r"must hold a value, but it holds model: read a model with load\(path, model\)"
    ):
        load_value(path)


def forged(structure: bytes, blob: bytes = b"") -> bytes:
    length = len(structure)
    prefix = bytes([length & 127 | 128, length >> 7]) if length > 127 else bytes([length])
    return b"".join(file_parts("value", [prefix + structure + blob]))


@pytest.mark.parametrize(
    "structure",
    [
        b"[" * 9000,
        b'["array", ",f4", [1]]',
        b'["array", "(1,)<f4", [1]]',
        b'["scalar", "<f4,<f4", []]',
        b'["array", "<M8[s]", [1]]',
        b'["=",1.5]',
        b'["code","print(1)"]',
        b'["tensor","float32",[1099511627776,1099511627776]]',
        b'["tensor","float32",[0,4611686018427387903,9]]',
        b'["tensor","float32",[-1]]',
        b'["tensor","float32",[' + b"4611686018427387903," * 65 + b"1]]",
        b'["array","<f4",[' + b"4611686018427387903," * 65 + b"1]]",
        b'["array","<f4","12"]',
        b'["array","|O",[1]]',
        b'["array","<f4",[1000000000]]',
        b'["array","<f4",[0,1000000000000000000]]',
        b'["module",1000000]',
        b'["module",2]',
        b'["dict",[[["list",[]],["=",null]]]]',
        b'["int","zz"]',
        b'{"a":1}',
        b"7",
        b'["list",' * 3000,
    ],
    ids=lambda text: text[:40].decode(),
)
def test_forged_files_are_refused(structure: bytes, tmp_path: Path) -> None:
    path = tmp_path / "value.nbz"
    path.write_bytes(forged(structure, b"\0\0"))
    with pytest.raises(ArtifactError, match="damaged"):
        load_value(path)
