"""Context managers and decorators that set a mode of torch or of a model for a while, and put it back.

Modes are: the training flags of modules, `requires_grad`, random seeds, the default device, and inference mode.
The default dtype and device of a notebook stay as they are, since the code of a model is written for them. Tensors
that this package makes name their own dtype and device instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nbcompress.errors import CompressionError, option
from nbcompress.progress import bars_shown

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def outside_inference(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate `function` to run outside of `torch.inference_mode`, whose tensors can never be trained."""

    @wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        # Leaving the mode would also switch gradients on, which the caller did not want.
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return wrapped


def default_device_cpu() -> AbstractContextManager[object]:
    """Make the CPU the default device, for code of torch that counts steps or draws orders on the default device."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def with_progress(progress: object) -> AbstractContextManager[None]:
    """Return a context manager in which progress bars are shown, or not.

    Args:
        progress: The option that a user gave; False shows none.

    Raises:
        CompressionError: It is neither True nor False.
    """
    if not isinstance(progress, bool):
        raise CompressionError(f"{option('progress')} must be True or False, got {progress!r}")
    return bars_shown(progress)


TrainingFlags = Mapping[nn.Module, bool]


def training_flags(model: nn.Module) -> TrainingFlags:
    """Return whether each module of `model` is in training mode."""
    return {module: module.training for module in model.modules()}


def set_training_flags_(flags: TrainingFlags) -> None:
    """Set the mode of each module in place."""
    for module, is_training in flags.items():
        module.training = is_training


@contextmanager
def training_flags_restored(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every module of `model` at the end."""
    flags = training_flags(model)
    try:
        yield
    finally:
        set_training_flags_(flags)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode, and back into the modes of its modules at the end."""
    with training_flags_restored(model):
        model.eval()
        yield


@contextmanager
def requiring_grad(parameters: Iterable[Tensor], requires_grad: bool) -> Iterator[None]:
    """Set `requires_grad` of `parameters`, and restore it at the end."""
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(requires_grad)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


@contextmanager
def seeded(seed: int, *generators: torch.Generator | None) -> Iterator[None]:
    """Seed the global generators of torch (every device), NumPy and Python, and `generators`; restore all at the end.

    Equal seeds give equal results, also where a data set draws its own augmentations. The random numbers of the
    notebook go on as if none had been drawn here.
    """
    given = [generator for generator in generators if generator is not None]
    given_states = [generator.get_state() for generator in given]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    seed = int(seed)  # the generators refuse integers of NumPy
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        for generator in given:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            for generator, state in zip(given, given_states, strict=True):
                generator.set_state(state)


__all__ = [
    "TrainingFlags",
    "default_device_cpu",
    "evaluating",
    "outside_inference",
    "requiring_grad",
    "seeded",
    "set_training_flags_",
    "training_flags",
    "training_flags_restored",
    "with_progress",
]
