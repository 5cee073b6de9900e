"""What to try next: samplers that map points and losses to the next point. The default is Bayesian optimization."""

from __future__ import annotations

from nbcompress.optimize.ask_tell import Optimizer
from nbcompress.optimize.history import History, Proposal
from nbcompress.optimize.insight import Calibration, Slice, importance, leave_one_out, slice_of
from nbcompress.optimize.proposers import proposer, samplers
from nbcompress.optimize.protocol import NarrowableProposer, Proposer, SurrogateProposer
from nbcompress.optimize.surrogates.protocol import SurrogateSpec

__all__ = [
    "Calibration",
    "History",
    "NarrowableProposer",
    "Optimizer",
    "Proposal",
    "Proposer",
    "Slice",
    "SurrogateProposer",
    "SurrogateSpec",
    "importance",
    "leave_one_out",
    "proposer",
    "samplers",
    "slice_of",
]
