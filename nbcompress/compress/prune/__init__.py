"""Which weights, or which channels, can go?"""

from nbcompress.compress.prune.apply import prune

__all__ = ["prune"]
