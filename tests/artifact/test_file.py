"""A file is the model, exactly, and `size_bytes` is its length."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_zoo import CASES, Case, Convolutional, Perceptron, Tied, bits_equal, even, shared, sided
from safetensors import safe_open
from torch import nn

import nbcompress as nc
from nbcompress.artifact import load, save, size_by_tensor, size_bytes
from nbcompress.compressors.record import ActivationRange, Activations, Record, TensorRecord, attach_, record_of
from nbcompress.errors import ArtifactError, NbcompressWarning


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_loaded_is_what_was_saved(case: Case, tmp_path: Path) -> None:
    model = case.make()
    path = save(model, tmp_path / "model.nbz")
    loaded = load(path, case.fresh()).eval()
    before, after = model.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    assert [name for name in before if not bits_equal(before[name], after[name])] == []
    x = case.example()
    x = x.to(next(model.parameters()).dtype) if x.is_floating_point() else x
    assert torch.equal(model(x).nan_to_num(), loaded(x).nan_to_num())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_size_is_the_length_of_the_file(case: Case, tmp_path: Path) -> None:
    model = case.make()
    assert size_bytes(model) == save(model, tmp_path / "model.nbz").stat().st_size
    assert sum(size_by_tensor(model).values()) == size_bytes(model)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_records_come_back(case: Case, tmp_path: Path) -> None:
    model = case.make()
    loaded = load(save(model, tmp_path / "model.nbz"), case.fresh())
    before, after = record_of(model), record_of(loaded)
    assert dict(after.tensors) == {name: record for name, record in before.tensors.items() if record != TensorRecord()}
    assert after.surgery == before.surgery
    assert (after.rest, dict(after.left_out)) == (before.rest, dict(before.left_out))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_saving_twice_gives_the_same_file(case: Case, tmp_path: Path) -> None:
    first = save(case.make(), tmp_path / "first.nbz").read_bytes()
    loaded = load(tmp_path / "first.nbz", case.fresh())
    assert save(loaded, tmp_path / "second.nbz").read_bytes() == first


def test_saving_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = CASES[2].make().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    save(model, tmp_path / "model.nbz")
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_it_is_one_byte_tensor_in_safetensors(tmp_path: Path) -> None:
    path = save(Perceptron(), tmp_path / "model.nbz")
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["model"]
        assert file.metadata() == {"nbcompress": "4"}
        assert file.get_tensor("model").dtype == torch.uint8


def test_activation_ranges_come_back(tmp_path: Path) -> None:
    model = Perceptron()
    ranges: Activations = {"fc1": ActivationRange(-1.25, 0.1), "fc2": "dynamic"}
    attach_(model, Record(activations=ranges))
    assert record_of(load(save(model, tmp_path / "model.nbz"), Perceptron())).activations == ranges


GOLDEN = Path(__file__).parent.parent / "golden" / "artifact"


def check_against(kept: Path, expected: nn.Module, *, has_kept: bool = False) -> None:
    loaded = load(kept, Perceptron())
    assert all(map(torch.equal, loaded.state_dict().values(), expected.state_dict().values()))
    assert record_of(loaded).tensors == record_of(expected).tensors
    steps = (
        record_of(expected).surgery if has_kept else [replace(step, kept={}) for step in record_of(expected).surgery]
    )
    assert list(record_of(loaded).surgery) == list(steps)


def even_and_cut() -> nn.Module:
    """Cut, so that the header has much to say."""
    return nc.prune(even(Perceptron()), 0.5, granularity="channel", example=torch.zeros(1, 24))


def in_half(model: nn.Module) -> nn.Module:
    """Some weights in half precision, beside grids of scales that somebody chose."""
    return nc.quantize(model, 4, scale="pow2", share=0.9)


def one_codebook(model: nn.Module) -> nn.Module:
    return nc.cluster(nc.prune(model, 0.5), 5, codebook="model")


def test_files_of_older_versions_stay_readable() -> None:
    """Symmetric grids of versions 1 and 2 had one code fewer. Before version 4 no file names the kept units."""
    check_against(GOLDEN / "version-1.safetensors", even(Perceptron()))
    check_against(GOLDEN / "version-2.safetensors", even_and_cut())
    check_against(GOLDEN / "version-2-shared.safetensors", shared(Perceptron()))
    check_against(GOLDEN / "version-3.safetensors", even_and_cut())
    check_against(GOLDEN / "version-3-sides.safetensors", sided(Perceptron()))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("version-4", even_and_cut),
        ("version-4-sides", lambda: sided(Perceptron())),
        ("version-4-half", lambda: in_half(even(Perceptron()))),
        ("version-4-codebook", lambda: one_codebook(even(Perceptron()))),
    ],
)
def test_files_of_this_version_do_not_change(name: str, make: Callable[[], nn.Module], tmp_path: Path) -> None:
    kept, expected = GOLDEN / f"{name}.safetensors", make()
    if os.environ.get("NBCOMPRESS_REFRESH_GOLDEN") and not kept.exists():  # never written twice
        save(expected, kept)
    check_against(kept, expected, has_kept=True)
    # The same bytes on every machine: what is learnt while coding does not depend on it.
    assert save(expected, tmp_path / "again.nbz").read_bytes() == kept.read_bytes()


def test_a_cut_network_needs_few_extra_bytes() -> None:
    net = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    small = nc.prune(net, 0.5, granularity="channel", example=torch.zeros(1, 64))
    # Text of the container, checksum, names, shapes, surgery, and 400 bits that say which units were kept.
    assert size_by_tensor(small)[""] < 310


def test_the_300_100_network_is_small() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    small = nc.quantize(nc.prune(net, amount=0.96), bits=3, granularity="tensor")
    assert size_bytes(small) < 17_000  # of 1,066,440 bytes in float32


def test_half_precision_makes_the_file_smaller() -> None:
    torch.manual_seed(0)
    net = nn.Linear(100, 100)
    with torch.no_grad():
        full = size_bytes(net)
        for weight in net.parameters():
            weight.copy_(weight.half().float())
    assert size_bytes(net) < 0.55 * full


def test_zeros_without_a_record_make_the_file_smaller() -> None:
    torch.manual_seed(0)
    net = nn.Linear(200, 200)
    full = size_bytes(net)
    with torch.no_grad():
        net.weight.mul_(torch.rand_like(net.weight) < 0.1)
    assert size_bytes(net) < 0.22 * full


@pytest.mark.parametrize("width", [100, 250], ids=["tried", "estimated"])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_pruned_codes_take_their_entropy(width: int, scheme: str) -> None:
    torch.manual_seed(0)
    net = nc.quantize(nc.prune(nn.Linear(width, width), amount=0.5), bits=4, scheme=scheme)
    share = net.weight.count_nonzero().item() / net.weight.numel()
    # One bit tells zero from the rest, and the rest is spread over no more than 16 codes.
    codes = width * width * (1 + 4 * share) / 8
    scales = net.weight.shape[0] * (2 + 0.5 * (scheme == "affine"))
    assert size_bytes(net) < 1.02 * (codes + scales + 2 * width) + 200


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tied()
    apart = Tied()
    apart.out.weight = nn.Parameter(torch.randn(50, 16))
    assert size_bytes(model) < 0.6 * size_bytes(apart)
    loaded = load(save(model, tmp_path / "model.nbz"), Tied())
    assert loaded.out.weight is loaded.embedding.weight
    # Two tensors can be filled with the same values, but one tensor cannot hold the values of two.
    load(tmp_path / "model.nbz", apart)
    assert torch.equal(apart.out.weight, model.out.weight)
    with torch.no_grad():
        apart.out.weight.add_(1)
    with pytest.raises(ArtifactError, match=r"'out\.weight' shares its values with an earlier tensor in this Tied"):
        load(save(apart, tmp_path / "apart.nbz"), Tied())


def test_a_weight_that_left_its_grid_is_stored_in_full_and_named(tmp_path: Path) -> None:
    model = CASES[2].make()
    with torch.no_grad():
        model.fc2.weight[3, 4] = 0.123456
    with pytest.warns(NbcompressWarning, match=r"^'fc2\.weight': stored in full\. .*1 of 1200 values left it"):
        path = save(model, tmp_path / "model.nbz")
    with pytest.warns(NbcompressWarning):
        assert size_bytes(model) == path.stat().st_size
    loaded = load(path, Perceptron())
    assert torch.equal(loaded.fc2.weight, model.fc2.weight)
    assert record_of(loaded).tensors["fc2.weight"].grid is None
    assert record_of(loaded).tensors["fc1.weight"].grid is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(loaded, path)  # the loaded model is still on its grids


def test_finetune_keeps_grids_after_loading(tmp_path: Path) -> None:
    loaded = load(save(CASES[2].make(), tmp_path / "model.nbz"), Perceptron())
    zeros = loaded.fc1.weight == 0
    nc.finetune(loaded, (torch.randn(64, 24), torch.randint(0, 10, (64,))), epochs=1, lr=1e-2)
    assert bool((loaded.fc1.weight[zeros] == 0).all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert size_bytes(loaded) < 3000


def test_it_loads_in_a_clean_process(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "perceptron-low-rank")
    model = case.make()
    path = save(model, tmp_path / "model.nbz")
    x = case.example()
    torch.save((x, model(x)), tmp_path / "expected.pt")
    script = (
        "import sys, torch, nbcompress as nc\n"
        "from packed_zoo import Perceptron\n"
        "x, y = torch.load(sys.argv[2])\n"
        "assert torch.equal(nc.load(sys.argv[1], Perceptron()).eval()(x), y)\n"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", script, str(path), str(tmp_path / "expected.pt")], check=True, env=here)


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Perceptron(), tmp_path / "model.nbz")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ArtifactError, match="cannot be written: No space left on device"):
        save(Convolutional(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("place", "text"), [("no/model.nbz", "there is no folder"), (".", "it is a folder")])
def test_a_path_that_cannot_be_written(place: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=text):
        save(Perceptron(), tmp_path / place)


class Odd(nn.Module):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}


class Described(nn.Linear):
    """Adds to its state dict what it was made of."""

    def __init__(self) -> None:
        super().__init__(3, 2)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return super().state_dict(*args, **kwargs) | {"_metadata": {"width": 3}}


class Undescribed(Described):
    state_dict = nn.Module.state_dict


def test_what_a_class_adds_to_its_state_dict_can_be_left_out(tmp_path: Path) -> None:
    model = Undescribed()
    assert torch.equal(load(save(model, tmp_path / "model.nbz"), Undescribed()).weight, model.weight)


def _sparse() -> nn.Module:
    model = nn.Module()
    model.register_buffer("s", torch.eye(3).to_sparse())
    return model


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (Odd, "must hold tensors, but '_extra_state' in that of Odd is a dict: let get_extra_state return a tensor"),
        (Described, "'_metadata' in that of Described is a dict: save an instance of a subclass of Described with"),
        (lambda: nn.LazyLinear(3), "'weight' has no shape yet: run the model once"),
        (lambda: nn.Linear(2, 2, device="meta"), "'weight' is on the meta device"),
        (_sparse, r"'s' is torch\.sparse_coo, which the file cannot hold"),
        (lambda: {"a": torch.ones(1)}, r"only a torch\.nn\.Module can be saved or filled, got dict"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_a_file_cannot_hold(make, text: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=text):
        save(make(), tmp_path / "model.nbz")
    assert list(tmp_path.iterdir()) == []
