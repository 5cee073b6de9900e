"""Points that fill the space evenly: a scrambled Sobol sequence.

References:
    Owen (1998), "Scrambling Sobol' and Niederreiter-Xing points".

Every point of a finite space, in order.

Points drawn evenly, one independent stream per number.
"""

from __future__ import annotations

from functools import cache
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from nbcompress.errors import SearchError
from nbcompress.optimize.encoding import Axes
from nbcompress.optimize.history import Array, History, Proposal
from nbcompress.optimize.protocol import Unseen, generator
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


class RandomProposer:
    """Draws every value of every parameter with the same chance (in logarithm, where the parameter says so)."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.axes, self.seed = Axes(space), seed

    def propose(self, number: int, history: History) -> Proposal:
        unseen = Unseen(self.axes, history)
        return Proposal(unseen.draw(generator(self.seed, number)), reason="drawn at random")


# Purpose of the random stream that scrambles the sequence and of the one that replaces known points.
SCRAMBLE, REPLACE = 1, 0
DIGITS = 30


def sobol_rows(axes: Axes, rng: np.random.Generator, n: int, skip: int = 0) -> Array:
    """Return `n` full rows of a scrambled Sobol sequence from position `skip`; `n` should be a power of two."""
    if axes.d == 0:
        return np.empty((n, 0))
    sequence = qmc.Sobol(axes.d, scramble=True, seed=rng)
    if skip:
        sequence.fast_forward(skip)
    return axes.spread(sequence.random(n))


@cache
def _digits(d: int, n: int) -> NDArray[np.uint32]:
    """Return the first `n` points of the plain sequence in 30 binary digits; drawing them anew costs more than all."""
    return np.asarray(qmc.Sobol(d, scramble=False, bits=DIGITS).random(n) * 2**DIGITS, dtype=np.uint32)


def shifted_rows(axes: Axes, rng: np.random.Generator, n: int) -> Array:
    """Return `n` full rows, a power of two, that are as even as a scrambled sequence's and cheap: all share one shift.

    A shift by digits, unlike an added one, keeps the sequence's even shares of every part of the cube.
    """
    if axes.d == 0:
        return np.empty((n, 0))
    shift = rng.integers(2**DIGITS, size=axes.d, dtype=np.uint32)
    return axes.spread(np.asarray((_digits(axes.d, n) ^ shift) * 2.0**-DIGITS, dtype=np.float64))


class SobolProposer:
    """Point `number` of a sequence that the seed scrambles.

    In a finite space the sequence comes to known points again; a random one that is not known replaces them.
    """

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.axes, self.seed = Axes(space), seed

    def propose(self, number: int, history: History) -> Proposal:
        unseen = Unseen(self.axes, history)
        row = sobol_rows(self.axes, generator(self.seed, 0, SCRAMBLE), 1, skip=number)[0]
        if row in unseen:
            return Proposal(self.axes.point(row), reason=f"point {number + 1} of a Sobol sequence")
        rng = generator(self.seed, number, REPLACE)
        return Proposal(unseen.draw(rng), reason="drawn at random, since the Sobol sequence came to a known point")
