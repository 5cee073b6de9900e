"""Multi-head attention that can lose heads.

`nn.MultiheadAttention` computes the width of a head from the width of its input, so it cannot lose a head.
`HeadwiseAttention` computes the same function from the same parameters, but stores number and width of its heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class HeadwiseAttention(nn.MultiheadAttention):
    """Attention whose heads together may be narrower than its input.

    Instances are converted from `nn.MultiheadAttention` by `convert_attention_` and never built. The arguments of
    `forward` and the shapes of its results are those of that class.
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
        self._check_masks(query, key, attn_mask, key_padding_mask)
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

    def _check_masks(self, query: Tensor, key: Tensor, attention: Tensor | None, padding: Tensor | None) -> None:
        """Refuse masks of other shapes than that class takes, instead of padding, cropping or broadcasting them.

        Raises:
            RuntimeError: A mask does not fit the batch, the heads, or the lengths of the sequences.
        """
        (n, n_queries, _), n_keys = query.shape, key.shape[1]
        if padding is not None and tuple(padding.shape) != (n, n_keys):
            raise RuntimeError(f"key_padding_mask must have shape {(n, n_keys)}, but has {tuple(padding.shape)}")
        if attention is not None:
            leading = () if attention.dim() == 2 else (n * self.num_heads,)
            expected = (*leading, n_queries, n_keys)
            if tuple(attention.shape) != expected:
                raise RuntimeError(
                    f"attn_mask must have shape {expected} for {self.num_heads} heads, but has {tuple(attention.shape)}"
                )

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `(n, h, l, d)`, keys and values `(n, h, s, d)`, with the keys and values added to every sequence."""
        packed = self._parameters["in_proj_weight"]
        separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = separate if packed is None else packed.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(*operands) for operands in zip((query, key, value), weights, biases, strict=True))
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
        """The mask to add to the scores `(n, h, l, s)`; keys that were added to every sequence are not masked."""
        mask: Tensor | None = None
        for given in (attention, padding):
            if given is None:
                continue
            added = given
            if given.dtype is torch.bool:
                added = torch.zeros_like(given, dtype=q.dtype).masked_fill(given, -math.inf)
            if given is padding:
                added = added[:, None, None, :]
            elif given.dim() == 3:
                added = added.view(-1, self.num_heads, *added.shape[1:])
            mask = added if mask is None else mask + added
        return None if mask is None else F.pad(mask, (0, k.shape[2] - mask.shape[-1]))

    def _nested(self, query: Tensor) -> Tensor:
        """Self-attention over nested sequences, which an encoder of torch makes of padded ones."""
        lengths = torch.tensor([len(tensor) for tensor in query.unbind()], device=query.device)
        padded = query.to_padded_tensor(0.0)
        is_padding = torch.arange(padded.shape[1], device=query.device) >= lengths[:, None]
        out, _ = self.forward(padded, padded, padded, key_padding_mask=is_padding, need_weights=False)
        return torch._nested_tensor_from_mask(out, ~is_padding)


def convert_all_attention_(model: nn.Module) -> None:
    """Convert every plain `nn.MultiheadAttention` in `model` to `HeadwiseAttention`, in place."""
    for module in model.modules():
        convert_attention_(module)


def convert_attention_(module: nn.Module) -> None:
    """Convert `module` to `HeadwiseAttention`, in place, if it is a plain `nn.MultiheadAttention`."""
    if type(module) is nn.MultiheadAttention:
        module.__class__ = HeadwiseAttention
        # This makes the layers around it call `forward` instead of a fused kernel.
        module._qkv_same_embed_dim = False


__all__ = ["HeadwiseAttention", "convert_all_attention_", "convert_attention_"]
