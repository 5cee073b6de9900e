"""Figures of a study, drawn with seaborn from a view, and how a figure becomes a picture.

Pictures have matplotlib's own style whatever style the notebook has set. A figure that cannot be drawn is replaced by a
sentence, so that the output around it is still shown.

Each figure is built directly and never through `pyplot`, whose global state a callback on another thread can
corrupt. Colours are those of Okabe and Ito, which colour-blind readers can tell apart; every state has a shape as well.
"""

from __future__ import annotations

import io
import threading
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from nbcompress.panels.document import StudyPictures, View, summary_lines
from nbcompress.panels.html import Picture
from nbcompress.panels.surrogate_data import WIDTH_95
from nbcompress.panels.text import format_value, shorten

BLUE, VERMILION, ORANGE, GREEN, PINK, SKY, GREY = (
    "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#777777",
)  # fmt: skip
STATE_STYLES = {
    "complete": (BLUE, "o"),
    "stopped": (SKY, "s"),
    "infeasible": (ORANGE, "^"),
    "failed": (PINK, "X"),
    "interrupted": (GREY, "D"),
    "running": (GREY, "P"),
}
MAX_LABEL = 36
# Values whose largest is more than this many times the smallest get a logarithmic axis, here and in `scales.ts`.
LOG_SCALE_RATIO = 20.0
# Residuals of more standard deviations are drawn in the last bin.
MAX_RESIDUAL = 5.0


# Matplotlib computes with sums and multiples of the ends of an axis, which must stay within the range of a float.
MAX_DRAWN = 1e300
CLIPPED_NOTE = f"Values beyond {MAX_DRAWN:g} are drawn at {MAX_DRAWN:g}."


def clipped(view: View) -> View:
    """Return a view whose metrics can be drawn; it has the key `is_clipped` if some are clipped to `MAX_DRAWN`."""
    progress = view["progress"]
    metrics = [trial["metrics"] for trial in view["trials"]]
    values = [value for known in metrics for value in known.values()] + (progress["values"] if progress else [])
    if all(value is None or abs(value) <= MAX_DRAWN for value in values):
        return view

    def clip(value: float | None) -> float | None:
        return None if value is None else max(-MAX_DRAWN, min(MAX_DRAWN, value))

    trials = [
        {**trial, "metrics": {name: clip(value) for name, value in trial["metrics"].items()}}
        for trial in view["trials"]
    ]
    drawn = {**view, "trials": trials, "is_clipped": True}
    return drawn | ({"progress": {**progress, "values": list(map(clip, progress["values"]))}} if progress else {})


def draw_pictures(view: View) -> StudyPictures:
    """Draw every picture for which the view has data."""
    drawn = clipped(view)
    return StudyPictures(
        render(lambda: overview_figure(drawn)),
        render(lambda: slices_figure(view), dpi=85),
        render(lambda: calibration_figure(view), dpi=85),
        render(lambda: summary_figure(drawn, summary_lines(view))),
    )


def overview_figure(view: View) -> Figure:
    """Return trade-off and history side by side."""
    figure = _figure(9.6, 3.9)
    _draw_overview(figure, view)
    return figure


def _draw_overview(figure: FigureBase, view: View) -> None:
    left, right = figure.subplots(1, 2)
    draw_tradeoff(left, view)
    draw_history(right, view)
    if "is_clipped" in view:
        figure.suptitle(CLIPPED_NOTE, fontsize=8)


def summary_figure(view: View, lines: Sequence[str]) -> Figure:
    """Return the overview, with the winner and a table of the front as text below: LaTeX and PDF show nothing else.

    Args:
        view: The data of `study_view`.
        lines: The text.
    """
    above, below = 3.9, 0.14 * (len(lines) + 2)
    figure = _figure(9.6, above + below)
    pictures, text = figure.subfigures(2, 1, height_ratios=[above, below], squeeze=False)[:, 0]
    _draw_overview(pictures, view)
    text.text(0.01, 0.98, "\n".join(lines), va="top", family="monospace", fontsize=7, parse_math=False)
    return figure


def slices_figure(view: View, columns: int = 4, max_slices: int = 8) -> Figure | None:
    """Return the slices in the first objective, each with its acquisition below; None if there are none."""
    slices = view["slices"][:max_slices]
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
    """Return the histogram of how far trials lie from their predictions; None if it is not known."""
    calibration = view.get("calibration")
    if not calibration:
        return None
    figure = _figure(4.6, 1.7)
    ax = figure.subplots()
    values = np.clip(
        [residual for residual in calibration["residuals"] if residual is not None], -MAX_RESIDUAL, MAX_RESIDUAL
    )
    ax.axvspan(-WIDTH_95, WIDTH_95, color=SKY, alpha=0.35, linewidth=0)
    sns.histplot(x=values, ax=ax, color=BLUE, binwidth=0.5, binrange=(-MAX_RESIDUAL, MAX_RESIDUAL))
    _name_axes(ax, f"{shorten(calibration['metric'], 20)}: residual / std", "trials")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    return figure


def draw_tradeoff(ax: Axes, view: View) -> None:
    """Draw the trials by state, the front, the constraints and the baseline."""
    objectives = [objective["metric"] for objective in view["goal"]["objectives"]]
    x_name, y_name = (objectives[1], objectives[0]) if len(objectives) > 1 else (None, objectives[0])
    for state, (color, marker) in STATE_STYLES.items():
        dots = [_position(trial, x_name, y_name) for trial in view["trials"] if trial["state"] == state]
        dots = [dot for dot in dots if dot is not None]
        if dots:
            x, y = np.array(dots, dtype=float).T
            sns.scatterplot(x=x, y=y, ax=ax, color=color, marker=marker, s=36, alpha=0.8, label=state, linewidth=0.4)
    chosen = set(view["front"]) if x_name else {view["best"]}
    front = [_position(trial, x_name, y_name) for trial in view["trials"] if trial["number"] in chosen]
    ends = sorted(dot for dot in front if dot is not None)
    if ends:
        x, y = np.array(ends, dtype=float).T
        if len(objectives) == 2:  # of more than two the front is no line
            ax.plot(x, y, color=VERMILION, linewidth=1.4, zorder=1)
        label = "front" if x_name else "best"
        ax.scatter(x, y, s=90, facecolors="none", edgecolors=VERMILION, linewidths=1.5, label=label)
    _draw_bounds(ax, view, x_name, y_name)
    _set_log_scales(ax, view, x_name, y_name)
    _name_axes(ax, x_name or "trial", y_name)
    _draw_rug(ax, view, x_name, y_name)
    _legend(ax)


def _set_log_scales(ax: Axes, view: View, x_name: str | None, y_name: str) -> None:
    """Make an axis logarithmic if its values are far apart, because most of them would lie in a corner.

    The axis of an objective to maximize stays linear, because its best values lie close together at the top.
    """
    maximized = {
        objective["metric"] for objective in view["goal"]["objectives"] if objective["direction"] == "maximize"
    }
    baseline = (view["baseline"] or {}) if x_name else {}
    for name, set_scale, axis in ((x_name, ax.set_xscale, ax.xaxis), (y_name, ax.set_yscale, ax.yaxis)):
        values = [trial["metrics"].get(name) for trial in view["trials"]] + [baseline.get(name)]
        values += [constraint["bound"] for constraint in view["goal"]["constraints"] if constraint["metric"] == name]
        if (
            name is not None
            and name not in maximized
            and needs_log_scale([value for value in values if value is not None])
        ):
            set_scale("log")
            _set_plain_ticks(axis)


def needs_log_scale(values: Sequence[float]) -> bool:
    """Return whether values need a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_SCALE_RATIO


def _set_plain_ticks(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain numbers at 1, 3, 10, 30, ..., as the page does."""
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value)))
    axis.set_minor_formatter(NullFormatter())


def _draw_rug(ax: Axes, view: View, x_name: str | None, y_name: str) -> None:
    """Draw trials that lack one of the two metrics along the axis of the other."""
    known: dict[tuple[str, bool], list[float]] = {}
    for trial in view["trials"]:
        x = trial["number"] if x_name is None else trial["metrics"].get(x_name)
        y = trial["metrics"].get(y_name)
        if (x is None) != (y is None) and trial["state"] != "running":
            known.setdefault((trial["state"], y is None), []).append(x if y is None else y)
    for (state, lacks_y), values in known.items():
        color, marker = STATE_STYLES[state]
        # The missing coordinate is 0 in axes coordinates, which is the edge.
        edge = [0.0] * len(values)
        x, y = (values, edge) if lacks_y else (edge, values)
        across = ax.get_xaxis_transform() if lacks_y else ax.get_yaxis_transform()
        label = f"{state}, no {shorten(y_name if lacks_y else x_name, MAX_LABEL)}"
        # The limits of the axis do not follow marks that are placed in axes coordinates.
        points = np.array([values, values], dtype=float).T
        ax.update_datalim(points, updatex=lacks_y, updatey=not lacks_y)
        ax.autoscale_view()
        ax.scatter(x, y, transform=across, color=color, marker=marker, s=32, linewidth=0.2, clip_on=False, label=label)


def _draw_bounds(ax: Axes, view: View, x_name: str | None, y_name: str) -> None:
    for constraint in view["goal"]["constraints"]:
        label = (
            f"{shorten(constraint['metric'], MAX_LABEL)} {constraint['operator']} {format_value(constraint['bound'])}"
        )
        if constraint["metric"] == x_name:
            ax.axvline(constraint["bound"], color=GREY, linestyle="--", linewidth=1, label=label)
        elif constraint["metric"] == y_name:
            ax.axhline(constraint["bound"], color=GREY, linestyle="--", linewidth=1, label=label)
    baseline = view["baseline"] or {}
    y = baseline.get(y_name)
    if y is None:
        return
    if x_name is None:
        ax.axhline(y, color=GREEN, linestyle=":", linewidth=1.4, label="baseline")
    elif baseline.get(x_name) is not None:
        ax.scatter([baseline[x_name]], [y], marker="*", s=140, color=GREEN, edgecolors=GREY, label="baseline")


def draw_history(ax: Axes, view: View) -> None:
    """Draw the progress of the search after each trial."""
    progress = view["progress"] or {"label": "best", "values": []}
    pairs = [
        (trial["number"], value)
        for trial, value in zip(view["trials"], progress["values"], strict=True)
        if value is not None
    ]
    if pairs:
        x, y = np.array(pairs, dtype=float).T
        first = view["goal"]["objectives"][0]
        if (
            progress["label"] == f"best {first['metric']}"
            and first["direction"] == "minimize"
            and needs_log_scale(list(y))
        ):
            ax.set_yscale("log")
            _set_plain_ticks(ax.yaxis)
        ax.step(x, y, where="post", color=BLUE, linewidth=1.8)
        sns.scatterplot(x=x, y=y, ax=ax, color=BLUE, s=14, linewidth=0)
    else:
        ax.text(0.5, 0.5, "no feasible trial yet", ha="center", va="center", transform=ax.transAxes)
    _name_axes(ax, "trial", progress["label"])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_slice(above: Axes, below: Axes, slice_: Mapping[str, Any], is_log: bool) -> None:
    """Draw mean and 95 % band of the first metric above, the acquisition below."""
    values = slice_["values"]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    x = np.array(values, dtype=float) if numeric else np.arange(len(values), dtype=float)
    metric = slice_["metrics"][0]
    mean, low, high = (np.array(metric[key], dtype=float) for key in ("mean", "low", "high"))
    acquisition = np.array(slice_["acquisition"], dtype=float)
    if numeric:
        above.fill_between(x, low, high, color=SKY, alpha=0.35, linewidth=0)
        sns.lineplot(x=x, y=mean, ax=above, color=BLUE)
        sns.lineplot(x=x, y=acquisition, ax=below, color=VERMILION)
    else:
        above.errorbar(x, mean, yerr=[mean - low, high - mean], fmt="o", color=BLUE, ecolor=SKY, capsize=3)
        shown = acquisition - np.nanmin(acquisition) if np.isfinite(acquisition).any() else acquisition
        below.bar(x, shown, color=VERMILION, width=0.6)
        for ax in (above, below):
            ax.set_xlim(-0.5, len(x) - 0.5)
        below.set_xticks(x, [shorten(format_value(value), 12) for value in values], parse_math=False, rotation=20)
    for value, ax in ((slice_["next"], above), (slice_["next"], below)):
        if value in values:
            ax.axvline(x[values.index(value)], color=VERMILION, linestyle=":", linewidth=1)
    if numeric and is_log and (x > 0).all():
        for ax in (above, below):
            ax.set_xscale("log")
            # Between the powers of ten there is no room for numbers.
            ax.xaxis.set_minor_formatter(NullFormatter())
    above.tick_params(axis="x", which="both", labelbottom=False)
    _name_axes(above, "", shorten(metric["metric"], 20))
    _name_axes(below, slice_["parameter"], "acquisition")
    below.set_yticks([])


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _position(trial: Mapping[str, Any], x_name: str | None, y_name: str) -> tuple[float, float] | None:
    x = trial["number"] if x_name is None else trial["metrics"].get(x_name)
    y = trial["metrics"].get(y_name)
    return None if x is None or y is None else (x, y)


def _is_log(view: View, parameter: str) -> bool:
    return any(axis.get("log", False) for axis in view["parameters"] if axis["name"] == parameter)


def _name_axes(ax: Axes, x: str, y: str) -> None:
    # A dollar sign in a name must not start a formula.
    ax.set_xlabel(shorten(x, MAX_LABEL), parse_math=False)
    ax.set_ylabel(shorten(y, MAX_LABEL), parse_math=False)
    ax.grid(visible=True, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8)
    sns.despine(ax=ax)


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        ax.text(0.5, 0.5, "nothing measured yet", ha="center", va="center", transform=ax.transAxes)
        return
    legend = ax.legend(handles, labels, fontsize=7, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


# --- From a figure to a picture ---

# The page shows through, so that a figure can be read in a light and in a dark theme. The grey has a contrast of 4.5 to
# white and to black.
INK = "#767676"
_STYLE: dict[str, Any] = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": INK,
    "grid.alpha": 0.25,
}
# Settings that say where and when to draw, not how it looks.
_NO_STYLE = (
    "backend", "date.epoch", "docstring.", "figure.max_open_warning", "figure.raise_window", "interactive", "keymap.",
    "savefig.", "timezone", "tk.", "toolbar", "webagg.",
)  # fmt: skip
# The settings belong to the whole process.
_LOCK = threading.RLock()


def render(draw: Callable[[], Figure | None], dpi: int = 110) -> Picture | None:
    """Draw a figure.

    Args:
        draw: Builds the figure, or returns None if there is nothing to draw. It is called in the default style, since
            artists take the style that they are made in.
        dpi: Dots per inch.

    Returns:
        The picture, or None if there is nothing to draw.
    """
    try:
        with default_style():
            figure = draw()
            return Picture(png(figure, dpi)) if figure is not None else None
    except Exception as error:  # noqa: BLE001 - whatever matplotlib and its fonts may raise
        reason = (str(error).strip().splitlines() or [""])[0]
        text = f"The picture could not be drawn: {type(error).__name__}: {shorten(reason, 200)}".rstrip(": ")
        return Picture(None, f"{text}.")


def png(figure: Figure, dpi: int = 110) -> str:
    """Return the figure as a PNG in base64, with 96 colours so that it stays small."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; the table holds the true text.
        warnings.filterwarnings("ignore", message=r".*[Gg]lyph.*")
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    image = Image.fromarray(pixels).quantize(96, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return b64encode(stream.getvalue()).decode("ascii")


@contextmanager
def default_style() -> Iterator[None]:
    """Set matplotlib's default style, with our colours, inside the `with` block.

    Only settings that differ are set. Afterwards a setting is restored only if it still is as it was set here, since
    another thread of the notebook may choose a style meanwhile.
    """
    with _LOCK:
        current: Any = mpl.rcParams
        library_defaults: Any = mpl.rcParamsDefault
        defaults: dict[str, Any] = {}
        replaced: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", mpl.MatplotlibDeprecationWarning)
            for key, value in {**library_defaults, **_STYLE}.items():
                if not key.startswith(_NO_STYLE) and current[key] != value:
                    defaults[key], replaced[key] = value, current[key]
            current.update(defaults)
        try:
            yield
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", mpl.MatplotlibDeprecationWarning)
                current.update({key: value for key, value in replaced.items() if current[key] == defaults[key]})
