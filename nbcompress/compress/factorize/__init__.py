"""Which layers are products of thinner ones? Truncated singular value decompositions."""

from nbcompress.compress.factorize.apply import factorize
from nbcompress.compress.factorize.low_rank import LowRank

__all__ = ["LowRank", "factorize"]
