"""Points drawn evenly, one independent stream per number."""

from __future__ import annotations

from nbcompress.optimize.axes import Axes
from nbcompress.optimize.history import History, Proposal
from nbcompress.optimize.protocol import Unseen, generator
from nbcompress.space import Space


class RandomProposer:
    """Draws every value of every parameter with the same chance (in logarithm, where the parameter says so)."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.axes, self.seed = Axes(space), seed

    def propose(self, number: int, history: History) -> Proposal:
        unseen = Unseen(self.axes, history)
        return Proposal(unseen.draw(generator(self.seed, number)), reason="drawn at random")
