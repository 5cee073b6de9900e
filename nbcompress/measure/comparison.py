"""Before and after: what a change of a model saves, whether the clock can tell, and what it costs in accuracy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from nbcompress.compress.losses import LossFunction, LossSpec
from nbcompress.compress.outputs import Output
from nbcompress.errors import DataError
from nbcompress.measure.accuracy import AccuracyChange, accuracy_change
from nbcompress.measure.costs import Footprint, footprint_notes, latency_text
from nbcompress.measure.footprint import Runtime, footprint
from nbcompress.measure.histogram import WeightHistogram, weight_histogram
from nbcompress.measure.interval import Interval, median_interval
from nbcompress.measure.language import LanguageChange
from nbcompress.measure.latency import Latency
from nbcompress.measure.scores import scores_on
from nbcompress.measure.side_by_side import layer_table
from nbcompress.measure.table import (
    count_text,
    points_text,
    ratio_text,
    share_text,
    size_text,
    text_table,
    times_text,
)


@dataclass(frozen=True)
class Comparison:
    """Two models, measured in turn.

    Attributes:
        before: Footprint of the one.
        after: Footprint of the other.
        speedup: Time of `before` over time of `after`: the median over pairs of samples taken one after the other,
            with its 95 % interval. None without an example.
        accuracy: Of both on the data, None without data or without labels in it, and for language models.
        language: Loss and perplexity of both on the data, for language models.
        weights: How the weights of both are spread.
        remark: Why data was given and there is no accuracy, or an empty text.
    """

    before: Footprint
    after: Footprint
    speedup: Interval | None = None
    accuracy: AccuracyChange | None = None
    weights: WeightHistogram | None = None
    remark: str = ""
    language: LanguageChange | None = None

    @property
    def is_speed_different(self) -> bool | None:
        """Whether one of the two is faster for sure: the intervals of their medians do not overlap."""
        if self.before.latency is None or self.after.latency is None:
            return None
        return not self.before.latency.interval.overlaps(self.after.latency.interval)

    @property
    def size_ratio(self) -> float:
        """How many times smaller the file became."""
        return self.before.size_bytes / self.after.size_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "speedup": None if self.speedup is None else asdict(self.speedup),
            "is_speed_different": self.is_speed_different,
            "size_ratio": self.size_ratio,
            "accuracy": None if self.accuracy is None else self.accuracy.to_json(),
            "language": None if self.language is None else self.language.to_json(),
        }

    def rows(self) -> list[list[str]]:
        """The name of a figure, before, after, and what was gained; accuracy, or loss, is there if it was measured."""
        one, two = self.before, self.after
        memory = one.memory_bytes, two.memory_bytes
        rows = [
            ["size", size_text(one.size_bytes), size_text(two.size_bytes), times_text(one.size_bytes, two.size_bytes)],
            _counts("parameters", one.parameters, two.parameters),
            _counts("non-zeros", one.nonzeros, two.nonzeros),
            _counts("MACs", one.macs, two.macs),
            ["peak memory", size_text(memory[0]), size_text(memory[1]), times_text(*memory)],
            ["ms a call", latency_text(one.latency), latency_text(two.latency), self._speed()],
        ]
        if self.accuracy is not None:
            before, after = self.accuracy.before.interval, self.accuracy.after.interval
            rows.append(["accuracy", share_text(before), share_text(after), points_text(self.accuracy.change)])
        return rows if self.language is None else [*rows, *self.language.rows()]

    def notes(self) -> list[str]:
        """What the table cannot say: how it was measured, which examples flipped, what was not counted."""
        notes = [] if self.accuracy is None else self.accuracy.notes()
        if self.language is not None:
            notes += self.language.notes()
        if self.remark:
            notes.append(self.remark)
        if self.before.latency is not None:
            how = f"medians of {_how(self.before.latency)}, in turn, with 95 % intervals"
            notes.append(f"one call on {self.before.inputs}; ms a call: {how}")
        return [*notes, *(one for one in footprint_notes([self.before, self.after]) if not _is_said(one))]

    def layer_table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows of what each layer costs, before and after."""
        return layer_table([replace(self.before, name="before"), replace(self.after, name="after")])

    def class_table(self) -> tuple[list[str], list[list[str]]] | None:
        """Head and rows of the accuracy of each class; None if it was not measured."""
        if self.accuracy is None:
            return None
        pairs = zip(self.accuracy.before.per_class, self.accuracy.after.per_class, strict=True)
        rows = [[str(a.label), f"{a.n:,}", share_text(a.interval), share_text(b.interval)] for a, b in pairs]
        return ["class", "examples", "before", "after"], rows

    def __str__(self) -> str:
        tables = [text_table(["", "before", "after", "gain"], self.rows()), text_table(*self.layer_table())]
        classes = self.class_table()
        if classes is not None:
            tables.append(text_table(*classes))
        return "\n\n".join([*tables, "\n".join(self.notes())])

    def _speed(self) -> str:
        if self.speedup is None:
            return "-"
        if not self.is_speed_different:
            return "no difference"
        ends = f"{ratio_text(self.speedup.low)} to {ratio_text(self.speedup.high)}"
        return f"{ratio_text(self.speedup.value)} ({ends})"


def compare(
    before: nn.Module,
    after: nn.Module,
    example: object = None,
    *,
    data: object = None,
    threads: int = 1,
    repeats: int = 30,
    runtime: Runtime = "torch",
    seconds: float | None = None,
    loss: LossFunction | None = None,
    output: Output | None = None,
) -> Comparison:
    """Measure two models side by side: size, cost of a call, and accuracy if there are labels.

    Of language models loss and perplexity are measured instead of accuracy.

    Args:
        before: A module.
        after: Another one.
        example: As in `footprint`.
        data: A `DataLoader`, a data set, or a pair of tensors. Its first batch serves as the example if none is given;
            if its targets are labels, accuracy is measured on all of it.
        threads: As in `footprint`.
        repeats: As in `footprint`.
        runtime: As in `footprint`.
        seconds: Measure accuracy on what can be read of the data in so long; on all of it if None.
        loss: As in `accuracy`.
        output: Index or key of the prediction, where a model returns several tensors.

    Raises:
        MeasureError: A model cannot be copied or fails on the input, or an argument has another form.
        DataError: The data has another form or is empty.
        ArtifactError: A model holds what a file cannot.
    """
    spec = LossSpec(loss, output)
    models = {"before": before, "after": after}
    one, two = footprint(models, example, data=data, threads=threads, repeats=repeats, runtime=runtime)
    found = replace(compared(one, two), weights=weight_histogram(models))
    if data is None:
        return found
    try:
        scores = scores_on(models, data, spec, seconds=seconds)
    except DataError as err:
        return replace(found, remark=f"no accuracy: {err}")
    if scores.language:
        return replace(found, language=LanguageChange(scores.language["before"], scores.language["after"]))
    return replace(found, accuracy=accuracy_change(scores.accuracy["before"], scores.accuracy["after"]))


def compared(before: Footprint, after: Footprint) -> Comparison:
    """Compare two footprints that were measured in turn."""
    speedup = None
    if before.latency is not None and after.latency is not None:
        pairs = zip(before.latency.samples_ms, after.latency.samples_ms, strict=True)
        speedup = median_interval([one / two for one, two in pairs])
    return Comparison(before, after, speedup)


def _counts(name: str, before: int | None, after: int | None) -> list[str]:
    return [name, count_text(before), count_text(after), times_text(before, after)]


def _how(latency: Latency) -> str:
    where = " in ONNX Runtime" if latency.runtime == "onnx" else ""
    return f"{latency.repeats} on {latency.threads} thread" + "s" * (latency.threads != 1) + where


def _is_said(note: str) -> bool:
    """Whether a note of the footprints is in the comparison's own words already."""
    return note.startswith(("one call on", "ms a call:"))


__all__ = ["Comparison", "compare", "compared"]
