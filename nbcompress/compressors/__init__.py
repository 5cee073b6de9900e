"""What changes? The compressors and fine-tuning."""

# The functions are named like the modules they live in. Importing a module binds its name here, and the function of
# the same name takes the name over in the same statement.
from nbcompress.compressors.cluster import cluster
from nbcompress.compressors.distill import Distillation, distill
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
    attach_,
    codes_of,
    record_of,
    values_of,
)
from nbcompress.compressors.surgery import replay_surgery_

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
