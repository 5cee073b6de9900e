"""What goes into a model when it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nbcompress.compress.data import Batches, described
from nbcompress.errors import MeasureError


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
        return any(isinstance(one, Tensor) and one.is_cuda for one in (*self.args, *self.kwargs.values()))

    def __str__(self) -> str:
        return described(self.args, self.kwargs)


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
            "example must be a tensor, a tuple of positional inputs or a dict of keyword inputs, "
            f"got {type(example).__name__}"
        )
    if data is None:
        return None
    batches = Batches(data)
    generators = [(one, one.get_state()) for one in batches.generators if one is not None]
    try:
        batch = batches.first(model)
    finally:
        for generator, state in generators:
            generator.set_state(state)
    return Inputs(batch.args, batch.kwargs)


__all__ = ["Inputs", "inputs_of"]
