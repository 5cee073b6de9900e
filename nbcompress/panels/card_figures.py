"""Pictures of cards: bars per layer, and what each layer bears."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nbcompress.panels.figures import BLUE, GREEN, ORANGE, PINK, SKY, VERMILION
from nbcompress.panels.text import cut, spell

# Patterns as well as colours, so that a print in black and white can be read.
LOOKS = ((BLUE, ""), (ORANGE, "//"), (GREEN, ".."), (PINK, "xx"), (SKY, "\\\\"), (VERMILION, "oo"))
MOST_LAYERS = 40

Rows = Sequence[tuple[str, Sequence[float | None]]]


def bars_figure(labels: Sequence[str], series: Rows, unit: str) -> Figure:
    """Return horizontal bars: for each label one bar of each series, the first label on top."""
    shown = _largest(labels, series)
    figure, ax = _axes(7.2, 0.9 + len(shown) * (0.16 + 0.16 * len(series)))
    place = np.arange(len(shown), dtype=float)
    height = 0.8 / len(series)
    for i, (name, values) in enumerate(series):
        color, hatch = LOOKS[i % len(LOOKS)]
        lengths = [values[j] or 0.0 for j in shown]
        at = place + (i - (len(series) - 1) / 2) * height
        ax.barh(at, lengths, height, color=color, hatch=hatch, edgecolor="white", linewidth=0.4, label=cut(name, 30))
        for y, length in zip(at, lengths, strict=True):
            ax.text(length, y, f" {spell(float(f'{length:.3g}'))}", va="center", fontsize=7)
    ax.set_yticks(place, [cut(labels[j], 40) for j in shown], parse_math=False, fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    _finish(ax, unit, "")
    return figure


def curves_figure(labels: Sequence[str], series: Rows, unit: str) -> Figure:
    """Return one line of dots for each series over the labels."""
    shown = list(range(min(len(labels), MOST_LAYERS)))
    figure, ax = _axes(7.2, 3.2)
    for i, (name, values) in enumerate(series):
        color, _ = LOOKS[i % len(LOOKS)]
        heights = [np.nan if values[j] is None else values[j] for j in shown]
        known = np.array(heights, dtype=float)
        ax.plot(shown, known, color=color, marker="os^Dvp"[i % 6], markersize=5, linewidth=1, label=cut(name, 30))
    ax.axhline(0, color="#888888", linewidth=0.8)
    ax.set_xticks(shown, [cut(labels[j], 18) for j in shown], parse_math=False, rotation=35, ha="right", fontsize=8)
    _finish(ax, "", unit)
    return figure


def _largest(labels: Sequence[str], series: Rows) -> list[int]:
    """Return the places of the labels to show: all of them, or the largest in their order."""
    sizes = [max((values[j] or 0.0 for _, values in series), default=0.0) for j in range(len(labels))]
    return sorted(sorted(range(len(labels)), key=lambda j: -sizes[j])[:MOST_LAYERS])


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    return figure, figure.subplots()


def _finish(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, parse_math=False)
    ax.set_ylabel(y, parse_math=False)
    ax.tick_params(axis="both", labelsize=8)
    ax.grid(visible=True, axis="x" if x else "y", color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    sns.despine(ax=ax)
    legend = ax.legend(fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
