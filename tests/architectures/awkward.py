"""Small models, each with one unusual feature; other tools failed on the first of them."""

from __future__ import annotations

import torch
from architectures.entry import Architecture, numbers, tokens
from channel_zoo import BranchOnData, DenseNet, Gate, HardView, Recurrent, Reused, SoftView, WithMultihead
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Gated(nn.Module):
    """A convolution whose two halves gate each other, as in WaveNet, under weight normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 16, 3, padding=1))
        self.both = nn.utils.parametrizations.weight_norm(nn.Conv1d(16, 32, 3, padding=2, dilation=2))
        self.skip, self.leave = nn.Conv1d(16, 16, 1), nn.Conv1d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        signal, gate = self.both(x).split(self.both.out_channels // 2, dim=1)
        return self.leave(x + self.skip(torch.tanh(signal) * torch.sigmoid(gate)))


class Either(nn.Module):
    """A branch on data that the tracer can see."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.one, self.other, self.leave = (
            nn.Linear(6, 16),
            nn.Linear(16, 12),
            nn.Linear(16, 12),
            nn.Linear(12, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        return self.leave(torch.cond(x.sum() > 0, lambda y: self.one(y).sin(), lambda y: self.other(y).cos(), (x,)))


class Bag(nn.Module):
    """Sums of embeddings, and a table of bare numbers, as in recommendation."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.table = nn.EmbeddingBag(60, 16, mode="sum"), nn.Parameter(torch.randn(60, 8))
        self.mid, self.leave = nn.Linear(24, 20), nn.Linear(20, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.cat([self.bag(ids), self.table[ids].sum(1)], dim=-1)
        return self.leave(torch.relu(self.mid(x)))


class Stepwise(nn.Module):
    """A recurrent cell in a loop of the user's own."""

    def __init__(self, cell: type[nn.LSTMCell] | type[nn.GRUCell]) -> None:
        super().__init__()
        self.cell, self.leave = cell(5, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.leave(state[0] if isinstance(state, tuple) else state)


class Cross(nn.Module):
    """torch's own attention to a sequence of another width, with a mask and an added zero position."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 4, kdim=6, vdim=6, add_zero_attn=True, batch_first=True)
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        x, _ = self.attend(self.enter(x), memory, memory, key_padding_mask=mask)
        return self.leave(torch.relu(x))


class Encoder(nn.Module):
    """torch's own encoder, which uses nested tensors when it is given a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(60, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 60, bias=False)
        self.head.weight = self.token.weight

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.encoder(self.token(ids), src_key_padding_mask=mask))


class Fixed(nn.Module):
    """Pieces whose lengths are numbers in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.left, self.right = nn.Linear(6, 16), nn.Linear(5, 3), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.enter(x).split([5, 11], dim=-1)
        return self.left(left) + self.right(torch.relu(right))


class Narrow(Fixed):
    """The same pieces by `narrow`, whose numbers stay."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.left(x.narrow(-1, 0, 5)) + self.right(torch.relu(x.narrow(-1, 5, 11)))


class Options(nn.Module):
    """Attention that reads the number of heads from a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.options = {"heads": 4, "width": 4}
        self.qkv, self.out = nn.Linear(6, 48), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.view(*x.shape[:2], self.options["heads"], -1).transpose(1, 2) for part in parts)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LiteralHeads(nn.Module):
    """Attention that computes the sizes of heads from the width of the model, which stays."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(6, 32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def split(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        return self.qkv(x).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4)

    def join(self, x: Tensor, like: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(like.shape)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.enter(x))
        q, k, v = self.split(x)
        scores = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1)
        return x + self.out(self.join(scores @ v, x))


class OpenWidth(LiteralHeads):
    """The number of heads is a literal, and their width is left open: a cut would change the width without an error."""

    def split(self, x: Tensor) -> Tensor:
        return self.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)

    def join(self, x: Tensor, like: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class HeadsInBatch(LiteralHeads):
    """The heads are merged with the batch; sizes are literals."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.enter(x))
        b, n, _ = x.shape
        q, k, v = (part.view(b, n, 4, 8).transpose(1, 2).reshape(b * 4, n, 8) for part in self.qkv(x).chunk(3, -1))
        scores = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1)
        return x + self.out((scores @ v).view(b, 4, n, 8).transpose(1, 2).reshape(b, n, 32))


class MultiQuery(LiteralHeads):
    """Four heads of queries and one of keys and values; the products are einsums with an ellipsis."""

    def __init__(self) -> None:
        super().__init__()
        del self.qkv
        self.q, self.kv = nn.Linear(32, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.enter(x))
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 8).transpose(1, 2)
        k, v = self.kv(x).chunk(2, dim=-1)
        scores = (torch.einsum("...hid,...jd->...hij", q, k) * 8**-0.5).softmax(-1)
        heads = torch.einsum("...hij,...jd->...hid", scores, v)
        return x + self.out(heads.transpose(1, 2).reshape(b, n, 32))


class StandardConv(nn.Conv2d):
    """Weight standardization: the weights of each output have mean 0 and variance 1 over inputs and kernel."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, padding=1)


def _standardized() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), StandardConv(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 3))


class ResponseNorm(nn.Module):
    """Global response normalization, as in ConvNeXt V2: the size of a channel relative to the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu()
        size = x.norm(dim=1, keepdim=True)
        return self.out(x * (size / (size.mean(dim=-1, keepdim=True) + 1e-6)))


def _masked(n: int) -> Tensor:
    mask = torch.zeros(2, n, dtype=torch.bool)
    mask[0, -2:] = True
    return mask


AWKWARD = {
    "view of a fixed size": Architecture(HardView, lambda: numbers(2, 3, 8, 8)),
    "a layer used three times": Architecture(Reused, lambda: numbers(3, 6), share=0.6),
    "LSTM": Architecture(lambda: Recurrent("LSTM"), lambda: numbers(2, 4, 5), share=0.6),
    "gate by chunk": Architecture(Gate, lambda: numbers(3, 6)),
    "branch on data": Architecture(
        BranchOnData, lambda: numbers(3, 4), refused="cannot be traced: its code branches on the data"
    ),
    "torch.cond": Architecture(Either, lambda: numbers(3, 6), share=0.6),
    "GRU, both directions": Architecture(
        lambda: Recurrent("GRU", bidirectional=True), lambda: numbers(2, 4, 5), share=0.6
    ),
    "LSTM cell in a loop": Architecture(lambda: Stepwise(nn.LSTMCell), lambda: numbers(2, 4, 5), share=0.6),
    "GRU cell in a loop": Architecture(lambda: Stepwise(nn.GRUCell), lambda: numbers(2, 4, 5), share=0.6),
    "concatenation": Architecture(DenseNet, lambda: numbers(2, 3, 8, 8)),
    "flatten": Architecture(SoftView, lambda: numbers(2, 3, 8, 8), share=0.6),
    "weight normalization": Architecture(Gated, lambda: numbers(2, 2, 12), share=0.6),
    "EmbeddingBag, bare parameter": Architecture(Bag, lambda: tokens(3, 4)),
    "MultiheadAttention": Architecture(Cross, lambda: (numbers(2, 7, 5), numbers(2, 4, 6), _masked(4))),
    "TransformerEncoderLayer": Architecture(WithMultihead, lambda: numbers(2, 5, 6)),
    "TransformerEncoder, tied": Architecture(Encoder, lambda: (tokens(2, 7), _masked(7))),
    "pieces of fixed lengths": Architecture(Fixed, lambda: numbers(3, 6), share=0.4),
    "narrow of fixed lengths": Architecture(Narrow, lambda: numbers(3, 6), refused="the cut model fails"),
    "heads as literals": Architecture(LiteralHeads, lambda: numbers(2, 5, 6)),
    "heads as literals, width left open": Architecture(OpenWidth, lambda: numbers(2, 5, 6)),
    "heads merged with the batch": Architecture(HeadsInBatch, lambda: numbers(2, 5, 6)),
    "multi-query attention by einsum": Architecture(MultiQuery, lambda: numbers(2, 5, 6), share=0.25),
    "weight standardization": Architecture(_standardized, lambda: numbers(2, 3, 8, 8), share=0.1),
    "response normalization": Architecture(ResponseNorm, lambda: numbers(2, 5, 6), refused="norms='cut' also cuts"),
    "heads in a dictionary": Architecture(Options, lambda: numbers(2, 5, 6)),
}

__all__ = ["AWKWARD"]
