"""Hand-made models that compute with buffers which a state dict does not hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Windows(nn.Module):
    """Attention as in Swin Transformer V2: a network on a table of coordinates, looked up by an index table.

    The table of coordinates is cut with the inputs of that network; index table and mask stay.
    """

    def __init__(self, side: int = 3) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 48), nn.Linear(16, 12)
        self.table1, self.table2 = nn.Linear(2, 10), nn.Linear(10, 4, bias=False)
        far = torch.arange(1 - side, side).float()
        coordinates = torch.stack(torch.meshgrid(far, far, indexing="ij"), dim=-1)
        self.register_buffer("coordinates", coordinates.sign() * coordinates.abs().log1p(), persistent=False)
        place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        steps = place[:, None] - place[None] + side - 1
        self.register_buffer("index", steps[..., 0] * (2 * side - 1) + steps[..., 1], persistent=False)
        self.register_buffer("mask", torch.ones(side**2, side**2).tril().bool(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table2(F.relu(self.table1(self.coordinates))).flatten(0, 1)[self.index]
        scores = (q @ k.transpose(-2, -1) + bias.permute(2, 0, 1)).masked_fill(~self.mask, -1e4)
        return x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Scaled(nn.Module):
    """Float tables that meet channels: gains and switches of channels, random ones among them; and codes of positions.

    A fresh instance draws other gains.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mid, self.leave = nn.Linear(6, 16), nn.Linear(16, 8), nn.Linear(8, 3)
        self.register_buffer("gain", torch.rand(16) + 0.5, persistent=False)
        self.register_buffer("switch", torch.arange(8) % 3 > 0, persistent=False)
        self.register_buffer("codes", torch.randn(5, 16), persistent=False)
        self.register_buffer("shift", torch.randn(8))
        self.register_buffer("unused", torch.randn(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x) * self.gain + self.codes[: x.size(1)])
        return self.leave(torch.tanh(self.mid(x) + self.shift) * self.switch)


class Relative(nn.Module):
    """Attention as in ConViT: what the distances of positions are is worked out once their number is known."""

    def __init__(self, *, is_none: bool = False) -> None:
        super().__init__()
        self.enter, self.qk, self.v = nn.Linear(6, 12), nn.Linear(12, 24), nn.Linear(12, 12)
        self.up, self.down, self.far = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(3, 4)
        self.register_buffer("distances", None if is_none else torch.zeros(1, 1, 1, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n = x.size(1)
        if self.distances is None or self.distances.shape[1] != n:
            steps = torch.arange(n, device=x.device)[None] - torch.arange(n, device=x.device)[:, None]
            self.distances = torch.stack([steps, steps**2, steps.abs()], dim=-1)[None].to(x.dtype)
        x = self.enter(x)
        q, k = self.qk(x).view(*x.shape[:2], 2, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)
        shares = (q @ k.transpose(-2, -1)).softmax(-1) + self.far(self.distances).permute(0, 3, 1, 2).softmax(-1)
        x = x + (shares @ self.v(x).view(*x.shape[:2], 4, 3).transpose(1, 2)).transpose(1, 2).flatten(2)
        return x + self.down(F.relu(self.up(x)))


class SharedTable(nn.Module):
    """Two layers with one table, under two names, one of which a state dict holds."""

    def __init__(self, *, first_is_kept: bool) -> None:
        super().__init__()
        self.enter, self.mid, self.leave = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        table = torch.rand(8) + 0.5
        self.register_buffer("one", table, persistent=first_is_kept)
        self.register_buffer("two", table, persistent=not first_is_kept)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu() * self.one
        return self.leave(x + self.mid(x).relu() * self.two)
