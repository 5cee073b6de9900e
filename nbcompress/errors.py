"""Every error that nbcompress raises on purpose, as one tree.

A text states the law that was broken, the value that came, and what to write instead.
The magics show these as one line; library code lets them rise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches


class NbcompressError(Exception):
    """The root: catch this to catch everything that nbcompress raises on purpose."""


class SpaceError(NbcompressError, ValueError):
    """A parameter or a space that cannot exist, such as a lower bound above the upper."""


class ParameterError(SpaceError):
    """A parameter that cannot exist; says which of its arguments is at fault.

    Attributes:
        argument: The name of the argument, such as `low`; for options `options`.
        index: Which of the options, or None.
    """

    def __init__(self, text: str, argument: str, index: int | None = None) -> None:
        self.argument, self.index = argument, index
        super().__init__(text)

    def __reduce__(self) -> tuple[type[ParameterError], tuple[str, str, int | None]]:
        return type(self), (str(self), self.argument, self.index)


class SpaceSyntaxError(SpaceError):
    """A declaration in a cell that is refused; says where.

    Attributes:
        text: What is wrong.
        line: Line in the cell as shown; the magic line is 1.
        column: Column in that line, counted from 1.
        hint: What to write instead, or an empty string.
    """

    def __init__(self, text: str, line: int, column: int, hint: str = "") -> None:
        self.text, self.line, self.column, self.hint = text, line, column, hint
        super().__init__(text, line, column, hint)

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}: {self.text}"
        return f"{where} {self.hint}" if self.hint else where


class PointError(SpaceError):
    """A point that is not in its space."""


class SpaceExhausted(NbcompressError):
    """Every point of a finite space was proposed already."""


class GoalError(NbcompressError, ValueError):
    """An objective or a constraint that cannot be read or does not fit the search."""


class StudyError(NbcompressError):
    """A study that cannot be opened, continued or written."""


class StorageMissing(StudyError):
    """A journal or a database file that is to be read and does not exist."""


class StudyChanged(StudyError, ValueError):
    """A stored study has other parameters, objectives or constraints than the search that wants to continue it."""


class SearchError(NbcompressError):
    """A search that cannot start or had to end, such as three equal failures at its beginning."""


class SearchFailed(SearchError):
    """A search ended since it could not go on: its first trials failed alike, or its engine broke.

    Attributes:
        study: The study with every trial so far; it can be continued.
    """

    def __init__(self, text: str, study: object = None) -> None:
        self.study = study
        super().__init__(text)


class TransportError(SearchError):
    """Something of the notebook cannot be sent to another process."""


class CompressionError(NbcompressError, ValueError):
    """A model cannot be compressed in the way that was asked for. The model is unchanged."""


class LayerNotFound(CompressionError):
    """A layer pattern matches nothing in the model."""


class DataError(CompressionError):
    """Data, an example or a label set that does not fit what needs it."""


class ArtifactError(NbcompressError):
    """A file that cannot be written, or that is truncated, tampered with, foreign or from a newer version."""


class MeasureError(NbcompressError):
    """A cost that cannot be measured on this model or machine."""


class NbcompressWarning(UserWarning):
    """Something worth a line that stops nothing, such as a weight that left its grid and is stored in full."""


class MissingPart(NbcompressError, ImportError):
    """An optional package is needed; the text says what to install."""


def did_you_mean(word: str, known: Iterable[object]) -> str:
    """Return `" Did you mean 'x'?"` for the known word nearest to `word`, or an empty string."""
    near = get_close_matches(word, [str(trial) for trial in known], n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


_in_magic: ContextVar[bool] = ContextVar("nbcompress_in_magic", default=False)


@contextmanager
def speaking_of_options() -> Iterator[None]:
    """Inside the `with` block texts name options as magics have them."""
    token = _in_magic.set(True)
    try:
        yield
    finally:
        _in_magic.reset(token)


def option(name: str, value: str | int | None = None) -> str:
    """Return an option as whoever reads the text types it: `--trial-timeout 10m`, or `trial_timeout='10m'` in Python.

    Args:
        name: The keyword, such as `trial_timeout`.
        value: What it is set to; None names the option alone. True stands for a switch.
    """
    if not _in_magic.get():
        return name if value is None else f"{name}={value!r}"
    dashed = f"--{name.replace('_', '-')}"
    if value is None or value is True:
        return dashed
    return f'{dashed} "{value}"' if " " in str(value) else f"{dashed} {value}"
