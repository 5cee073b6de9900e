"""Data in an order that stays, so that an example can be told by its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from nbcompress.compress.data import Batches
from nbcompress.measure.undisturbed import random_state_kept


@contextmanager
def batches_in_order(data: object, batch_size: int) -> Iterator[Iterable[Any]]:
    """Batches of `data`, not shuffled: place 0 is the first example of the tensors or of the data set.

    A loader with a sampler of the user's own, or of a stream, is read as it comes: there a place is one in this pass.
    Random numbers, also of the loader, are put back.

    Raises:
        DataError: The data has another form or is empty.
    """
    generators = [one for one in Batches(data, batch_size).generators if one is not None]
    states = [one.get_state() for one in generators]
    try:
        with random_state_kept():
            yield _ordered(data, batch_size)
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _ordered(data: Any, batch_size: int) -> Iterable[Any]:
    if isinstance(data, (tuple, list)) and all(isinstance(one, (Tensor, np.ndarray)) for one in data):
        return _Slices(data, batch_size)
    if isinstance(data, DataLoader):
        if not _only_shuffles(data):
            return data
        return DataLoader(data.dataset, batch_size=data.batch_size, collate_fn=data.collate_fn)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size)
    batches: Iterable[Any] = data
    return batches


def _only_shuffles(loader: DataLoader[Any]) -> bool:
    """Whether a loader reads all of its data set, in another order."""
    sampler = loader.sampler
    return (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
        and type(loader.batch_sampler) is BatchSampler
    )


class _Slices:
    """Tensors or arrays of equal length, cut into batches."""

    def __init__(self, parts: Sequence[Any], batch_size: int) -> None:
        self._parts, self._batch_size = parts, batch_size

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(self._parts[0]), self._batch_size):
            yield tuple(one[start : start + self._batch_size] for one in self._parts)


__all__ = ["batches_in_order"]
