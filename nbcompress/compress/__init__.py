"""What changes? The compressors and fine-tuning."""

# The functions are named like the modules they live in. Importing a module binds its name here, so all modules are
# imported before the functions take the names over.
from nbcompress.compress.cluster.apply import cluster
from nbcompress.compress.codes import codes_of, values_of
from nbcompress.compress.finetune import finetune
from nbcompress.compress.quantize.apply import quantize
from nbcompress.compress.record import Codebook, Grid, Record, Surgery, TensorRecord, attach_, record_of

__all__ = [
    "Codebook",
    "Grid",
    "Record",
    "Surgery",
    "TensorRecord",
    "attach_",
    "cluster",
    "codes_of",
    "finetune",
    "quantize",
    "record_of",
    "values_of",
]
