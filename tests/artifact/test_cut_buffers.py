"""A cut goes through buffers that the state dict does not hold: the file gives the cut ones back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from buffer_nets import Relative, Scaled, SharedTable, Windows
from channel_zoo import ZOO
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.artifact import files
from nbcompress.compress.coupling import as_inputs, tensors_of
from nbcompress.compress.record import record_of
from nbcompress.errors import ArtifactError


def vectors(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


# How to make it, its input, and the buffers that the cut goes through.
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, set[str]]] = {
    "windows": (Windows, vectors(2, 9, 12), {"coordinates"}),
    "scaled": (Scaled, vectors(2, 5, 6), {"gain", "switch", "codes", "shift"}),
    "relative": (Relative, vectors(2, 5, 6), set()),
    "relative, none yet": (lambda: Relative(is_none=True), vectors(2, 5, 6), set()),
    "shared, first stored": (lambda: SharedTable(first_is_kept=True), vectors(2, 4), {"one"}),
    "shared, second stored": (lambda: SharedTable(first_is_kept=False), vectors(2, 4), {"one"}),
}


def made(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return CASES[name][0]().eval()


def halved(name: str, *, has_run: bool = False) -> nn.Module:
    model, x = made(name, 0), CASES[name][1]
    if has_run:
        model(x)
    return nc.prune(model, 0.5, granularity="channel", example=x)


@pytest.mark.parametrize("has_run", [False, True], ids=["new", "has run"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_loaded_computes_what_was_saved(name: str, has_run: bool, tmp_path: Path) -> None:
    x, cut = CASES[name][1:]
    small = halved(name, has_run=has_run)
    shapes = {step.module + name: shape for step in record_of(small).surgery for name, shape in step.shapes.items()}
    assert {one for one, _ in small.named_buffers() if one in shapes} == cut
    expected = small(x)
    path = nc.save(small, tmp_path / "small.nbz")
    assert nc.size_bytes(small) == path.stat().st_size
    loaded = nc.load(path, made(name, 1))
    assert torch.equal(loaded(x), expected)
    assert nc.save(loaded, tmp_path / "again.nbz").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("then", [lambda m: nc.quantize(m, 8), lambda m: nc.cluster(m, 4), lambda m: nc.factorize(m)])
def test_cut_again_and_compressed_further(then: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    x = CASES["scaled"][1]
    small = nc.prune(then(halved("scaled")), 0.5, granularity="channel", example=x)
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), made("scaled", 1))
    assert torch.equal(loaded(x), small(x))
    assert [tuple(one.shape) for one in loaded.buffers()] == [(4,), (2,), (5, 4), (2,), (4,)]


def test_a_cut_part_of_a_model(tmp_path: Path) -> None:
    x = CASES["scaled"][1]
    whole = nn.Sequential(halved("scaled"), nn.Linear(3, 2))
    loaded = nc.load(nc.save(whole, tmp_path / "whole.nbz"), nn.Sequential(made("scaled", 1), nn.Linear(3, 2)))
    assert torch.equal(loaded(x), whole(x))


def test_loaded_in_a_clean_process(tmp_path: Path) -> None:
    expected = {}
    for name in CASES:
        small = halved(name, has_run=True)
        expected[name] = small(CASES[name][1])
        nc.save(small, tmp_path / f"{name}.nbz")
    torch.save((list(CASES), [x for _, x, _ in CASES.values()], list(expected.values())), tmp_path / "expected.pt")
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from pathlib import Path
import torch
import nbcompress as nc
from buffer_nets import Relative, Scaled, SharedTable, Windows
places = Path({str(tmp_path)!r})
makers = [Windows, Scaled, Relative, lambda: Relative(is_none=True), lambda: SharedTable(first_is_kept=True),
          lambda: SharedTable(first_is_kept=False)]
names, inputs, outputs = torch.load(places / "expected.pt", weights_only=True)
for name, make, x, y in zip(names, makers, inputs, outputs, strict=True):
    torch.set_default_dtype(torch.float32)
    fresh = make()
    torch.set_default_dtype(torch.float64)
    assert torch.equal(nc.load(places / (name + ".nbz"), fresh).eval()(x), y), name
print("equal")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
@pytest.mark.parametrize("name", [name for name, animal in ZOO.items() if not animal.refused])
def test_every_cut_model_of_the_zoo_comes_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = as_inputs(ZOO[name].example())
    small = nc.prune(ZOO[name].build().eval(), 0.5, granularity="channel", example=ZOO[name].example())
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), ZOO[name].build().eval())
    for one, other in zip(tensors_of(inputs(loaded)), tensors_of(inputs(small)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["relative", "relative, none yet"])
@pytest.mark.parametrize("has_run", [False, True], ids=["new", "has run"])
def test_a_buffer_that_the_forward_pass_makes_anew_is_not_cut(name: str, has_run: bool) -> None:
    small = halved(name, has_run=has_run)
    assert record_of(small).left_out["distances"] == (
        "the buffer 'distances' goes with it, which the forward pass makes anew"
    )
    assert small.get_submodule("up").out_features == 10
    assert small(vectors(2, 7, 6)).shape == (2, 7, 12)


def test_a_table_that_two_layers_share_is_cut_once() -> None:
    """Converted to another precision, a model has a tensor for each of the two names."""
    small = halved("shared, first stored")
    assert small.get_buffer("one") is small.get_buffer("two")
    assert small.get_buffer("one").shape == (4,)


def test_what_a_cut_keeps_is_rounded_with_the_rest() -> None:
    small = nc.quantize(halved("scaled"), 8)
    for name in ("gain", "codes"):
        assert torch.equal(small.get_buffer(name), small.get_buffer(name).half().float())
    whole = made("scaled", 0)
    assert torch.equal(nc.quantize(whole, 8).get_buffer("gain"), whole.get_buffer("gain"))


def test_a_file_is_read_again_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = halved("scaled")
    packed = files.pack(small)
    small.get_buffer("gain").add_(1.0)
    monkeypatch.setattr(files, "pack", lambda _: packed)
    with pytest.raises(ArtifactError, match="'gain' could not be read back as it is: nothing was written"):
        nc.save(small, tmp_path / "small.nbz")
    assert not (tmp_path / "small.nbz").exists()
