"""Which channels can only be removed together? The model is traced, and every index of every dimension is followed."""

from nbcompress.compressors.coupling.dependencies import Average, Coupling, Group, Place, Unit, couple
from nbcompress.compressors.coupling.trace import (
    Inputs,
    Trace,
    as_inputs,
    first_names,
    named_tensors,
    tensors_of,
    trace,
)

__all__ = [
    "Average",
    "Coupling",
    "Group",
    "Inputs",
    "Place",
    "Trace",
    "Unit",
    "as_inputs",
    "couple",
    "first_names",
    "named_tensors",
    "tensors_of",
    "trace",
]
