"""Data of any usual form as batches of inputs and targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from nbcompress.compress.modes import numbers_on_cpu
from nbcompress.errors import DataError, NbcompressError

# Under these names a batch that is a dict holds what the model should say.
_TARGET_NAMES = ("labels", "label", "targets", "target", "y")

_FORMS = "a DataLoader, a data set, or a pair of tensors (inputs, targets)"

NO_TARGET = (
    "targets are needed here, and the data has none: a batch must be a tuple (inputs, target), or a dict with a target "
    f"named {', '.join(_TARGET_NAMES)}"
)


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        args: What goes into the model by position.
        kwargs: What goes into it by name.
        target: What should come out; None in data without targets.
        target_name: Under which name a batch that is a dict holds the target.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any
    target_name: str | None = None

    def __call__(self, model: nn.Module) -> Any:
        """Run the model on the inputs.

        Raises:
            DataError: The model fails on them; says how.
        """
        try:
            return model(*self.args, **self.kwargs)
        except NbcompressError:
            raise
        except Exception as err:
            text = str(err).strip().splitlines()
            raise DataError(
                f"{type(model).__name__} must run on the data, {described(self.args, self.kwargs)}, "
                f"but raised {type(err).__name__}" + (f": {text[0]}" if text else "")
            ) from err


class Batches:
    """Batches, as often as they are asked for.

    Args:
        data: A `DataLoader` or another iterable of batches (as it is); a data set, or tensors or arrays of equal
            length of which the last holds the targets (shuffled, in batches of `batch_size`). A batch is a tuple
            of inputs and a target, or a dict whose target is called `labels`, `label`, `targets`, `target` or `y`;
            where targets are not needed, also a single tensor, a tuple of one, or a dict without a target.
        batch_size: Of what is not in batches yet.

    Raises:
        DataError: `data` has another form, is empty, or can be read only once.
    """

    def __init__(self, data: object, batch_size: int = 64) -> None:
        self._tensors: tuple[Tensor, ...] | None = None
        self._loader: Iterable[Any] = ()
        self._is_own_loader = False
        if (
            isinstance(data, (tuple, list))
            and len(data) >= 2
            and all(isinstance(one, (Tensor, np.ndarray)) for one in data)
        ):
            self._tensors = _aligned(tuple(_as_tensor(one) for one in data))
        elif isinstance(data, DataLoader):
            self._loader = data
        elif isinstance(data, Dataset):
            shuffle = not isinstance(data, IterableDataset)
            if shuffle and isinstance(data, Sized) and not len(data):
                raise DataError("data must hold at least one example, but the data set is empty")
            self._loader, self._is_own_loader = DataLoader(data, batch_size, shuffle=shuffle), True
        elif (
            isinstance(data, Iterator)
            or not isinstance(data, Iterable)
            or isinstance(data, (str, bytes, Tensor, Mapping))
        ):
            reason = " that can be read more than once" if isinstance(data, Iterator) else ""
            raise DataError(f"data must be {_FORMS}{reason}, got {type(data).__name__}")
        else:
            self._loader = data
        if self._tensors is None and _length(self._loader) == 0:
            raise DataError("data must hold at least one batch, but it is empty")
        self._batch_size = batch_size

    @property
    def generators(self) -> tuple[torch.Generator | None, ...]:
        """Generators of the data's own, to be seeded and put back."""
        sampler = getattr(self._loader, "sampler", None)
        found = (getattr(self._loader, "generator", None), getattr(sampler, "generator", None))
        return tuple(one for one in found if isinstance(one, torch.Generator))

    @property
    def targets(self) -> Tensor | None:
        """All targets, where the data holds them in memory as one tensor."""
        if self._tensors is not None:
            return self._tensors[-1]
        if isinstance(self._loader, DataLoader) and isinstance(self._loader.dataset, TensorDataset):
            tensors = self._loader.dataset.tensors
            is_plain = self._loader.collate_fn is default_collate and len(tensors) > 1
            return tensors[-1] if is_plain else None
        return None

    @property
    def n_batches(self) -> int | None:
        """How many batches one pass has, if that is known."""
        if self._tensors is not None:
            n_examples = len(self._tensors[0])
            n_parts = -(-n_examples // self._batch_size)
            return n_parts - (n_parts > 1 and n_examples % self._batch_size == 1)
        return _length(self._loader)

    def for_model(self, model: nn.Module) -> Iterator[Batch]:
        """One pass, each batch on the model's device, floating inputs in the model's dtype if it has only one.

        Raises:
            DataError: There is no batch, or one has another form.
        """
        parameters = list(model.parameters())
        device = parameters[0].device if parameters else torch.device("cpu")
        dtypes = {one.dtype for one in parameters if one.is_floating_point()}
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        n_batches = 0
        for raw in self._raw():
            n_batches += 1
            batch = _split(raw)
            yield Batch(
                tuple(_moved(one, device, dtype) for one in batch.args),
                {name: _moved(one, device, dtype) for name, one in batch.kwargs.items()},
                _moved(batch.target, device, None),
                batch.target_name,
            )
        if not n_batches:
            raise DataError("data must hold at least one batch, but it gave none")

    def first(self, model: nn.Module) -> Batch:
        """The first batch of a pass: an example of the model's inputs."""
        return next(self.for_model(model))

    def _raw(self) -> Iterator[Any]:
        if self._tensors is not None or not self._is_own_loader:
            yield from self._shuffled() if self._tensors is not None else self._loader
            return
        # The loader that we made draws its order where tensors are made by default.
        with numbers_on_cpu():
            batches = iter(self._loader)
        while True:
            with numbers_on_cpu():
                try:
                    raw = next(batches)
                except StopIteration:
                    return
            yield raw

    def _shuffled(self) -> Iterator[tuple[Tensor, ...]]:
        tensors = self._tensors or ()
        order = torch.randperm(len(tensors[0]), device="cpu")
        parts = list(torch.split(order, self._batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1:
            # Batch norm cannot train on a single example, so a lone one at the end joins the batch before.
            parts[-2:] = [torch.cat(parts[-2:])]
        for part in parts:
            yield tuple(one[part.to(one.device)] for one in tensors)


def _length(batches: Iterable[Any]) -> int | None:
    """The number of batches, if it is known."""
    if not isinstance(batches, Sized):
        return None
    try:
        return len(batches)
    except TypeError:
        # A loader has a length by its class, but not over a data set that is a stream.
        return None


def _as_tensor(one: Tensor | np.ndarray[Any, Any]) -> Tensor:
    if isinstance(one, Tensor):
        return one
    # NumPy computes in float64 by default; models hardly ever do.
    tensor = torch.as_tensor(one)
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _aligned(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    lengths = [len(one) if one.ndim else 0 for one in tensors]
    if len(set(lengths)) > 1:
        raise DataError(f"inputs and targets must have equal lengths, got {' and '.join(map(str, lengths))}")
    if not lengths[0]:
        raise DataError("data must hold at least one example, but the tensors are empty")
    return tensors


def described(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Dtype and shape of every input: `float32[64, 784], mask=bool[64, 12]`."""
    named = (f"{name}={_described(one)}" for name, one in kwargs.items())
    return ", ".join([*map(_described, args), *named]) or "no input"


def _described(one: object) -> str:
    if isinstance(one, Tensor):
        return f"{str(one.dtype).removeprefix('torch.')}{list(one.shape)}"
    return type(one).__name__


def _split(raw: Any) -> Batch:
    if isinstance(raw, Mapping):
        name = next((one for one in _TARGET_NAMES if one in raw), None)
        return Batch((), {key: value for key, value in raw.items() if key != name}, raw.get(name), name)
    if isinstance(raw, (Tensor, np.ndarray)):
        return Batch((raw,), {}, None)
    if not isinstance(raw, (tuple, list)) or not raw:
        kind = ("an empty " if isinstance(raw, (tuple, list)) else "") + type(raw).__name__
        raise DataError(f"a batch must be a tuple (inputs, target) or a dict, got {kind}")
    *inputs, target = raw if len(raw) > 1 else (*raw, None)
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        return Batch((), inputs[0], target)
    return Batch(tuple(inputs), {}, target)


def _moved(one: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(one, Tensor):
        if one.is_inference() and not torch.is_inference_mode_enabled():
            one = one.clone()  # which can take part in training, as what is made under `torch.inference_mode` cannot
        return one.to(device, dtype if one.is_floating_point() else None)
    if isinstance(one, np.ndarray):
        return _moved(_as_tensor(one), device, dtype)
    return one


__all__ = ["NO_TARGET", "Batch", "Batches", "described"]
