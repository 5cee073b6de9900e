"""What the page may ask of a running search: Stop, Pause, Skip, a point to run next, limits to search within."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from nbcompress.errors import NbcompressError
from nbcompress.panels.asked import asked_limits, asked_point
from nbcompress.panels.view import StudyLike

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.optimize.narrowing import Narrowing
    from nbcompress.run.controls import Controls

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
    from nbcompress.optimize.proposers.gp import GaussianProcessProposer

    return proposer.narrowing if isinstance(proposer, GaussianProcessProposer) else None


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
            self._narrowing.ask(asked_limits(limits, self._study.space))
        except NbcompressError as error:
            return f"Not narrowed: {error}"
        return NARROWED
