"""Small models to export, and readers of the result: operators in the file, and those that ONNX Runtime runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 5))


class Residual(nn.Module):
    """Convolutions with batch norms, a depthwise one, a sum, a pooling, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(x + self.norm2(self.conv2(x)))
        x = self.pool(torch.relu(self.deep(x)))
        return self.head(x.mean(dim=(2, 3)))


class Encoder(nn.Module):
    """Embedding, one block of attention made by hand, and an output that shares the embedding's weight."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.out = nn.Linear(width, 40, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.embedding(tokens)
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None, :])
        x = self.norm(x + mixed.transpose(1, 2).flatten(2))
        return {"logits": self.out(x + self.down(torch.nn.functional.gelu(self.up(x))))}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.gru = nn.GRU(12, 10, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(tokens))[0][:, -1])


def settled(model: nn.Module, x: Tensor) -> nn.Module:
    """Return `model` in evaluation mode, with batch norms that are not in their initial state."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_()
                module.bias.normal_()
        model.train()
        model(x)
    return model.eval()


def operators(path: Path) -> Counter[str]:
    """Count the operators in the file."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def running(path: Path, folder: Path) -> Counter[str]:
    """Count the operators that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "running.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return operators(folder / "running.onnx")


def constants(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the constants in the file by name."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def ran(path: Path, *inputs: Tensor, is_exact: bool = False) -> Tensor:
    """Return the first output of the file in ONNX Runtime; `is_exact`: products with few bits compute in floats."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if is_exact:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    proto = onnx.load(path)
    for node in proto.graph.node:
        for attribute in node.attribute:
            if is_exact and attribute.name == "accuracy_level":
                attribute.i = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return torch.from_numpy(session.run(None, dict(zip(names, [tensor.numpy() for tensor in inputs], strict=True)))[0])


def error(expected: Tensor, found: Tensor) -> float:
    """Return the length of the difference over the length of the expected output."""
    return float((expected - found).norm() / expected.norm())


__all__ = [
    "Encoder",
    "Recurrent",
    "Residual",
    "constants",
    "error",
    "operators",
    "perceptron",
    "ran",
    "running",
    "settled",
]
