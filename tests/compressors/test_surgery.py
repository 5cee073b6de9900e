"""Recorded structural changes are replayed on a fresh instance, or refused."""

from __future__ import annotations

import pytest
import torch
from compress_zoo import Tied
from torch import nn

from nbcompress.compressors import Surgery, replay_surgery_
from nbcompress.errors import CompressionError


def test_cut_a_convolution_and_its_norm() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model[0].weight.requires_grad_(False)
    replay_surgery_(model, Surgery("cut", "0", {"weight": (5, 3, 3, 3), "bias": (5,)}, {"out_channels": 5}))
    shapes = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (5,))
    replay_surgery_(model, Surgery("cut", "1", shapes, {"num_features": 5}))
    assert model[0].out_channels == 5
    assert not model[0].weight.requires_grad
    assert isinstance(model[0].weight, nn.Parameter)
    assert model(torch.randn(1, 3, 4, 4)).shape == (1, 5, 2, 2)


def test_cut_what_is_tied_everywhere() -> None:
    model = Tied()
    replay_surgery_(model, Surgery("cut", "embedding", {"weight": (16, 6)}, {"embedding_dim": 6}))
    replay_surgery_(
        model, Surgery("cut", "body", {"weight": (6, 6), "bias": (6,)}, {"in_features": 6, "out_features": 6})
    )
    assert model.head.weight is model.embedding.weight
    assert model(torch.randint(0, 16, (2, 3))).shape == (2, 16)


def test_cut_a_recurrent_layer() -> None:
    """A GRU keeps a second list of its weights."""
    model = nn.Sequential(nn.GRU(6, 4))
    replay_surgery_(model, Surgery("cut", "0", {"weight_ih_l0": (12, 3)}, {"input_size": 3}))
    out, _ = model[0](torch.randn(5, 2, 3))
    assert out.shape == (5, 2, 4)


def test_cut_parameters_of_the_model_itself_and_tuples() -> None:
    model = nn.LayerNorm(8)
    replay_surgery_(model, Surgery("cut", "", {"weight": (5,), "bias": (5,)}, {"normalized_shape": (5,)}))
    assert model(torch.randn(2, 5)).shape == (2, 5)


@pytest.mark.parametrize(
    ("surgery", "text"),
    [
        (Surgery("cut", "9"), "the model has no module '9' to cut: pass a fresh instance of the original class"),
        (Surgery("factorize", "9", attributes={"rank": 1}), "no module '9' to factorize"),
        (Surgery("cut", "0", {"wait": (1, 1)}), "module '0' has no parameter or buffer 'wait'"),
        (Surgery("cut", "0", {"x.weight": (1, 1)}), "module '0' has no parameter or buffer 'x.weight'"),
        (Surgery("cut", "0", {"weight": (9, 3)}), r"can only be cut, from \(4, 3\), but the record says \(9, 3\)"),
        (Surgery("cut", "0", {"weight": (4,)}), r"can only be cut"),
        (Surgery("cut", "0", {"weight": (0, 3)}), r"can only be cut"),
        (Surgery("cut", "0", {}, {"forward": 3}), "module '0' has no number 'forward' that could be set to 3"),
        (Surgery("cut", "0", {}, {"training": 3}), "module '0' has no number 'training'"),
        (
            Surgery("cut", "0", {}, {"in_features": "3"}),  # type: ignore[dict-item]
            "module '0' has no number 'in_features' that could be set to '3'",
        ),
        (Surgery("factorize", "0"), "factorizing '0' needs its rank, got None"),
        (Surgery("factorize", "0", attributes={"rank": 4}), "rank is an integer from 1 to 3, but got 4"),
        (Surgery("factorize", "1", attributes={"rank": 1}), r"can be factorized; this is no plain linear layer .*ReLU"),
        (Surgery("melt", "0"), "a surgery is cut, resize, factorize, remove or bypass, got 'melt'"),  # type: ignore[arg-type]
    ],
)
def test_refused_before_anything_changes(surgery: Surgery, text: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    weight = model[0].weight
    with pytest.raises(CompressionError, match=text):
        replay_surgery_(model, surgery)
    assert model[0].weight is weight
    assert model[0].in_features == 3


def test_shapes_are_checked_before_the_first_is_set() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(CompressionError):
        replay_surgery_(model, Surgery("cut", "0", {"weight": (2, 3), "bias": (9,)}))
    assert model[0].weight.shape == (4, 3)
