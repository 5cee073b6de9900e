"""Those who watch a search, such as a panel."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nbcompress.study.trial import Trial

EndKind = Literal[
    "done", "until", "exhausted", "timeout", "stopped", "interrupted", "same failure", "elsewhere", "broken"
]


@dataclass(frozen=True)
class Ending:
    """Why a search ended.

    Attributes:
        kind: In one word, for programs.
        reason: In a sentence, for the person.
        warnings: What else the person should know, a sentence each.
    """

    kind: EndKind
    reason: str
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.reason


class Observer(Protocol):
    """Is told what happens, after it is recorded, on the loop's thread. A method that it lacks is not called."""

    def trial_started(self, trial: Trial) -> None: ...

    def trial_ended(self, trial: Trial) -> None: ...

    def reported(self, number: int, step: int, values: Mapping[str, float]) -> None: ...

    def ended(self, ending: Ending) -> None: ...


class Observers:
    """Tells all observers. One that raises is told nothing more: a panel's mistake must not cost a search."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = list(observers)
        self.warnings: list[str] = []

    def tell(self, event: str, *arguments: Any) -> None:
        for observer in tuple(self._observers):
            method = getattr(observer, event, None)
            if method is None:
                continue
            try:
                method(*arguments)
            except Exception as error:
                self._observers.remove(observer)
                name = type(observer).__name__
                logging.getLogger(__name__).debug("%s failed", name, exc_info=True)
                self.warnings.append(f"{name} could not show the search any more: {type(error).__name__}: {error}")
