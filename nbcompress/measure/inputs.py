"""What is measured, and on what: copies of models, inputs of one call, and data in a fixed order.

Measuring changes neither the model nor random states nor the number of threads.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from nbcompress.artifact.export.agreement import call_arguments
from nbcompress.compressors.copying import deep_copy, why_uncopied, without_shape
from nbcompress.compressors.data import Batches, tensors_in
from nbcompress.compressors.inputs import Inputs
from nbcompress.compressors.torch_masks import take_over_masks_
from nbcompress.errors import MeasureError, check_integer, first_line

# ---- Nothing is left changed ----


def evaluation_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in evaluation mode; a forward pass that changes the module changes only the copy.

    Raises:
        MeasureError: It is not a module, has no shapes yet, or cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise MeasureError(f"only a torch.nn.Module can be measured, got {type(model).__name__}")
    missing = without_shape(model)
    if missing:
        raise MeasureError(missing)
    try:
        copy = deep_copy(model).eval()
        take_over_masks_(copy)
        return copy
    except Exception as err:  # a class may refuse with any error
        raise MeasureError(
            f"{type(model).__name__} must allow copy.deepcopy to be measured, because its forward may change it, "
            f"but {why_uncopied(model, err)}"
        ) from err


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Let torch compute on this number of threads, and restore the number at the end."""
    n_threads = check_integer("threads", threads, 1, error=MeasureError)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- Data in a fixed order ----


@contextmanager
def ordered_batches(data: object, batch_size: int) -> Iterator[Iterable[Any]]:
    """Batches of `data` in the order of its examples, not shuffled, so that an index names an example.

    A loader with a custom sampler, or over a stream, is read as it comes; an index is then valid for this pass only.
    Random states, also that of the loader, are restored at the end.

    Args:
        data: A `DataLoader`, a data set, or a pair of tensors.
        batch_size: Of data that is not in batches yet.

    Raises:
        DataError: The data has another form or is empty.
    """
    generators = [generator for generator in Batches(data, batch_size).generators if generator is not None]
    states = [generator.get_state() for generator in generators]
    try:
        with preserved_random_state():
            yield _unshuffled(data, batch_size)
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _unshuffled(data: Any, batch_size: int) -> Iterable[Any]:
    if (tensors := tensors_in(data)) is not None:
        return _TensorBatches(tensors, batch_size)
    if isinstance(data, DataLoader):
        if not _only_shuffles(data):
            return data
        return DataLoader(data.dataset, batch_size=data.batch_size, collate_fn=data.collate_fn)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size)
    batches: Iterable[Any] = data
    return batches


def _only_shuffles(loader: DataLoader[Any]) -> bool:
    """Whether a loader reads every example of its data set once, in random order."""
    sampler = loader.sampler
    return (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
        and type(loader.batch_sampler) is BatchSampler
    )


class _TensorBatches:
    """Tensors or arrays of equal length, cut into batches."""

    def __init__(self, parts: Sequence[Any], batch_size: int) -> None:
        self._parts, self._batch_size = parts, batch_size

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(self._parts[0]), self._batch_size):
            yield tuple(part[start : start + self._batch_size] for part in self._parts)


# ---- Inputs of one call ----


@dataclass(frozen=True)
class ModelInputs(Inputs):
    """Arguments of one call that is measured."""

    def __call__(self, model: nn.Module) -> Any:
        """Run the model.

        Raises:
            MeasureError: The model fails on these inputs; says how.
        """
        try:
            return super().__call__(model)
        except Exception as err:
            raise MeasureError(
                f"{type(model).__name__} must run on the example, {self}, but raised {first_line(err)}"
            ) from err

    @property
    def on_cuda(self) -> bool:
        return any(isinstance(arg, Tensor) and arg.is_cuda for arg in (*self.args, *self.kwargs.values()))


def model_inputs(model: nn.Module, example: object, data: object) -> ModelInputs | None:
    """Return the inputs that the user gave: the example, else the first batch of the data, else None.

    Args:
        model: Tells device and dtype for a batch of the data.
        example: A tensor, a tuple of positional or a dict of keyword inputs; or None.
        data: A `DataLoader`, a data set, or a pair of tensors; or None.

    Raises:
        MeasureError: The example has another form.
        DataError: The data has another form or is empty.
    """
    if example is not None:
        return ModelInputs(*call_arguments(example, MeasureError))
    if data is None:
        return None
    batches = Batches(data)
    states = [(generator, generator.get_state()) for generator in batches.generators if generator is not None]
    try:
        batch = batches.first(model)
    finally:
        for generator, state in states:
            generator.set_state(state)
    return ModelInputs(*batch.arguments_for(model))
