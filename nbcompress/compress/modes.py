"""Modes of torch that a notebook may have set, and that nothing of ours may depend on.

Default dtype and default device stay as they are, since the code of a model is written for them: whatever we make
ourselves names its dtype and its device instead.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

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


__all__ = ["numbers_on_cpu", "outside_inference"]
