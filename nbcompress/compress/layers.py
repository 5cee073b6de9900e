"""Which parameter tensors a compressor works on, and the copy that it works on.

A tensor is compressible if it is a parameter of floating point with two axes or more, wherever it sits: in a
linear layer, a convolution, an embedding, a recurrent layer, attention, or bare on a module of the user's own.
Biases and the weights of norms are the *rest*. A tensor that several layers share counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.prune import BasePruningMethod

from nbcompress.compress.buffers import is_spread, own_buffers_
from nbcompress.compress.copying import deep_copy, why_uncopied, without_shape
from nbcompress.errors import CompressionError, LayerNotFound, did_you_mean

Patterns = str | Iterable[str] | None

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# Norms over several axes have weights with several axes, which are still one gain for each position.
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class Target:
    """One compressible parameter tensor.

    Attributes:
        name: Dotted parameter name, the first one if the tensor is shared.
        parameter: The tensor itself, of the model that was searched.
        names: All its names.
    """

    name: str
    parameter: nn.Parameter
    names: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """What was chosen, in the model's order, and why the rest of what one might expect was not."""

    targets: tuple[Target, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


def unique_parameters(model: nn.Module) -> list[tuple[tuple[str, ...], nn.Parameter]]:
    """Every parameter once, with all its names: the same object, or the same memory seen the same way."""
    found: dict[object, tuple[list[str], nn.Parameter]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        key: object = id(parameter)
        if parameter.layout == torch.strided and parameter.numel() and parameter.data_ptr():
            key = (parameter.device, parameter.data_ptr(), parameter.shape, parameter.stride())
        found.setdefault(key, ([], parameter))[0].append(name)
    return [(tuple(names), parameter) for names, parameter in found.values()]


def check_model(model: object) -> nn.Module:
    """Return `model` if compressors can work on it.

    Raises:
        CompressionError: It is not an `nn.Module`, is scripted or lazy, or a parameter is on the meta device, sparse or
            expanded, or holds a NaN or an infinity.
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
        if is_spread(parameter):
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
    """The compressible tensors of `model`, or those that `layers` names.

    Args:
        model: Any module.
        layers: Shell patterns on dotted module names. A module that matches brings everything inside it. A
            parameter's own name matches too, for parameters that sit on the model itself.

    Raises:
        LayerNotFound: A pattern matches nothing, or only layers without anything to compress.
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
    chosen = tuple(one for one in targets if any(_matches(one, pattern) for pattern in patterns))
    return Selection(chosen, {name: why for name, why in left_out.items() if _covers(patterns, name)})


def check_patterns(layers: Patterns) -> list[str] | None:
    """Return `layers` as a list of patterns; None stands for all layers."""
    if layers is None:
        return None
    patterns = [layers] if isinstance(layers, str) else list(layers) if isinstance(layers, Iterable) else []
    if not patterns or not all(isinstance(one, str) and one for one in patterns):
        raise CompressionError(f"layers must be a shell pattern or a list of them, such as 'conv*', got {layers!r}")
    return patterns


def is_chosen(name: str, patterns: list[str] | None) -> bool:
    """Whether the module or parameter `name`, or a module around it, matches one of `patterns`."""
    return patterns is None or _covers(patterns, name)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of `model`, record included.

    Raises:
        CompressionError: The model cannot be copied, has no shapes yet, or has masks of `torch.nn.utils.prune`.
    """
    for path, module in model.named_modules():
        if any(isinstance(hook, BasePruningMethod) for hook in module._forward_pre_hooks.values()):
            raise CompressionError(
                f"weights must be plain, but {path or 'the model'!r} has masks of torch.nn.utils.prune: call "
                "torch.nn.utils.prune.remove first"
            )
    missing = without_shape(model)
    if missing:
        raise CompressionError(missing)
    try:
        new = deep_copy(model)
    except Exception as err:  # a class refuses in any way
        raise CompressionError(f"the model must allow copy.deepcopy, but {why_uncopied(model, err)}") from err
    own_buffers_(new)
    return new


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter under every name it has."""
    return dict(model.named_parameters(remove_duplicate=False))


@torch.no_grad()
def fill_(parameter: Tensor, values: Tensor) -> None:
    """Write `values` into `parameter` where it stands, through autograd's version counter.

    Nothing is written where one number in memory stands for several, and they have the values already.
    """
    if not (is_spread(parameter) and torch.equal(parameter, values)):
        parameter.copy_(values)


def _why_not(model: nn.Module, name: str, parameter: nn.Parameter) -> str | None:
    """None if compressible, an empty string for what nobody expects here, else the reason."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if parameter.ndim < 2 or isinstance(owner, _NORMS):
        return ""
    if parameter.dtype not in FLOATS:
        return f"its dtype is {str(parameter.dtype).removeprefix('torch.')}"
    return None if parameter.numel() else "it is empty"


def _covers(patterns: Iterable[str], name: str) -> bool:
    parts = name.split(".")
    around = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(fnmatchcase(one, pattern) for pattern in patterns for one in around)


def _matches(target: Target, pattern: str) -> bool:
    return any(_covers([pattern], name) for name in target.names)


def _holder(model: nn.Module, name: str) -> str:
    """What one would call the place of a parameter: its layer; itself where it is bare, or one of many in a dict."""
    path = name.rpartition(".")[0]
    return name if isinstance(model.get_submodule(path), (nn.ParameterDict, nn.ParameterList)) else path or name


def _check_match(model: nn.Module, targets: list[Target], pattern: str) -> None:
    if any(_matches(one, pattern) for one in targets):
        return
    modules = [name for name, _ in model.named_modules() if name]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    matched = [name for name in (*modules, *parameters) if fnmatchcase(name, pattern)]
    if matched:
        raise LayerNotFound(
            f"layers={pattern!r} matches only what has no weights to compress: {', '.join(matched[:5])} "
            "(a weight is a parameter of floating point with two axes or more, and not of a norm)"
        )
    holders = list(dict.fromkeys(_holder(model, name) for one in targets for name in one.names))
    listed = ", ".join(holders[:8]) + (", ..." if len(holders) > 8 else "")
    hint = did_you_mean(pattern, [*modules, *parameters])
    if "," in pattern:
        hint = f" Several patterns are a list: {[part.strip() for part in pattern.split(',') if part.strip()]}."
    raise LayerNotFound(f"layers={pattern!r} matches no layer of the model.{hint} Layers with weights: {listed}")


__all__ = [
    "FLOATS",
    "Patterns",
    "Selection",
    "Target",
    "check_model",
    "check_patterns",
    "copied",
    "fill_",
    "is_chosen",
    "parameters_by_name",
    "select",
    "unique_parameters",
]
