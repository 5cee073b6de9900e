"""Masks of `torch.nn.utils.prune` are taken over as ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import nbcompress as nc
from nbcompress.compressors.torch_masks import take_over_masks_, torch_masks, without_torch_masks
from nbcompress.errors import NbcompressWarning

X, Y = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3


def fresh() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def masked() -> nn.Sequential:
    """Half of two weights, and a quarter of a bias."""
    model = fresh()
    torch_prune.l1_unstructured(model[0], "weight", 0.25)
    torch_prune.random_unstructured(model[0], "weight", 0.25)  # a container of two methods
    torch_prune.ln_structured(model[2], "weight", 0.5, n=2, dim=0)
    torch_prune.l1_unstructured(model[2], "bias", 0.25)
    return model


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {name: mask == 0 for name, mask in torch_masks(model).items()}


COMPRESSORS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "prune": lambda model: nc.prune(model, 0.1),
    "quantize": lambda model: nc.quantize(model, bits=4),
    "quantize and train": lambda model: nc.quantize(model, bits=4, data=(X, Y), finetune=2),
    "cluster and train": lambda model: nc.cluster(model, clusters=4, data=(X, Y), finetune=2),
    "channels": lambda model: nc.prune(model, 0.0, granularity="channel", example=X),
    "gradual": lambda model: nc.prune(model, 0.6, schedule="gradual", data=(X, Y), finetune=3),
    "finetune": lambda model: nc.finetune(nc.prune(model, 0.0), (X, Y), epochs=2),
}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_every_compressor_keeps_the_zeros(name: str, tmp_path: Path) -> None:
    model = masked()
    expected = zeros(model)
    small = COMPRESSORS[name](model)
    assert zeros(model).keys() == expected.keys()  # the model itself keeps its masks
    assert not torch_masks(small)
    assert list(dict(small.named_parameters())) == list(dict(fresh().named_parameters()))
    for key, is_zero in expected.items():
        assert bool((small.get_parameter(key)[is_zero] == 0).all())
        assert nc.record_of(small).tensors[key].is_pruned
    small = nc.finetune(small, (X, Y), epochs=1)
    loaded = nc.finetune(nc.load(nc.save(small, tmp_path / "small.nbz"), fresh()), (X, Y), epochs=1)
    for key, is_zero in expected.items():
        assert bool((loaded.get_parameter(key)[is_zero] == 0).all())


def test_taking_over_does_not_change_the_function() -> None:
    model = masked()
    plain = without_torch_masks(model)
    assert torch.equal(plain(X), model(X))
    assert without_torch_masks(plain) is plain
    assert not plain[0]._forward_pre_hooks
    assert not dict(plain.named_buffers())


def test_training_in_place_keeps_the_masks() -> None:
    model = masked()
    expected, before = zeros(model), model[0].weight_orig.detach().clone()
    nc.finetune(model, (X, Y), epochs=2)
    assert zeros(model).keys() == expected.keys()
    assert not torch.equal(model[0].weight_orig, before)
    for key, is_zero in expected.items():
        path, _, last = key.rpartition(".")
        assert bool((getattr(model.get_submodule(path), last)[is_zero] == 0).all())
    # The weights are those that the next call computes.
    assert torch.equal(model[0].weight, model[0].weight_orig * model[0].weight_mask)


def test_files_and_measures_see_the_plain_model(tmp_path: Path) -> None:
    model = masked()
    plain = without_torch_masks(model)
    path = nc.save(model, tmp_path / "model.nbz")
    assert path.stat().st_size == nc.size_bytes(model) == nc.size_bytes(plain) < nc.size_bytes(fresh())
    loaded = nc.load(path, fresh())
    assert torch.equal(loaded(X), model(X))
    assert nc.record_of(loaded).tensors["2.bias"].is_pruned
    assert nc.footprint(model, X, repeats=0).nonzeros == nc.footprint(plain, X, repeats=0).nonzeros
    program = torch.export.load(nc.export(model, tmp_path / "model.pt2", example=X)).module()
    torch.testing.assert_close(program(X), model(X))


def test_channels_of_a_masked_model_are_cut() -> None:
    model = masked()
    small = nc.prune(model, 0.5, granularity="channel", example=X)
    # Half of the second layer's units were masked.
    assert small[2].weight.shape == (8, 8)
    assert bool((small[2].weight != 0).all(1).any())


def test_shared_weights_with_different_masks_part() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    torch_prune.l1_unstructured(model[0], "weight", 0.5)
    x = torch.ones(2, 4)
    before = model(x)
    plain = without_torch_masks(model)
    torch.testing.assert_close(plain(x), before)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    for layer in tied:
        torch_prune.custom_from_mask(layer, "weight", torch.eye(4))
    take_over_masks_(tied)
    assert tied[0].weight is tied[1].weight


def test_recurrent_layers() -> None:
    model = nn.LSTM(3, 4, batch_first=True)
    torch_prune.l1_unstructured(model, "weight_hh_l0", 0.5)
    x = torch.ones(2, 5, 3)
    plain = without_torch_masks(model)
    assert list(dict(plain.named_parameters())) == list(dict(nn.LSTM(3, 4).named_parameters()))
    assert torch.equal(plain(x)[0], model(x)[0])


def test_zeros_without_a_mask_are_trained_and_named(tmp_path: Path) -> None:
    model = masked()
    for name in list(torch_masks(model)):
        torch_prune.remove(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
    with pytest.warns(
        NbcompressWarning, match=r"zeros that no mask keeps .*: \d+ of '0.weight', 128 of '2.weight'. To keep"
    ):
        nc.finetune(nc.finetune(model, (X, Y), epochs=0), (X, Y), epochs=1)
    # `remove` registers the weight after the bias, and a file of it still fills a fresh instance.
    loaded = nc.load(nc.save(model, tmp_path / "model.nbz"), fresh())
    assert torch.equal(loaded(X), model(X))


def test_zeros_without_a_mask_are_kept_by_a_prune_of_nothing() -> None:
    model = masked()
    for name in list(torch_masks(model)):
        torch_prune.remove(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
    small = nc.finetune(nc.prune(model, 0), (X, Y), epochs=2)
    assert int((small[2].weight == 0).sum()) == 128
