"""Models of Hugging Face whose channels were cut: can their configuration hold the new sizes?

`save_pretrained` writes the weights and the configuration, and `from_pretrained` builds the class from the
configuration. So a cut model can be read again only if some configuration gives exactly its shapes: all layers must be
alike, and the configuration must have a number for what was cut. Such a configuration is searched for on the meta
device, which needs no memory. A model without one refuses `save_pretrained`, because the folder could not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from nbcompress.compressors.modes import seeded
from nbcompress.compressors.numbers import number_at, numbers_of, set_number_
from nbcompress.compressors.record import Surgery
from nbcompress.errors import CompressionError

Shapes = Mapping[str, tuple[int, ...]]
# New numbers by their path from the model, such as `config.intermediate_size`.
Numbers = Mapping[str, int]

_METHOD = "save_pretrained"


def is_pretrained(model: nn.Module) -> bool:
    """Whether `model` is a model of Hugging Face with a configuration."""
    classes = type(model).__mro__
    return hasattr(model, "config") and any(
        kind.__name__ == "PreTrainedModel" and kind.__module__.startswith("transformers.") for kind in classes
    )


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter and buffer that a state dict has."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def model_of_configuration(model: nn.Module, numbers: Numbers, device: str = "meta") -> nn.Module:
    """Return an instance of the class of `model`, from its configuration with other numbers.

    Raises:
        Exception: Whatever the class raises on such numbers.
    """
    with seeded(0), torch.device(device):
        built: nn.Module = type(model)(_configuration(model, numbers))
    return built


def _configuration(model: nn.Module, numbers: Numbers) -> Any:
    """A changed copy of the configuration."""
    holder = nn.Module()
    vars(holder)["config"] = model.config
    for path, number in numbers.items():
        if number_at(holder, path) != number:
            set_number_(holder, holder, path, number)
    return holder.config


def configuration_numbers(model: nn.Module, shapes: Shapes) -> list[Numbers]:
    """Return numbers of the configuration with which the class of `model` has `shapes`; the likely ones first.

    A number of heads may not show in the shapes, so the caller must compare outputs.

    Args:
        model: The model before the cut.
        shapes: The shapes after it, of a state dict.
    """
    before = shapes_of(model)
    changes = {
        (old, new) for name, sizes in shapes.items() for old, new in zip(before[name], sizes, strict=True) if old != new
    }
    holder = nn.Module()
    vars(holder)["config"] = model.config
    found = {path: sorted(_new_numbers(path, value, changes)) for path, value in numbers_of(holder)}
    candidates = {path: numbers for path, numbers in found.items() if numbers}
    likely = {path: numbers[0] for path, numbers in candidates.items() if len(numbers) == 1}
    options = (
        likely,
        {path: n for path, n in likely.items() if "head" not in path},
        _search(model, candidates, shapes),
    )
    valid = next((option for option in options if option and _n_wrong(model, option, shapes) == 0), None)
    if valid is None:
        return []
    with_heads = _needed(model, valid, shapes, keep_heads=True)
    return [with_heads, _needed(model, with_heads, shapes, keep_heads=False)]


def _needed(model: nn.Module, numbers: Numbers, shapes: Shapes, *, keep_heads: bool) -> Numbers:
    """The numbers without those that equalled a size by chance: the shapes are the same without them."""
    for path in list(numbers):
        others = {other: number for other, number in numbers.items() if other != path}
        if not (keep_heads and "head" in path) and others and _n_wrong(model, others, shapes) == 0:
            numbers = others
    return numbers


def _new_numbers(path: str, value: int, changes: Iterable[tuple[int, int]]) -> set[int]:
    """What a number may become: a size, or a number of heads that a size is a multiple of. Heads keep their width."""
    if "head" in path and "dim" in path:
        return set()
    return {
        value * new // old
        for old, new in changes
        if old == value or ("head" in path and value > 1 and old % value == 0 and value * new % old == 0)
    }


def _search(model: nn.Module, candidates: Mapping[str, list[int]], shapes: Shapes) -> Numbers:
    """Change one number after the other, as long as fewer shapes are wrong."""
    numbers: dict[str, int] = {}
    n_wrong = _n_wrong(model, numbers, shapes)
    while n_wrong:
        options = [{**numbers, path: n} for path, values in candidates.items() if path not in numbers for n in values]
        scored = [(_n_wrong(model, option, shapes), index) for index, option in enumerate(options)]
        best, index = min(scored, default=(n_wrong, 0))
        if best >= n_wrong:
            return {}
        n_wrong, numbers = best, options[index]
    return numbers


def _n_wrong(model: nn.Module, numbers: Numbers, shapes: Shapes) -> float:
    """How many tensors have another shape; infinity if the class cannot be built."""
    try:
        found = shapes_of(model_of_configuration(model, numbers))
    except Exception:  # noqa: BLE001 - a class may raise anything on numbers that do not fit each other
        return float("inf")
    return sum(found.get(name) != shape for name, shape in shapes.items()) + len(found.keys() - shapes.keys())


def with_weights_of(model: nn.Module, source: nn.Module) -> nn.Module:
    """Return `model` in evaluation mode with the tensors of the state dict of `source` themselves.

    Buffers that a state dict leaves out stay as the class computed them, in the dtype of those of `source`.
    """
    model.load_state_dict(source.state_dict(keep_vars=True), assign=True)
    dtypes = {name: buffer.dtype for name, buffer in source.named_buffers()}
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(dtypes.get(f"{path}.{name}" if path else name, buffer.dtype))
    return model.eval()


def guard_save_pretrained_(model: nn.Module, surgery: Iterable[Surgery]) -> None:
    """Let `save_pretrained` of a cut model refuse in place if `from_pretrained` could not read what it writes."""
    model.__dict__.pop(_METHOD, None)
    steps = list(surgery)
    if not steps or not is_pretrained(model):
        return
    if any(step.kind in ("resize", "factorize", "bypass") for step in steps) or _n_wrong(model, {}, shapes_of(model)):
        # A function and no method: a method would hold the model in a cycle.
        model.__dict__[_METHOD] = partial(_refuse, type(model).__name__)


def _refuse(name: str, *_: object, **__: object) -> None:
    """Refuse to write a folder that cannot be read.

    Raises:
        CompressionError: Always.
    """
    raise CompressionError(
        f"no configuration of {name} describes the cut model, so from_pretrained could not read what save_pretrained "
        'writes: write nc.save(model, "model.nbz"), and read it with nc.load("model.nbz", model_before_the_cut). In a '
        'Trainer, pass save_strategy="no"'
    )


__all__ = [
    "configuration_numbers",
    "guard_save_pretrained_",
    "is_pretrained",
    "model_of_configuration",
    "shapes_of",
    "with_weights_of",
]
