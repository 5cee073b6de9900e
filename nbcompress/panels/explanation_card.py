"""The card of an explanation: attributions of both models beside each other, as images, coloured tokens, or bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from nbcompress.compressors.data import Batch, Batches
from nbcompress.compressors.outputs import OutputKey
from nbcompress.errors import NbcompressError
from nbcompress.measure.explain import ROW_HEADER, explain
from nbcompress.measure.inputs import ordered_batches
from nbcompress.panels.card_figures import SERIES_STYLES, WIDTH
from nbcompress.panels.cards import Card, Drawing, FoldedTable
from nbcompress.panels.figures import BLUE, GREY, INK, VERMILION
from nbcompress.panels.text import shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nbcompress.measure import AccuracyChange, Explanation

# The most examples of a picture, and of the table.
MAX_EXAMPLES = 4
MAX_TABLE_ROWS = 12
# The most bars of an example, and tokens.
MAX_BARS = 10
MAX_TOKENS = 60
# Letters in a line of tokens, and of one token.
LINE_LETTERS = 84
MAX_TOKEN_LETTERS = 14

# The most flipped examples that a card explains, and the points on their line.
_MAX_FLIPS = 4
_FLIP_STEPS = 16
# Examples that are read at a time in search of them.
_READ_SIZE = 64

# From against the explained output to for it.
_SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "white", VERMILION])
_NAMES = ("before", "after")


def explanation_card(explanation: Explanation, *, title: str = "explain") -> dict[str, Any]:
    """Return the card of an explanation.

    Args:
        explanation: Attributions of the same examples by two models.
        title: Its first line.
    """
    shown = shown_examples(explanation)
    rows = explanation.rows()
    order = [*shown, *(i for i in range(len(rows)) if i not in shown)][:MAX_TABLE_ROWS]
    notes = explanation.notes()
    if len(order) < len(rows):
        notes.insert(0, f"{len(rows)} examples, {len(order)} shown; all are in the result")
    if explanation.flipped:
        n = len(explanation.flipped)
        notes.insert(0, f"{n} example{'s' * (n > 1)} with another prediction after: they are shown first")
    used = [i for i, name in enumerate(ROW_HEADER) if any(rows[j][i] for j in order) or not i]
    table = tuple(tuple(rows[j][i] for i in used) for j in order)
    drawing = Drawing(lambda: explanation_figure(explanation, shown), _alt(explanation, shown))
    return Card(title, tuple(ROW_HEADER[i] for i in used), table, tuple(notes), (), drawing).bundle()


def explain_flips(
    before: nn.Module,
    after: nn.Module,
    data: object,
    change: AccuracyChange,
    *,
    output: OutputKey | None = None,
    seconds: float = 5.0,
) -> Explanation | None:
    """Explain some examples whose prediction became wrong or right.

    Args:
        before: The original model.
        after: The compressed model.
        data: What their accuracies were measured on.
        change: Their accuracies.
        output: Index or key of the prediction, where a model returns several tensors.
        seconds: The most time that it may take, about.

    Returns:
        The explanation, with the numbers of the examples in the data. None if no example flipped, if examples are not
        one label each, if they cannot be explained by gradients, or if it would take too long.
    """
    numbers = tuple(sorted((*change.broken, *change.mended)[:_MAX_FLIPS]))
    start = perf_counter()
    try:
        found = _examples(data, numbers) if numbers else None
        if found is None:
            return None
        x: object = dict(found.kwargs) if found.kwargs else found.args
        explain(before, after, x, steps=1, output=output)
        if (perf_counter() - start) * _FLIP_STEPS > seconds:
            return None
        explanation = explain(before, after, x, steps=_FLIP_STEPS, output=output)
    except NbcompressError:
        return None
    measured = [item.predictions[list(numbers)] for item in (change.before, change.after)]
    # They differ where a number is not that of an example, as in a data set that draws its examples anew.
    are_same = all(torch.equal(*pair) for pair in zip(explanation.predicted, measured, strict=True))
    return replace(explanation, numbers=numbers) if are_same else None


def _examples(data: object, numbers: Sequence[int]) -> Batch | None:
    """The inputs of some examples of the data as one batch; None if they do not fit into one."""
    parts: list[Batch] = []
    n_seen = 0
    with ordered_batches(data, _READ_SIZE) as batches:
        for raw in batches:
            batch = Batches([raw]).first(nn.Identity())
            n = batch.n_examples
            if n is None or not isinstance(batch.target, Tensor) or batch.target.numel() != n:
                return None
            rows = [number - n_seen for number in numbers if n_seen <= number < n_seen + n]
            if any(not item.ndim or len(item) != n for item in batch.tensors):
                return None
            parts += [batch.mapped(lambda item, at=row: item[at : at + 1]) for row in rows]  # type: ignore[misc]
            n_seen += n
            if n_seen > max(numbers):
                break
    shapes = {tuple(item.shape for item in part.tensors) for part in parts}
    if len(parts) != len(numbers) or len(shapes) != 1:
        return None
    columns = iter([torch.cat(column) for column in zip(*(part.tensors for part in parts), strict=True)])
    return parts[0].mapped(lambda _: next(columns))


def flips_table(explanation: Explanation) -> FoldedTable:
    """Return the part of another card that explains examples whose prediction flipped."""
    used = [i for i in range(len(ROW_HEADER)) if i != 1]
    cells = tuple(tuple(row[i] for i in used) for row in explanation.rows())
    shown = range(len(cells))
    drawing = Drawing(lambda: explanation_figure(explanation, shown), _alt(explanation, shown))
    return FoldedTable("Which inputs decided", tuple(ROW_HEADER[i] for i in used), cells, drawing=drawing)


def shown_examples(explanation: Explanation) -> list[int]:
    """Return the examples of the picture: first those whose prediction flipped, then the first ones."""
    flipped = explanation.flipped
    others = (i for i in range(len(explanation.inputs)) if i not in flipped)
    return [*flipped, *others][:MAX_EXAMPLES]


def explanation_figure(explanation: Explanation, shown: Sequence[int]) -> Figure:
    """Return the attributions of some examples: images, tokens, or bars, by the shape of the inputs."""
    figures = {"Coloured tokens": _token_figure, "Maps": _image_figure, "Bars": _bar_figure}
    return figures[_kind(explanation)](explanation, shown)


def _kind(explanation: Explanation) -> str:
    """What the picture consists of."""
    shape = explanation.inputs.shape[1:]
    if explanation.is_tokens:
        return "Coloured tokens" if len(shape) == 1 else "Bars"
    return "Maps" if len(shape) in (2, 3) and min(shape[-2:]) > 1 else "Bars"


def _titles(explanation: Explanation, i: int) -> tuple[str, str, str]:
    """What stands above the example and the attributions of each model."""
    said = [values[i].item() for values in explanation.predicted]
    texts = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in said]
    return (
        f"example {_number(explanation, i)}",
        *(f"{name}: {text}" for name, text in zip(_NAMES, texts, strict=True)),
    )  # type: ignore[return-value]


def _number(explanation: Explanation, i: int) -> int:
    return explanation.numbers[i] if explanation.numbers else i


# Images ---------------------------------------------------------------------------------------------------------------


def _image_figure(explanation: Explanation, shown: Sequence[int]) -> Figure:
    figure = Figure(figsize=(WIDTH, 1.9 * len(shown) + 0.2), layout="constrained")
    grid = figure.subplots(len(shown), 3, squeeze=False)
    for i, axes in zip(shown, grid, strict=True):
        axes[0].imshow(_as_picture(explanation.inputs[i].double().numpy()), cmap="gray", aspect="auto")
        for ax, part in zip(axes[1:], (explanation.before, explanation.after), strict=True):
            _draw_map(ax, part[i].double().numpy())
        for ax, text in zip(axes, _titles(explanation, i), strict=True):
            ax.set_title(text, fontsize=9, parse_math=False)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
            height, width = explanation.inputs.shape[-2:]
            ax.set_aspect("equal" if max(height, width) <= 4 * min(height, width) else "auto")
    return figure


def _as_picture(values: NDArray[Any]) -> NDArray[Any]:
    """An image as matplotlib draws it: in colour for three channels, else the mean of the channels."""
    if values.ndim == 2:
        return values
    if len(values) != 3:
        return np.asarray(values.mean(0))
    low, high = values.min(), values.max()
    return np.asarray(np.moveaxis((values - low) / ((high - low) or 1.0), 0, -1))


def _draw_map(ax: Axes, values: NDArray[Any]) -> None:
    """Draw the sum over channels, on a scale of its own."""
    total = values.sum(0) if values.ndim == 3 else values
    limit = np.abs(total).max() or 1.0
    ax.imshow(total, cmap=_SIGNED, vmin=-limit, vmax=limit, aspect="auto")


# Tokens ---------------------------------------------------------------------------------------------------------------


def _token_figure(explanation: Explanation, shown: Sequence[int]) -> Figure:
    texts = [_token_texts(explanation, i) for i in shown]
    lines = [_lines(example) for example in texts]
    n_lines = sum(2 * len(example) + 1.9 for example in lines)
    figure = Figure(figsize=(WIDTH, 0.24 * n_lines + 0.1), layout="constrained")
    ax = figure.subplots()
    ax.set_axis_off()
    y = 0.0
    for i, example in zip(shown, lines, strict=True):
        name, *models = _titles(explanation, i)
        ax.text(0, y + 0.6, name, fontsize=9, weight="bold", va="center", parse_math=False)
        y += 1
        for text, part in zip(models, (explanation.before, explanation.after), strict=True):
            values = part[i].double().numpy()
            ax.text(0, y + 0.5, shorten(text, 18), fontsize=8, va="center", parse_math=False)
            y = _draw_tokens(ax, example, values, y)
            y += 0.2
        y += 0.5
    ax.set_xlim(-0.5, LINE_LETTERS + 17)
    ax.set_ylim(y, 0)
    return figure


def _token_texts(explanation: Explanation, i: int) -> list[str]:
    tokens = explanation.inputs[i].tolist()[:MAX_TOKENS]
    texts = [explanation.names.get(token, str(token)) for token in tokens]
    return [shorten(text, MAX_TOKEN_LETTERS) or " " for text in texts]


def _lines(texts: Sequence[str]) -> list[list[str]]:
    """The texts in lines of at most `LINE_LETTERS` letters."""
    lines: list[list[str]] = [[]]
    for text in texts:
        if lines[-1] and sum(len(item) + 1 for item in lines[-1]) + len(text) > LINE_LETTERS:
            lines.append([])
        lines[-1].append(text)
    return lines


def _draw_tokens(ax: Axes, lines: Sequence[Sequence[str]], values: NDArray[Any], y: float) -> float:
    """Draw tokens on a colour by their attribution, and return where the next line begins."""
    limit = np.abs(values).max() or 1.0
    place = 0
    for line in lines:
        x = 15.0
        for text in line:
            color = _SIGNED(0.5 + 0.5 * values[place] / limit)
            ax.add_patch(Rectangle((x, y + 0.08), len(text) + 0.8, 0.84, color=color, linewidth=0))
            middle = x + (len(text) + 0.8) / 2
            is_dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 0.55
            shade = "white" if is_dark else "black"
            ax.text(
                middle, y + 0.5, text, fontsize=7, family="monospace", ha="center", va="center", color=shade,
                parse_math=False,
            )  # fmt: skip
            x += len(text) + 1
            place += 1
        y += 1
    return y


# Bars -----------------------------------------------------------------------------------------------------------------


def _bar_figure(explanation: Explanation, shown: Sequence[int]) -> Figure:
    parts = [values.reshape(len(values), -1).double().numpy() for values in (explanation.before, explanation.after)]
    n_bars = min(MAX_BARS, parts[0].shape[1])
    n_columns = min(2, len(shown))
    n_rows = -(-len(shown) // n_columns)
    figure = Figure(figsize=(WIDTH, 0.3 + n_rows * (0.7 + 0.2 * n_bars)), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False).reshape(-1)
    for ax in grid[len(shown) :]:
        ax.set_axis_off()
    for ax, i in zip(grid, shown, strict=False):
        _draw_bars(ax, explanation, i, [part[i] for part in parts], n_bars)
    figure.legend(
        handles=grid[0].get_legend_handles_labels()[0], fontsize=8, frameon=False, ncols=2, loc="outside upper left"
    )
    return figure


def _draw_bars(ax: Axes, explanation: Explanation, i: int, values: Sequence[NDArray[Any]], n_bars: int) -> None:
    """Draw the largest attributions of an example, the largest at the top."""
    largest = np.maximum(*(np.abs(item) for item in values))
    places = np.argsort(-largest, kind="stable")[:n_bars]
    for j, (name, item) in enumerate(zip(_NAMES, values, strict=True)):
        color, hatch = SERIES_STYLES[j]
        at = np.arange(len(places)) + (j - 0.5) * 0.4
        ax.barh(at, item[places], 0.4, color=color, hatch=hatch, edgecolor=INK, linewidth=0.4, label=name)
    shape = explanation.inputs.shape[1:]
    labels = [explanation.names.get(int(place), _place_text(int(place), shape)) for place in places]
    ax.set_yticks(np.arange(len(places)), [shorten(label, 22) for label in labels], fontsize=8, parse_math=False)
    ax.invert_yaxis()
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.tick_params(axis="x", labelsize=8)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
    ax.set_title(", ".join(_titles(explanation, i)), fontsize=9, parse_math=False)


def _place_text(place: int, shape: Sequence[int]) -> str:
    return ", ".join(str(int(axis)) for axis in np.unravel_index(place, shape)) if len(shape) > 1 else f"input {place}"


def _alt(explanation: Explanation, shown: Sequence[int]) -> str:
    kind = _kind(explanation)
    # The bars of both models share an axis.
    scales = "" if kind == "Bars" else ", each model on its own scale"
    what = f"{kind}: which inputs decide, before and after{scales}"
    parts = []
    for i in shown:
        name, before, after = _titles(explanation, i)
        correlation = float(explanation.agreement[i])
        agreement = "" if correlation != correlation else f", rank correlation {correlation:.2f}"
        parts.append(f"{name} ({before}, {after}{agreement})")
    sides = "to the right counts for the output, to the left" if kind == "Bars" else "red counts for the output, blue"
    return f"{what}; {sides} against it: {'; '.join(parts)}."


__all__ = ["explain_flips", "explanation_card", "explanation_figure", "flips_table", "shown_examples"]
