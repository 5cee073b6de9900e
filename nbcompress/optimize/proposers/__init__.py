"""How is the next point chosen? One module per way; each is a `Proposer`."""

from __future__ import annotations

from nbcompress.optimize.proposers.registry import proposer, samplers

__all__ = ["proposer", "samplers"]
