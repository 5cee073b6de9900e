"""Files of models: `save`, `load`, and `size_bytes`, the exact length of the file without writing it.

`save_value` and `load_value` keep plain values, also with modules among them, without pickle. `export` writes models
for other programs: ONNX, `torch.export`, plain state dicts. `quantize` extends the compressor of that name by bits
under a budget, because that needs the length of the file.
"""

from __future__ import annotations

from nbcompress.artifact.budget import quantize
from nbcompress.artifact.export import export
from nbcompress.artifact.file import load, save, size_by_tensor, size_bytes
from nbcompress.artifact.values import Handle, load_value, save_value

__all__ = ["Handle", "export", "load", "load_value", "quantize", "save", "save_value", "size_by_tensor", "size_bytes"]
