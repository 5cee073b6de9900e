"""Weights that share a scale, as rows of a matrix."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nbcompress.errors import CompressionError

Group = Literal["tensor", "channel"] | int


def parse_granularity(text: object) -> Group:
    """`channel`, `tensor`, or `group:32` as the number 32.

    Raises:
        CompressionError: Anything else.
    """
    if text == "tensor":
        return "tensor"
    if text == "channel":
        return "channel"
    if isinstance(text, str) and text.startswith("group:") and text[6:].isdecimal() and int(text[6:]) >= 2:
        return int(text[6:])
    raise CompressionError(
        f"granularity must be channel, tensor, or group:N with N from 2, such as group:32, got {text!r}"
    )


def rows_of(tensor: Tensor, group: Group) -> tuple[Tensor, Tensor | None]:
    """The groups of `tensor` as rows.

    Args:
        tensor: Shape `(out, ...)`.
        group: Channels lie along axis 0; a number counts consecutive weights within a channel.

    Returns:
        Rows of shape `(groups, n)`, float32, and which of them are real: None (all), or bool of the same shape
        where short groups were filled up with zeros.
    """
    values = tensor.detach().to(torch.float32)
    if group == "tensor":
        return values.reshape(1, -1), None
    channels = values.reshape(values.shape[0], -1)
    if group == "channel":
        return channels, None
    missing = -channels.shape[1] % group
    if not missing:
        return channels.reshape(-1, group), None
    real = torch.ones_like(channels, dtype=torch.bool)
    filled = torch.nn.functional.pad(channels, (0, missing))
    return filled.reshape(-1, group), torch.nn.functional.pad(real, (0, missing)).reshape(-1, group)


__all__ = ["Group", "parse_granularity", "rows_of"]
