"""The inputs that a model is called with: from an example of the user, or from the first batch of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nbcompress.compressors.data import Batches, describe_inputs
from nbcompress.errors import DataError, option


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call of a model.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: nn.Module) -> Any:
        """Run the model on these inputs."""
        return model(*self.args, **self.kwargs)

    def __str__(self) -> str:
        return describe_inputs(self.args, self.kwargs)


def inputs_from_example(example: object) -> Inputs:
    """Read `example` as inputs of a model.

    Args:
        example: A tensor, a tuple or list of positional inputs, a dict of keyword inputs, or `Inputs`. A list or a dict
            may be one of the inputs.

    Raises:
        DataError: The example has another form, or it holds no tensor.
    """
    if isinstance(example, Inputs):
        return example
    if isinstance(example, Tensor):
        return Inputs((example,))
    if isinstance(example, (tuple, list)) and _holds_tensor(tuple(example)):
        return Inputs(tuple(example))
    if isinstance(example, Mapping) and _holds_tensor(dict(example)):
        return Inputs((), {str(name): value for name, value in example.items()})
    raise DataError(
        f"{option('example')} must be a tensor, a tuple of positional or a dict of keyword inputs, "
        f"got {type(example).__name__}"
    )


def inputs_of(model: nn.Module, example: object, batches: Batches | None) -> Inputs | None:
    """Return the inputs of `example`, else those of the first batch; None if there is neither.

    Args:
        model: Gives device and dtype to a batch of the data.
        example: See `inputs_from_example`, or None.
        batches: The data, or None.

    Raises:
        DataError: The example or the data has another form.
    """
    if example is not None:
        return inputs_from_example(example)
    if batches is None:
        return None
    args, kwargs = batches.first(model).arguments_for(model)
    return inputs_from_example(kwargs or args)


def _holds_tensor(example: object) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(example))


__all__ = ["Inputs", "inputs_from_example", "inputs_of"]
