"""How much of a study goes into its data: generous while it runs, tight enough to be saved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The most characters of each text, and the most trials.

    Attributes:
        trials: Trials in the data; the front, the best and the latest are kept.
        name: A parameter's, metric's or study's name.
        value: A choice, or one text in the record.
        message: A failure's message, a reason, a warning.
        traceback: A failure's traceback.
        printed: What a trial printed.
        source: The cell's source in the record.
        reports: Whether intermediate values are part of the data.
    """

    trials: int = 10_000
    name: int = 120
    value: int = 300
    message: int = 500
    traceback: int = 6_000
    printed: int = 4_000
    source: int = 20_000
    reports: bool = True


LIVE = Limits()
# From the richest to the poorest: the saved bundle takes the first that keeps it below its bound.
SAVED = (
    Limits(trials=1_000, traceback=2_000, printed=1_000),
    Limits(trials=1_000, name=80, value=120, message=240, traceback=600, printed=200, source=8_000, reports=False),
    Limits(trials=400, name=60, value=60, message=120, traceback=160, printed=80, source=4_000, reports=False),
    Limits(trials=200, name=40, value=30, message=60, traceback=60, printed=30, source=2_000, reports=False),
    # Texts go before rows: a table without a trial misleads more than one with short names.
    *(
        Limits(trials=rows, name=24, value=16, message=20, traceback=20, printed=10, source=400, reports=False)
        for rows in (200, 150, 100, 60)
    ),
)
