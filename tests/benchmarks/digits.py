"""Handwritten digits, the networks that learn them here, and what they get right.

The digits are the 1797 of 8 by 8 pixels that come with scikit-learn. Every seed has a split of its own and a start of
its own.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import nbcompress as nc

Data = tuple[Tensor, Tensor]

N_TEST = 500
N_VALID = 297


def digits(seed: int) -> tuple[Data, Data]:
    """1297 digits to train on, `(n, 64)` from 0 to 1 with their labels, and 500 to test, as many of each class."""
    x, y = load_digits(return_X_y=True)
    return parted((torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)), N_TEST, seed)


def digits_to_choose_on(seed: int) -> tuple[Data, Data]:
    """The 1297 training digits of a seed, parted again: 1000 to train on, 297 to choose settings on."""
    return parted(digits(seed)[0], N_VALID, seed)


def parted(data: Data, n: int, seed: int) -> tuple[Data, Data]:
    """`data` without `n` examples, and these, as many of each class."""
    places = torch.arange(len(data[1])).numpy()
    kept, taken = train_test_split(places, test_size=n, stratify=data[1].numpy(), random_state=seed)
    return (data[0][kept], data[1][kept]), (data[0][taken], data[1][taken])


def as_images(data: Data) -> Data:
    """The same digits, `(n, 1, 8, 8)`."""
    return data[0].reshape(-1, 1, 8, 8), data[1]


def perceptron(seed: int) -> nn.Module:
    """The 300-100 network: 50,610 numbers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def lenet(seed: int) -> nn.Module:
    """Like LeNet-5 as Deep Compression has it: 20 and 50 channels, 500 neurons; 131,080 numbers at 8 by 8 pixels."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(200, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


def trained(model: nn.Module, train: Data, epochs: int, seed: int) -> nn.Module:
    """`model` after so many epochs of Adam, its step falling from .001 to 0."""
    return nc.finetune(model, train, epochs=epochs, schedule="cosine", seed=seed)


@torch.no_grad()
def hits(model: nn.Module, data: Data) -> Tensor:
    """Which examples `model` gets right: bool, `(n,)`."""
    return model.eval()(data[0]).argmax(1) == data[1]


def accuracy(model: nn.Module, data: Data) -> float:
    """In percent."""
    return 100 * float(hits(model, data).double().mean())
