"""What is kept of it? The packed file: `save`, `load`, and `size_bytes`, its exact length without writing it."""

from __future__ import annotations

from nbcompress.artifact.files import load, save, size_by_tensor, size_bytes

__all__ = ["load", "save", "size_by_tensor", "size_bytes"]
