"""Figures of cards: bytes of each layer, distribution of the weights, accuracy by class, and sensitivity of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nbcompress.panels.figures import BLUE, GREEN, GREY, INK, ORANGE, PINK, SKY, VERMILION
from nbcompress.panels.text import format_value, shorten

if TYPE_CHECKING:
    from nbcompress.compressors import TrainingLog
    from nbcompress.measure import AccuracyChange, WeightHistogram
    from nbcompress.measure.distribution import LayerWeights

# Patterns and markers as well as colours, so that a print in black and white can be read: colour and hatch of a series.
SERIES_STYLES = ((BLUE, ""), (ORANGE, "///"), (GREEN, "..."), (PINK, "xxx"), (SKY, "\\\\\\"), (VERMILION, "ooo"))
MARKERS = "os^Dvp"
MAX_LAYERS = 40
# With more classes than this, one accuracy for all of them is shown.
MAX_CLASSES = 20
# If the labels along an axis have more letters than this together, they are rotated.
MAX_TICK_LETTERS = 80
WIDTH, HEIGHT = 7.2, 2.5

# The most points of a curve of losses.
MAX_STEPS = 1000

TrainingSeries = Sequence[tuple[str, "TrainingLog"]]
SeriesValues = Sequence[tuple[str, Sequence[float | None]]]


def compression_figure(
    labels: Sequence[str],
    sizes: SeriesValues,
    weights: WeightHistogram | None = None,
    accuracy: AccuracyChange | None = None,
    training: TrainingSeries = (),
) -> Figure:
    """Return weights, accuracy and training side by side, as far as they are known, above the bytes of each layer."""
    n_above = (weights is not None) + (accuracy is not None) + bool(training)
    if not n_above:
        return bars_figure(labels, sizes, "kB in the file")
    below = _bars_height(len(_largest(labels, sizes)), len(sizes))
    figure = Figure(figsize=(WIDTH, HEIGHT + below), layout="constrained")
    above, rest = figure.subfigures(2, 1, height_ratios=[HEIGHT, below], hspace=0.03, squeeze=False)[:, 0]
    axes = list(above.subplots(1, n_above, squeeze=False)[0])
    if weights is not None:
        draw_weights(axes.pop(0), weights)
    if accuracy is not None:
        draw_accuracy(axes.pop(0), accuracy, (sizes[0][0], sizes[1][0]))
    if training:
        draw_training(axes.pop(0), training)
    draw_bars(rest.subplots(), labels, sizes, "kB in the file")
    return figure


def bars_figure(labels: Sequence[str], series: SeriesValues, unit: str) -> Figure:
    """Return horizontal bars: for each label a bar of each series, the first label at the top."""
    height = _bars_height(len(_largest(labels, series)), len(series))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    draw_bars(figure.subplots(), labels, series, unit)
    return figure


def dots_figure(labels: Sequence[str], series: SeriesValues, unit: str) -> Figure:
    """Return dots above the labels, in a style for each series. At most the first `MAX_LAYERS` labels are shown."""
    shown = list(range(min(len(labels), MAX_LAYERS)))
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    ax = figure.subplots()
    for i, (name, values) in enumerate(series):
        known = np.array([np.nan if values[j] is None else values[j] for j in shown], dtype=float)
        at = np.array(shown) + (i - (len(series) - 1) / 2) * 0.16
        color, marker = SERIES_STYLES[i % len(SERIES_STYLES)][0], MARKERS[i % len(MARKERS)]
        ax.vlines(at, np.minimum(known, 0), np.maximum(known, 0), color=color, linewidth=1.2)
        ax.plot(at, known, color=color, marker=marker, markersize=6, linestyle="none", label=shorten(name, 30))
    ax.axhline(0, color=GREY, linewidth=0.8)
    names = [shorten(labels[j], 18) for j in shown]
    turned: dict[str, Any] = {"rotation": 35, "ha": "right"} if sum(map(len, names)) > MAX_TICK_LETTERS else {}
    ax.set_xticks(shown, names, parse_math=False, fontsize=8, **turned)
    more = len(labels) - len(shown)
    _finish(ax, f"the first {len(shown)} of {len(labels)} layers" if more else "", unit, "y")
    return figure


# The layers with the most weights that are drawn, and the grids below each.
MAX_HISTOGRAMS = 6
DRAWN_BITS = (8, 4, 3, 2)


def weights_figure(layers: Sequence[LayerWeights]) -> Figure:
    """Return a histogram for each of the largest layers, above the values of grids and of a codebook."""
    largest = sorted(range(len(layers)), key=lambda index: -layers[index].n_weights)[:MAX_HISTOGRAMS]
    shown = [layers[index] for index in sorted(largest)]
    n_columns = min(3, len(shown))
    n_rows = -(-len(shown) // n_columns)
    figure = Figure(figsize=(WIDTH, HEIGHT * n_rows), layout="constrained")
    parts = figure.subfigures(n_rows, n_columns, squeeze=False).flatten()
    for part, layer in zip(parts, shown, strict=False):
        above, below = part.subplots(2, 1, sharex=True, height_ratios=[2, 1.3])
        above.stairs(layer.counts, layer.edges, fill=True, color=BLUE, alpha=0.35)
        above.set_title(shorten(layer.name, 26), fontsize=9, parse_math=False)
        above.set_yticks([])
        rows = [(f"{bits} bits", layer.grids[bits]) for bits in DRAWN_BITS if bits in layer.grids]
        rows += [(f"{k} values", values) for k, values in list(layer.codebooks.items())[:1]]
        for place, (_, values) in enumerate(rows):
            below.plot(values, [-place] * len(values), linestyle="none", marker="|", markersize=6, color=VERMILION)
        below.set_yticks([-place for place in range(len(rows))], [name for name, _ in rows], fontsize=7)
        below.set_ylim(-len(rows) + 0.4, 0.6)
        below.tick_params(axis="x", labelsize=7)
        below.xaxis.set_major_locator(MaxNLocator(nbins=4))
        sns.despine(ax=above, left=True)
        sns.despine(ax=below)
    return figure


def draw_bars(ax: Axes, labels: Sequence[str], series: SeriesValues, unit: str) -> None:
    """Draw the bars of the labels with the largest values, each with its number at the end."""
    shown = _largest(labels, series)
    place = np.arange(len(shown), dtype=float)
    height = 0.8 / len(series)
    for i, (name, values) in enumerate(series):
        color, hatch = SERIES_STYLES[i % len(SERIES_STYLES)]
        at = place + (i - (len(series) - 1) / 2) * height
        lengths = [values[j] or 0.0 for j in shown]
        ax.barh(at, lengths, height, color=color, hatch=hatch, edgecolor=INK, linewidth=0.4, label=shorten(name, 30))
        for y, j, length in zip(at, shown, lengths, strict=True):
            text = "none" if values[j] is None else format_value(float(f"{length:.3g}"))
            ax.text(length, y, f" {text}", va="center", fontsize=7, color=INK)
    ax.set_yticks(place, [shorten(labels[j], 40) for j in shown], parse_math=False, fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    more = len(labels) - len(shown)
    _finish(ax, f"{unit}, the largest {len(shown)} of {len(labels)} layers" if more else unit, "", "x")


def draw_weights(ax: Axes, weights: WeightHistogram) -> None:
    """Draw the histogram of the weights: the first model filled, the others as lines, on a logarithmic axis."""
    edges = np.array(weights.edges)
    middles = (edges[:-1] + edges[1:]) / 2
    for i, (name, counts) in enumerate(weights.counts.items()):
        sns.histplot(
            x=middles,
            weights=np.array(counts),
            bins=list(weights.edges),
            element="step",
            fill=not i,
            color=SERIES_STYLES[0][0] if not i else VERMILION,
            alpha=0.3 if not i else 1.0,
            linewidth=0.6 if not i else 1.4,
            label=shorten(name, 30),
            ax=ax,
        )
    ax.set_yscale("log", nonpositive="clip")
    ax.set_ylim(bottom=0.7)
    _finish(ax, "value of a weight", "weights", "y")


def draw_accuracy(ax: Axes, change: AccuracyChange, names: tuple[str, str]) -> None:
    """Draw the accuracy of both models with its 95 % interval, class by class and for all."""
    classes = change.before.per_class if 1 < len(change.before.per_class) <= MAX_CLASSES else ()
    labels = [str(class_.label) for class_ in classes] + ["all"]
    for i, (name, accuracy) in enumerate(zip(names, (change.before, change.after), strict=True)):
        per_class = [class_.interval for class_ in accuracy.per_class] if classes else []
        intervals = [*per_class, accuracy.interval]
        value = np.array([interval.value for interval in intervals]) * 100
        low = value - np.array([interval.low for interval in intervals]) * 100
        high = np.array([interval.high for interval in intervals]) * 100 - value
        at = np.arange(len(intervals)) + (i - 0.5) * 0.34
        color = BLUE if not i else VERMILION
        ax.errorbar(
            at,
            value,
            yerr=np.maximum(0, np.stack([low, high])),
            fmt=MARKERS[i],
            color=color,
            markerfacecolor=color if not i else "none",
            markersize=4.5,
            elinewidth=1,
            label=shorten(name, 30),
        )
    ax.set_xticks(range(len(labels)), labels, parse_math=False, fontsize=8)
    ax.set_xlim(-0.7, len(labels) - 0.3)
    ax.margins(y=0.08)
    if classes:
        ax.axvline(len(classes) - 0.5, color=GREY, linewidth=0.6)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    _finish(ax, "class" if classes else "", "accuracy", "y")


def draw_training(ax: Axes, training: TrainingSeries) -> None:
    """Draw the loss of each step as a line, the mean of each epoch as markers, and that on validation data dashed."""
    for i, (name, log) in enumerate(training):
        color, marker = SERIES_STYLES[i % len(SERIES_STYLES)][0], MARKERS[i % len(MARKERS)]
        stride = max(1, len(log.step_losses) // MAX_STEPS)
        steps = np.arange(1, len(log.step_losses) + 1)[::stride]
        ax.plot(steps, log.step_losses[::stride], color=color, linewidth=0.7, alpha=0.45)
        ax.plot(log.epoch_ends, log.epoch_losses, color=color, marker=marker, markersize=4, label=shorten(name, 30))
        if log.valid_losses:
            ends = log.epoch_ends[: len(log.valid_losses)]
            ax.plot(ends, log.valid_losses, color=color, linestyle="--", label=shorten(f"{name}, valid", 30))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    _finish(ax, "step", "loss", "y")


def _largest(labels: Sequence[str], series: SeriesValues) -> list[int]:
    """Return the indices of the labels to show: of those with the largest values, in the order of the labels."""
    sizes = [max((values[j] or 0.0 for _, values in series), default=0.0) for j in range(len(labels))]
    return sorted(sorted(range(len(labels)), key=lambda j: -sizes[j])[:MAX_LAYERS])


def _bars_height(n_labels: int, n_series: int) -> float:
    return 0.9 + n_labels * (0.16 + 0.16 * n_series)


def _finish(ax: Axes, x: str, y: str, grid: str) -> None:
    # A dollar sign in a name must not start a formula.
    ax.set_xlabel(x, parse_math=False, fontsize=9)
    ax.set_ylabel(y, parse_math=False, fontsize=9)
    ax.tick_params(axis="both", labelsize=8)
    ax.grid(visible=True, axis="x" if grid == "x" else "y", linewidth=0.6)
    ax.set_axisbelow(True)
    sns.despine(ax=ax)
    legend = ax.legend(
        fontsize=8,
        frameon=False,
        ncols=len(ax.get_legend_handles_labels()[1]),
        # Above the axes, where it covers no data.
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
