"""Compressors of models, and fine-tuning."""

# The functions have the names of their modules. Importing a module binds its name here; the same statement then binds
# the function of that name.
from nbcompress.compressors.cluster import cluster
from nbcompress.compressors.codes import codes_of, values_of
from nbcompress.compressors.distill import Distillation, distill
from nbcompress.compressors.enforce import Enforcement, enforce
from nbcompress.compressors.factorize import LowRank, factorize
from nbcompress.compressors.finetune import finetune
from nbcompress.compressors.prune import prune
from nbcompress.compressors.quantize import quantize
from nbcompress.compressors.record import (
    ActivationRange,
    Codebook,
    Grid,
    Record,
    Surgery,
    TensorRecord,
    TrainingLog,
    attach_,
    record_of,
)
from nbcompress.compressors.surgery import replay_surgery_

__all__ = [
    "ActivationRange",
    "Codebook",
    "Distillation",
    "Enforcement",
    "Grid",
    "LowRank",
    "Record",
    "Surgery",
    "TensorRecord",
    "TrainingLog",
    "attach_",
    "cluster",
    "codes_of",
    "distill",
    "enforce",
    "factorize",
    "finetune",
    "prune",
    "quantize",
    "record_of",
    "replay_surgery_",
    "values_of",
]
