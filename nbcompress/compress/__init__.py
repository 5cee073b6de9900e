"""What changes? The compressors and fine-tuning."""

# The functions are named like the modules they live in. Importing a module binds its name here, and the function of
# the same name takes the name over in the same statement.
from nbcompress.compress.cluster import cluster
from nbcompress.compress.codes import codes_of, values_of
from nbcompress.compress.distill import Distillation, distill
from nbcompress.compress.factorize import LowRank, factorize
from nbcompress.compress.finetune import finetune
from nbcompress.compress.prune import prune
from nbcompress.compress.quantize import quantize
from nbcompress.compress.record import (
    ActivationRange,
    Codebook,
    Grid,
    Record,
    Surgery,
    TensorRecord,
    attach_,
    record_of,
)
from nbcompress.compress.surgery import replay_surgery_

__all__ = [
    "ActivationRange",
    "Codebook",
    "Distillation",
    "Grid",
    "LowRank",
    "Record",
    "Surgery",
    "TensorRecord",
    "attach_",
    "cluster",
    "codes_of",
    "distill",
    "factorize",
    "finetune",
    "prune",
    "quantize",
    "record_of",
    "replay_surgery_",
    "values_of",
]
