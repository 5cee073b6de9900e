"""Small models of every kind that compressors meet, with data, and the compressors under law."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nbcompress.compressors import Record, cluster, codes_of, factorize, prune, quantize, record_of


class Recurrent(nn.Module):
    """Embedding, GRU, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12, padding_idx=0)
        self.gru = nn.GRU(12, 10, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(tokens))[0][:, -1])


class Attention(nn.Module):
    """Multi-head attention under a layer norm over two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm((5, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.head(self.norm(x + mixed).mean(dim=1))


class Tied(nn.Module):
    """An embedding that is also the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 12)
        self.body = nn.Linear(12, 12)
        self.head = nn.Linear(12, 16, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embedding(tokens))).mean(dim=1))


class Bare(nn.Module):
    """Weights that sit on the model itself, one of them frozen, and an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(6, 9) * 0.4)
        self.second = nn.Parameter(torch.randn(9, 3) * 0.4)
        self.frozen = nn.Parameter(torch.randn(3, 3), requires_grad=False)
        self.gain = nn.Parameter(torch.ones(9))
        self.register_buffer("calls", torch.zeros(2, 2, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.first * self.gain) @ self.second @ self.frozen


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 12, 1, bias=False),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


@dataclass(frozen=True)
class Animal:
    """A model with data that fits it."""

    model: nn.Module
    data: tuple[Tensor, Tensor]

    @property
    def example(self) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        x = self.data[0]
        return x.to(dtype) if x.is_floating_point() else x

    def output(self, model: nn.Module) -> Tensor:
        was_training = model.training
        with torch.no_grad():
            out = model.eval()(self.example)
        model.train(was_training)
        return out


def _animal(
    make: Callable[[], nn.Module], inputs: Callable[[], Tensor], n_classes: int = 3, dtype: torch.dtype | None = None
) -> Animal:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model, x, y = make(), inputs(), torch.randint(0, n_classes, (40,))
    # For compressors that look at data; copies of the model have it too.
    model.zoo_data = (x, y)  # type: ignore[assignment]
    return Animal(model if dtype is None else model.to(dtype), (x, y))


ZOO: dict[str, Callable[[], Animal]] = {
    "perceptron": partial(_animal, perceptron, lambda: torch.randn(40, 6)),
    "convolutional": partial(_animal, convolutional, lambda: torch.randn(40, 2, 8, 8)),
    "recurrent": partial(_animal, Recurrent, lambda: torch.randint(0, 20, (40, 7))),
    "attention": partial(_animal, Attention, lambda: torch.randn(40, 5, 8)),
    "tied": partial(_animal, Tied, lambda: torch.randint(0, 16, (40, 4)), 16),
    "bare": partial(_animal, Bare, lambda: torch.randn(40, 6)),
    "bfloat16": partial(_animal, perceptron, lambda: torch.randn(40, 6), 3, torch.bfloat16),
    "float16": partial(_animal, perceptron, lambda: torch.randn(40, 6), 3, torch.float16),
    "float64": partial(_animal, perceptron, lambda: torch.randn(40, 6), 3, torch.float64),
}


def pruned_then(then: Callable[..., nn.Module], **options: object) -> Callable[..., nn.Module]:
    def run(model: nn.Module, **more: object) -> nn.Module:
        return then(prune(model, 0.5), **options, **more)

    return run


def on_data(compress: Callable[..., nn.Module], **options: object) -> Callable[..., nn.Module]:
    """The compressor with the data of its animal, unless it is given other data."""

    def run(model: nn.Module, **more: object) -> nn.Module:
        return compress(model, **{"data": model.zoo_data, **options, **more})

    return run


def clustered_then_quantized(model: nn.Module, **more: object) -> nn.Module:
    return quantize(cluster(model, 9), 3, **more)  # type: ignore[arg-type]


COMPRESSORS: dict[str, Callable[..., nn.Module]] = {
    "prune": partial(prune, amount=0.6),
    "prune-layer": partial(prune, amount=0.6, scope="layer"),
    "prune-lamp": partial(prune, amount=0.6, scope="lamp"),
    "prune-random": partial(prune, amount=0.6, criterion="random"),
    "prune-threshold": partial(prune, threshold=0.1),
    "prune-2:4": partial(prune, granularity="2:4"),
    "prune-gradient": on_data(prune, amount=0.6, criterion="gradient"),
    "prune-activation": on_data(prune, amount=0.6, criterion="activation"),
    "prune-hessian": on_data(prune, amount=0.6, criterion="hessian"),
    "prune-hessian-2:4": on_data(prune, granularity="2:4", criterion="hessian"),
    "quantize-8": partial(quantize, bits=8),
    "quantize-8-affine": partial(quantize, bits=8, scheme="affine"),
    "quantize-4-tensor": partial(quantize, bits=4, granularity="tensor"),
    "quantize-3-affine-group": partial(quantize, bits=3, scheme="affine", granularity="group:5"),
    "quantize-2": partial(quantize, bits=2, scale="absmax"),
    "quantize-1": partial(quantize, bits=1, rest="float32"),
    "quantize-8-dynamic": partial(quantize, activations="dynamic"),
    "quantize-8-static": on_data(quantize, activations="static"),
    "cluster": partial(cluster, clusters=5),
    "cluster-1": partial(cluster, clusters=1, rest="float32"),
    "cluster-linear": partial(cluster, clusters=7, start="linear"),
    "prune+quantize": pruned_then(quantize, bits=3),
    "prune+quantize-1": pruned_then(quantize, bits=1),
    "prune+cluster": pruned_then(cluster, clusters=4),
    "cluster+quantize": clustered_then_quantized,
    "factorize": partial(factorize, rank=0.4),
    "factorize-energy": partial(factorize, energy=0.5),
}

# Bare weights have no layer whose inputs could be seen, and no rows that divide by 4; nor has the only linear layer of
# the recurrent model.
IMPOSSIBLE = {("bare", f"prune-{name}") for name in ("2:4", "activation", "hessian", "hessian-2:4")}
IMPOSSIBLE |= {("recurrent", "prune-hessian-2:4")}
NEED_DATA = {f"prune-{name}" for name in ("gradient", "activation", "hessian", "hessian-2:4")}
NEED_DATA |= {"quantize-8-static"}

PAIRS = [(animal, name) for animal in ZOO for name in COMPRESSORS if (animal, name) not in IMPOSSIBLE]


def assert_constraints(model: nn.Module) -> Record:
    """Check that the model satisfies its record: every grid and codebook exactly, and the rest in half precision."""
    record = record_of(model)
    for name, constraint in record.tensors.items():
        parameter = model.get_parameter(name).detach()
        if constraint.grid is not None or constraint.codebook is not None:
            codes_of(parameter, constraint, name)
    if record.rest == "float16":
        for name, parameter in model.named_parameters():
            constraint = record.tensors.get(name)
            is_coded = constraint is not None and (constraint.grid is not None or constraint.codebook is not None)
            if not is_coded:
                rounded = parameter.detach().half().to(parameter.dtype)
                assert torch.equal(rounded, parameter.detach()) or parameter.dtype == torch.bfloat16, name
    return record
