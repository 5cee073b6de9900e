"""What can a small model learn from a large one? Soft targets."""

from nbcompress.compress.distill.apply import Distillation, distill

__all__ = ["Distillation", "distill"]
