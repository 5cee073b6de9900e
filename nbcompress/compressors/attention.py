"""torch's own attention with fewer heads than its width has room for.

`nn.MultiheadAttention` computes the width of a head from the width of its input, so it cannot lose a head. The class
here computes the same from the same parameters, but takes the number and the width of heads as they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class HeadwiseAttention(nn.MultiheadAttention):
    """Attention whose heads together need not be as wide as its input.

    Made by `free_heads_` from an instance of `nn.MultiheadAttention`, never built. All arguments of the forward call,
    and the shapes of what it returns, are those of that class.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.is_nested:
            return self._nested(query), None
        is_batched = query.dim() == 3
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        if not is_batched:
            query, key, value = (tensor.unsqueeze(0) for tensor in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        q, k, v = self._heads(query, key, value)
        mask = self._mask(attn_mask, key_padding_mask, q, k)
        shares = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            shares = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            shares = F.dropout(shares, self.dropout, self.training)
            mixed = shares @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if shares is not None and average_attn_weights:
            shares = shares.mean(dim=1)
        if not is_batched:
            return out.squeeze(0), None if shares is None else shares.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), shares

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `(n, h, l, d)`, keys and values `(n, h, s, d)`, with the ones that every sequence gets added."""
        packed = self._parameters["in_proj_weight"]
        apart = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = apart if packed is None else packed.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(*one) for one in zip((query, key, value), weights, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(k), -1, -1)], dim=1)
            v = torch.cat([v, self.bias_v.expand(len(v), -1, -1)], dim=1)
        q, k, v = (
            tensor.view(*tensor.shape[:2], self.num_heads, self.head_dim).transpose(1, 2) for tensor in (q, k, v)
        )
        if self.add_zero_attn:
            k, v = (F.pad(tensor, (0, 0, 0, 1)) for tensor in (k, v))
        return q, k, v

    def _mask(self, attention: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        """What is added to the scores `(n, h, l, s)`; positions that every sequence got added are seen by all."""
        mask: Tensor | None = None
        for one in (attention, padding):
            if one is None:
                continue
            added = one
            if one.dtype is torch.bool:
                added = torch.zeros_like(one, dtype=q.dtype).masked_fill(one, -math.inf)
            if one is padding:
                added = added[:, None, None, :]
            elif one.dim() == 3:
                added = added.view(-1, self.num_heads, *added.shape[1:])
            mask = added if mask is None else mask + added
        return None if mask is None else F.pad(mask, (0, k.shape[2] - mask.shape[-1]))

    def _nested(self, query: Tensor) -> Tensor:
        """Sequences of several lengths, as an encoder of torch makes them of padded ones, attending to themselves."""
        lengths = torch.tensor([len(tensor) for tensor in query.unbind()], device=query.device)
        padded = query.to_padded_tensor(0.0)
        is_padding = torch.arange(padded.shape[1], device=query.device) >= lengths[:, None]
        out, _ = self.forward(padded, padded, padded, key_padding_mask=is_padding, need_weights=False)
        return torch._nested_tensor_from_mask(out, ~is_padding)


def free_heads_(model: nn.Module) -> None:
    """Make every plain `nn.MultiheadAttention` in `model` one that can lose heads, in place."""
    for module in model.modules():
        free_(module)


def free_(module: nn.Module) -> None:
    """Make `module`, if it is a plain `nn.MultiheadAttention`, one that can lose heads, in place."""
    if type(module) is nn.MultiheadAttention:
        module.__class__ = HeadwiseAttention
        # What tells the layers around it to keep to this forward call instead of a fused one.
        module._qkv_same_embed_dim = False


__all__ = ["HeadwiseAttention", "free_", "free_heads_"]
