"""Deep Compression, recipe and file, as its paper has them: what our sizes are held against.

Han, Mao and Dally (2016), "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
Huffman Coding". Weights are pruned by magnitude and the rest is retrained on the labels, a little more every time;
k-means shares values within a layer from a linear start, and the shared values are trained on. The file holds, for each
layer, the distances between weights and the numbers of their values, both in Huffman's code. The counts here flatter
it: biases take two bytes as ours do, and nothing is added for names, shapes, a version or a checksum.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from digits import Data
from torch import Tensor, nn

import nbcompress as nc

# Distances take 8 bits in convolutions and 5 in linear layers (section 2); a longer one is bridged by a zero weight.
_LONGEST = {4: 1 << 8, 2: 1 << 5}


def deep_compressed(
    model: nn.Module, train: Data, seed: int, *, amounts: Sequence[float], clusters: int, epochs: int
) -> nn.Module:
    """`model` pruned to each of `amounts` in turn and retrained, then clustered and its shared values trained."""
    small = model
    for amount in amounts:
        small = nc.prune(small, amount, data=train, finetune=epochs, seed=seed)
    return nc.cluster(small, clusters, start="linear", data=train, finetune=epochs, seed=seed)


def n_bytes(model: nn.Module) -> int:
    """Length of the file of a pruned and clustered `model`."""
    n_bits = 0
    for tensor in model.state_dict().values():
        n_bits += 16 * tensor.numel() if tensor.ndim < 2 else _n_bits(tensor)
    return -(-n_bits // 8)


def _n_bits(weight: Tensor) -> int:
    flat = weight.flatten()
    shared, codes = torch.unique(flat, return_inverse=True)
    longest = _LONGEST[weight.ndim]
    distances: list[int] = []
    kept: list[int] = []
    zero = int((shared == 0).nonzero()[0]) if bool((shared == 0).any()) else -1
    last = -1
    for place in flat.nonzero().flatten().tolist():
        while place - last > longest:
            last += longest
            distances.append(longest)
            kept.append(zero)
        distances.append(place - last)
        kept.append(int(codes[place]))
        last = place
    n_tables = _n_huffman_table(longest) + _n_huffman_table(len(shared))
    return _n_huffman(distances) + _n_huffman(kept) + n_tables + 32 * len(shared)


def _n_huffman(symbols: Iterable[int]) -> int:
    """Bits of all symbols in the best code of whole bits for each: the sum of all merged weights of Huffman's tree."""
    heap = list(Counter(symbols).values())
    heapq.heapify(heap)
    n_bits = sum(heap) if len(heap) == 1 else 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        n_bits += merged
        heapq.heappush(heap, merged)
    return n_bits


def _n_huffman_table(n_symbols: int) -> int:
    """Bits of a canonical code: its length for each symbol, in 4 bits."""
    return 4 * n_symbols
