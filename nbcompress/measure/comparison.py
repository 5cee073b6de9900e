"""Before and after: what a change of a model saves, and whether the clock can tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from nbcompress.measure.footprint import Footprint, Runtime, footprint, latency_text
from nbcompress.measure.interval import Interval, median_interval
from nbcompress.measure.latency import Latency
from nbcompress.measure.table import count_text, ratio_text, size_text, text_table


@dataclass(frozen=True)
class Comparison:
    """Two models, measured in turn.

    Attributes:
        before: Footprint of the one.
        after: Footprint of the other.
        speedup: Time of `before` over time of `after`: the median over pairs of samples taken one after the other,
            with its 95 % interval. None without an example.
    """

    before: Footprint
    after: Footprint
    speedup: Interval | None = None

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
        }

    def __str__(self) -> str:
        one, two = self.before, self.after
        rows = [
            [
                "parameters",
                count_text(one.parameters),
                count_text(two.parameters),
                _times(one.parameters, two.parameters),
            ],
            ["non-zeros", count_text(one.nonzeros), count_text(two.nonzeros), _times(one.nonzeros, two.nonzeros)],
            ["size", size_text(one.size_bytes), size_text(two.size_bytes), _times(one.size_bytes, two.size_bytes)],
            ["MACs", count_text(one.macs), count_text(two.macs), _times(one.macs, two.macs)],
            ["ms a call", latency_text(one.latency), latency_text(two.latency), self._speed()],
        ]
        lines = [text_table(["", "before", "after", "gain"], rows)]
        if one.latency is None:
            lines.append("MACs and latency were not measured: give an example")
        else:
            lines.append(f"one call on {one.inputs}; medians of {_how(one.latency)}, in turn, with 95 % intervals")
        lines += [f"not counted {when}: {', '.join(which.uncounted)}" for when, which in self._uncounted()]
        return "\n".join(lines)

    def _uncounted(self) -> list[tuple[str, Footprint]]:
        return [(when, one) for when, one in (("before", self.before), ("after", self.after)) if one.uncounted]

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
) -> Comparison:
    """Measure two models side by side; the arguments are those of `footprint`.

    Raises:
        MeasureError: A model cannot be copied or fails on the input, or an argument has another form.
        ArtifactError: A model holds what a file cannot.
    """
    models = {"before": before, "after": after}
    one, two = footprint(models, example, data=data, threads=threads, repeats=repeats, runtime=runtime)
    return compared(one, two)


def compared(before: Footprint, after: Footprint) -> Comparison:
    """Compare two footprints that were measured in turn."""
    speedup = None
    if before.latency is not None and after.latency is not None:
        pairs = zip(before.latency.samples_ms, after.latency.samples_ms, strict=True)
        speedup = median_interval([one / two for one, two in pairs])
    return Comparison(before, after, speedup)


def _times(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return "-"
    if before == after:
        return "the same"
    return ratio_text(before / after) if after else "all"


def _how(latency: Latency) -> str:
    where = " in ONNX Runtime" if latency.runtime == "onnx" else ""
    return f"{latency.repeats} on {latency.threads} thread" + "s" * (latency.threads != 1) + where


__all__ = ["Comparison", "compare", "compared"]
