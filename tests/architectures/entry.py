"""The description of an architecture of the zoo, and inputs for its models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Example = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """A model, and the expected result when half of its channels are removed.

    Attributes:
        build: Makes a fresh instance.
        example: Makes its input.
        share: The least share of its parameters that must go.
        refused: A part of the error, for a model that is refused as a whole.
    """

    build: Callable[[], nn.Module]
    example: Callable[[], Example]
    share: float = 0.3
    refused: str = ""


def numbers(*shape: int) -> Tensor:
    """Standard normal numbers, the same at each call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def tokens(*shape: int, n_tokens: int = 60) -> Tensor:
    """Tokens from 3, because the first ones often have a special meaning."""
    return torch.randint(3, n_tokens, shape, generator=torch.Generator().manual_seed(0))


def text() -> dict[str, Tensor]:
    """Two sentences, of which one is shorter."""
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, -2:] = 0
    return {"input_ids": tokens(2, 9), "attention_mask": mask}


def source_and_target() -> dict[str, Tensor]:
    """Two sentences, and the beginning of their translations."""
    return {**text(), "decoder_input_ids": tokens(2, 5)}


def image(size: int = 32) -> dict[str, Tensor]:
    """Two images."""
    return {"pixel_values": numbers(2, 3, size, size)}


def sound() -> dict[str, Tensor]:
    """Two waves."""
    return {"input_values": numbers(2, 600)}


__all__ = ["Architecture", "Example", "image", "numbers", "sound", "source_and_target", "text", "tokens"]
