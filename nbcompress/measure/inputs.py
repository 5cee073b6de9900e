"""What goes into a model when it is measured.

Measuring without leaving a trace.

Data in an order that stays, so that an example can be told by its place.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from nbcompress.compressors.copying import deep_copy, why_uncopied, without_shape
from nbcompress.compressors.data import Batches, describe_inputs
from nbcompress.errors import MeasureError, option


def measured_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode, so that whatever its forward changes is changed in the copy.

    Raises:
        MeasureError: It is no module, has no shapes yet, or cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise MeasureError(f"what is measured must be a torch.nn.Module, got {type(model).__name__}")
    missing = without_shape(model)
    if missing:
        raise MeasureError(missing)
    try:
        return deep_copy(model).eval()
    except Exception as err:  # a class refuses in any way
        raise MeasureError(
            f"{type(model).__name__} must allow copy.deepcopy to be measured, because its forward may change it, "
            f"but {why_uncopied(model, err)}"
        ) from err


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the random numbers of Python, NumPy and torch back to where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def threads_pinned(n_threads: int) -> Iterator[None]:
    """Let torch compute on `n_threads` threads, and on as many as before afterwards."""
    if type(n_threads) is not int or n_threads < 1:
        raise MeasureError(f"{option('threads')} must be a count from 1, got {n_threads!r}")
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def batches_in_order(data: object, batch_size: int) -> Iterator[Iterable[Any]]:
    """Batches of `data`, not shuffled: place 0 is the first example of the tensors or of the data set.

    A loader with a sampler of the user's own, or of a stream, is read as it comes: there a place is one in this pass.
    Random numbers, also of the loader, are put back.

    Raises:
        DataError: The data has another form or is empty.
    """
    generators = [generator for generator in Batches(data, batch_size).generators if generator is not None]
    states = [generator.get_state() for generator in generators]
    try:
        with random_state_kept():
            yield _ordered(data, batch_size)
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _ordered(data: Any, batch_size: int) -> Iterable[Any]:
    if isinstance(data, (tuple, list)) and all(isinstance(item, (Tensor, np.ndarray)) for item in data):
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
            yield tuple(part[start : start + self._batch_size] for part in self._parts)


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call.

    Attributes:
        args: Positional ones.
        kwargs: Keyword ones.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: nn.Module) -> Any:
        """Run the model.

        Raises:
            MeasureError: The model fails on these inputs; says how.
        """
        try:
            return model(*self.args, **self.kwargs)
        except Exception as err:
            text = str(err).strip().splitlines()
            raise MeasureError(
                f"{type(model).__name__} must run on the example, {self}, but raised {type(err).__name__}"
                + (f": {text[0]}" if text else "")
            ) from err

    @property
    def on_cuda(self) -> bool:
        return any(isinstance(arg, Tensor) and arg.is_cuda for arg in (*self.args, *self.kwargs.values()))

    def __str__(self) -> str:
        return describe_inputs(self.args, self.kwargs)


def inputs_of(model: nn.Module, example: object, data: object) -> Inputs | None:
    """The inputs that the user gave: an example, or else the first batch of the data, or else None.

    Args:
        model: Tells device and dtype for a batch of the data.
        example: A tensor, a tuple of positional or a dict of keyword inputs.
        data: A `DataLoader`, a data set, or a pair of tensors.

    Raises:
        MeasureError: The example has another form.
        DataError: The data has another form or is empty.
    """
    if example is not None:
        if isinstance(example, Tensor):
            return Inputs((example,))
        if isinstance(example, tuple):
            return Inputs(example)
        if isinstance(example, Mapping) and all(isinstance(name, str) for name in example):
            return Inputs((), dict(example))
        raise MeasureError(
            f"{option('example')} must be a tensor, a tuple of positional inputs or a dict of keyword inputs, "
            f"got {type(example).__name__}"
        )
    if data is None:
        return None
    batches = Batches(data)
    generators = [(generator, generator.get_state()) for generator in batches.generators if generator is not None]
    try:
        batch = batches.first(model)
    finally:
        for generator, state in generators:
            generator.set_state(state)
    return Inputs(batch.args, batch.kwargs)
