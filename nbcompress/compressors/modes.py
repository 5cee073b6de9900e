"""Randomness that is fixed for a while and then put back.

Modes of torch that a notebook may have set, and that nothing of ours may depend on.

Default dtype and default device stay as they are, since the code of a model is written for them: whatever we make
ourselves names its dtype and its device instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def outside_inference(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, run outside of `torch.inference_mode`: tensors that are made in it can never be trained."""

    @wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        # Leaving the mode would also switch gradients on, which the caller did not want.
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return wrapped


def numbers_on_cpu() -> AbstractContextManager[object]:
    """For code of torch that counts steps or draws orders on the default device, whatever the tensors are on."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


@contextmanager
def seeded(seed: int, *generators: torch.Generator | None) -> Iterator[None]:
    """Seed torch (every device), NumPy's and Python's global generators, and `generators`; restore all at the end.

    So equal seeds give equal results, also where a data set draws its own augmentations, and the notebook's
    randomness goes on as if nothing had been drawn.
    """
    own = [generator for generator in generators if generator is not None]
    states = [module.get_state() for module in own]
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        for module in own:
            module.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for module, state in zip(own, states, strict=True):
                module.set_state(state)
