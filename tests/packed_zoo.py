"""Small models of every kind that a file must hold, compressed in every way, for the tests of the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compressors.record import Codebook, Grid, Record, TensorRecord, attach_


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(24, 40), nn.Linear(40, 30), nn.Linear(30, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, groups=4)
        self.head = nn.Linear(8 * 6 * 6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv2(torch.relu(self.norm(self.conv1(x))))).flatten(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.out = nn.Linear(16, 50, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embedding(x))


class Awkward(nn.Module):
    """A bare parameter, a recurrent layer, attention, and buffers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.bare = nn.Parameter(torch.randn(3, 4, 5))
        self.alone = nn.Parameter(torch.tensor(2.5))
        self.recurrent = nn.GRU(5, 6)
        self.attention = nn.MultiheadAttention(6, 2)
        self.register_buffer("counts", torch.arange(7) * 1_000_003)
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("short", torch.randn(4).half())
        self.register_buffer("brain", torch.randn(4).bfloat16())
        self.register_buffer("long", torch.randn(4).double())
        self.register_buffer("turning", torch.randn(4, dtype=torch.complex64))
        self.register_buffer("odd", torch.tensor([float("nan"), float("inf"), -0.0, 1e-45, 6e-8]))

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.recurrent(x @ self.bare.sum(0))
        return self.attention(y, y, y)[0] * self.alone


@dataclass(frozen=True)
class Case:
    """A kind of model, how it is compressed, and an input."""

    name: str
    fresh: Callable[[], nn.Module]
    shrink: Callable[[nn.Module], nn.Module]
    example: Callable[[], Tensor]

    def make(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.shrink(self.fresh()).eval()


def by_hand(model: nn.Module) -> nn.Module:
    """Unusual records: groups that do not divide, an affine grid with different zeros, a codebook on a grid."""
    tensors = {}
    with torch.no_grad():
        for place, (name, weight) in enumerate(model.named_parameters()):
            if weight.ndim < 2:
                continue
            kind = place % 3
            if kind == 2:
                inner = Grid(4, "affine", "tensor", torch.tensor([0.25]), torch.tensor([5], dtype=torch.int32))
                values = inner.values(torch.arange(0, 16, 3, dtype=torch.int32))
                promise = TensorRecord(False, None, Codebook(values, inner))
                codes = torch.randint(0, len(values), weight.shape)
                weight.copy_(values[codes])
            else:
                group = 7 if kind else "channel"
                template = Grid(3, "affine", group, torch.ones(1), torch.zeros(1, dtype=torch.int32))
                n_groups = template.n_groups(tuple(weight.shape))
                zero = torch.randint(0, 8, (n_groups,), dtype=torch.int32)
                grid = Grid(3, "affine", group, torch.rand(n_groups) + 0.1, zero)
                promise = TensorRecord(True, grid)
                weight.copy_(grid.values(torch.randint(0, 8, weight.shape)) * (torch.rand(weight.shape) < 0.5))
            tensors[name] = promise
    attach_(model, Record(tensors, left_out={"other": "because"}))
    return model


def even(model: nn.Module) -> nn.Module:
    """Weights on a grid of 31 values, a third of them zero, the same on every machine and in every version of torch."""
    tensors = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            codes = (torch.arange(weight.numel()) * 7 % 31).reshape(weight.shape)
            codes[codes % 3 == 0] = 15
            grid = Grid(5, "symmetric", "tensor", torch.tensor([0.125]), torch.tensor([15], dtype=torch.int32))
            weight.copy_(grid.values(codes))
            if weight.ndim > 1:
                tensors[name] = TensorRecord(True, grid)
    attach_(model, Record(tensors))
    return model


def sided(model: nn.Module) -> nn.Module:
    """As `even`, but each channel has four values of its own, with the extra one below and above zero in turn."""
    tensors = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                zero = torch.arange(len(weight), dtype=torch.int32) % 2 + 1
                grid = Grid(2, "symmetric", "channel", zero / 8, zero)
                weight.copy_(grid.values((torch.arange(weight.numel()) * 7 % 4).reshape(weight.shape)))
                tensors[name] = TensorRecord(grid=grid)
            else:
                weight.zero_()
    attach_(model, Record(tensors))
    return model


def shared(model: nn.Module) -> nn.Module:
    """As `even`, but five shared values that lie on a grid of 3 bits."""
    grid = Grid(3, "symmetric", "tensor", torch.tensor([0.125]), torch.tensor([3], dtype=torch.int32))
    codebook = Codebook(torch.tensor([-0.375, -0.125, 0.0, 0.125, 0.25]), grid)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(codebook.values[torch.arange(weight.numel()) * 7 % 5].reshape(weight.shape))
    attach_(model, Record({name: TensorRecord(codebook=codebook) for name, _ in model.named_parameters()}))
    return model


def _row(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(1))


CASES = [
    Case("perceptron-raw", Perceptron, lambda model: model, _row(5, 24)),
    Case("perceptron-pruned", Perceptron, lambda model: nc.prune(model, amount=0.9), _row(5, 24)),
    Case("perceptron-3bit", Perceptron, lambda model: nc.quantize(nc.prune(model, amount=0.9), bits=3), _row(5, 24)),
    Case("perceptron-1bit", Perceptron, lambda model: nc.quantize(nc.prune(model, amount=0.5), bits=1), _row(5, 24)),
    Case("perceptron-clusters", Perceptron, lambda model: nc.cluster(nc.prune(model, amount=0.6), 8), _row(5, 24)),
    Case("perceptron-low-rank", Perceptron, lambda model: nc.quantize(nc.factorize(model, 0.3), bits=4), _row(5, 24)),
    Case("perceptron-by-hand", Perceptron, by_hand, _row(5, 24)),
    Case("perceptron-bfloat16", lambda: Perceptron().bfloat16(), lambda model: nc.quantize(model, bits=4), _row(5, 24)),
    Case("convolutional-raw", Convolutional, lambda model: model, _row(2, 1, 8, 8)),
    Case(
        "convolutional-4bit", Convolutional, lambda model: nc.quantize(model, bits=4, scheme="affine"), _row(2, 1, 8, 8)
    ),
    Case(
        "convolutional-both", Convolutional, lambda model: nc.quantize(nc.cluster(model, 16), bits=8), _row(2, 1, 8, 8)
    ),
    Case(
        "convolutional-cut",
        Convolutional,
        lambda model: nc.quantize(
            nc.prune(model.eval(), amount=0.5, granularity="channel", example=torch.ones(1, 1, 8, 8)), bits=4
        ),
        _row(2, 1, 8, 8),
    ),
    Case("tied", Tied, lambda model: nc.quantize(model, bits=5, granularity="group:32"), lambda: torch.arange(6)),
    Case("awkward-raw", Awkward, lambda model: model, _row(4, 2, 4)),
    Case("awkward-pruned", Awkward, lambda model: nc.cluster(nc.prune(model, amount=0.7), 6), _row(4, 2, 4)),
]


def bits_equal(a: Tensor, b: Tensor) -> bool:
    """Whether dtype, shape and values are equal; NaN equals NaN, and zeros may differ in sign."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7))


__all__ = ["CASES", "Awkward", "Case", "Convolutional", "Perceptron", "Tied", "bits_equal", "by_hand", "even"]
