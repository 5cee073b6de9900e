"""What can a small model learn from a large one? Soft targets, and features of layers."""

from nbcompress.compress.distill.apply import Distillation, distill

__all__ = ["Distillation", "distill"]
