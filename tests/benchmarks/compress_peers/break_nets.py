"""Small networks on which compressors fail, each with an input."""

from __future__ import annotations

import torch
from nets import ConvNet, Encoder
from torch import Tensor, nn

Sample = tuple[nn.Module, Tensor]


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(2000, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(16, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Bare(nn.Module):
    """A matrix that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.head = nn.Parameter(torch.randn(64, 256) / 8), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(x @ self.matrix))


class Tied(nn.Module):
    """The embedding and the output layer share their matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(2000, 64), nn.Linear(64, 2000, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).mean(1))


class Viewed(nn.Module):
    """Its number of features is written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(torch.relu(self.conv(x)), 4)
        return self.head(x.view(-1, 16 * 16))


class UsedTwice(nn.Module):
    """One layer at two places, between others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.head = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.shared(torch.relu(self.first(x))))
        return self.head(torch.relu(self.shared(x)))


class Gated(nn.Module):
    """One half of the channels gates the other."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.inner, self.head = nn.Linear(32, 128), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, dim=-1)
        return self.head(torch.relu(self.inner(a * torch.sigmoid(b))))


def embedded() -> Sample:
    return Embedded(), torch.randint(2000, (8, 12))


def convolved() -> Sample:
    return ConvNet(), torch.rand(8, 64)


def recurrent() -> Sample:
    return Recurrent(), torch.randn(8, 5, 16)


def bare() -> Sample:
    return Bare(), torch.randn(8, 64)


def tied() -> Sample:
    return Tied(), torch.randint(2000, (8, 12))


def sequential() -> Sample:
    return nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 10)), torch.rand(8, 64)


def viewed() -> Sample:
    return Viewed(), torch.randn(2, 3, 8, 8)


def used_twice() -> Sample:
    return UsedTwice(), torch.randn(4, 32)


def gated() -> Sample:
    return Gated(), torch.randn(4, 32)


def with_outliers() -> Sample:
    """An encoder in which two features are hundreds of times larger than the rest, as in trained language models.

    The weights that read them are smaller by the same factor, so nothing changes in floating point.
    """
    model = Encoder()
    block = model.block
    with torch.no_grad():
        for scale, place in ((300.0, 3), (500.0, 17)):
            block.norm1.weight[place] *= scale
            block.norm2.weight[place] *= scale
            for layer in (block.query, block.key, block.value, block.up):
                layer.weight[:, place] /= scale
    return model, torch.rand(256, 64)
