"""Figures of a study for paper and saved notebooks, drawn by seaborn from a view.

Each figure is built directly and never through `pyplot`, whose global state a callback on another thread can
corrupt. Colours are those of Okabe and Ito, which colour-blind readers tell apart; every state has a shape as well.
"""

from __future__ import annotations

import io
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from nbcompress.panels.text import cut, spell

BLUE, VERMILION, ORANGE, GREEN, PINK, SKY, GREY = (
    "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#777777",
)  # fmt: skip
STATES = {
    "complete": (BLUE, "o"),
    "stopped": (SKY, "s"),
    "infeasible": (ORANGE, "^"),
    "failed": (PINK, "X"),
    "interrupted": (GREY, "D"),
    "running": (GREY, "P"),
}
LABEL = 36
# Values further apart than this factor get a logarithmic axis, here and in the panel.
WIDE = 20.0
# Residuals beyond so many standard deviations are drawn there.
FAR = 5.0

View = Mapping[str, Any]


def overview_figure(view: View) -> Figure:
    """Return trade-off and history side by side."""
    figure = _figure(9.6, 3.9)
    left, right = figure.subplots(1, 2)
    draw_tradeoff(left, view)
    draw_history(right, view)
    return figure


def tradeoff_figure(view: View) -> Figure:
    """Return the first two objectives against each other, or the one against the trials."""
    figure = _figure(6.0, 4.2)
    draw_tradeoff(figure.subplots(), view)
    return figure


def history_figure(view: View) -> Figure:
    """Return the best value, or the hypervolume, after each trial."""
    figure = _figure(6.0, 4.2)
    draw_history(figure.subplots(), view)
    return figure


def slices_figure(view: View, columns: int = 4, most: int = 8) -> Figure | None:
    """Return the slices in the first objective, each with its acquisition below; None if there are none."""
    slices = view["slices"][:most]
    if not slices:
        return None
    columns = min(columns, len(slices))
    rows = -(-len(slices) // columns)
    figure = _figure(2.5 * columns + 0.4, 2.7 * rows)
    axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2, 1] * rows)
    for i in range(rows * columns):
        above, below = axes[2 * (i // columns)][i % columns], axes[2 * (i // columns) + 1][i % columns]
        if i < len(slices):
            draw_slice(above, below, slices[i], _is_log(view, slices[i]["parameter"]))
        else:
            above.set_axis_off()
            below.set_axis_off()
    return figure


def calibration_figure(view: View) -> Figure | None:
    """Return how far trials lie from what the others foretell, in standard deviations; None if it is not known."""
    trust = view.get("calibration")
    if not trust:
        return None
    figure = _figure(4.6, 1.7)
    ax = figure.subplots()
    values = np.clip([one for one in trust["residuals"] if one is not None], -FAR, FAR)
    ax.axvspan(-1.96, 1.96, color=SKY, alpha=0.35, linewidth=0)
    sns.histplot(x=values, ax=ax, color=BLUE, binwidth=0.5, binrange=(-FAR, FAR))
    _name_axes(ax, f"{cut(trust['metric'], 20)}: standard deviations off", "trials")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    return figure


def draw_tradeoff(ax: Axes, view: View) -> None:
    """Draw the trials by state, the front, the constraints and the baseline."""
    objectives = [one["metric"] for one in view["goal"]["objectives"]]
    x_name, y_name = (objectives[1], objectives[0]) if len(objectives) > 1 else (None, objectives[0])
    for state, (color, marker) in STATES.items():
        dots = [_position(one, x_name, y_name) for one in view["trials"] if one["state"] == state]
        dots = [dot for dot in dots if dot is not None]
        if dots:
            x, y = np.array(dots, dtype=float).T
            sns.scatterplot(x=x, y=y, ax=ax, color=color, marker=marker, s=36, alpha=0.8, label=state, linewidth=0.4)
    chosen = set(view["front"]) if x_name else {view["best"]}
    front = [_position(one, x_name, y_name) for one in view["trials"] if one["number"] in chosen]
    ends = sorted(dot for dot in front if dot is not None)
    if ends:
        x, y = np.array(ends, dtype=float).T
        if len(objectives) == 2:  # of more than two the front is no line
            ax.plot(x, y, color=VERMILION, linewidth=1.4, zorder=1)
        label = "front" if x_name else "best"
        ax.scatter(x, y, s=90, facecolors="none", edgecolors=VERMILION, linewidths=1.5, label=label)
    _draw_bounds(ax, view, x_name, y_name)
    _stretch(ax, view, x_name, y_name)
    _name_axes(ax, x_name or "trial", y_name)
    _draw_rug(ax, view, x_name, y_name)
    _legend(ax)


def _stretch(ax: Axes, view: View, x_name: str | None, y_name: str) -> None:
    """Make an axis logarithmic where its values are so far apart that most of them would lie in a corner.

    An objective to maximize keeps its straight axis: its best values lie close together at the top.
    """
    gains = {one["metric"] for one in view["goal"]["objectives"] if one["direction"] == "maximize"}
    baseline = (view["baseline"] or {}) if x_name else {}
    for name, set_scale, axis in ((x_name, ax.set_xscale, ax.xaxis), (y_name, ax.set_yscale, ax.yaxis)):
        values = [one["metrics"].get(name) for one in view["trials"]] + [baseline.get(name)]
        values += [one["bound"] for one in view["goal"]["constraints"] if one["metric"] == name]
        if name is not None and name not in gains and is_wide([one for one in values if one is not None]):
            set_scale("log")
            _number_ticks(axis)


def is_wide(values: Sequence[float]) -> bool:
    """Say whether values need a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > WIDE


def _number_ticks(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain numbers, where the page has them too: at 1, 3, 10, 30, ..."""
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: spell(value)))
    axis.set_minor_formatter(NullFormatter())


def _draw_rug(ax: Axes, view: View, x_name: str | None, y_name: str) -> None:
    """Draw trials that lack one of the two metrics at the edge of the axis that they know."""
    known: dict[tuple[str, bool], list[float]] = {}
    for one in view["trials"]:
        x = one["number"] if x_name is None else one["metrics"].get(x_name)
        y = one["metrics"].get(y_name)
        if (x is None) != (y is None) and one["state"] != "running":
            known.setdefault((one["state"], y is None), []).append(x if y is None else y)
    for (state, lacks_y), values in known.items():
        color, marker = STATES[state]
        # The missing coordinate is the edge, counted in shares of the axis.
        edge = [0.0] * len(values)
        x, y = (values, edge) if lacks_y else (edge, values)
        across = ax.get_xaxis_transform() if lacks_y else ax.get_yaxis_transform()
        label = f"{state}, no {cut(y_name if lacks_y else x_name, LABEL)}"
        ax.scatter(x, y, transform=across, color=color, marker=marker, s=32, linewidth=0.2, clip_on=False, label=label)


def _draw_bounds(ax: Axes, view: View, x_name: str | None, y_name: str) -> None:
    for one in view["goal"]["constraints"]:
        label = f"{cut(one['metric'], LABEL)} {one['operator']} {spell(one['bound'])}"
        if one["metric"] == x_name:
            ax.axvline(one["bound"], color=GREY, linestyle="--", linewidth=1, label=label)
        elif one["metric"] == y_name:
            ax.axhline(one["bound"], color=GREY, linestyle="--", linewidth=1, label=label)
    baseline = view["baseline"] or {}
    y = baseline.get(y_name)
    if y is None:
        return
    if x_name is None:
        ax.axhline(y, color=GREEN, linestyle=":", linewidth=1.4, label="baseline")
    elif baseline.get(x_name) is not None:
        ax.scatter([baseline[x_name]], [y], marker="*", s=140, color=GREEN, edgecolors="black", label="baseline")


def draw_history(ax: Axes, view: View) -> None:
    """Draw how far the search had come after each trial."""
    progress = view["progress"] or {"label": "best", "values": []}
    pairs = [
        (trial["number"], value)
        for trial, value in zip(view["trials"], progress["values"], strict=True)
        if value is not None
    ]
    if pairs:
        x, y = np.array(pairs, dtype=float).T
        first = view["goal"]["objectives"][0]
        if progress["label"] == f"best {first['metric']}" and first["direction"] == "minimize" and is_wide(list(y)):
            ax.set_yscale("log")
            _number_ticks(ax.yaxis)
        ax.step(x, y, where="post", color=BLUE, linewidth=1.8)
        sns.scatterplot(x=x, y=y, ax=ax, color=BLUE, s=14, linewidth=0)
    else:
        ax.text(0.5, 0.5, "no feasible trial yet", ha="center", va="center", transform=ax.transAxes)
    _name_axes(ax, "trial", progress["label"])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_slice(above: Axes, below: Axes, one: Mapping[str, Any], is_log: bool) -> None:
    """Draw mean and 95 % band of the first metric above, the acquisition below."""
    values = one["values"]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    x = np.array(values, dtype=float) if numeric else np.arange(len(values), dtype=float)
    metric = one["metrics"][0]
    mean, low, high = (np.array(metric[key], dtype=float) for key in ("mean", "low", "high"))
    acquisition = np.array(one["acquisition"], dtype=float)
    if numeric:
        above.fill_between(x, low, high, color=SKY, alpha=0.35, linewidth=0)
        sns.lineplot(x=x, y=mean, ax=above, color=BLUE)
        sns.lineplot(x=x, y=acquisition, ax=below, color=VERMILION)
    else:
        above.errorbar(x, mean, yerr=[mean - low, high - mean], fmt="o", color=BLUE, ecolor=SKY, capsize=3)
        shown = acquisition - np.nanmin(acquisition) if np.isfinite(acquisition).any() else acquisition
        below.bar(x, shown, color=VERMILION, width=0.6)
        below.set_xticks(x, [cut(spell(value), 12) for value in values], parse_math=False, rotation=20)
    for value, ax in ((one["next"], above), (one["next"], below)):
        if value in values:
            ax.axvline(x[values.index(value)], color=VERMILION, linestyle=":", linewidth=1)
    if numeric and is_log and (x > 0).all():
        for ax in (above, below):
            ax.set_xscale("log")
            # Between the powers of ten there is no room for numbers.
            ax.xaxis.set_minor_formatter(NullFormatter())
    above.tick_params(axis="x", which="both", labelbottom=False)
    _name_axes(above, "", cut(metric["metric"], 20))
    _name_axes(below, one["parameter"], "acquisition")
    below.set_yticks([])


def png(figure: Figure, dpi: int = 110) -> str:
    """Return the figure as a PNG in base64, of few colours so that it stays small."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; the table holds the true text.
        warnings.filterwarnings("ignore", message=r".*[Gg]lyph.*")
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    image = Image.fromarray(pixels).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return b64encode(stream.getvalue()).decode("ascii")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _position(trial: Mapping[str, Any], x_name: str | None, y_name: str) -> tuple[float, float] | None:
    x = trial["number"] if x_name is None else trial["metrics"].get(x_name)
    y = trial["metrics"].get(y_name)
    return None if x is None or y is None else (x, y)


def _is_log(view: View, parameter: str) -> bool:
    return any(one.get("log", False) for one in view["parameters"] if one["name"] == parameter)


def _name_axes(ax: Axes, x: str, y: str) -> None:
    # A user's dollar sign is a dollar sign.
    ax.set_xlabel(cut(x, LABEL), parse_math=False)
    ax.set_ylabel(cut(y, LABEL), parse_math=False)
    ax.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8)
    sns.despine(ax=ax)


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        ax.text(0.5, 0.5, "nothing measured yet", ha="center", va="center", transform=ax.transAxes)
        return
    legend = ax.legend(handles, labels, fontsize=7, frameon=True, framealpha=0.85, edgecolor="none")
    for text in legend.get_texts():
        text.set_parse_math(False)


def describe(view: View) -> str:
    """Return what the overview shows in words, for who cannot see it."""
    shown, total = len(view["trials"]), sum(view["counts"].values())
    parts = ", ".join(f"{n} {state}" for state, n in view["counts"].items())
    objectives = " against ".join(one["metric"] for one in view["goal"]["objectives"][:2])
    trials = f"{total} trials" if shown == total else f"{shown} of {total} trials"
    text = f"Left: {objectives} of {trials} ({parts}); {len(view['front'])} on the front."
    values = [one for one in (view["progress"] or {"values": []})["values"] if one is not None]
    if values:
        text += f" Right: {view['progress']['label']} after each trial, from {spell(values[0])} to {spell(values[-1])}."
    return text
