"""How much does a number tell of a label? Mutual information, estimated from examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

# More bins see finer dependence, fewer leave more examples for each; with eight of them the bias of the estimate stays
# below .01 nats for 10 classes and some thousand examples (a heuristic).
_MOST_BINS = 8
# Expected examples for each pair of bin and class.
_FEWEST_EXAMPLES = 5


def mutual_information(values: Floats, labels: Integers, n_bins: int | None = None) -> float:
    """Mutual information of a number and a label, in nats.

    The numbers are put into bins of equal frequency (equal numbers into one bin), and the information of the table of
    bins and labels is corrected for its bias by Miller and Madow: `(cells in use - 1) / 2n` is added to each entropy.
    The correction can make the estimate negative where there is no information; it is not cut at zero, so that ranks
    stay.

    Args:
        values: Shape `(n,)`, finite.
        labels: Shape `(n,)`.
        n_bins: How many bins; by default as many as leave 5 examples for each pair of bin and label, from 2 to 8.

    References:
        Miller (1955), "Note on the Bias of Information Estimates".
    """
    n = len(values)
    _, classes = np.unique(labels, return_inverse=True)
    n_classes = int(classes.max()) + 1
    if n_bins is None:
        n_bins = min(max(n // (_FEWEST_EXAMPLES * n_classes), 2), _MOST_BINS)
    bins = equal_frequency_bins(values, n_bins)
    joint = np.bincount(bins * n_classes + classes)
    return _entropy(np.bincount(bins), n) + _entropy(np.bincount(classes), n) - _entropy(joint, n)


def equal_frequency_bins(values: Floats, n_bins: int) -> Integers:
    """The bin of each value, from 0: as many values in each as ties allow, larger values in later bins."""
    _, ranks, counts = np.unique(values, return_inverse=True, return_counts=True)
    # The middle of the places that equal values take when all are sorted decides for all of them.
    middles = np.cumsum(counts) - counts / 2
    bins: Integers = np.minimum((middles * n_bins / len(values)).astype(np.int64), n_bins - 1)
    return bins[ranks]


def _entropy(counts: NDArray[np.int64], n: int) -> float:
    shares = counts[counts > 0] / n
    return float(-(shares * np.log(shares)).sum() + (len(shares) - 1) / (2 * n))


__all__ = ["equal_frequency_bins", "mutual_information"]
