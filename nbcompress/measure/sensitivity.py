"""`sensitivity`: change of an evaluation per layer, when that layer alone is compressed."""

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
from nbcompress.compressors.layers import Patterns, Target, check_model, select
from nbcompress.compressors.modes import with_progress
from nbcompress.compressors.prune import prune
from nbcompress.compressors.quantize import quantize
from nbcompress.compressors.torch_masks import without_torch_masks
from nbcompress.errors import MeasureError, NbcompressError, did_you_mean, first_line, option
from nbcompress.measure.inputs import preserved_random_state
from nbcompress.measure.text import count_text, text_table
from nbcompress.progress import progress_bar

Evaluate = Callable[[nn.Module], Any]
# (model, level, layers) -> a copy with only these layers compressed
Operation = Callable[[nn.Module, float, list[str]], nn.Module]

# The compressors with their default levels. The rest stays in float32, so that a row shows the effect of its layer.
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
        value: Result of the evaluation, None if it failed.
        change: `value` minus the value of the uncompressed model, None if it failed.
        saved_bytes: Bytes by which the file became shorter, None if it failed.
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
    """Change of an evaluation per layer.

    Attributes:
        compressor: Name of the compressor.
        levels: In the order in which they were tried.
        baseline: Value of the uncompressed model.
        rows: By layer in the order of the model, then by level.
        left_out: By name of a layer, why it was not compressed.
    """

    compressor: str
    levels: tuple[float, ...]
    baseline: float
    rows: tuple[SensitivityRow, ...]
    left_out: Mapping[str, str]

    def by_layer(self) -> dict[str, float]:
        """Return how much the evaluation changes with each layer, as `sensitivity=` of a search takes it.

        It is the mean size of the change over all levels; levels at which the evaluation failed are left out, and so is
        a layer that failed at every level.
        """
        changes: dict[str, list[float]] = {}
        for row in self.rows:
            if row.change is not None:
                changes.setdefault(row.layer, []).append(abs(row.change))
        return {layer: sum(found) / len(found) for layer, found in changes.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        plain = asdict(self)
        return {**plain, "levels": list(self.levels), "rows": list(plain["rows"]), "left_out": dict(self.left_out)}

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
    progress: bool = True,
) -> Sensitivity:
    """Compress one layer at a time and measure how an evaluation changes.

    Each evaluation gets a copy of its own and starts from the same random state, which is restored at the end.

    Args:
        model: Any module; it stays unchanged.
        evaluate: From a model to a number, such as its accuracy.
        layers: Shell patterns on dotted module names; all layers if None.
        compressor: `prune`, `quantize`, `cluster` or `factorize`.
        levels: Shares to prune, bits, numbers of clusters, or ranks; three usual levels of the compressor if None.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        A row for each layer and level, with the change of the evaluation and the bytes saved. A row whose evaluation
        failed says why. `print` shows a table.

    Raises:
        MeasureError: The compressor is unknown, levels are missing, or the uncompressed model cannot be evaluated.
        LayerNotFound: A pattern matches nothing.
        CompressionError: The model cannot be compressed, because it is scripted or lazy or holds NaN.

    Example:
        >>> import torch, nbcompress as nc
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        >>> x = torch.randn(20, 8)
        >>> report = nc.sensitivity(model, lambda small: small(x).std().item(), compressor="quantize", levels=[8, 2])
        >>> [(row.layer, row.level) for row in report.rows]
        [('0', 8), ('0', 2), ('2', 8), ('2', 2)]
    """
    if compressor not in _OPERATIONS:
        known = ", ".join(_OPERATIONS)
        raise MeasureError(
            f"{option('compressor')} must be {known}, got {compressor!r}.{did_you_mean(compressor, _OPERATIONS)}"
        )
    operation, defaults = _OPERATIONS[compressor]
    chosen = defaults if levels is None else levels
    tried = tuple(chosen) if isinstance(chosen, Iterable) else ()
    if not tried or not all(isinstance(level, (int, float)) and isfinite(level) for level in tried):
        raise MeasureError(f"{option('levels')} must be a list of numbers, got {levels!r}")
    model = without_torch_masks(check_model(model))
    selection = select(model, layers)
    by_layer, rows = _by_layer(selection.targets), []
    with with_progress(progress), progress_bar("sensitivity", len(by_layer) * len(tried), "try") as advance:
        try:
            baseline = _Baseline(_evaluate(evaluate, deep_copy(model)), size_bytes(model))
        except Exception as err:
            raise MeasureError(
                f"{option('evaluate')} must give a number for the model as it came, but {_failure_text(err)}"
            ) from err
        for layer, targets in by_layer.items():
            patterns = _layer_patterns(layer, targets, selection.targets)
            n_weights = sum(target.parameter.numel() for target in targets)
            for level in tried:
                empty = SensitivityRow(layer, n_weights, level)
                rows.append(_row(empty, partial(operation, model, level, patterns), evaluate, baseline))
                advance(1)
    return Sensitivity(compressor, tried, baseline.value, tuple(rows), dict(selection.left_out))


@dataclass(frozen=True)
class _Baseline:
    """The uncompressed model."""

    value: float
    size_bytes: int


def _row(
    empty: SensitivityRow, compress: Callable[[], nn.Module], evaluate: Evaluate, baseline: _Baseline
) -> SensitivityRow:
    """Return `empty` with the measured values, or with the reason why it failed."""
    try:
        with preserved_random_state():
            small = compress()
        value = _evaluate(evaluate, small)
        saved = baseline.size_bytes - size_bytes(small)
    except Exception as err:  # noqa: BLE001  the user's evaluation may raise anything; the row names it
        return replace(empty, error=_failure_text(err))
    return replace(empty, value=value, change=value - baseline.value, saved_bytes=saved)


def _by_layer(targets: Sequence[Target]) -> dict[str, list[Target]]:
    by_layer: dict[str, list[Target]] = {}
    for target in targets:
        by_layer.setdefault(target.name.rpartition(".")[0] or target.name, []).append(target)
    return by_layer


def _layer_patterns(layer: str, targets: Sequence[Target], all_targets: Sequence[Target]) -> list[str]:
    """Patterns for the weights of `layer` alone; its name would also match the layers inside it."""
    has_inner = any(target.name.rpartition(".")[0].startswith(f"{layer}.") for target in all_targets)
    return [target.name for target in targets] if has_inner else [layer]


def _evaluate(evaluate: Evaluate, model: nn.Module) -> float:
    with preserved_random_state():
        value = float(evaluate(model))
    if not isfinite(value):
        raise MeasureError(f"the evaluation gave {value}")
    return value


def _failure_text(err: Exception) -> str:
    return str(err) if isinstance(err, NbcompressError) else f"it raised {first_line(err)}"


def _change_text(row: SensitivityRow) -> str:
    return "failed" if row.change is None else f"{row.change:+.4f}"


__all__ = ["Sensitivity", "SensitivityRow", "sensitivity"]
