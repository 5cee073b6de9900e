"""What to try next? Samplers over points and losses; a Gaussian process by default. Arrays in, points out."""

from __future__ import annotations

from nbcompress.optimize.ask_tell import Optimizer
from nbcompress.optimize.history import History, Proposal
from nbcompress.optimize.insight import Calibration, Slice, importance, leave_one_out, slice_of
from nbcompress.optimize.proposers import proposer, samplers
from nbcompress.optimize.protocol import Proposer

__all__ = [
    "Calibration",
    "History",
    "Optimizer",
    "Proposal",
    "Proposer",
    "Slice",
    "importance",
    "leave_one_out",
    "proposer",
    "samplers",
    "slice_of",
]
