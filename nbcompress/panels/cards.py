"""Cards: what a magic shows of its result, as text, HTML and picture.

A card is plain data; the functions below fill it from what `nbcompress.measure` returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbcompress.panels.card_figures import bars_figure, curves_figure
from nbcompress.panels.figures import png
from nbcompress.panels.html import Markup, details, join, picture, table, tag, user
from nbcompress.panels.text import cut, size, spell

if TYPE_CHECKING:
    from nbcompress.measure import Comparison, Footprint, Footprints, Sensitivity

# Scores by the name of the function that gave them, then by the model's.
Scores = Mapping[str, Mapping[str, float]]
NAME = 60


@dataclass(frozen=True)
class Series:
    """Numbers of one model for every layer, or of one layer for every level."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Card:
    """What a card shows.

    Attributes:
        title: Its first line.
        head: The columns of the table; the first holds names.
        rows: The table.
        notes: Sentences below it.
        text: The whole card as plain text.
        labels: What the picture has along its axis, such as layers.
        series: What it shows of each label.
        unit: The unit of the numbers in the picture.
        kind: `bars` or `curves`.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    text: str = ""
    labels: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()
    unit: str = ""
    kind: str = "bars"
    folded: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]], ...] = field(default=())

    def bundle(self) -> dict[str, Any]:
        """Return the mime bundle: text, HTML without style sheets or scripts, and a picture if there is one."""
        drawn = png(self._figure(), dpi=100) if self.series and self.labels else None
        bundle = {"text/plain": self.text or self._as_text(), "text/html": str(self._html(drawn))}
        return bundle | ({"image/png": drawn} if drawn else {})

    def _figure(self) -> Any:
        draw = bars_figure if self.kind == "bars" else curves_figure
        return draw(self.labels, [(one.name, one.values) for one in self.series], self.unit)

    def _html(self, drawn: str | None) -> Markup:
        cells = [[user(cell) for cell in row] for row in self.rows]
        return tag(
            "div",
            tag("div", user(self.title), style="font-weight:600"),
            table(self.head, cells, texts=frozenset({0})),
            picture(drawn, self._alt(), 720) if drawn else None,
            [
                details(name, table(head, [[user(cell) for cell in row] for row in rows], texts=frozenset({0})))
                for name, head, rows in self.folded
            ],
            join(tag("div", user(one), style="opacity:.75") for one in self.notes),
            style="line-height:1.4",
        )

    def _alt(self) -> str:
        parts = []
        for one in self.series:
            known = [(label, value) for label, value in zip(self.labels, one.values, strict=True) if value is not None]
            if known:
                label, value = max(known, key=lambda pair: pair[1])
                parts.append(f"{one.name}: most at {label}, {spell(value)}")
        return cut(f"{self.unit} of {len(self.labels)} layers. " + "; ".join(parts), 600)

    def _as_text(self) -> str:
        lines = [self.title, "  ".join(self.head), *("  ".join(row) for row in self.rows), *self.notes]
        return "\n".join(lines)


def comparison_card(
    title: str, comparison: Comparison, *, scores: Scores | None = None, left_out: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the card of a compressor: before and after, and where the bytes went.

    Args:
        title: Such as `%prune`.
        comparison: Both models, measured in turn.
        scores: What the user's functions gave for `before` and `after`.
        left_out: Why a tensor that one might expect was not compressed, by name.
    """
    one, two = comparison.before, comparison.after
    rows = [
        ("size", size(one.size_bytes), size(two.size_bytes), _gain(one.size_bytes, two.size_bytes)),
        ("parameters", f"{one.parameters:,}", f"{two.parameters:,}", _gain(one.parameters, two.parameters)),
        ("non-zeros", f"{one.nonzeros:,}", f"{two.nonzeros:,}", _gain(one.nonzeros, two.nonzeros)),
    ]
    if one.macs is not None and two.macs is not None:
        rows.append(("MACs", f"{one.macs:,}", f"{two.macs:,}", _gain(one.macs, two.macs)))
    if one.latency is not None and two.latency is not None:
        rows.append(("ms a call", _spread(one.latency.interval), _spread(two.latency.interval), _speed(comparison)))
    rows += [_score_row(name, values) for name, values in (scores or {}).items()]
    notes = _notes([one, two]) + [f"left out: {key}, {why}" for key, why in (left_out or {}).items()]
    text = _joined([title, str(comparison), *_score_lines(scores), *notes[len(_notes([one, two])) :]])
    labels, series = _layer_sizes([("before", one), ("after", two)])
    return Card(
        title, ("", "before", "after", "gain"), tuple(rows), tuple(notes), text, labels, series, "kB in the file"
    ).bundle()


def footprint_card(
    footprints: Footprint | Footprints, *, title: str = "%footprint", scores: Scores | None = None
) -> dict[str, Any]:
    """Return the card of what one or several models cost, their layers folded below."""
    models: Sequence[Footprint] = list(footprints) if isinstance(footprints, Sequence) else [footprints]
    names = [cut(one.name, NAME) for one in models]
    rows = [
        ("size", *(size(one.size_bytes) for one in models)),
        ("parameters", *(f"{one.parameters:,}" for one in models)),
        ("non-zeros", *(f"{one.nonzeros:,}" for one in models)),
    ]
    if any(one.macs is not None for one in models):
        rows.append(("MACs", *(_count(one.macs) for one in models)))
    if any(one.latency is not None for one in models):
        rows.append(("ms a call", *(_spread(one.latency.interval) if one.latency else "" for one in models)))
    for function, values in (scores or {}).items():
        rows.append((cut(function, NAME), *(spell(values[one.name]) if one.name in values else "" for one in models)))
    labels, series = _layer_sizes(list(zip(names, models, strict=True)))
    text = _joined([title, str(footprints), *_score_lines(scores)])
    layers = tuple((f"Layers of {name}", LAYER_HEAD, _layer_rows(one)) for name, one in zip(names, models, strict=True))
    return Card(
        title, ("", *names), tuple(rows), tuple(_notes(models)), text, labels, series, "kB in the file", folded=layers
    ).bundle()


def sensitivity_card(found: Sensitivity, *, title: str = "%sensitivity") -> dict[str, Any]:
    """Return the card of what each layer bears: the change of the evaluation at every level."""
    layers = tuple(dict.fromkeys(row.layer for row in found.rows))
    cells = {(row.layer, row.level): row for row in found.rows}
    levels = [f"{found.compressor} {level:g}" for level in found.levels]
    rows = []
    for layer in layers:
        changes = [cells[layer, level].change for level in found.levels]
        weights = f"{cells[layer, found.levels[0]].parameters:,}"
        rows.append((cut(layer, NAME), weights, *("failed" if one is None else f"{one:+.4g}" for one in changes)))
    series = tuple(
        Series(name, tuple(cells[layer, level].change for layer in layers))
        for name, level in zip(levels, found.levels, strict=True)
    )
    notes = [f"Change of the evaluation, {found.baseline:.4g} without compression."]
    notes += [f"{row.layer} at {row.level:g} failed: {row.error}" for row in found.rows if row.error]
    notes += [f"left out: {key}, {why}" for key, why in found.left_out.items()]
    labels = tuple(cut(one, NAME) for one in layers)
    head = ("layer", "weights", *levels)
    text = _joined([title, str(found)])
    return Card(
        title, head, tuple(rows), tuple(notes), text, labels, series, "change of the evaluation", "curves"
    ).bundle()


LAYER_HEAD = ("layer", "kind", "parameters", "non-zeros", "size", "MACs")


def _layer_rows(one: Footprint) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            cut(layer.name or "(the model)", NAME),
            cut(layer.kind, NAME),
            f"{layer.parameters:,}",
            f"{layer.nonzeros:,}",
            size(layer.size_bytes),
            _count(layer.macs),
        )
        for layer in one.layers
    )


def _layer_sizes(models: Sequence[tuple[str, Footprint]]) -> tuple[tuple[str, ...], tuple[Series, ...]]:
    """Return the layers of all models in order, and the kilobytes of each; a layer that is gone has none."""
    names = list(dict.fromkeys(layer.name for _, one in models for layer in one.layers if layer.size_bytes))
    series = []
    for label, one in models:
        sizes = {layer.name: layer.size_bytes / 1024 for layer in one.layers}
        series.append(Series(label, tuple(sizes.get(name) for name in names)))
    return tuple(cut(name or "(the model)", NAME) for name in names), tuple(series)


def _notes(models: Sequence[Footprint]) -> list[str]:
    first = models[0]
    if first.latency is None:
        notes = ["MACs and latency were not measured: give an example."]
    else:
        threads = f"{first.latency.threads} thread" + "s" * (first.latency.threads != 1)
        notes = [f"One call on {first.inputs}: median of {first.latency.repeats} on {threads}, 95 % interval."]
    return notes + [f"not counted in {one.name}: {', '.join(one.uncounted)}" for one in models if one.uncounted]


def _gain(before: float, after: float) -> str:
    if before == after:
        return "the same"
    return f"{before / after:.3g}x" if after else "all"


def _spread(interval: Any) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def _speed(comparison: Comparison) -> str:
    speedup = comparison.speedup
    if speedup is None or not comparison.is_speed_different:
        return "no difference"
    return f"{speedup.value:.3g}x ({speedup.low:.3g} to {speedup.high:.3g})"


def _score_row(name: str, values: Mapping[str, float]) -> tuple[str, str, str, str]:
    before, after = values["before"], values["after"]
    return cut(name, NAME), spell(before), spell(after), f"{after - before:+.4g}"


def _score_lines(scores: Scores | None) -> list[str]:
    return [
        f"{cut(name, NAME)}: " + ", ".join(f"{model} {spell(value)}" for model, value in values.items())
        for name, values in (scores or {}).items()
    ]


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _joined(parts: Sequence[str]) -> str:
    return "\n".join(cut(part, 20_000) for part in parts if part)
