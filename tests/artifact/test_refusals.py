"""Files that are not of nbcompress, are changed, or hold another model are refused; the instance stays unchanged."""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_zoo import CASES, Convolutional, Perceptron
from safetensors.torch import save_file
from torch import nn

import nbcompress as nc
from nbcompress.artifact import load, save, save_value
from nbcompress.artifact.container import checked_contents, file_parts
from nbcompress.artifact.file import MODEL_KEY, load_contents
from nbcompress.artifact.header import (
    ByteWriter,
    GridHeader,
    Header,
    TensorEntry,
    hash_of_name,
    hash_of_names,
    read_header,
    write_header,
)
from nbcompress.artifact.packed import pack, parse_contents
from nbcompress.compressors.record import Surgery
from nbcompress.errors import ArtifactError


class Tiny(nn.Module):
    def __init__(self, n: int = 3) -> None:
        super().__init__()
        self.a = nn.Linear(n, 4)
        self.b = nn.Linear(4, 2)


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nc.quantize(nc.prune(Tiny(), amount=0.5), bits=3, granularity="tensor")


def resealed(contents: bytes) -> bytes:
    """A file with these contents and a valid checksum, as an attacker would write it."""
    return b"".join(file_parts(MODEL_KEY, [contents]))


def state_of(model: nn.Module) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in model.state_dict().values()]


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    whole = save(tiny(), tmp_path / "model.nbz").read_bytes()
    instance = Tiny()
    before = state_of(instance)
    path = tmp_path / "changed.nbz"
    for place in range(len(whole)):
        for flip in (0x01, 0x80):
            changed = bytearray(whole)
            changed[place] ^= flip
            path.write_bytes(changed)
            with pytest.raises(ArtifactError):
                load(path, instance)
    assert state_of(instance) == before
    assert "_nbcompress_record" not in instance.__dict__


def test_every_truncation_is_found(tmp_path: Path) -> None:
    whole = save(tiny(), tmp_path / "model.nbz").read_bytes()
    path = tmp_path / "short.nbz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError):
            load(path, Tiny())
    path.write_bytes(whole[:-20])
    with pytest.raises(ArtifactError, match=f"is truncated: it should have {len(whole)} bytes, but has"):
        load(path, Tiny())


PACKED = list(map(bytes, pack(tiny()).parts))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_contents_are_read_without_trust(data: st.DataObject) -> None:
    """With a checksum that agrees, contents either load or are refused; nothing else may come out."""
    contents = bytearray(checked_contents(b"".join(file_parts(MODEL_KEY, PACKED)), MODEL_KEY, Path("x")))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(contents) - 1))
        what = data.draw(st.sampled_from(["change", "cut", "insert"]))
        if what == "change":
            contents[place] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del contents[place : place + data.draw(st.integers(1, 20))]
        else:
            contents[place:place] = data.draw(st.binary(min_size=1, max_size=20))
    instance = Tiny()
    before = state_of(instance)
    try:
        load_contents(memoryview(bytes(contents)), instance)
    except ArtifactError:
        assert state_of(instance) == before


WEIGHTS = {"a": torch.ones(2)}


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")


def _numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def _newer(path: Path) -> None:
    path.write_bytes(save(tiny(), path).read_bytes().replace(b'"nbcompress":"4"', b'"nbcompress":"5"'))


FOREIGN = {
    "torch.save": lambda path: torch.save(WEIGHTS, path),
    "old torch.save": lambda path: torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False),
    "pickle": lambda path: path.write_bytes(pickle.dumps(WEIGHTS)),
    "zip": _zip,
    "safetensors": lambda path: save_file(WEIGHTS, path),
    "long safetensors": lambda path: save_file({f"weight.of.layer.{n}": torch.ones(2) for n in range(200)}, path),
    "numpy": _numpy,
    "text": lambda path: path.write_text("import os\n" * 20),
    "nothing": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(500)),
    "deep": lambda path: path.write_bytes((4000).to_bytes(8, "little") + b"{" + b"[" * 3999),
    "newer": _newer,
    "value": lambda path: save_value({"a": 1}, path),
}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("torch.save", r"not a file of nbcompress, but a zip archive, such as torch\.save writes"),
        ("old torch.save", "not a file of nbcompress, but a pickle"),
        ("pickle", "not a file of nbcompress, but a pickle"),
        ("zip", "but a zip archive"),
        ("safetensors", r"is a safetensors file, but not of nbcompress: load it with safetensors\.torch"),
        ("long safetensors", "not a file of nbcompress, though it may be safetensors"),
        ("numpy", "but an array of NumPy"),
        ("text", r"not a file of nbcompress \(it has 200 bytes\)"),
        ("nothing", "is empty"),
        ("zeros", "not a file of nbcompress"),
        ("deep", "is damaged: its header cannot be read"),
        ("newer", "has version 5, and this nbcompress reads up to version 4: update nbcompress"),
        ("value", r"must hold a model, but it holds value: read kept values with load_value"),
    ],
)
def test_foreign_files_are_told_apart(kind: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    FOREIGN[kind](path)
    with pytest.raises(ArtifactError, match=text):
        load(path, Tiny())


@pytest.mark.parametrize(("name", "text"), [("no.nbz", "No such file"), (".", "Is a directory")])
def test_what_cannot_be_read(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"cannot be read: {text}"):
        load(tmp_path / name, Tiny())


class Other(Tiny):
    pass


class Renamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.c = nn.Linear(4, 2)


class Longer(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(2, 2)


Renamed.__name__ = Longer.__name__ = "Tiny"


@pytest.mark.parametrize(
    ("instance", "text"),
    [
        (Other, r"the file holds a Tiny and the instance is a Other: give load\(\) a fresh Tiny$"),
        (lambda: Tiny(5), r"'a\.weight' has shape \(4, 3\) in the file and \(4, 5\) in this Tiny"),
        (Renamed, r"tensor 2 of the file, of shape \(2, 4\), is not the 'c\.weight' of this Tiny"),
        (Longer, r"the file has 4 tensors and this Tiny has 6; 'c\.weight' is not in the file"),
        (
            lambda: Tiny().double(),
            r"'a\.weight' is float32 in the file and float64 in this Tiny: .*\.to\(torch\.float32\)",
        ),
        (lambda: {}, r"the file holds a Tiny and the instance is a dict"),
    ],
)
def test_the_first_difference_is_named(instance, text: str, tmp_path: Path) -> None:
    path = save(tiny(), tmp_path / "model.nbz")
    given_one = instance()
    with pytest.raises(ArtifactError, match=text):
        load(path, given_one)


def test_a_cut_that_does_not_fit_leaves_the_instance_whole(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "perceptron-low-rank")
    path = save(case.make(), tmp_path / "model.nbz")

    class Smaller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(24, 40), nn.Linear(40, 30)

    Smaller.__name__ = "Perceptron"
    instance = Smaller()
    with pytest.raises(ArtifactError, match=r"the model in the file was cut, but this Perceptron cannot be: .*'fc3'"):
        load(path, instance)
    assert isinstance(instance.fc1, nn.Linear)


def hostile(header: Header) -> bytes:
    row = ByteWriter()
    row.block(write_header(header))
    row.number(0)
    return bytes(row.data)


def names_of(model: nn.Module) -> tuple[list[str], bytes]:
    names = list(model.state_dict())
    return names, hash_of_names(names)


HUGE = 1 << 40


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (HUGE, HUGE)},
        {"shape": (4, 3), "n_values": 65536},
        {"shape": (4, 3), "grid": GridHeader(8, "affine", HUGE)},
        {"shape": (4, 3), "grid": GridHeader(1, "affine", "tensor")},
        {"shape": (4, 3), "grid": GridHeader(2, "symmetric", "channel")},
        {"shape": (4, 3), "grid": GridHeader(2, "symmetric", "channel", is_balanced=True)},
    ],
    ids=str,
)
def test_hostile_tensors_are_refused_before_they_take_memory(change: dict[str, object]) -> None:
    names, check = names_of(Tiny())
    shapes = [tuple(tensor.shape) for tensor in Tiny().state_dict().values()]
    entries = [TensorEntry(hash_of_name(name), None, shape) for name, shape in zip(names, shapes, strict=True)]
    entries[0] = TensorEntry(hash_of_name(names[0]), None, **change)  # type: ignore[arg-type]
    instance = Tiny()
    before = state_of(instance)
    with pytest.raises(ArtifactError):
        load_contents(memoryview(hostile(Header("Tiny", check, tuple(entries)))), instance)
    assert state_of(instance) == before


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Surgery("cut", "a", {"weight": (HUGE, HUGE)}), "its surgery has .* numbers, the instance only"),
        (Surgery("cut", "a", {"weight": (5, 3)}), "can only be cut"),
        (Surgery("cut", "nowhere", {"weight": (1, 1)}), "no module 'nowhere'"),
        (Surgery("cut", "a", {}, {"training": 0}), "no number 'training'"),
        (Surgery("cut", "a", {}, {"forward": 0}), "no number 'forward'"),
        (Surgery("factorize", "a", {}, {"rank": HUGE}), "rank"),
        (Surgery("factorize", "a", {}, {"rank": 0}), "rank"),
    ],
    ids=str,
)
def test_hostile_surgery_is_refused(step: Surgery, text: str) -> None:
    names, check = names_of(Tiny())
    entries = tuple(TensorEntry(hash_of_name(name), None, (1,)) for name in names)
    instance = Tiny()
    before = state_of(instance)
    with pytest.raises(ArtifactError, match=text):
        load_contents(memoryview(hostile(Header("Tiny", check, entries, surgery=(step,)))), instance)
    assert state_of(instance) == before
    assert instance.a.training is True


def test_factors_of_factors_are_refused() -> None:
    """Each step may double a layer, so steps within steps would take memory without a bound."""
    names, check = names_of(Tiny())
    entries = tuple(TensorEntry(hash_of_name(name), None, (1,)) for name in names)
    steps = tuple(Surgery("factorize", path, {}, {"rank": 3}) for path in ("a", "a.0", "a.1"))
    instance = Tiny()
    with pytest.raises(ArtifactError, match=r"'a\.0' is a factor already"):
        load_contents(memoryview(hostile(Header("Tiny", check, entries, surgery=steps))), instance)
    assert type(instance.a) is nn.Linear


def test_a_bomb_in_the_header_is_refused() -> None:
    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(bytes(1 << 27)) + packer.flush()
    row = ByteWriter()
    row.block(b"\x02" + bomb)
    with pytest.raises(ArtifactError, match="does not unpack to its end"):
        parse_contents(memoryview(bytes(row.data)))


def deflated_header(body: bytes) -> memoryview:
    packer = zlib.compressobj(9, wbits=-15)
    row = ByteWriter()
    row.block(b"\x02" + packer.compress(body) + packer.flush())
    return memoryview(bytes(row.data))


def test_a_small_header_names_few_tensors() -> None:
    # Equal entries deflate well, but the hashes of different names do not.
    body = ByteWriter()
    body.text("Tiny")
    body.data += b"abcd"
    body.number(200_000)
    body.data += bytes(3 * 200_000)
    with pytest.raises(ArtifactError, match=r"no room for 200000 tensors|does not unpack to its end"):
        parse_contents(deflated_header(bytes(body.data)))
    body = ByteWriter()
    body.text("Tiny")
    body.data += b"abcd"
    body.number(5_000)
    body.data += bytes(3 * 5_000)
    with pytest.raises(ArtifactError, match="its header has no room for 5000 tensors"):
        parse_contents(deflated_header(bytes(body.data)))


def test_a_small_header_unpacks_to_little_text_and_few_axes() -> None:
    start = b"\x04Tinyabcd"
    body = ByteWriter()
    body.data += start + b"\0"
    body.text("[[" + "[]," * 300_000 + "[]],{}]")
    with pytest.raises(ArtifactError, match="does not unpack to its end"):
        parse_contents(deflated_header(bytes(body.data)))
    body = ByteWriter()
    body.data += start + b"\1\0\0"
    body.number(65)
    body.data += b"\1" * 65
    with pytest.raises(ArtifactError, match="its tensor 0 has 65 axes"):
        parse_contents(deflated_header(bytes(body.data)))


@pytest.mark.parametrize("reason", ["", "it is an output of the model, and outputs keep their shape; " * 5])
def test_headers_of_large_models_are_read_back(reason: str) -> None:
    names = [f"layers.{k}.weight" for k in range(20_000)]
    entries = tuple(TensorEntry(hash_of_name(name), None, (64, 64)) for name in names)
    header = Header("Tiny", hash_of_names(names), entries, left_out=dict.fromkeys(names, reason))
    assert read_header(memoryview(write_header(header))) == header
    # A header that deflates more than any of a model is written in a form that can be read.
    same = replace(header, entries=entries[:1] * 20_000)
    assert read_header(memoryview(write_header(same))) == same


@pytest.mark.parametrize(
    ("n_entries", "entry", "text"),
    [
        (1 << 22, b"\x1f\0\0", "has no room for 4194304 tensors|does not unpack to its end"),
        (1, b"\0\0\x41" + bytes(80), "has 65 axes"),
    ],
    ids=["tensors", "axes"],
)
def test_counts_beyond_every_model_are_refused_before_they_are_read(n_entries: int, entry: bytes, text: str) -> None:
    inner = ByteWriter()
    inner.text("Tiny")
    inner.data += b"abcd"
    inner.number(n_entries)
    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(bytes(inner.data) + entry * n_entries) + packer.flush()
    row = ByteWriter()
    row.block(b"\x02" + bomb)
    with pytest.raises(ArtifactError, match=text):
        parse_contents(memoryview(bytes(row.data)))


@pytest.mark.parametrize(
    "extras",
    [
        "[" * 3000,
        "[1",
        "[[],{}]x",
        '[[["cut","a",{"w":[1e400]},{}]],{}]',
        '[[["run","a",{},{}]],{}]',
        '[[],{"a":1}]',
        '[[["cut","a",{"w":[-1]},{}]],{}]',
        "[" + "9" * 5000 + "]",
        "null",
        '[[],{},{"a":[1.0]}]',
        '[[],{},{"a":[1,2]}]',
        '[[],{},{"a":[1.0,2.0]}]',
        '[[],{},{"a":[NaN,1.0]}]',
        '[[],{},{"a":[-1.0,Infinity]}]',
        '[[],{},{"a":"static"}]',
        '[[],{},{"a":null}]',
        "[[],{},{},{}]",
    ],
    ids=lambda text: text[:20],
)
def test_hostile_json_is_refused(extras: str) -> None:
    header = write_header(Header("Tiny", b"abcd", ()))
    assert header[0] == 0  # not deflated
    row, inner = ByteWriter(), ByteWriter()
    inner.data += header
    inner.text(extras)
    row.block(bytes(inner.data))
    with pytest.raises(ArtifactError, match="surgery in its header cannot be read"):
        parse_contents(memoryview(bytes(row.data)))


def test_a_checksum_covers_the_text_too(tmp_path: Path) -> None:
    path = save(tiny(), tmp_path / "model.nbz")
    whole = path.read_bytes()
    text = whole[8 : 8 + int.from_bytes(whole[:8], "little")]
    assert json.loads(text)["__metadata__"] == {"nbcompress": "4"}
    # An older version is readable, so nothing but the checksum can tell.
    path.write_bytes(whole.replace(b'"nbcompress":"4"', b'"nbcompress":"1"'))
    with pytest.raises(ArtifactError, match="checksum does not agree"):
        load(path, Tiny())
    assert blake2b(whole[:-8], digest_size=8).digest() == whole[-8:]


def test_unknown_models_and_convolutions_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the file holds a Convolutional and the instance is a Perceptron"):
        load(save(Convolutional(), tmp_path / "model.nbz"), Perceptron())


@pytest.mark.parametrize("flags", [4, 5, 8, 255])
def test_unknown_flags_are_refused(flags: int) -> None:
    row = ByteWriter()
    row.block(bytes([flags]) + write_header(Header("Tiny", b"abcd", ()))[1:])
    with pytest.raises(ArtifactError, match=f"its header has unknown flags {flags}"):
        parse_contents(memoryview(bytes(row.data)))


def test_a_change_of_the_first_text_is_told_by_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "small.nbz"
    save(Tiny(), path)
    whole = path.read_bytes()
    begin, end = whole.index(b'"model"'), whole.index(b"}}")
    changed = [whole[:place] + b"?" + whole[place + 1 :] for place in range(begin, end)]
    for data in changed:
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match="was changed after it was written, or damaged: its checksum does not"):
            load(path, Tiny())
