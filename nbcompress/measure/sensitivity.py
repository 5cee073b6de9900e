"""What each layer bears: every layer is compressed alone, by the real operation, and the model is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isfinite
from typing import Any

from torch import nn

from nbcompress.artifact import size_bytes
from nbcompress.compressors.cluster import cluster
from nbcompress.compressors.copying import deep_copy
from nbcompress.compressors.factorize import factorize
from nbcompress.compressors.layers import Patterns, Target, select
from nbcompress.compressors.prune import prune
from nbcompress.compressors.quantize import quantize
from nbcompress.errors import MeasureError, NbcompressError, did_you_mean, option
from nbcompress.measure.inputs import random_state_kept
from nbcompress.measure.text import count_text, text_table

Evaluate = Callable[[nn.Module], Any]
# (model, level, layers) -> the model with only these layers compressed
Operation = Callable[[nn.Module, float, list[str]], nn.Module]

# The rest stays as it is, so that a row shows its layer alone.
_OPERATIONS: Mapping[str, tuple[Operation, tuple[float, ...]]] = {
    "prune": (lambda model, level, layers: prune(model, level, layers=layers), (0.5, 0.7, 0.9)),
    "quantize": (lambda model, level, layers: quantize(model, int(level), rest="float32", layers=layers), (8, 4, 2)),
    "cluster": (lambda model, level, layers: cluster(model, int(level), rest="float32", layers=layers), (32, 8, 4)),
    "factorize": (lambda model, level, layers: factorize(model, level, layers=layers), (0.5, 0.25, 0.1)),
}


@dataclass(frozen=True)
class SensitivityRow:
    """One layer at one level.

    Attributes:
        layer: Dotted module name, or the name of a parameter that sits on the model itself.
        parameters: Weights that were compressed.
        level: Of the compressor, such as the amount pruned or the bits.
        value: What the evaluation gave, None if it failed.
        change: `value` minus the value of the model as it came, None if it failed.
        saved_bytes: How much shorter the file became, None if it failed.
        error: Why it failed, empty if it did not.
    """

    layer: str
    parameters: int
    level: float
    value: float | None = None
    change: float | None = None
    saved_bytes: int | None = None
    error: str = ""


@dataclass(frozen=True, repr=False)
class Sensitivity:
    """What each layer bears.

    Attributes:
        compressor: The operation.
        levels: In the order they were tried.
        baseline: What the evaluation gave for the model as it came.
        rows: Layer by layer in the model's order, level by level.
        left_out: Why a layer that one might expect here was not compressed, by name.
    """

    compressor: str
    levels: tuple[float, ...]
    baseline: float
    rows: tuple[SensitivityRow, ...]
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        found = asdict(self)
        return {**found, "levels": list(self.levels), "rows": list(found["rows"]), "left_out": dict(self.left_out)}

    def __str__(self) -> str:
        layers = list(dict.fromkeys(row.layer for row in self.rows))
        cells = {(row.layer, row.level): row for row in self.rows}
        table = [
            [
                layer,
                count_text(cells[layer, self.levels[0]].parameters),
                *(_change_text(cells[layer, level]) for level in self.levels),
            ]
            for layer in layers
        ]
        header = ["layer", "weights", *(f"{self.compressor} {level:g}" for level in self.levels)]
        lines = [text_table(header, table), f"change of the evaluation, {self.baseline:.4g} without compression"]
        lines += [f"{row.layer} at {row.level:g} failed: {row.error}" for row in self.rows if row.error]
        lines += [f"left out: {name}, {why}" for name, why in self.left_out.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        layers = len({row.layer for row in self.rows})
        return f"<Sensitivity of {layers} layers to {self.compressor}>"


def sensitivity(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    layers: Patterns = None,
    compressor: str = "prune",
    levels: Sequence[float] | None = None,
) -> Sensitivity:
    """Compress one layer at a time, evaluate, and tell how far the evaluation moved.

    Every evaluation sees a copy of its own and starts from the same random numbers, which are put back in the end.

    Args:
        model: Left as it is.
        evaluate: From a model to a number, such as its accuracy.
        layers: Shell patterns on dotted module names; all layers without it.
        compressor: `prune`, `quantize`, `cluster` or `factorize`.
        levels: Amounts, bits, clusters or ranks; three usual ones without it.

    Raises:
        MeasureError: The compressor is unknown, levels are missing, or the model as it came cannot be evaluated.
            A layer that fails is a row that says so.
        LayerNotFound: A pattern matches nothing.
    """
    if compressor not in _OPERATIONS:
        known = ", ".join(_OPERATIONS)
        raise MeasureError(
            f"{option('compressor')} must be {known}, got {compressor!r}.{did_you_mean(compressor, _OPERATIONS)}"
        )
    operation, usual = _OPERATIONS[compressor]
    given = usual if levels is None else levels
    tried = tuple(given) if isinstance(given, Iterable) else ()
    if not tried or not all(isinstance(level, (int, float)) and isfinite(level) for level in tried):
        raise MeasureError(f"{option('levels')} must be a list of numbers, got {levels!r}")
    selection = select(model, layers)
    try:
        baseline = _Baseline(_evaluated(evaluate, deep_copy(model)), size_bytes(model))
    except Exception as err:
        raise MeasureError(
            f"{option('evaluate')} must give a number for the model as it came, but {_reason(err)}"
        ) from err
    rows = []
    for layer, targets in _by_layer(selection.targets).items():
        patterns = _patterns(layer, targets, selection.targets)
        n_weights = sum(target.parameter.numel() for target in targets)
        for level in tried:
            empty = SensitivityRow(layer, n_weights, level)
            rows.append(_row(empty, partial(operation, model, level, patterns), evaluate, baseline))
    return Sensitivity(compressor, tried, baseline.value, tuple(rows), dict(selection.left_out))


@dataclass(frozen=True)
class _Baseline:
    """The model as it came."""

    value: float
    size_bytes: int


def _row(
    empty: SensitivityRow, shrink: Callable[[], nn.Module], evaluate: Evaluate, baseline: _Baseline
) -> SensitivityRow:
    """`empty` with what was measured, or with the reason why it could not be."""
    try:
        with random_state_kept():
            small = shrink()
        value = _evaluated(evaluate, small)
        saved = baseline.size_bytes - size_bytes(small)
    except Exception as err:  # noqa: BLE001  the user's evaluation may raise anything; the row names it
        return replace(empty, error=_reason(err))
    return replace(empty, value=value, change=value - baseline.value, saved_bytes=saved)


def _by_layer(targets: Sequence[Target]) -> dict[str, list[Target]]:
    found: dict[str, list[Target]] = {}
    for target in targets:
        found.setdefault(target.name.rpartition(".")[0] or target.name, []).append(target)
    return found


def _patterns(layer: str, targets: Sequence[Target], every: Sequence[Target]) -> list[str]:
    """Patterns for the weights of `layer` alone: its name would bring the layers inside it too."""
    inside = any(one.name.rpartition(".")[0].startswith(f"{layer}.") for one in every)
    return [target.name for target in targets] if inside else [layer]


def _evaluated(evaluate: Evaluate, model: nn.Module) -> float:
    with random_state_kept():
        value = float(evaluate(model))
    if not isfinite(value):
        raise MeasureError(f"the evaluation gave {value}")
    return value


def _reason(err: Exception) -> str:
    if isinstance(err, NbcompressError):
        return str(err)
    text = str(err).strip().splitlines()
    return f"it raised {type(err).__name__}" + (f": {text[0]}" if text else "")


def _change_text(row: SensitivityRow) -> str:
    return "failed" if row.change is None else f"{row.change:+.4f}"


__all__ = ["Sensitivity", "SensitivityRow", "sensitivity"]
