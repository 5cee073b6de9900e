"""Every point of a finite space, in order."""

from __future__ import annotations

from itertools import chain, islice

from nbcompress.errors import SearchError
from nbcompress.optimize.axes import Axes
from nbcompress.optimize.history import History, Proposal
from nbcompress.optimize.protocol import Unseen
from nbcompress.space import Space


class GridProposer:
    """Walks through `space.points()`: the last parameter turns fastest, as the wheels of a counter.

    Trial `number` takes the first unknown point from position `number` on, and comes round at the end.

    Raises:
        SearchError: A parameter is continuous. How finely to cut it is the user's to say, for the size of the grid
            multiplies with it.
    """

    def __init__(self, space: Space, seed: int = 0) -> None:
        del seed  # a grid has no chance in it
        endless = [name for name in space.names if space[name].n_values is None]
        if endless:
            raise SearchError(
                f"A grid needs a finite number of values, but {endless[0]} = {space[endless[0]]} takes any value "
                "between its bounds. Give it a step, such as Float(0, 1, step=0.1), or list values with Choice(...); "
                "or take the sampler 'sobol', which needs neither."
            )
        self.axes = Axes(space)
        self.n_points = space.n_points or 0

    def propose(self, number: int, history: History) -> Proposal:
        unseen = Unseen(self.axes, history)
        start = number % self.n_points
        walk = chain(islice(self.axes.space.points(), start, None), islice(self.axes.space.points(), start))
        for point in walk:
            if self.axes.rows([point])[0] in unseen:
                return Proposal(point, reason=f"a point of the grid of {self.n_points}")
        raise AssertionError("`Unseen` has raised SpaceExhausted already")
