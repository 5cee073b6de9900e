"""`export`: a model as ONNX, as a program of `torch.export`, or as a plain state dict, checked before it is written."""

# The function has the same name as its folder, as the compressors have.
from nbcompress.artifact.export.formats import export
from nbcompress.artifact.export.report import ExportedFile, ExportReport

__all__ = ["ExportReport", "ExportedFile", "export"]
