"""What can others run? A model as ONNX, as a program of `torch.export`, as a plain state dict: checked, then kept."""

# The function is named like the folder it lives in, as the compressors are.
from nbcompress.artifact.export.formats import export

__all__ = ["export"]
