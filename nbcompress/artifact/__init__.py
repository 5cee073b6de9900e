"""What is kept of it? The packed file: `save`, `load`, and `size_bytes`, its exact length without writing it.

`save_value` and `load_value` keep plain values in such files, modules among them, without pickle. `export` writes what
others can run: ONNX, a program of torch, a plain state dict. `quantize` adds to the compressor of that name what needs
the length of the file: mixed bits under a budget.
"""

from __future__ import annotations

from nbcompress.artifact.budget import quantize
from nbcompress.artifact.export import export
from nbcompress.artifact.file import load, save, size_by_tensor, size_bytes
from nbcompress.artifact.values import Handle, load_value, save_value

__all__ = ["Handle", "export", "load", "load_value", "quantize", "save", "save_value", "size_by_tensor", "size_bytes"]
