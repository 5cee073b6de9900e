"""What does it cost? Parameters, bytes, multiply-accumulates, memory, milliseconds, accuracy; what each layer bears."""

from __future__ import annotations

from nbcompress.measure.accuracy import (
    Accuracy,
    AccuracyChange,
    ClassAccuracy,
    accuracies,
    accuracy,
    accuracy_change,
    mcnemar,
)
from nbcompress.measure.comparison import Comparison, compare, compared
from nbcompress.measure.costs import Footprint, LayerFootprint
from nbcompress.measure.footprint import check_runs, footprint
from nbcompress.measure.histogram import WeightHistogram, weight_histogram
from nbcompress.measure.interval import Interval, median_interval, proportion_interval
from nbcompress.measure.language import LanguageChange, LanguageLoss, language_note
from nbcompress.measure.latency import Latency
from nbcompress.measure.memory import PeakMemory
from nbcompress.measure.runtimes import latencies
from nbcompress.measure.scores import scores_on
from nbcompress.measure.sensitivity import Sensitivity, SensitivityRow, sensitivity
from nbcompress.measure.side_by_side import Footprints

__all__ = [
    "Accuracy",
    "AccuracyChange",
    "ClassAccuracy",
    "Comparison",
    "Footprint",
    "Footprints",
    "Interval",
    "LanguageChange",
    "LanguageLoss",
    "Latency",
    "LayerFootprint",
    "PeakMemory",
    "Sensitivity",
    "SensitivityRow",
    "WeightHistogram",
    "accuracies",
    "accuracy",
    "accuracy_change",
    "check_runs",
    "compare",
    "compared",
    "footprint",
    "language_note",
    "latencies",
    "mcnemar",
    "median_interval",
    "proportion_interval",
    "scores_on",
    "sensitivity",
    "weight_histogram",
]
