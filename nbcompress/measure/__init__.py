"""What does it cost? Parameters, bytes, multiply-accumulates and milliseconds, and what each layer bears."""

from __future__ import annotations

from nbcompress.measure.comparison import Comparison, compare, compared
from nbcompress.measure.footprint import Footprint, Footprints, LayerFootprint, footprint
from nbcompress.measure.interval import Interval, median_interval, proportion_interval
from nbcompress.measure.latency import Latency
from nbcompress.measure.runtimes import latencies
from nbcompress.measure.sensitivity import Sensitivity, SensitivityRow, sensitivity

__all__ = [
    "Comparison",
    "Footprint",
    "Footprints",
    "Interval",
    "Latency",
    "LayerFootprint",
    "Sensitivity",
    "SensitivityRow",
    "compare",
    "compared",
    "footprint",
    "latencies",
    "median_interval",
    "proportion_interval",
    "sensitivity",
]
