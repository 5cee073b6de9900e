"""What to try next? Samplers over points and losses; a Gaussian process by default. Arrays in, points out."""

from __future__ import annotations

from nbcompress.optimize.history import History, Proposal
from nbcompress.optimize.optimizer import Optimizer
from nbcompress.optimize.proposers import proposer, samplers
from nbcompress.optimize.protocol import Proposer

__all__ = ["History", "Optimizer", "Proposal", "Proposer", "proposer", "samplers"]
