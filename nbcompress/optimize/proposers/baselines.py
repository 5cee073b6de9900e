"""Samplers without a model: grid, random and Sobol; and the quasi-random sets that other samplers use.

References:
    Owen (1998), "Scrambling Sobol' and Niederreiter-Xing points".
"""

from __future__ import annotations

from functools import cache
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from nbcompress.errors import SearchError
from nbcompress.optimize.candidates import UntriedPoints
from nbcompress.optimize.encoding import SpaceEncoder
from nbcompress.optimize.history import Array, History, Proposal
from nbcompress.optimize.protocol import Stream, random_generator
from nbcompress.space import Space


class GridProposer:
    """The sampler `grid`: the points of `space.points()`, where the last parameter varies fastest.

    Trial `number` takes the first untried point from position `number` on, and wraps around at the end.

    Raises:
        SearchError: A parameter is continuous. The user must choose its step, because the size of the grid multiplies
            with it.
    """

    def __init__(self, space: Space, seed: int = 0) -> None:
        del seed  # a grid has no randomness
        continuous = [name for name in space.names if space[name].n_values is None]
        if continuous:
            raise SearchError(
                f"A grid needs a finite number of values, but {continuous[0]} = {space[continuous[0]]} takes any value "
                "between its bounds. Give it a step, such as Float(0, 1, step=0.1), or list values with Choice(...); "
                "or take the sampler 'sobol', which needs neither."
            )
        self.encoder = SpaceEncoder(space)
        self.n_points = space.n_points or 0

    def propose(self, number: int, history: History) -> Proposal:
        untried = UntriedPoints(self.encoder, history)
        start = number % self.n_points
        points = chain(islice(self.encoder.space.points(), start, None), islice(self.encoder.space.points(), start))
        for point in points:
            if self.encoder.rows([point])[0] in untried:
                return Proposal(point, reason=f"a point of the grid of {self.n_points}")
        raise AssertionError("`UntriedPoints` has raised SpaceExhausted already")


def draws_are_distinct(encoder: SpaceEncoder) -> bool:
    """Return whether the draws of two trials differ in practice: each point has a continuous coordinate."""
    return bool((encoder.is_continuous & ~encoder.is_conditional).any())


class RandomProposer:
    """The sampler `random`: uniform values of every parameter (uniform in the logarithm for a `log` parameter)."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.encoder, self.seed = SpaceEncoder(space), seed
        self.needs_history = not draws_are_distinct(self.encoder)

    def propose(self, number: int, history: History) -> Proposal:
        untried = UntriedPoints(self.encoder, history)
        return Proposal(untried.draw(random_generator(self.seed, number)), reason="drawn at random")


# Binary digits of the Sobol points.
DIGITS = 30


def sobol_rows(encoder: SpaceEncoder, rng: np.random.Generator, n: int, skip: int = 0) -> Array:
    """Return `n` full rows of a scrambled Sobol sequence from position `skip` on; `n` should be a power of two."""
    if encoder.d == 0:
        return np.empty((n, 0))
    sequence = qmc.Sobol(encoder.d, scramble=True, seed=rng)
    if skip:
        sequence.fast_forward(skip)
    return encoder.from_cube(sequence.random(n))


@cache
def _sobol_digits(d: int, n: int) -> NDArray[np.uint32]:
    """Return the first `n` points of the unscrambled sequence as integers. Cached: drawing them dominates the cost."""
    return np.asarray(qmc.Sobol(d, scramble=False, bits=DIGITS).random(n) * 2**DIGITS, dtype=np.uint32)


def shifted_rows(encoder: SpaceEncoder, rng: np.random.Generator, n: int) -> Array:
    """Return `n` full rows of a Sobol sequence with a random digital shift; `n` should be a power of two.

    A digital shift (exclusive or) keeps the equidistribution of the sequence, and is cheaper than scrambling.
    """
    if encoder.d == 0:
        return np.empty((n, 0))
    shift = rng.integers(2**DIGITS, size=encoder.d, dtype=np.uint32)
    return encoder.from_cube(np.asarray((_sobol_digits(encoder.d, n) ^ shift) * 2.0**-DIGITS, dtype=np.float64))


class SobolProposer:
    """The sampler `sobol`: point `number` of a scrambled Sobol sequence.

    In a finite space the sequence repeats points; a random untried point replaces them.
    """

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.encoder, self.seed = SpaceEncoder(space), seed
        self.needs_history = not draws_are_distinct(self.encoder)

    def propose(self, number: int, history: History) -> Proposal:
        untried = UntriedPoints(self.encoder, history)
        row = sobol_rows(self.encoder, random_generator(self.seed, 0, Stream.SOBOL_SCRAMBLING), 1, skip=number)[0]
        if row in untried:
            return Proposal(self.encoder.point(row), reason=f"point {number + 1} of a Sobol sequence")
        rng = random_generator(self.seed, number)
        return Proposal(untried.draw(rng), reason="drawn at random, since the point of the Sobol sequence is known")
