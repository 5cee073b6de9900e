"""A model as a program of `torch.export`, and as a plain state dict. Both hold weights in floating point."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nbcompress.artifact.export.agreement import FLOAT_TOLERANCE, agreement, check
from nbcompress.artifact.export.example import Example, counted
from nbcompress.artifact.export.trace import traced
from nbcompress.errors import ArtifactError


def program_bytes(copy: nn.Module, examples: Sequence[Example], tolerance: float | None = None) -> bytes:
    """What `torch.export.save` writes for `copy`, after it was loaded and run and agreed.

    Args:
        copy: The model in evaluation mode, in float32 on the CPU.
        examples: The first is traced; all are checked.
        tolerance: The largest error of an output, see `Agreement`.

    Raises:
        ArtifactError: The model cannot be traced, or the program does something else.
    """
    expected = [one.outputs(copy) for one in examples]
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Notes of the exporter on its own parts.
        warnings.simplefilter("ignore")
        torch.export.save(traced(copy, examples[0]), file)
        file.seek(0)
        loaded = torch.export.load(file).module()
    for example, outputs in zip(examples, expected, strict=True):
        found = agreement(outputs, example.outputs(loaded))
        what = f"the loaded program on {counted(example.batch_size)}"
        check(type(copy).__name__, what, found, FLOAT_TOLERANCE if tolerance is None else tolerance)
    return file.getvalue()


def state_bytes(model: nn.Module) -> bytes:
    """The state dict of `model` as a safetensors file, tied tensors once: `safetensors.torch.load_model` reads it.

    Raises:
        ArtifactError: The state dict holds what is no tensor.
    """
    from safetensors.torch import save

    state = _state(model)
    kept: dict[str, Tensor] = {}
    first: dict[object, str] = {}
    other_names: dict[str, str] = {}
    for name, tensor in state.items():
        memory = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        key = memory if tensor.numel() and tensor.data_ptr() else name
        if key in first:
            # The words in which safetensors notes a name that it dropped.
            other_names[name] = first[key]
            continue
        first[key] = name
        # Views of one memory are written as what they are: tensors.
        kept[name] = tensor.detach().cpu().contiguous().clone()
    written: bytes = save(kept, {"format": "pt", **other_names})
    return written


def pickled_state_bytes(model: nn.Module) -> bytes:
    """The state dict of `model` as `torch.save` writes it: `torch.load` reads it with `weights_only=True`."""
    file = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in _state(model).items()}, file)
    return file.getvalue()


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ArtifactError(
                f"a state dict is exported if it holds tensors only, but {name!r} is {type(value).__name__}"
            )
    return dict(state)


__all__ = ["pickled_state_bytes", "program_bytes", "state_bytes"]
