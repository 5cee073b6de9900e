"""What the page may ask of a running search: Stop, Pause, Skip, a point to run next, limits to search within.

What somebody put together on the page, a point or limits, as the search's space knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from nbcompress.errors import NbcompressError, PointError
from nbcompress.panels.view import StudyLike
from nbcompress.space import Choice

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.optimize.candidates import Narrowing
    from nbcompress.run.callbacks import Controls
    from nbcompress.space import Point, Space


def asked_point(values: Any, space: Space) -> Point:
    """Return the point of a message.

    Args:
        values: A list with an entry for each parameter of the space, in its order: a number, or the place of the
            option among a choice's options, or None where the parameter is not active. Names and options do not
            travel, since a page may have them cut.

    Raises:
        PointError: It is no point of the space.
    """
    if not isinstance(values, list) or len(values) != len(space):
        raise PointError(f"A point has {len(space)} values, one for each parameter, but got {values!r}.")
    point: dict[str, Any] = {}
    for name, value in zip(space.names, values, strict=True):
        if value is not None:
            point[name] = _option(space[name], value) if isinstance(space[name], Choice) else value
    return space.check(point)


def asked_limits(values: Any, space: Space) -> dict[str, list[Any]]:
    """Return the limits of a message, by parameter.

    Args:
        values: A list with an entry for each parameter of the space, in its order: None where it is not limited, the
            lowest and the highest value of a number, or the places of the options of a choice that are left.

    Raises:
        PointError: It is no such list. Whether the values fit their parameters is for who takes them to say.
    """
    if not isinstance(values, list) or len(values) != len(space):
        raise PointError(f"Limits are {len(space)} entries, one for each parameter, but got {values!r}.")
    limits: dict[str, list[Any]] = {}
    for name, entry in zip(space.names, values, strict=True):
        if entry is not None:
            if not isinstance(entry, list):
                raise PointError(f"The limits of {name!r} are a list, but got {entry!r}.")
            parameter = space[name]
            limits[name] = [_option(parameter, item) for item in entry] if isinstance(parameter, Choice) else entry
    return limits


def _option(choice: Any, place: Any) -> Any:
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(choice.options):
        raise PointError(f"{choice!r} has {len(choice.options)} options, but got the place {place!r}.")
    return choice.options[place]


QUEUED = "Queued: it runs after the trials that run now."
KNOWN = "Not queued: this point waits already, or was run before."
NARROWED = "From the next proposal on."


@runtime_checkable
class Queueing(Protocol):
    """A study that takes points to run next, from any thread."""

    def queue(self, point: Mapping[str, Any]) -> bool:
        """Store a point; say whether it is new."""
        ...


def narrowing_of(proposer: Proposer | None) -> Narrowing | None:
    """Return what narrows a proposer, or None where it cannot be narrowed."""
    from nbcompress.optimize import NarrowableProposer

    return proposer.narrowing if isinstance(proposer, NarrowableProposer) else None


class Presses:
    """Does what is asked, on whatever thread the kernel has free.

    Args:
        study: What is searched.
        controls: The buttons of the search.
        narrowing: What narrows its proposer, or None.
    """

    def __init__(self, study: StudyLike, controls: Controls, narrowing: Narrowing | None) -> None:
        self._study, self._controls, self._narrowing = study, controls, narrowing

    @property
    def is_paused(self) -> bool:
        return self._controls.is_paused

    def heard(self, control: Any, content: Mapping[str, Any]) -> str | None:
        """Do it; return a sentence for the person (or an empty one), or None if there is no such control."""
        if control == "next":
            return self._queue(content.get("values"))
        if control == "narrow":
            return self._narrow(content.get("limits"))
        if control not in ("stop", "pause", "resume", "skip"):
            return None
        getattr(self._controls, control)()
        return ""

    def _queue(self, values: Any) -> str:
        if not isinstance(self._study, Queueing):
            return "This search takes no points."
        try:
            return QUEUED if self._study.queue(asked_point(values, self._study.space)) else KNOWN
        except NbcompressError as error:
            return f"Not queued: {error}"

    def _narrow(self, limits: Any) -> str:
        if self._narrowing is None:
            return "Only the sampler gp can be narrowed."
        try:
            self._narrowing.narrow_to(asked_limits(limits, self._study.space))
        except NbcompressError as error:
            return f"Not narrowed: {error}"
        return NARROWED
