"""Choose the parameter tensors that a compressor works on, copy models, and check the values of options.

A tensor is compressible if it is a floating-point parameter with at least two dimensions, wherever it is: in a linear
layer, a convolution, an embedding, a recurrent layer, attention, or directly on a module of the user's own. Biases and
the weights of norms are not. A tensor that several layers share counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import isfinite
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from nbcompress.compressors.buffers import is_expanded, materialize_buffers_
from nbcompress.compressors.copying import deep_copy, why_uncopied, without_shape
from nbcompress.compressors.torch_masks import take_over_masks_
from nbcompress.errors import CompressionError, LayerNotFound, check_integer, did_you_mean, option


def check_number(name: str, value: object, low: float, high: float, *, is_open_low: bool = False) -> float:
    """Return `value` as a float in `[low, high]` (in `(low, high]` if `is_open_low`); bool and NaN are refused."""
    bounds = f"{'above' if is_open_low else 'from'} {low:g}" + (f" to {high:g}" if isfinite(high) else "")
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise CompressionError(f"{option(name)} must be a number {bounds}, got {value!r}")
    number = float(value)
    if number < low or number > high or (is_open_low and number == low):
        raise CompressionError(f"{option(name)} must be a number {bounds}, got {value!r}")
    return number


def check_count(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` as an int from `low` to `high`.

    Raises:
        CompressionError: The value is not such an integer.
    """
    return check_integer(name, value, low, high, error=CompressionError)


def check_seed(seed: object) -> int:
    """Return `seed` if it is an integer that every generator accepts."""
    return check_count("seed", seed, 0, 2**63 - 1)


def check_choice(name: str, value: object, known: Iterable[str], later: Mapping[str, str] | None = None) -> str:
    """Return `value` if it is one of `known`.

    Args:
        name: Keyword of the option.
        value: The value that was given.
        known: The allowed values.
        later: Values that other functions allow and this one does not, with the reason.

    Raises:
        CompressionError: The value is not allowed.
    """
    options = list(known)
    if isinstance(value, str) and value in options:
        return value
    listed = ", ".join(options)
    if later and isinstance(value, str) and value in later:
        raise CompressionError(f"{option(name, value)} {later[value]}; choose from: {listed}")
    hint = did_you_mean(value, options) if isinstance(value, str) else ""
    raise CompressionError(f"{option(name)} must be one of {listed}, got {value!r}.{hint}")


Patterns = str | Iterable[str] | None

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# Norms over several dimensions have weights with several dimensions, which are still gains and not matrices.
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class Target:
    """One compressible parameter tensor.

    Attributes:
        name: Dotted name of the parameter; its first name if the tensor is shared.
        parameter: The tensor, of the model that was searched.
        names: All names of the tensor.
    """

    name: str
    parameter: nn.Parameter
    names: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The chosen targets in the order of the model, and the reasons why other tensors were left out, by name."""

    targets: tuple[Target, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


def is_turned_layer(module: nn.Module) -> bool:
    """Whether `module` is a layer of Hugging Face that multiplies by its weight, of shape `(inputs, outputs)`."""
    return any(
        base.__name__ == "Conv1D" and base.__module__ == "transformers.pytorch_utils" for base in type(module).__mro__
    )


def is_turned(model: nn.Module, target: Target) -> bool:
    """Whether all layers of `target` hold it as `(inputs, outputs)`, and not as `(outputs, inputs)`."""
    return all(
        name.rpartition(".")[2] == "weight" and is_turned_layer(model.get_submodule(name.rpartition(".")[0]))
        for name in target.names
    )


def unique_parameters(model: nn.Module) -> list[tuple[tuple[str, ...], nn.Parameter]]:
    """Return every parameter once, with all its names. Views of the same memory with one shape count as one."""
    unique: dict[object, tuple[list[str], nn.Parameter]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        key: object = id(parameter)
        if parameter.layout == torch.strided and parameter.numel() and parameter.data_ptr():
            key = (parameter.device, parameter.data_ptr(), parameter.shape, parameter.stride())
        unique.setdefault(key, ([], parameter))[0].append(name)
    return [(tuple(names), parameter) for names, parameter in unique.values()]


def check_model(model: object) -> nn.Module:
    """Return `model` if compressors can work on it.

    Raises:
        CompressionError: It is not an `nn.Module`, or it is scripted or lazy; or a parameter is on the meta device, is
            sparse or expanded, or holds NaN or infinity.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise CompressionError("a scripted model cannot be compressed: compress the module first, then script it")
    if not isinstance(model, nn.Module):
        raise CompressionError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise CompressionError(f"parameter {name!r} has no shape yet: run the model once on an example")
        if parameter.is_meta:
            raise CompressionError(f"parameter {name!r} is on the meta device, so it has no values to compress")
        if parameter.layout != torch.strided:
            raise CompressionError(
                f"weights must be dense, but parameter {name!r} is {parameter.layout}: make it dense with to_dense(), "
                "or a buffer if it is not trained"
            )
        if is_expanded(parameter):
            raise CompressionError(
                f"each weight must have a number in memory of its own, but {name!r} is expanded: make it a tensor of "
                "its own with clone()"
            )
        values = parameter.detach()
        if (values.is_floating_point() or values.is_complex()) and not bool(torch.isfinite(values).all()):
            n_bad = int((~torch.isfinite(values)).sum())
            raise CompressionError(
                f"weights must be finite, but {n_bad} of {parameter.numel()} in {name!r} are NaN or infinite"
            )
    return model


def select(model: nn.Module, layers: Patterns = None) -> Selection:
    """Return the compressible tensors of `model`, or those that `layers` chooses.

    Args:
        model: Any module.
        layers: Shell patterns on dotted module names. A module that matches includes everything inside it. A pattern
            may also match the name of a parameter.

    Raises:
        CompressionError: The model has no compressible tensor.
        LayerNotFound: A pattern matches nothing, or only layers without compressible tensors.
    """
    targets: list[Target] = []
    left_out: dict[str, str] = {}
    for names, parameter in unique_parameters(model):
        reason = _why_not(model, names[0], parameter)
        if reason is None:
            targets.append(Target(names[0], parameter, names))
        elif reason:
            left_out[names[0]] = reason
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and buffer.ndim >= 2:
            left_out[name] = "a buffer, not a parameter"
    patterns = check_patterns(layers)
    if patterns is None:
        if not targets:
            raise CompressionError("the model has no parameter of floating point with two axes or more to compress")
        return Selection(tuple(targets), left_out)
    for pattern in patterns:
        _check_match(model, targets, pattern)
    chosen = tuple(target for target in targets if any(_matches(target, pattern) for pattern in patterns))
    return Selection(chosen, {name: why for name, why in left_out.items() if _covers(patterns, name)})


def check_patterns(layers: Patterns) -> list[str] | None:
    """Return `layers` as a list of patterns; None chooses all layers.

    Raises:
        CompressionError: `layers` is not a pattern or a list of patterns.
    """
    if layers is None:
        return None
    patterns = [layers] if isinstance(layers, str) else list(layers) if isinstance(layers, Iterable) else []
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise CompressionError(
            f"{option('layers')} must be a shell pattern or a list of them, such as 'conv*', got {layers!r}"
        )
    return patterns


def is_chosen(name: str, patterns: list[str] | None) -> bool:
    """Whether the module or parameter `name`, or a module around it, matches one of `patterns`."""
    return patterns is None or _covers(patterns, name)


# Parameters from this number of weights on can share memory with a copy. In smaller ones some models keep counters.
_N_SHARED = 2**16


def copied(model: nn.Module, *, shares_weights: bool = False) -> nn.Module:
    """Return a deep copy of `model`, with its record. Masks of `torch.nn.utils.prune` are taken over into the record.

    Args:
        model: The model.
        shares_weights: Whether large parameters of the copy are new objects on the memory of the old ones, for a copy
            that is only read. Nothing may be written into them in place.

    Raises:
        CompressionError: The model cannot be copied, or has no shapes yet.
    """
    missing = without_shape(model)
    if missing:
        raise CompressionError(missing)
    memo: dict[int, Any] = {}
    for parameter in model.parameters() if shares_weights else ():
        # A class of its own, or attributes, may mean more than the numbers.
        if type(parameter) is nn.Parameter and not vars(parameter) and parameter.numel() >= _N_SHARED:
            memo[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    try:
        new = deep_copy(model, memo)
    except Exception as err:  # a class may raise anything
        raise CompressionError(f"the model must allow copy.deepcopy, but {why_uncopied(model, err)}") from err
    take_over_masks_(new)
    materialize_buffers_(new)
    return new


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter under each of its names."""
    return dict(model.named_parameters(remove_duplicate=False))


@torch.no_grad()
def fill_(parameter: Tensor, values: Tensor) -> None:
    """Write `values` into `parameter`, in place, so that autograd notices the change.

    An expanded tensor cannot be written. It is left as it is if it has the values already.
    """
    if not (is_expanded(parameter) and torch.equal(parameter, values)):
        parameter.copy_(values)


def _why_not(model: nn.Module, name: str, parameter: nn.Parameter) -> str | None:
    """None if the parameter is compressible, else the reason; empty for biases and norms, which need no reason."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if parameter.ndim < 2 or isinstance(owner, _NORMS):
        return ""
    if parameter.dtype not in FLOATS:
        return f"its dtype is {str(parameter.dtype).removeprefix('torch.')}"
    return None if parameter.numel() else "it is empty"


def _covers(patterns: Iterable[str], name: str) -> bool:
    parts = name.split(".")
    around = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(fnmatchcase(module, pattern) for pattern in patterns for module in around)


def _matches(target: Target, pattern: str) -> bool:
    return any(_covers([pattern], name) for name in target.names)


def _holder(model: nn.Module, name: str) -> str:
    """The name of the layer of a parameter; the parameter's own name if it is on the model or in a dict or list."""
    path = name.rpartition(".")[0]
    return name if isinstance(model.get_submodule(path), (nn.ParameterDict, nn.ParameterList)) else path or name


def _check_match(model: nn.Module, targets: list[Target], pattern: str) -> None:
    if any(_matches(target, pattern) for target in targets):
        return
    modules = [name for name, _ in model.named_modules() if name]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    matched = [name for name in (*modules, *parameters) if fnmatchcase(name, pattern)]
    if matched:
        raise LayerNotFound(
            f"{option('layers', pattern)} matches only what has no weights to compress: {', '.join(matched[:5])} "
            "(a weight is a parameter of floating point with two axes or more, and not of a norm)"
        )
    holders = list(dict.fromkeys(_holder(model, name) for target in targets for name in target.names))
    listed = ", ".join(holders[:8]) + (", ..." if len(holders) > 8 else "")
    hint = did_you_mean(pattern, [*modules, *parameters])
    if "," in pattern:
        hint = f" Several patterns are a list: {[part.strip() for part in pattern.split(',') if part.strip()]}."
    raise LayerNotFound(
        f"{option('layers', pattern)} matches no layer of the model.{hint} Layers with weights: {listed}"
    )
