"""Which weights, or which channels, can go?"""

from nbcompress.compressors.prune.api import prune

__all__ = ["prune"]
