"""Batches of inputs and targets from a `DataLoader`, a data set, tensors or arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from nbcompress.compressors.modes import default_device_cpu, evaluating
from nbcompress.errors import DataError, NbcompressError, first_line, option

# The keys under which a batch that is a dict may hold its target.
_TARGET_NAMES = ("labels", "label", "targets", "target", "y")

_FORMS = "a DataLoader, a data set, a list of batches, or a tuple of tensors (inputs, targets)"

NO_TARGET = (
    "targets are needed here, and the data has none: a batch must be a tuple (inputs, target), or a dict with a target "
    f"named {', '.join(_TARGET_NAMES)}"
)


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        args: Inputs of the model by position.
        kwargs: Inputs of the model by name.
        target: The target; None in data without targets.
        target_name: The key of the target in a batch that is a dict.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any
    target_name: str | None = None

    def __call__(self, model: nn.Module) -> Any:
        """Run the model on those of the inputs that it takes, and return what it returns.

        Raises:
            DataError: The model raises an error; its first line is quoted.
        """
        args, kwargs = self.arguments_for(model)
        try:
            return model(*args, **kwargs)
        except NbcompressError:
            raise
        except Exception as err:
            hint = ""
            if len(args) == 1 and isinstance(args[0], (tuple, list)):
                hint = "; inputs that are to be passed one by one are written (input, input, target), without a pair"
            elif left_out := [name for name in self.kwargs if name not in kwargs]:
                hint = f"; its forward does not take {' and '.join(map(repr, left_out))}"
            raise DataError(
                f"{type(model).__name__} must run on the data, {describe_inputs(self.args, self.kwargs)}, "
                f"but raised {first_line(err)}{hint}"
            ) from err

    def arguments_for(self, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call of `model`.

        Inputs under names that its `forward` does not take are left out, such as an index of the example. A tuple of
        inputs, as in `((ids, mask), label)`, is unpacked unless `forward` takes it as its one input. Where the
        signature does not tell, the model is run on the tuple.
        """
        parameters = forward_parameters(model)
        if parameters is None:
            return self.args, dict(self.kwargs)
        args, kwargs = self.args, self._kwargs_for(parameters)
        if len(args) == 1 and isinstance(args[0], (tuple, list)):
            several = _are_several(parameters, len(args[0]))
            if several is None:
                several = not _runs(model, args, kwargs)
            args = tuple(args[0]) if several else args
        return args, kwargs

    def _kwargs_for(self, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return dict(self.kwargs)
        taken = {name for name, parameter in parameters.items() if parameter.kind in _BY_NAME}
        return {name: value for name, value in self.kwargs.items() if name in taken}

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the inputs, without those within tuples."""
        return [item for item in (*self.args, *self.kwargs.values()) if isinstance(item, Tensor)]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with each of `tensors` changed, in their order."""

        def changed(item: Any) -> Any:
            return change(item) if isinstance(item, Tensor) else item

        args = tuple(changed(item) for item in self.args)
        return replace(self, args=args, kwargs={name: changed(item) for name, item in self.kwargs.items()})

    @property
    def n_examples(self) -> int | None:
        """The length of the target or of the first input that is a tensor; None if there is none.

        Targets of several tensors, such as labels and their lengths, come last: all labels may lie in one row.
        """
        parts = [self.target] if isinstance(self.target, Tensor) else []
        inputs = [part for arg in self.args for part in (arg if isinstance(arg, (tuple, list)) else [arg])]
        beside = self.target if isinstance(self.target, (tuple, list)) else []
        for value in (*parts, *inputs, *self.kwargs.values(), *beside):
            if isinstance(value, Tensor) and value.ndim:
                return len(value)
        return None


_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def forward_parameters(model: nn.Module) -> Mapping[str, Parameter] | None:
    """Return the parameters of the `forward` of a model by name; None if they cannot be read.

    A compiled model, and a wrapper that passes any keyword on to its `module`, have those of the model inside.
    """
    while True:
        try:
            parameters = signature(model.forward).parameters
        except (TypeError, ValueError):
            parameters = None
        inner = getattr(model, "_orig_mod", None)
        passes_on = parameters and any(item.kind is Parameter.VAR_KEYWORD for item in parameters.values())
        if inner is None and passes_on:
            inner = getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            return parameters
        model = inner


def _are_several(parameters: Mapping[str, Parameter], n: int) -> bool | None:
    """Return whether a tuple of `n` inputs is to be passed as `n` arguments; None if the signature does not tell."""
    by_position = [item for item in parameters.values() if item.kind in _BY_POSITION]
    n_needed = sum(item.default is Parameter.empty for item in by_position)
    if any(item.kind is Parameter.VAR_POSITIONAL for item in parameters.values()):
        return n >= n_needed > 1
    if not by_position or not max(n_needed, 1) <= n <= len(by_position):
        return False
    if n_needed != 1:  # a model whose arguments are all optional takes them one by one
        return True
    # One needed argument could be the tuple itself, unless it is declared as a tensor.
    annotation = by_position[0].annotation
    if annotation in (Tensor, "Tensor", "torch.Tensor"):
        return True
    return None if annotation is Parameter.empty and n > 1 else False


def _runs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a model runs on these arguments; one that does not take a tuple fails in its first operation."""
    try:
        with evaluating(model), torch.no_grad():
            model(*args, **kwargs)
    except Exception:  # noqa: BLE001 - the model may raise anything
        return False
    return True


class Batches:
    """Data that can be read in batches any number of times.

    Args:
        data: A `DataLoader`, a list or another iterable of batches, which is read as it is; or a data set, or a tuple
            of tensors or arrays of equal length of which the last holds the targets, which are shuffled into batches
            of `batch_size`. A batch is a tuple of inputs and a target, or a dict whose target is called `labels`,
            `label`, `targets`, `target` or `y`. Where targets are not needed, the data can be a tensor of inputs, and a
            batch a tensor, a tuple of one, or a dict without a target.
        batch_size: Examples in a batch of data that has no batches yet.

    Raises:
        DataError: `data` has another form, is empty, or can be read only once.
    """

    def __init__(self, data: object, batch_size: int = 64) -> None:
        self._tensors = tensors_in(data)
        self._loader: Iterable[Any] = ()
        self._is_own_loader = False
        if self._tensors is not None:
            pass
        elif isinstance(data, DataLoader):
            self._loader = data
        elif isinstance(data, Dataset):
            shuffle = not isinstance(data, IterableDataset)
            if shuffle and isinstance(data, Sized) and not len(data):
                raise DataError(f"{option('data')} must hold at least one example, but the data set is empty")
            self._loader, self._is_own_loader = DataLoader(data, batch_size, shuffle=shuffle), True
        elif isinstance(data, Iterator) or not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
            reason = " that can be read more than once" if isinstance(data, Iterator) else ""
            raise DataError(f"{option('data')} must be {_FORMS}{reason}, got {type(data).__name__}")
        else:
            self._loader = data
        if self._tensors is None and _length(self._loader) == 0:
            raise DataError(f"{option('data')} must hold at least one batch, but it is empty")
        self._batch_size = batch_size

    @property
    def generators(self) -> tuple[torch.Generator | None, ...]:
        """The generators that the data draws its order from, for `seeded`."""
        sampler = getattr(self._loader, "sampler", None)
        found = (getattr(self._loader, "generator", None), getattr(sampler, "generator", None))
        return tuple(item for item in found if isinstance(item, torch.Generator))

    @property
    def targets(self) -> Tensor | None:
        """All targets, if the data holds them in memory as one tensor."""
        if self._tensors is not None:
            return self._tensors[-1] if len(self._tensors) > 1 else None
        if isinstance(self._loader, DataLoader) and isinstance(self._loader.dataset, TensorDataset):
            tensors = self._loader.dataset.tensors
            is_plain = self._loader.collate_fn is default_collate and len(tensors) > 1
            return tensors[-1] if is_plain else None
        return None

    @property
    def n_batches(self) -> int | None:
        """The number of batches of one pass; None if it is not known."""
        if self._tensors is not None:
            n_examples = len(self._tensors[0])
            n_parts = -(-n_examples // self._batch_size)
            return n_parts - (n_parts > 1 and n_examples % self._batch_size == 1)
        return _length(self._loader)

    def for_model(self, model: nn.Module) -> Iterator[Batch]:
        """Read the data once: batches on the model's device, floating inputs in the model's dtype if it has only one.

        Raises:
            DataError: There is no batch, or one has another form.
        """
        parameters = list(model.parameters())
        device = parameters[0].device if parameters else torch.device("cpu")
        dtypes = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        n_batches = 0
        for raw in self._raw():
            n_batches += 1
            batch = _split(raw)
            yield Batch(
                tuple(_to_device(arg, device, dtype) for arg in batch.args),
                {name: _to_device(kwarg, device, dtype) for name, kwarg in batch.kwargs.items()},
                _to_device(batch.target, device, None),
                batch.target_name,
            )
        if not n_batches:
            raise DataError(f"{option('data')} must hold at least one batch, but it gave none")

    def first(self, model: nn.Module) -> Batch:
        """Return the first batch of a pass: an example of the model's inputs."""
        return next(self.for_model(model))

    def _raw(self) -> Iterator[Any]:
        if self._tensors is not None or not self._is_own_loader:
            yield from self._shuffled() if self._tensors is not None else self._loader
            return
        # A loader draws its order on the default device, which may not be the CPU.
        with default_device_cpu():
            batches = iter(self._loader)
        while True:
            with default_device_cpu():
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
            # Batch norm cannot train on a single example, so a last batch of one joins the batch before.
            parts[-2:] = [torch.cat(parts[-2:])]
        for part in parts:
            yield tuple(tensor[part.to(tensor.device)] for tensor in tensors)


def _length(batches: Iterable[Any]) -> int | None:
    """The number of batches; None if it is not known."""
    if not isinstance(batches, Sized):
        return None
    try:
        return len(batches)
    except TypeError:
        # The class of a loader has a length, but a loader over an iterable data set has none.
        return None


def tensors_in(data: object) -> tuple[Tensor, ...] | None:
    """Return data that is in memory as tensors: (inputs ..., targets), or inputs alone. None if it is in batches.

    Raises:
        DataError: The tensors are empty or differ in length, or it is not clear whether `data` is tensors or batches.
    """
    if isinstance(data, _ARRAYS):
        return _aligned((_as_tensor(data),))
    if not isinstance(data, (tuple, list)) or not data:
        return None
    are_arrays = all(isinstance(item, _ARRAYS) for item in data)
    if isinstance(data, tuple) and are_arrays:
        return _aligned(tuple(_as_tensor(item) for item in data))
    if are_arrays and len(data) > 1 and (len(data) == 2 or not _are_alike(data)):
        names = ", ".join(f"x{number}" for number in range(1, len(data)))
        raise DataError(
            f"{option('data')} is a list of {len(data)} tensors, which may be inputs and targets or batches: write "
            f"({names}, targets) for the former and [(batch,), ...] for batches of inputs"
        )
    if isinstance(data, tuple) and isinstance(data[-1], _ARRAYS):
        raise DataError(
            f"{option('data')} is a tuple of {type(data[0]).__name__} and tensor, which may be one batch or several: "
            "write [(inputs, target)] for one batch"
        )
    return None


_ARRAYS = (Tensor, np.ndarray)


def _are_alike(arrays: Sequence[Any]) -> bool:
    """Whether arrays could be batches of the same inputs."""
    return len({(array.dtype, tuple(array.shape[1:])) for array in arrays}) == 1


def _as_tensor(values: Tensor | np.ndarray[Any, Any]) -> Tensor:
    if isinstance(values, Tensor):
        return values
    # NumPy computes in float64 by default; models hardly ever do.
    tensor = torch.as_tensor(values)
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _aligned(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    lengths = [len(tensor) if tensor.ndim else 0 for tensor in tensors]
    if len(set(lengths)) > 1:
        raise DataError(f"inputs and targets must have equal lengths, got {' and '.join(map(str, lengths))}")
    if not lengths[0]:
        raise DataError(f"{option('data')} must hold at least one example, but the tensors are empty")
    return tensors


def describe_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return dtype and shape of every input: `float32[64, 784], mask=bool[64, 12]`."""
    named = (f"{name}={_describe(kwarg)}" for name, kwarg in kwargs.items())
    return ", ".join([*map(_describe, args), *named]) or "no input"


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__


def _split(raw: Any) -> Batch:
    if isinstance(raw, Mapping):
        name = next((target_name for target_name in _TARGET_NAMES if target_name in raw), None)
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


def _to_device(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """Move tensors and arrays to `device`, floating ones to `dtype`, also within tuples, lists and dicts."""
    if isinstance(value, Tensor):
        if value.is_inference() and not torch.is_inference_mode_enabled():
            value = value.clone()  # a tensor made under `torch.inference_mode` cannot take part in training
        return value.to(device, dtype if value.is_floating_point() else None)
    if isinstance(value, np.ndarray):
        return _to_device(_as_tensor(value), device, dtype)
    if type(value) in (tuple, list):
        return type(value)(_to_device(item, device, dtype) for item in value)
    if type(value) is dict:
        return {name: _to_device(item, device, dtype) for name, item in value.items()}
    return value


__all__ = ["NO_TARGET", "Batch", "Batches", "describe_inputs", "forward_parameters", "tensors_in"]
