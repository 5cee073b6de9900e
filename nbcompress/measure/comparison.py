"""`compare`: two models side by side, in size, costs of a call, and accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from nbcompress.compressors.losses import LossFunction, LossSpec
from nbcompress.compressors.modes import with_progress
from nbcompress.compressors.outputs import OutputKey
from nbcompress.compressors.torch_masks import without_torch_masks
from nbcompress.errors import DataError
from nbcompress.measure.accuracy import AccuracyChange, LanguageChange, accuracy_change, scores_on
from nbcompress.measure.costs import Footprint, footprint_notes, latency_text, runtime_text
from nbcompress.measure.files import ModelOrFile, as_modules
from nbcompress.measure.footprint import Runtime, footprint, layer_table
from nbcompress.measure.interval import Interval, median_interval
from nbcompress.measure.text import (
    WeightHistogram,
    count_text,
    points_text,
    ratio_text,
    reduction_text,
    share_text,
    size_text,
    text_table,
    weight_histogram,
)

_NAMES = ("before", "after")


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two models, measured in turn.

    Attributes:
        before: Footprint of the first model.
        after: Footprint of the second model.
        speedup: Time of `before` over time of `after`: the median over pairs of consecutive samples, with its 95 %
            interval. None without an example.
        accuracy: Of both on the data; None without data, without labels, and for language models.
        weights: Histogram of the weights of both.
        remark: Why there is no accuracy although data was given, or an empty text.
        language: Loss and perplexity of both on the data, for language models.
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
        """Whether one of the two is certainly faster: the intervals of their medians do not overlap."""
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
        """Rows of a table: name of the cost, before, after, gain; with accuracy or loss if it was measured."""
        before, after = self.before, self.after
        rows = [
            _row("size", before.size_bytes, after.size_bytes, size_text),
            _row("parameters", before.parameters, after.parameters, count_text),
            _row("non-zeros", before.nonzeros, after.nonzeros, count_text),
            _row("MACs", before.macs, after.macs, count_text),
            _row("peak memory", before.memory_bytes, after.memory_bytes, size_text),
            ["ms a call", latency_text(before.latency), latency_text(after.latency), self._speed()],
        ]
        if self.accuracy is not None:
            accuracy = self.accuracy
            shares = share_text(accuracy.before.interval), share_text(accuracy.after.interval)
            rows.append(["accuracy", *shares, points_text(accuracy.change)])
        return rows if self.language is None else [*rows, *self.language.rows()]

    def notes(self) -> list[str]:
        """Notes under the table: how it was measured, which examples flipped, and what was not counted."""
        notes = [] if self.accuracy is None else self.accuracy.notes()
        if self.language is not None:
            notes += self.language.notes()
        if self.remark:
            notes.append(self.remark)
        if self.before.latency is not None:
            threads = f"{self.before.latency.threads} thread" + "s" * (self.before.latency.threads != 1)
            where = runtime_text([self.before, self.after]).rstrip(",")
            how = f"medians of {self.before.latency.repeats} on {threads}{where}, in turn, with 95 % intervals"
            notes.append(f"one call on {self.before.inputs}; ms a call: {how}")
        return [*notes, *(note for note in footprint_notes([self.before, self.after]) if not _is_repeated(note))]

    def layer_table(self, names: tuple[str, str] = _NAMES) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of a table of layers, before and after."""
        return layer_table([replace(self.before, name=names[0]), replace(self.after, name=names[1])])

    def class_table(self, names: tuple[str, str] = _NAMES) -> tuple[list[str], list[list[str]]] | None:
        """Return header and rows of the accuracy of each class; None if it was not measured."""
        if self.accuracy is None:
            return None
        pairs = zip(self.accuracy.before.per_class, self.accuracy.after.per_class, strict=True)
        rows = [[str(a.label), f"{a.n:,}", share_text(a.interval), share_text(b.interval)] for a, b in pairs]
        return ["class", "examples", *names], rows

    def __str__(self) -> str:
        tables = [text_table(["", "before", "after", "gain"], self.rows()), text_table(*self.layer_table())]
        classes = self.class_table()
        if classes is not None:
            tables.append(text_table(*classes))
        return "\n\n".join([*tables, "\n".join(self.notes())])

    def __repr__(self) -> str:
        before, after = (size_text(model.size_bytes) for model in (self.before, self.after))
        shares = "" if self.accuracy is None else f", accuracy {points_text(self.accuracy.change)}"
        return f"<Comparison: {before} to {after}{shares}>"

    def _speed(self) -> str:
        if self.speedup is None:
            return "-"
        if not self.is_speed_different:
            return "no difference"
        ends = f"{ratio_text(self.speedup.low)} to {ratio_text(self.speedup.high)}"
        return f"{ratio_text(self.speedup.value)} ({ends})"


def compare(
    before: ModelOrFile,
    after: ModelOrFile,
    example: object = None,
    *,
    data: object = None,
    threads: int = 1,
    repeats: int = 30,
    runtime: Runtime = "torch",
    seconds: float | None = None,
    loss: LossFunction | None = None,
    output: OutputKey | None = None,
    into: nn.Module | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare two models: size, costs of a call, and accuracy if there is data with labels.

    Accuracies are paired, example by example, so a change is significant with fewer examples than two separate
    accuracies would need. For language models, loss and perplexity are measured instead of accuracy.

    Args:
        before: A module, such as the original, or the name of a file.
        after: Another module, such as a compressed copy, or the name of a file. An ONNX file runs in ONNX Runtime, and
            a file of `nc.save` fills a copy of `into`.
        example: A tensor, a tuple of positional or a dict of keyword inputs, on the device of the models.
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, labels). Its first batch is the example if none
            is given.
        threads: Threads of the runtime while a call is timed.
        repeats: Samples of each model; they alternate between models. 0 switches timing off.
        runtime: Where calls are timed: in `torch`, or in ONNX Runtime (`onnx`) after an export in memory.
        seconds: Time limit for accuracy; the examples that were read by then count. All examples if None.
        loss: Loss that the models were trained with; chosen by the targets if None. See `nc.accuracy`.
        output: Index or key of the prediction, where a model returns several tensors.
        into: An instance of the class of the model in a file of `nc.save`; the other model if None.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        The footprints of both models and what changed. `print` shows tables.

    Raises:
        MeasureError: A model cannot be copied or fails on the input, or an argument has another form.
        DataError: The data has another form or is empty.
        ArtifactError: A model holds what a file cannot, or cannot be exported to ONNX.
        MissingPart: ONNX Runtime is asked for and not installed.

    Example:
        >>> import torch, nbcompress as nc
        >>> model = torch.nn.Linear(8, 3)
        >>> data = torch.randn(60, 8), torch.arange(60) % 3
        >>> report = nc.compare(model, nc.quantize(model, bits=4), data=data, repeats=0)
        >>> report.size_ratio > 1
        True
        >>> flipped = len(report.accuracy.broken) + len(report.accuracy.mended)
        >>> 0 <= flipped <= 60
        True

    References:
        Agresti and Min (2005), "Simple improved confidence intervals for comparing matched proportions".
        McNemar (1947), "Note on the sampling error of the difference between correlated proportions or percentages".
    """
    spec = LossSpec(loss, output)
    found = as_modules({"before": before, "after": after}, into, threads)
    models = {name: without_torch_masks(model) for name, model in found.items()}
    with with_progress(progress):
        footprints = footprint(models, example, data=data, threads=threads, repeats=repeats, runtime=runtime)
        comparison = replace(compare_footprints(*footprints), weights=weight_histogram(models))
        if data is None:
            return comparison
        try:
            scores = scores_on(models, data, spec, seconds=seconds)
        except DataError as err:
            return replace(comparison, remark=f"no accuracy: {err}")
    if scores.language:
        return replace(comparison, language=LanguageChange(scores.language["before"], scores.language["after"]))
    return replace(comparison, accuracy=accuracy_change(scores.accuracy["before"], scores.accuracy["after"]))


def compare_footprints(before: Footprint, after: Footprint) -> Comparison:
    """Return the comparison of two footprints that were measured in turn."""
    speedup = None
    if before.latency is not None and after.latency is not None:
        pairs = zip(before.latency.samples_ms, after.latency.samples_ms, strict=True)
        speedup = median_interval([before_ms / after_ms for before_ms, after_ms in pairs])
    return Comparison(before, after, speedup)


def _row(name: str, before: int | None, after: int | None, text: Callable[[int | None], str]) -> list[str]:
    return [name, text(before), text(after), reduction_text(before, after)]


def _is_repeated(note: str) -> bool:
    """Whether a note of the footprints repeats a note of the comparison."""
    return note.startswith(("one call on", "ms a call:"))


__all__ = ["Comparison", "compare", "compare_footprints"]
