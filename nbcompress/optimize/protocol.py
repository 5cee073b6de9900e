"""What every proposer (sampler) is, and which further capabilities one may have."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from nbcompress.optimize.history import History, Proposal

if TYPE_CHECKING:
    from nbcompress.optimize.acquisition import AcquisitionFunction
    from nbcompress.optimize.candidates import Narrowing
    from nbcompress.optimize.models import FittedModels


@runtime_checkable
class Proposer(Protocol):
    """Proposes the next point.

    A proposal depends only on the seed, the trial number and the history (with its notes); an implementation keeps no
    other state that changes it. It never proposes a point of the history again.

    If a proposer has an attribute `needs_history` that is False, its proposals depend on the seed and the number alone,
    and a search hands it an empty history. To make one for each trial costs time that grows with the study.
    """

    def propose(self, number: int, history: History) -> Proposal:
        """Return the point for trial `number`.

        Raises:
            SpaceExhausted: Every point of a finite space is in the history.
        """
        ...


@runtime_checkable
class SurrogateProposer(Proposer, Protocol):
    """A proposer with a surrogate model: it can predict losses and expects a gain from its proposals.

    Attributes:
        acquisition: The name of its acquisition function, or the factory of a person.
        seed: Seed of its random numbers.
    """

    acquisition: str | Callable[..., Any]
    seed: int

    def fit_models(self, history: History) -> FittedModels:
        """Return the models fitted to a history. They are kept with the history, so a second call costs nothing."""
        ...

    def acquisition_function(self, history: History, number: int) -> AcquisitionFunction:
        """Return the acquisition function that the proposal for trial `number` maximizes."""
        ...


@runtime_checkable
class NarrowableProposer(Proposer, Protocol):
    """A proposer whose search can be narrowed to a part of the space while it runs.

    Attributes:
        narrowing: The current ranges.
    """

    narrowing: Narrowing


class Stream(IntEnum):
    """Independent streams of random numbers. The values decide all proposals of a seed: never change one."""

    RANDOM_POINT = 0
    SOBOL_SCRAMBLING = 1
    ACQUISITION_OPTIMIZER = 2
    SAMPLED_FRONT = 3
    IMPORTANCE = 4
    PENDING_OUTCOMES = 5
    RANDOM_AMONG_UNTRIED = 6
    SCALARIZATION_WEIGHTS = 7


def random_generator(seed: int, number: int, stream: int = Stream.RANDOM_POINT) -> np.random.Generator:
    """Return the random generator of a proposal.

    Args:
        seed: Of the search.
        number: Of the trial.
        stream: A `Stream`, or any other number that none of them has.
    """
    return np.random.default_rng([abs(seed), int(seed < 0), number, int(stream)])
