"""The weights of each layer: their distribution, and what grids and codebooks would do to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nbcompress.compressors.codebooks import fit_codebook, round_to_codebook
from nbcompress.compressors.grids import GridSpec, fit_grid, parse_granularity, round_to_grid
from nbcompress.compressors.layers import Patterns, check_choice, check_model, select
from nbcompress.compressors.modes import outside_inference
from nbcompress.measure.text import count_text, text_table

BITS = (8, 7, 6, 5, 4, 3, 2)
CLUSTERS = (16, 32)
_N_BINS = 61
# Of a larger tensor, evenly chosen channels of about so many weights in all are looked at (a heuristic).
_MOST_WEIGHTS = 1 << 20


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one tensor.

    Attributes:
        name: Of the parameter.
        n_weights: How many weights it has.
        deviation: Their standard deviation.
        largest: The largest magnitude.
        edges: Ends of the bins of the histogram.
        counts: Weights in each bin.
        errors: By bits, the length of the change as a share of the length of the weights.
        cluster_errors: The same by number of shared values.
        grids: By bits, the values of one grid for the whole tensor.
        codebooks: By number of shared values, those values.
        is_sampled: Whether a part of its channels was looked at.
    """

    name: str
    n_weights: int
    deviation: float
    largest: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    errors: Mapping[int, float]
    cluster_errors: Mapping[int, float]
    grids: Mapping[int, tuple[float, ...]]
    codebooks: Mapping[int, tuple[float, ...]]
    is_sampled: bool


@dataclass(frozen=True, repr=False)
class WeightTable:
    """The weights of a model.

    Attributes:
        layers: In the order of the model.
        scheme: Of the grids.
        granularity: Of the grids whose errors are given.
        left_out: Why tensors are not among them, by name.
    """

    layers: tuple[LayerWeights, ...]
    scheme: str
    granularity: str
    left_out: Mapping[str, str]

    @property
    def header(self) -> tuple[str, ...]:
        """The columns of `rows`."""
        bits = [bits for bits in BITS if any(bits in layer.errors for layer in self.layers)]
        grids = [f"{bits} bits" for bits in bits]
        return ("layer", "weights", "deviation", "largest", *grids, *(f"{k} values" for k in CLUSTERS))

    def rows(self) -> list[list[str]]:
        """A row for each layer: its weights, their spread, the largest in deviations, and errors in percent."""
        return [
            [
                layer.name,
                count_text(layer.n_weights),
                f"{layer.deviation:.3g}",
                f"{layer.largest / layer.deviation:.1f} sd" if layer.deviation else "-",
                *(f"{100 * error:.2g} %" for error in layer.errors.values()),
                *(f"{100 * error:.2g} %" for error in layer.cluster_errors.values()),
            ]
            for layer in self.layers
        ]

    def notes(self) -> list[str]:
        """Sentences on the table."""
        how = f"grids are {self.scheme}, a scale per {self.granularity}; shared values per layer"
        notes = [f"error: length of the change as a share of the length of the weights; {how}"]
        sampled = [layer.name for layer in self.layers if layer.is_sampled]
        if sampled:
            notes.append(f"large layers, of which evenly chosen channels were looked at: {', '.join(sampled)}")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        plain = asdict(self)
        return {**plain, "layers": list(plain["layers"]), "left_out": dict(self.left_out)}

    def __repr__(self) -> str:
        return f"<WeightTable of {len(self.layers)} layers>"

    def __str__(self) -> str:
        return "\n".join([text_table(self.header, self.rows()), *self.notes()])


@outside_inference
def weights(
    model: nn.Module,
    *,
    layers: Patterns = None,
    scheme: Literal["symmetric", "affine"] = "symmetric",
    granularity: str = "channel",
) -> WeightTable:
    """Show the distribution of the weights of each layer, and the error that grids and codebooks would make.

    The grids are those of `quantize` with 8 to 2 bits, the codebooks those of `cluster` with 16 and 32 values.

    Args:
        model: Any module; it stays as it is.
        layers: A shell pattern on dotted module names, or several; None for all layers.
        scheme: See `quantize`.
        granularity: See `quantize`.

    Returns:
        A table with a row for each weight; `print` shows it.

    Raises:
        CompressionError: An option or a weight makes no sense.
        LayerNotFound: `layers` matches nothing.

    Example:
        >>> import torch, nbcompress as nc
        >>> table = nc.weights(torch.nn.Linear(64, 32))
        >>> table.layers[0].errors[8] < table.layers[0].errors[2]
        True
    """
    check_choice("scheme", scheme, ("symmetric", "affine"))
    group = parse_granularity(granularity)
    selection = select(check_model(model), layers)
    found = tuple(
        _layer(target.name, target.parameter.detach(), GridSpec(8, scheme, group)) for target in selection.targets
    )
    return WeightTable(found, scheme, granularity, dict(selection.left_out))


@torch.no_grad()
def _layer(name: str, tensor: Tensor, spec: GridSpec) -> LayerWeights:
    stride = -(-tensor.numel() // _MOST_WEIGHTS)
    # Whole channels, since they share scales; of a tensor with few of them all are read.
    part = tensor[:: min(stride, len(tensor))]
    part = part.to("cpu", torch.promote_types(part.dtype, torch.float32))
    limit = float(part.abs().max())
    counts = torch.histc(part.float(), _N_BINS, -limit, limit) if limit else torch.zeros(_N_BINS)
    errors, grids, cluster_errors, codebooks = {}, {}, {}, {}
    for bits in BITS:
        errors[bits] = _error(part, round_to_grid(part, fit_grid(part, replace(spec, bits=bits))))
        whole = fit_grid(part, GridSpec(bits, spec.scheme, "tensor"))
        steps = torch.arange(whole.n_codes, dtype=torch.int32).reshape(-1, *(1,) * (part.ndim - 1))
        grids[bits] = tuple(whole.values(steps).flatten().tolist())
    for k in CLUSTERS:
        codebook = fit_codebook(part, k, False)
        cluster_errors[k] = _error(part, round_to_codebook(part, codebook, False))
        codebooks[k] = tuple(codebook.values.tolist())
    width = 2 * limit / _N_BINS
    return LayerWeights(
        name,
        tensor.numel(),
        float(part.std(correction=0)),
        limit,
        tuple(-limit + width * index for index in range(_N_BINS + 1)),
        tuple(int(count) for count in counts.tolist()),
        errors,
        cluster_errors,
        grids,
        codebooks,
        len(part) < len(tensor),
    )


def _error(before: Tensor, after: Tensor) -> float:
    length = float(before.double().norm())
    return float((after.double() - before.double()).norm()) / length if length else 0.0


__all__ = ["BITS", "CLUSTERS", "LayerWeights", "WeightTable", "weights"]
