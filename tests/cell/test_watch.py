"""The notebook's modules stay as they were."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn

from nbcompress.cell.watch import ModuleWatch


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def test_nothing_changed_nothing_named() -> None:
    model = network()
    watch = ModuleWatch({"model": model})
    model.eval()(torch.randn(4, 3))
    assert watch.restore_() == ()


def test_a_changed_parameter_is_undone_and_named() -> None:
    model = network()
    before = model[0].weight.detach().clone()
    watch = ModuleWatch({"model": model, "nets": [network()]})
    with torch.no_grad():
        model[0].weight.add_(1)
    assert watch.restore_() == ("model",)
    assert torch.equal(model[0].weight, before)
    assert watch.restore_() == ()


def test_a_buffer_changed_by_a_forward_pass_is_undone() -> None:
    model = network().train()
    watch = ModuleWatch({"model": model})
    model(torch.randn(4, 3))
    assert watch.restore_() == ("model",)
    assert torch.equal(model[1].running_mean, torch.zeros(3))
    assert model[1].num_batches_tracked == 0


def test_a_replaced_parameter_and_a_replaced_layer_are_put_back() -> None:
    model = network()
    weight, norm = model[0].weight, model[1]
    watch = ModuleWatch({"model": model})
    model[0].weight = nn.Parameter(torch.zeros(3, 3))
    model[1] = nn.Identity()
    model.add_module("extra", nn.ReLU())
    assert watch.restore_() == ("model",)
    assert model[0].weight is weight
    assert model[1] is norm
    assert len(model) == 2


def test_a_module_under_two_names_is_named_once() -> None:
    model = network()
    watch = ModuleWatch({"a": model, "b": model})
    with torch.no_grad():
        model[0].bias.zero_()
    assert watch.restore_() == ("a",)


def test_modules_in_containers_are_watched() -> None:
    model = network()
    watch = ModuleWatch({"nets": {"small": [model]}})
    with torch.no_grad():
        model[0].bias.zero_()
    assert watch.restore_() == ("nets",)


def test_lazy_and_inference_tensors_do_no_harm() -> None:
    with torch.inference_mode():
        frozen = nn.Linear(2, 2)
    watch = ModuleWatch({"lazy": nn.LazyLinear(3), "frozen": frozen})
    assert watch.restore_() == ()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_is_watched() -> None:
    model = torch.jit.script(network().train())
    watch = ModuleWatch({"model": model})
    assert watch.restore_() == ()
    model(torch.randn(4, 3))
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert watch.restore_() == ("model",)
    assert watch.restore_() == ()


class Unfinished(nn.Module):
    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, dtype=torch.bool),
        torch.eye(3).to_sparse(),
        torch.ones(2).to(torch.float8_e4m3fn),
        torch.ones(2, device="meta"),
        torch.tensor([complex("nan")]),
    ],
    ids=["bool", "sparse", "float8", "meta", "complex"],
)
def test_unusual_modules_and_tensors_do_no_harm(tensor: torch.Tensor) -> None:
    model = nn.Module()
    model.register_buffer("b", tensor)
    watch = ModuleWatch({"model": model, "unfinished": Unfinished(), "like": mock.Mock(spec=nn.Module)})
    assert watch.restore_() == ()
