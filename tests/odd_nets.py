"""Models that hold numbers of unusual kinds: complex ones, sparse ones, and one number that stands for several."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Spectral(nn.Module):
    """Complex weights in the middle, as a Fourier layer has them, and a complex buffer."""

    def __init__(self, n: int = 8) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, n), nn.Linear(n, 3)
        self.mix = nn.Parameter(torch.randn(n // 2 + 1, n // 2 + 1, dtype=torch.complex64) / n)
        self.tilt = nn.Parameter(torch.randn(n // 2 + 1, dtype=torch.complex64))
        self.register_buffer("phase", torch.exp(1j * torch.linspace(0, 1, n // 2 + 1)))

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.fft.rfft(torch.tanh(self.enter(x)), dim=-1) * self.phase
        mixed = torch.einsum("nf,fg->ng", waves, self.mix) + self.tilt
        return self.leave(torch.fft.irfft(mixed, n=self.enter.out_features, dim=-1))


class Expanded(nn.Module):
    """Buffers in which one number stands for several, one of them under two names."""

    def __init__(self, *, is_stored: bool = True) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("gain", torch.rand(1).expand(12) + 0.0, persistent=is_stored)
        self.register_buffer("weigh", torch.full((1,), 0.3).expand(12), persistent=is_stored)
        self.register_buffer("again", self.weigh, persistent=is_stored)
        self.register_buffer("places", torch.arange(3)[None].expand(4, 3), persistent=is_stored)
        self.register_buffer("window", torch.rand(1, 3).expand(5, 3), persistent=is_stored)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x)) * self.gain * self.weigh
        return self.leave(x + self.again)[:, self.places[0]] * self.window[0]


class Graph(nn.Module):
    """A sparse matrix of neighbours as a buffer."""

    def __init__(self, *, is_stored: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 12), nn.Linear(12, 3)
        near = torch.eye(5) + torch.eye(5).roll(1, 0) * 0.1
        self.register_buffer("near", near.to_sparse(), persistent=is_stored)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.sparse.mm(self.near, torch.tanh(self.enter(x))))


class SparseWeight(nn.Module):
    """A parameter that is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 4)
        self.mix = nn.Parameter(torch.eye(4).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.mix, self.enter(x).T).T
