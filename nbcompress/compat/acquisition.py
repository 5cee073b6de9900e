"""Acquisition functions by their names in bayes_opt. Their tuning options are ignored."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from nbcompress.errors import NbcompressWarning, SearchError, did_you_mean

# For each name in either version of bayes_opt: our acquisition, its tuning option there, and what is done here.
_UCB = ("ucb", "kappa", "it reaches two standard deviations")
_EI = ("logei", "xi", "it has no margin")
_POI = ("pi", "xi", "its margin is fixed")
_OURS = {
    "ucb": _UCB,
    "ei": _EI,
    "poi": _POI,
    "UpperConfidenceBound": _UCB,
    "ExpectedImprovement": _EI,
    "ProbabilityOfImprovement": _POI,
}


class NamedAcquisition:
    """What the acquisition functions of this module have in common, for `isinstance`."""


AcquisitionFunction = NamedAcquisition  # as bayes_opt calls it


@dataclass(frozen=True)
class UpperConfidenceBound(NamedAcquisition):
    """The mean plus some standard deviations."""

    kappa: float | None = None
    exploration_decay: float | None = None
    exploration_decay_delay: int | None = None
    random_state: Any = None


@dataclass(frozen=True)
class ExpectedImprovement(NamedAcquisition):
    """The expected improvement. The default here."""

    xi: float | None = None
    exploration_decay: float | None = None
    exploration_decay_delay: int | None = None
    random_state: Any = None


@dataclass(frozen=True)
class ProbabilityOfImprovement(NamedAcquisition):
    """The probability of improvement."""

    xi: float | None = None
    exploration_decay: float | None = None
    exploration_decay_delay: int | None = None
    random_state: Any = None


@dataclass(frozen=True)
class UtilityFunction(NamedAcquisition):
    """An acquisition function by name, as in bayes_opt before version 2.

    Args:
        kind: `ucb`, `ei` or `poi`.
        kappa, xi: Without effect; a warning says so.
        kappa_decay, kappa_decay_delay: Without effect.

    Example:
        >>> UtilityFunction(kind="ei").kind
        'ei'
    """

    kind: str = "ucb"
    kappa: float | None = None
    xi: float | None = None
    kappa_decay: float = 1.0
    kappa_decay_delay: int = 0


def acquisition_of(given: Any) -> str:
    """Return our name of an acquisition: of a text, an object of this module or one of bayes_opt.

    Raises:
        SearchError: There is none like it.
    """
    name = given if isinstance(given, str) else getattr(given, "kind", None) or type(given).__name__
    if name not in _OURS:
        raise SearchError(
            f"The acquisition is 'ucb', 'ei' or 'poi', or an object of these kinds, but got {given!r:.80}."
            f"{did_you_mean(str(name), _OURS)}"
        )
    ours, tuning, how = _OURS[name]
    value = getattr(given, tuning, None)
    if value:
        what = f"The acquisition {name!r} here ignores {tuning}={value!r}: {how}."
        warnings.warn(what, NbcompressWarning, stacklevel=4)
    return ours
