from __future__ import annotations

import channel_zoo as zoo
import pytest
import torch
from torch import nn

from nbcompress.compress import prune
from nbcompress.compress.prune.batchnorm import recompute_batchnorm_
from nbcompress.compress.prune.channels import cut_channels
from nbcompress.errors import DataError


def test_the_mean_over_batches_by_hand() -> None:
    norm = nn.BatchNorm1d(1, momentum=0.5)
    batches = [(torch.tensor([[0.0], [2.0]]), torch.zeros(2)), (torch.tensor([[6.0], [10.0]]), torch.zeros(2))]
    # Means 1 and 8; variances (unbiased) 2 and 8.
    assert recompute_batchnorm_(norm, batches) == 1
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert (norm.running_mean.item(), norm.running_var.item()) == (4.5, 5.0)
    assert norm.momentum == 0.5


@pytest.mark.parametrize("is_training", [True, False])
def test_modes_come_back_and_weights_stay(is_training: bool) -> None:
    model = zoo.vgg().train(is_training)
    model[1].eval()
    modes = [one.training for one in model.modules()]
    weights = [one.clone() for one in model.parameters()]
    assert recompute_batchnorm_(model, (torch.randn(32, 3, 8, 8), torch.zeros(32).long())) == 2
    assert [one.training for one in model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(one.grad is None for one in model.parameters())


def test_without_batch_norm_the_data_is_not_read() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert recompute_batchnorm_(model, object()) == 0


def test_data_that_does_not_fit_leaves_the_statistics() -> None:
    model = zoo.vgg()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with pytest.raises(DataError, match="empty"):
        recompute_batchnorm_(model, [])
    with pytest.raises(DataError):
        recompute_batchnorm_(model, (torch.randn(4, 5, 8, 8), torch.zeros(4)))
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert model[1].momentum == 0.1


def test_statistics_after_a_cut_are_those_of_the_data() -> None:
    torch.manual_seed(0)
    model, images = zoo.ResNet(), torch.randn(64, 3, 8, 8) * 3 + 1
    recompute_batchnorm_(model, (images, torch.zeros(64).long()))
    small = cut_channels(model, 0.5, example=images[:2])
    recompute_batchnorm_(small, [(images, torch.zeros(64).long())])
    seen: list[torch.Tensor] = []
    small.layer2.bn1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        small.eval()(images)
    # The norms before it are measured in the same pass, so they use the statistics of this one batch as well.
    mean = seen[0].mean((0, 2, 3))
    torch.testing.assert_close(small.layer2.bn1.running_mean, mean, rtol=1e-2, atol=1e-2)


def test_prune_measures_again_when_data_is_given() -> None:
    torch.manual_seed(0)
    model, images = zoo.vgg(), torch.randn(64, 3, 8, 8) + 2
    data = (images, torch.zeros(64).long())
    plain = prune(model, 0.5, granularity="channel", example=images[:2])
    fitted = prune(model, 0.5, granularity="channel", data=data)
    assert plain[1].num_features == fitted[1].num_features == 4
    assert torch.equal(plain[0].weight, fitted[0].weight)
    assert not torch.equal(plain[1].running_mean, fitted[1].running_mean)
