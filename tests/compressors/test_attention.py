"""Attention that can lose heads computes the same as torch's own attention."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compressors.attention import HeadwiseAttention, convert_all_attention_

# torch asks for masks of one kind; its own encoder says that nested tensors are new.
pytestmark = pytest.mark.filterwarnings("ignore")


def freed(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    convert_all_attention_(other)
    return other


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("batch_first", "adds", "is_apart"), list(product([False, True], repeat=3)))
@torch.no_grad()
def test_it_computes_what_torch_computes(batch_first: bool, adds: bool, is_apart: bool) -> None:
    k, v = (6, 5) if is_apart else (8, 8)
    attention = nn.MultiheadAttention(
        8, 2, batch_first=batch_first, bias=not adds, add_bias_kv=adds, add_zero_attn=adds, kdim=k, vdim=v
    ).eval()
    given = [numbers(3, 4, 8), numbers(3, 5, k), numbers(3, 5, v)]
    if not batch_first:
        given = [tensor.transpose(0, 1) for tensor in given]
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, -1] = True
    causal = torch.ones(4, 5, dtype=torch.bool).triu(1)
    masks = [(None, None), (padding, None), (None, numbers(4, 5)), (padding, numbers(6, 4, 5)), (None, causal)]
    for (pad, mask), needs, averages in product(masks, [False, True], [False, True]):
        options = {"need_weights": needs, "average_attn_weights": averages}
        wanted = attention(*given, key_padding_mask=pad, attn_mask=mask, **options)
        found = freed(attention)(*given, key_padding_mask=pad, attn_mask=mask, **options)
        assert (wanted[1] is None) == (found[1] is None)
        for a, b in zip(wanted, found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5) if a is not None else None


@pytest.mark.parametrize("batch_first", [False, True])
def test_masks_of_other_shapes_are_refused_as_by_torch(batch_first: bool) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    x, y = (numbers(3, n, 8) if batch_first else numbers(n, 3, 8) for n in (4, 5))
    masks = [{"key_padding_mask": torch.zeros(shape, dtype=torch.bool)} for shape in ((3, 4), (3, 6), (1, 5), (5, 3))]
    masks += [{"attn_mask": numbers(*shape)} for shape in ((4, 4), (1, 5), (5, 4), (3, 4, 5), (12, 4, 5), (6, 4, 6))]
    for (model, error), mask in product([(attention, Exception), (freed(attention), RuntimeError)], masks):
        with pytest.raises(error):
            model(x, y, y, **mask)
    with pytest.raises(RuntimeError, match=r"key_padding_mask must have shape \(3, 5\), but has \(3, 4\)"):
        freed(attention)(x, y, y, **masks[0])


@torch.no_grad()
def test_one_sequence_without_a_batch() -> None:
    attention = nn.MultiheadAttention(8, 2).eval()
    x = numbers(4, 8)
    for a, b in zip(attention(x, x, x), freed(attention)(x, x, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_encoder_that_drops_padding_still_does() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[0, -2:] = True
    wanted = encoder(numbers(3, 6, 8), src_key_padding_mask=padding)
    found = freed(encoder)(numbers(3, 6, 8), src_key_padding_mask=padding)
    assert bool((wanted[0, -2:] == 0).all())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_hint_without_a_mask_is_an_error_as_in_torch() -> None:
    x = numbers(1, 4, 8)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        freed(nn.MultiheadAttention(8, 2, batch_first=True))(x, x, x, is_causal=True)


def test_heads_go_and_the_widths_outside_stay() -> None:
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True)
    small = nc.prune(layer, 0.5, granularity="channel", example=numbers(2, 5, 8))
    attention = small.self_attn
    assert type(attention) is HeadwiseAttention
    assert type(layer.self_attn) is nn.MultiheadAttention
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (2, 2, 8)
    assert attention.in_proj_weight.shape == (12, 8)
    assert attention.out_proj.weight.shape == (8, 4)


class Own(nn.MultiheadAttention):
    """A subclass of the user's own, whose code may rely on the shapes of the base class."""


class WithOwn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend, self.up, self.down = Own(8, 4, batch_first=True), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(self.attend(x, x, x)[0])))


def test_classes_made_from_it_are_left_whole() -> None:
    small = nc.prune(WithOwn(), 0.5, granularity="channel", example=numbers(2, 5, 8))
    assert small.up.out_features == 8
    assert (type(small.attend), small.attend.num_heads) == (Own, 4)
