"""Channel dependencies: which channels of a traced model can only be removed together."""

from nbcompress.compressors.coupling.dependencies import (
    AveragingCall,
    ChannelDependencies,
    ChannelGroup,
    ReshapeCall,
    TensorAxis,
    Unit,
    find_dependencies,
)
from nbcompress.compressors.coupling.trace import (
    Trace,
    canonical_names,
    named_tensors,
    tensors_of,
    trace,
)

__all__ = [
    "AveragingCall",
    "ChannelDependencies",
    "ChannelGroup",
    "ReshapeCall",
    "TensorAxis",
    "Trace",
    "Unit",
    "canonical_names",
    "find_dependencies",
    "named_tensors",
    "tensors_of",
    "trace",
]
