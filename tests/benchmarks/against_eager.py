"""Networks in torch and files in ONNX Runtime side by side: length of the file, time of a call, quality.

One example a call, on one thread, models in turn. Times are medians with 95 % intervals. Ratios are medians over pairs
of samples taken one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from records import Rows
from torch import nn

from nbcompress.measure import Latency, latencies, median_interval

COLUMNS = ("name", "bytes", "times smaller", "ms", "ms low", "ms high", "times faster", "low", "high", "quality")


@dataclass(frozen=True)
class Rival:
    """One form of a network.

    Attributes:
        name: To show.
        model: In torch, or the path of an ONNX file; None where there is nothing to time.
        n_bytes: Length of its file.
        quality: Its accuracy or its agreement with the dense network, in words.
    """

    name: str
    model: nn.Module | Path | None
    n_bytes: int
    quality: str


def compare(rivals: list[Rival], example: object, name: str, repeats: int) -> None:
    """Time what can be timed and print a table; the first rival is eager torch, the second ONNX Runtime in float32."""
    times = latencies(
        {rival.name: rival.model for rival in rivals if rival.model is not None}, example, repeats=repeats
    )
    eager, plain = rivals[0], rivals[1]
    rows = Rows(name, COLUMNS)
    print(f"{'':26}{'MB':>7}{'smaller':>9}  {'ms a call':24}{'faster than eager':22}{'than ONNX fp32':22}quality")
    for rival in rivals:
        smaller = eager.n_bytes / rival.n_bytes
        line = f"{rival.name:26}{rival.n_bytes / 1e6:7.2f}{smaller:8.1f}x  "
        found = times.get(rival.name)
        if found is None:
            print(f"{line}{'':68}{rival.quality}", flush=True)
            rows.add(rival.name, rival.n_bytes, smaller, *[""] * 6, rival.quality)
            continue
        shown = f"{found.median_ms:.2f} ({found.low_ms:.2f} to {found.high_ms:.2f})"
        ratios = [_ratio(times[other.name], found) for other in (eager, plain)]
        print(f"{line}{shown:24}{ratios[0][0]:22}{ratios[1][0]:22}{rival.quality}", flush=True)
        rows.add(
            rival.name,
            rival.n_bytes,
            smaller,
            found.median_ms,
            found.low_ms,
            found.high_ms,
            *ratios[0][1],
            rival.quality,
        )


def _ratio(latency: Latency, other: Latency) -> tuple[str, tuple[float, float, float]]:
    """How many times faster the other is."""
    found = median_interval([a / b for a, b in zip(latency.samples_ms, other.samples_ms, strict=True)])
    return f"{found.value:.1f} ({found.low:.1f} to {found.high:.1f})", (found.value, found.low, found.high)
