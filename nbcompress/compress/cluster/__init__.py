"""Which few values do all weights of a tensor share? k-means codebooks."""

from nbcompress.compress.cluster.apply import cluster

__all__ = ["cluster"]
