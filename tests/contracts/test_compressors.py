"""Laws that every compressor keeps on every kind of model. A new compressor is one line in `compress_zoo`."""

from __future__ import annotations

import pickle
from copy import deepcopy

import pytest
import torch
from compress_zoo import COMPRESSORS, NEED_DATA, PAIRS, ZOO, assert_constraints
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compressors import finetune, record_of


def snapshot(model: nn.Module) -> dict[str, object]:
    parameters = {
        name: (tensor.detach().clone(), tensor.requires_grad, tensor.grad) for name, tensor in model.named_parameters()
    }
    return {
        "parameters": parameters,
        "buffers": {name: tensor.clone() for name, tensor in model.named_buffers()},
        "modes": [module.training for module in model.modules()],
        "record": record_of(model),
    }


def assert_same(model: nn.Module, before: dict[str, object]) -> None:
    after = snapshot(model)
    assert after["modes"] == before["modes"]
    assert after["record"] == before["record"]
    for kind in ("parameters", "buffers"):
        old, new = before[kind], after[kind]
        assert isinstance(old, dict)
        assert isinstance(new, dict)
        assert old.keys() == new.keys()
        for name in old:
            assert same(old[name], new[name]), name


def same(old: object, new: object) -> bool:
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return torch.equal(old.nan_to_num(-7.0), new.nan_to_num(-7.0)) and old.dtype == new.dtype
    if isinstance(old, tuple) and isinstance(new, tuple):
        return all(same(a, b) for a, b in zip(old, new, strict=True))
    return old is new


@pytest.mark.parametrize(("animal", "name"), PAIRS)
def test_the_model_stays_and_the_copy_runs(animal: str, name: str) -> None:
    subject = ZOO[animal]()
    subject.model.eval()
    before, state = snapshot(subject.model), torch.get_rng_state()
    small = COMPRESSORS[name](subject.model)
    assert_same(subject.model, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in small.modules())
    assert all(parameter is not other for parameter in small.parameters() for other in subject.model.parameters())
    assert subject.output(small).shape == subject.output(subject.model).shape
    assert_constraints(small)
    dtypes = {parameter.dtype for parameter in small.parameters()}
    assert dtypes == {parameter.dtype for parameter in subject.model.parameters()}


@pytest.mark.parametrize(("animal", "name"), PAIRS)
def test_constraints_outlive_finetuning(animal: str, name: str) -> None:
    subject = ZOO[animal]()
    small = COMPRESSORS[name](subject.model)
    record = record_of(small)
    zeros = {key: small.get_parameter(key).detach() == 0 for key, tensor in record.tensors.items() if tensor.is_pruned}
    n_values = {
        key: small.get_parameter(key).unique().numel() for key, tensor in record.tensors.items() if tensor.codebook
    }
    before = {key: tensor.detach().clone() for key, tensor in small.named_parameters()}
    state = torch.get_rng_state()
    assert finetune(small, subject.data, epochs=2, lr=0.02) is small
    assert torch.equal(torch.get_rng_state(), state)
    after = assert_constraints(small)
    assert after.tensors.keys() == record.tensors.keys()
    assert all((small.get_parameter(key).detach()[was] == 0).all() for key, was in zeros.items())
    assert all(small.get_parameter(key).unique().numel() <= n for key, n in n_values.items())
    assert any(not torch.equal(before[key], tensor) for key, tensor in small.named_parameters())
    assert all(torch.equal(before[key], tensor) for key, tensor in small.named_parameters() if not tensor.requires_grad)
    assert all(parameter.grad is None for parameter in small.parameters())


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("animal", ["perceptron", "convolutional", "tied", "bfloat16"])
def test_tuning_within_a_compressor(animal: str, name: str) -> None:
    subject = ZOO[animal]()
    before = snapshot(subject.model)
    once, twice = (COMPRESSORS[name](subject.model, data=subject.data, finetune=2, lr=0.01, seed=3) for _ in range(2))
    assert_same(subject.model, before)
    assert_constraints(once)
    assert record_of(once) == record_of(twice)
    for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("animal", "name"), PAIRS)
def test_copies_are_equal(animal: str, name: str) -> None:
    subject = ZOO[animal]()
    small = COMPRESSORS[name](subject.model)
    out = subject.output(small)
    for copy in (deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert record_of(copy) == record_of(small)
        assert torch.equal(subject.output(copy), out)
    again = COMPRESSORS[name](subject.model)
    assert record_of(again) == record_of(small)
    again.load_state_dict(small.state_dict())
    assert torch.equal(subject.output(again), out)


# Chance, and a gradient at other weights, choose anew; what was zero stays, and nothing else goes.
@pytest.mark.parametrize(
    ("animal", "name"), [pair for pair in PAIRS if "+" not in pair[1] and pair[1] != "prune-random"]
)
def test_twice_is_once(animal: str, name: str) -> None:
    subject = ZOO[animal]()
    once = COMPRESSORS[name](subject.model)
    twice = COMPRESSORS[name](once)
    for key, tensor in once.state_dict().items():
        assert torch.equal(tensor, twice.state_dict()[key]), key


@pytest.mark.parametrize("name", COMPRESSORS)
def test_weights_must_be_finite(name: str) -> None:
    subject = ZOO["perceptron"]()
    with torch.no_grad():
        subject.model[2].weight[1, 1] = torch.nan
    before = snapshot(subject.model)
    with pytest.raises(nc.NbcompressError, match=r"weights must be finite, but 1 of 192 in '2.weight' are NaN"):
        COMPRESSORS[name](subject.model)
    assert_same(subject.model, before)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_layers_must_exist(name: str) -> None:
    subject = ZOO["attention"]()
    with pytest.raises(nc.NbcompressError, match=r"layers='haed' matches no layer of the model. Did you mean 'head'\?"):
        COMPRESSORS[name](subject.model, layers="haed")


@pytest.mark.parametrize("name", [compressor for compressor in COMPRESSORS if "+" not in compressor])
def test_only_chosen_layers_change(name: str) -> None:
    subject = ZOO["attention"]()
    small = COMPRESSORS[name](subject.model, layers=["head"])
    assert set(record_of(small).tensors) <= {"head.weight"}
    projection = subject.model.get_parameter("attention.in_proj_weight")
    # The rest is rounded to half precision by some, and nothing else.
    assert torch.allclose(small.get_parameter("attention.in_proj_weight"), projection, rtol=2**-10)


@pytest.mark.parametrize("name", [compressor for compressor in COMPRESSORS if compressor not in NEED_DATA])
def test_tuning_needs_data(name: str) -> None:
    subject = ZOO["perceptron"]()
    with pytest.raises(nc.NbcompressError, match=r"finetune=2 needs data"):
        COMPRESSORS[name](subject.model, finetune=2)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_step_that_fails_leaves_nothing_behind(name: str) -> None:
    subject = ZOO["perceptron"]()
    before = snapshot(subject.model)
    wrong = (subject.data[0], subject.data[1] + 5)
    with pytest.raises(
        nc.NbcompressError, match=r"labels must be 0 to 2 for a model with 3 outputs, but they run from 5"
    ):
        COMPRESSORS[name](subject.model, data=wrong, finetune=1)
    assert_same(subject.model, before)
    small = COMPRESSORS[name](subject.model)
    before = snapshot(small)
    with pytest.raises(nc.NbcompressError, match="labels must be 0 to 2"):
        finetune(small, wrong)
    assert_same(small, before)


def test_tied_weights_stay_tied() -> None:
    for name, compress in COMPRESSORS.items():
        small = compress(ZOO["tied"]().model)
        assert small.head.weight is small.embedding.weight, name
        if not name.startswith("factorize"):
            assert set(record_of(small).tensors) == {"embedding.weight", "body.weight"}, name


def test_what_is_left_out_is_named() -> None:
    small = COMPRESSORS["factorize"](ZOO["recurrent"]().model)
    assert record_of(small).left_out == {
        "embedding.weight": "no plain linear layer or convolution (Embedding)",
        "gru.weight_ih_l0": "not the weight of a layer",
        "gru.weight_hh_l0": "not the weight of a layer",
    }
