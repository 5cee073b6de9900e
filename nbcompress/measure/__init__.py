"""Costs of models: parameters, bytes, multiply-accumulates, memory, latency, accuracy; accuracy loss per layer."""

from __future__ import annotations

from nbcompress.measure.accuracy import (
    Accuracy,
    AccuracyChange,
    ClassAccuracy,
    LanguageChange,
    LanguageLoss,
    accuracies,
    accuracy,
    accuracy_change,
    language_note,
    mcnemar,
    scores_on,
)
from nbcompress.measure.comparison import Comparison, compare, compare_footprints
from nbcompress.measure.costs import Footprint, LayerFootprint
from nbcompress.measure.distribution import LayerWeights, WeightTable, weights
from nbcompress.measure.explain import Explanation, explain
from nbcompress.measure.files import OnnxModel, as_modules
from nbcompress.measure.footprint import FootprintTable, check_runs, footprint
from nbcompress.measure.interval import Interval, median_interval, proportion_interval
from nbcompress.measure.latency import Latency, latencies, latency_ms
from nbcompress.measure.memory import PeakMemory
from nbcompress.measure.sensitivity import Sensitivity, SensitivityRow, sensitivity
from nbcompress.measure.text import WeightHistogram, weight_histogram

__all__ = [
    "Accuracy",
    "AccuracyChange",
    "ClassAccuracy",
    "Comparison",
    "Explanation",
    "Footprint",
    "FootprintTable",
    "Interval",
    "LanguageChange",
    "LanguageLoss",
    "Latency",
    "LayerFootprint",
    "LayerWeights",
    "OnnxModel",
    "PeakMemory",
    "Sensitivity",
    "SensitivityRow",
    "WeightHistogram",
    "WeightTable",
    "accuracies",
    "accuracy",
    "accuracy_change",
    "as_modules",
    "check_runs",
    "compare",
    "compare_footprints",
    "explain",
    "footprint",
    "language_note",
    "latencies",
    "latency_ms",
    "mcnemar",
    "median_interval",
    "proportion_interval",
    "scores_on",
    "sensitivity",
    "weight_histogram",
    "weights",
]
