"""What comes into linear layers and convolutions, and out of them, while a model runs over data.

Randomness that is fixed for a while and then put back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nbcompress.compressors.data import Batch, Batches
from nbcompress.compressors.layers import Target


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


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Patches of a convolution are laid out in memory this many numbers at a time, 64 MiB of float32 (a heuristic).
_MOST_NUMBERS = 1 << 24

NOT_CALLED = "the model does not call its layer on the data"


def layers_of(model: nn.Module, target: Target) -> dict[str, nn.Module]:
    """Linear layers and convolutions whose weight is `target`, by name; several where a weight is shared."""
    found: dict[str, nn.Module] = {}
    for name in target.names:
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        if last == "weight" and isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
            found[path] = module
    return found


def why_no_layer(model: nn.Module, target: Target) -> str:
    """Why `layers_of` finds nothing for `target`."""
    owner = model.get_submodule(target.name.rpartition(".")[0])
    return f"not the weight of a linear layer or a convolution ({type(owner).__name__})"


See = Callable[[str, Tensor, Tensor], None]


@torch.no_grad()
def observe(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    data: object,
    seed: int,
    see: See,
    after_batch: Callable[[Batch], None] | None = None,
) -> None:
    """Run one pass of `data` in evaluation mode and show what every layer takes and gives.

    Args:
        model: Comes back as it was, without hooks.
        layers: Modules of the model under names of the caller's choice.
        data: See `Batches`.
        seed: Of the order of the data and of the model's own randomness.
        see: Called with a name, the layer's first input and its output, each time that the layer runs.
        after_batch: Called with every batch after it ran.

    Raises:
        DataError: `data` is empty or has another form.
    """
    batches = Batches(data)

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = args[0] if args else kwargs.get("input")
            if isinstance(given, Tensor) and isinstance(output, Tensor):
                see(name, given.detach(), output.detach())

        return hook

    handles = [module.register_forward_hook(hook_for(name), with_kwargs=True) for name, module in layers.items()]
    try:
        with evaluating(model), seeded(seed, *batches.generators):
            for batch in batches.for_model(model):
                batch(model)
                if after_batch is not None:
                    after_batch(batch)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode, and back to the modes of its modules."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, is_training in flags:
            module.training = is_training


def input_rows(layer: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """The inputs of `layer` as the rows that its flattened weight is multiplied with, in parts.

    Args:
        layer: A linear layer or a convolution.
        x: Its input.

    Yields:
        Shape `(groups, rows, columns)`, float32 or wider. The weight as `(groups, outputs, columns)`, multiplied with
        the rows, gives the outputs without the bias.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(layer, nn.Linear):
        yield wide.reshape(1, -1, layer.in_features)
        return
    if not isinstance(layer, _CONVOLUTIONS):
        raise TypeError(f"only linear layers and convolutions have rows of inputs, not {type(layer).__name__}")
    n_axes = len(layer.kernel_size)
    batch = wide if wide.ndim == n_axes + 2 else wide[None]
    # Of a convolution, torch keeps the padding of all its modes in the form that `pad` takes.
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    batch = functional.pad(batch, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, stride, step) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        batch = batch.unfold(2 + axis, step * (size - 1) + 1, stride)[..., ::step]
    # (examples, channels, *positions, *kernel): one row a position, one column a channel and place in the kernel.
    n_each = max(1, batch[0].numel())
    for part in torch.split(batch, max(1, _MOST_NUMBERS // n_each)):
        split = part.reshape(len(part), layer.groups, -1, *part.shape[2:])
        positions, kernel = range(3, 3 + n_axes), range(3 + n_axes, 3 + 2 * n_axes)
        ordered = split.permute(1, 0, *positions, 2, *kernel)
        yield ordered.reshape(layer.groups, ordered.shape[1 : -n_axes - 1].numel(), -1)
