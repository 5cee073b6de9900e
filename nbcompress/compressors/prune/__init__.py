"""Pruning: set weights to zero, or remove channels."""

from nbcompress.compressors.prune.api import prune

__all__ = ["prune"]
