"""Which tensor among those that a model returns is its prediction?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from nbcompress.compress.data import Batch
from nbcompress.errors import DataError

# Index of a tuple, or key or attribute.
Output = int | str

# What libraries call their own losses, states, caches and intermediate results.
_NO_PREDICTION = frozenset(
    {
        *(
            "loss",
            "aux_loss",
            "router_logits",
            "router_probs",
            "hidden_states",
            "attentions",
            "past_key_values",
            "mems",
        ),
        *("last_hidden_state", "pooler_output", "cross_attentions", "decoder_hidden_states", "decoder_attentions"),
        *("encoder_last_hidden_state", "encoder_hidden_states", "encoder_attentions", "state", "rope_deltas"),
        *("cache_params", "image_hidden_states", "hidden_state", "hidden", "cache"),
    }
)


def prediction_of(result: Any, output: Output | None = None, n_rows: int | None = None) -> Tensor:
    """The prediction among what a model returned: the only tensor that can be one, or the one that `output` names.

    A tensor that is returned alone is the prediction, whatever `output` says.

    Raises:
        DataError: There is none, several could be it, or `output` names no tensor.
    """
    if output is not None:
        return _named(result, output)
    found = predictions_of(result, n_rows)
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise DataError(
            f"the model must return a tensor that can be its prediction, got {_listed(result)}: pass output=, its "
            "index or key, or loss=, a function of what the model returns and the target"
        )
    first = next(iter(found))
    raise DataError(
        f"the model returns several tensors, {_described(found)}: say which one is the prediction with output=, such "
        f"as output={first!r}, or pass loss=, a function of what the model returns and the target"
    )


def predictions_of(result: Any, n_rows: int | None = None) -> dict[Output, Tensor]:
    """Every tensor that could be a prediction, by index or key.

    Hidden states, caches, losses and whatever lies in tuples of tuples are none; nor are integers, single numbers, and,
    where another tensor has a row for each example, tensors without one.

    Args:
        result: What a model returned.
        n_rows: Examples in the batch, if that is known.
    """
    if isinstance(result, Tensor):
        return {0: result}
    found = {
        key: value
        for key, value in _parts(result).items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim and key not in _NO_PREDICTION
    }
    by_example = {key: value for key, value in found.items() if n_rows is not None and len(value) == n_rows}
    return by_example or found


def rows_of(batch: Batch) -> int | None:
    """How many examples a batch has: the length of its target or of its first input."""
    for value in (batch.target, *batch.args, *batch.kwargs.values()):
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
    return None


def own_loss_of(result: Any) -> Tensor | None:
    """The loss that a model computed itself from labels it was given, if there is one.

    It is called `loss`, or it is the only single number in a tuple.
    """
    parts = _parts(result)
    named = parts.get("loss")
    if isinstance(named, Tensor):
        return named.reshape(()) if named.numel() == 1 else None
    single = [one for one in parts.values() if isinstance(one, Tensor) and one.is_floating_point() and not one.ndim]
    return single[0] if isinstance(result, (tuple, list)) and len(single) == 1 else None


def _parts(result: Any) -> dict[Output, Any]:
    """What a model returned, by index or key; a named tuple has keys."""
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, (tuple, list)):
        names = getattr(result, "_fields", range(len(result)))
        return dict(zip(names, result, strict=True))
    if is_dataclass(result):
        return {one.name: getattr(result, one.name) for one in fields(result)}
    return dict(getattr(result, "__dict__", {}))


def _named(result: Any, output: Output) -> Tensor:
    if isinstance(result, Tensor):
        # Some models return a tuple in training and its first tensor in evaluation; a student may return the prediction
        # alone, beside a teacher of several tensors.
        return result
    parts = _parts(result)
    value = parts.get(output)
    if isinstance(output, int) and output not in parts:
        listed = list(parts.values())
        value = listed[output] if -len(listed) <= output < len(listed) else None
    if not isinstance(value, Tensor):
        raise DataError(
            f"output={output!r} must name a tensor among what the model returns, which is {_listed(result)}"
        )
    return value


def _described(found: Mapping[Output, Tensor]) -> str:
    return ", ".join(f"{key!r} of shape {tuple(value.shape)}" for key, value in found.items())


def _listed(result: Any) -> str:
    parts = _parts(result)
    inside = ", ".join(
        f"{key!r} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{key!r} ({type(value).__name__})"
        for key, value in list(parts.items())[:8]
    )
    return type(result).__name__ + (f" with {inside}" if inside else "")


__all__ = ["Output", "own_loss_of", "prediction_of", "predictions_of", "rows_of"]
