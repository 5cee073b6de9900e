"""The networks that are compressed, and handwritten digits to train and test them on.

A seed shuffles the 1,797 digits into two parts. Each part is tested once, by a network that learned from the other
part. So a seed gives 1,797 test predictions on unseen digits, and five seeds give 8,985.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

import nbcompress as nc

Pair = tuple[Tensor, Tensor]

N_FOLDS = 2
EPOCHS = 30
TUNING_EPOCHS = 3
# Few epochs of long steps, so that all of it can be run in an hour.
TUNING_LR = 2e-3


class ConvNet(nn.Module):
    """Three convolutions with batch norm over pictures of 8 by 8 pixels; 15.4 thousand weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv3, self.norm3 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.norm1(self.conv1(x.reshape(-1, 1, 8, 8)))), 2)
        x = torch.relu(self.norm2(self.conv2(x)))
        x = nn.functional.max_pool2d(torch.relu(self.norm3(self.conv3(x))), 2)
        return self.head(x.flatten(1))


class Block(nn.Module):
    """Attention of four heads and a layer of twice the width, each around a norm."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.head_width = width // n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (
            layer(y).reshape(-1, 8, layer.out_features // self.head_width, self.head_width).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = torch.softmax(q @ k.transpose(2, 3) * self.head_width**-0.5, dim=3)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(-1, 8, self.value.out_features))
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """One block of a transformer over eight rows of eight pixels; 8.8 thousand weights."""

    def __init__(self, width: int = 32, n_heads: int = 4) -> None:
        super().__init__()
        self.rows, self.places = nn.Linear(8, width), nn.Parameter(torch.randn(8, width) * 0.02)
        self.block = Block(width, n_heads)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rows(x.reshape(-1, 8, 8)) + self.places
        return self.head(self.norm(self.block(x)).mean(1))


class Multilayer(nn.Module):
    """The 300-100 network; 50.2 thousand weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 300), nn.Linear(300, 100), nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


NETS = {"mlp": Multilayer, "conv": ConvNet, "encoder": Encoder}


@dataclass(frozen=True, eq=False)
class Case:
    """A trained network and its data.

    Attributes:
        net: Its name.
        seed: Of the start, of the order of the batches and of the split.
        fold: Which half is tested.
        model: In evaluation mode; every method works on a copy.
        train: 898 or 899 digits and their labels; pixels from 0 to 1.
        test: The others.
        tuning: Epochs of fine-tuning after compression.
    """

    net: str
    seed: int
    fold: int
    model: nn.Module
    train: Pair
    test: Pair
    tuning: int

    @property
    def example(self) -> Tensor:
        """A small batch of inputs."""
        return self.train[0][:4]

    def tuned(self, model: nn.Module) -> nn.Module:
        """`model`, trained in place: the same loop, order and number of steps for everybody."""
        return nc.finetune(model, self.train, epochs=self.tuning, lr=TUNING_LR, seed=self.seed).eval()

    def hits(self, model: object) -> int:
        """How many test digits a module, or a function from inputs to logits, names rightly."""
        with torch.no_grad():
            return int((model(self.test[0]).argmax(1) == self.test[1]).sum())


@cache
def _digits() -> Pair:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


def folds(seed: int) -> Iterator[tuple[Pair, Pair]]:
    """Training and test data of each fold."""
    x, y = _digits()
    for train, test in StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed).split(x, y):
        yield (x[train], y[train]), (x[test], y[test])


def case_of(net: str, seed: int, fold: int, *, epochs: int = EPOCHS, tuning: int = TUNING_EPOCHS) -> Case:
    """Train a network. Equal arguments give equal networks."""
    train, test = list(folds(seed))[fold]
    torch.manual_seed(1000 * seed + fold)
    model = nc.finetune(NETS[net](), train, epochs=epochs, seed=seed).eval()
    return Case(net, seed, fold, model, train, test, tuning)
