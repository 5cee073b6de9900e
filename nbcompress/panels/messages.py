"""Messages of the page to a running search: Stop, Pause, Skip, a point to run next, and limits to search within."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, get_args, runtime_checkable

from nbcompress.errors import NbcompressError, PointError
from nbcompress.panels.view import StudyLike
from nbcompress.run.callbacks import Command
from nbcompress.space import Choice

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.optimize.candidates import Narrowing
    from nbcompress.run.callbacks import Controls
    from nbcompress.space import Point, Space


def parse_point(values: Any, space: Space) -> Point:
    """Return the point of a message.

    Args:
        values: A list with an entry for each parameter of the space, in its order: a number, the index of the option
            of a choice, or None where the parameter is not active. Indices are sent, not labels, because labels may
            be truncated in the page.
        space: The search's space.

    Raises:
        PointError: The values are not a point of the space.
    """
    if not isinstance(values, list) or len(values) != len(space):
        raise PointError(f"A point has {len(space)} values, one for each parameter, but got {values!r}.")
    point: dict[str, Any] = {}
    for name, value in zip(space.names, values, strict=True):
        if value is not None:
            parameter = space[name]
            point[name] = _option(parameter, value) if isinstance(parameter, Choice) else value
    return space.check(point)


def parse_limits(values: Any, space: Space) -> dict[str, list[Any]]:
    """Return the limits of a message, by parameter.

    Args:
        values: A list with an entry for each parameter of the space, in its order: None where it is not limited, the
            lowest and the highest value of a number, or the indices of the options of a choice that remain.
        space: The search's space.

    Raises:
        PointError: The values are not such a list. Whether they fit their parameters is checked by `Narrowing`.
    """
    if not isinstance(values, list) or len(values) != len(space):
        raise PointError(f"Limits have {len(space)} entries, one for each parameter, but got {values!r}.")
    limits: dict[str, list[Any]] = {}
    for name, entry in zip(space.names, values, strict=True):
        if entry is not None:
            if not isinstance(entry, list):
                raise PointError(f"The limits of {name!r} are a list, but got {entry!r}.")
            parameter = space[name]
            limits[name] = [_option(parameter, item) for item in entry] if isinstance(parameter, Choice) else entry
    return limits


def _option(choice: Choice, index: Any) -> Any:
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choice.options):
        raise PointError(f"{choice!r} has {len(choice.options)} options, but got the index {index!r}.")
    return choice.options[index]


# The messages of the page beside the commands of `Controls`: a point to run next, and limits to search within.
QUEUE, NARROW = "next", "narrow"
QUEUED_TEXT = "Queued: it runs after the trials that are running now."
KNOWN_TEXT = "Not queued: this point is queued already or was run before."
NARROWED_TEXT = "Applies from the next proposal on."


@runtime_checkable
class QueueableStudy(Protocol):
    """A study that takes points to run next, from any thread."""

    def queue(self, point: Mapping[str, Any]) -> bool:
        """Store a point; return whether it is new."""
        ...


def narrowing_of(proposer: Proposer | None) -> Narrowing | None:
    """Return what limits the candidates of a proposer, or None if it cannot be limited."""
    from nbcompress.optimize import NarrowableProposer

    return proposer.narrowing if isinstance(proposer, NarrowableProposer) else None


class CommandHandler:
    """Carries out the messages of the page. May be called on any thread.

    Args:
        study: The study that is searched.
        controls: Stop, Pause and Skip of the search.
        narrowing: The limits of its proposer, or None.
    """

    def __init__(self, study: StudyLike, controls: Controls, narrowing: Narrowing | None) -> None:
        self._study, self._controls, self._narrowing = study, controls, narrowing

    @property
    def is_paused(self) -> bool:
        return self._controls.is_paused

    def handle(self, control: Any, content: Mapping[str, Any]) -> str | None:
        """Carry out a message.

        Args:
            control: Its name.
            content: The whole message.

        Returns:
            A sentence for the user, which may be empty, or None if there is no such control.
        """
        if control == QUEUE:
            return self._queue(content.get("values"))
        if control == NARROW:
            return self._narrow(content.get("limits"))
        if control not in get_args(Command):
            return None
        getattr(self._controls, control)()
        return ""

    def _queue(self, values: Any) -> str:
        if not isinstance(self._study, QueueableStudy):
            return "This search takes no points."
        try:
            return QUEUED_TEXT if self._study.queue(parse_point(values, self._study.space)) else KNOWN_TEXT
        except NbcompressError as error:
            return f"Not queued: {error}"

    def _narrow(self, limits: Any) -> str:
        if self._narrowing is None:
            return "Only a search with the sampler gp can be narrowed."
        try:
            self._narrowing.narrow_to(parse_limits(limits, self._study.space))
        except NbcompressError as error:
            return f"Not narrowed: {error}"
        return NARROWED_TEXT
