"""Every error that nbcompress raises on purpose, as one tree.

A text states the law that was broken, the value that came, and what to write instead.
The magics show these as one line; library code lets them rise.

A text names an option with `option(keyword, value)`. The error keeps keyword and value apart from the words around
them: Python shows `layers='conv*'`, and a magic that has the option shows `--layers conv*`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from importlib import import_module
from numbers import Integral

# These characters mark an option in a text: `_OPEN` Python's form `_BAR` the magic's form `_CLOSE`. Unicode reserves
# them for internal use, so that no text of a user holds them.
_OPEN, _BAR, _CLOSE = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKED = re.compile(f"{_OPEN}([^{_BAR}]*){_BAR}([^{_CLOSE}]*){_CLOSE}")
_NOT_GIVEN = object()


def option(keyword: str, value: object = _NOT_GIVEN) -> str:
    """Return an option for the text of an error, which shows it as its reader types it.

    Args:
        keyword: Such as `trial_timeout`; or as Python is to show it, such as `data=` or `finetune=EPOCHS`.
        value: What it is set to, if it is set. True stands for a switch.

    Example:
        >>> error = SearchError(f"{option('jobs', 2)} needs another engine: choose one with {option('engine=')}.")
        >>> str(error)
        'jobs=2 needs another engine: choose one with engine=.'
        >>> error.as_typed(["--jobs", "--engine"])
        '--jobs 2 needs another engine: choose one with --engine.'
    """
    name, _, word = keyword.partition("=")
    if value is not _NOT_GIVEN:
        keyword = f"{name}={value!r}"
        word = "" if value is True else _as_word(value)
    typed = f"--{name.replace('_', '-')} {word}".rstrip()
    return f"{_OPEN}{keyword}{_BAR}{typed}{_CLOSE}"


def _as_word(value: object) -> str:
    # What cannot be printed is escaped, the marks above among it.
    if not isinstance(value, str) or not value.isprintable() or '"' in value:
        return repr(value)
    return f'"{value}"' if " " in value else value


class NbcompressError(Exception):
    """The base class of all errors that nbcompress raises on purpose.

    Args:
        text: The message. It names options with `option(...)`.
        details: Further arguments of a subclass.

    Example:
        >>> import nbcompress as nc
        >>> try:
        ...     nc.Float(2, 1)
        ... except nc.NbcompressError as error:
        ...     print(type(error).__name__)
        ParameterError
    """

    def __init__(self, text: str = "", *details: object) -> None:
        self._template = text
        super().__init__(_MARKED.sub(r"\1", text), *details)

    def as_typed(self, options: Collection[str]) -> str:
        """Return the message for a person who typed a magic.

        Args:
            options: The options of the magic, such as `--layers`. Others are shown as keywords of Python.
        """

        def shown_option(found: re.Match[str]) -> str:
            return found[2] if found[2].split(" ")[0] in options else found[1]

        return _MARKED.sub(shown_option, self._template) if _MARKED.search(self._template) else str(self)


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


class TrialConflict(StudyError):
    """A trial that is not begun here, since another process has begun it, or one of the same point, or the last one."""


class StudyChanged(StudyError, ValueError):
    """A stored study has other parameters, objectives or constraints than the search that wants to continue it."""


class SearchError(NbcompressError):
    """A search that cannot start or had to end, such as three equal failures at its beginning."""


class SearchFailed(SearchError):
    """A search ended since it could not go on: its first trials failed alike, or its engine or its storage failed.

    Attributes:
        study: The study with every trial so far. It can be continued, unless the storage failed.
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


_listener: ContextVar[Callable[[str], object] | None] = ContextVar("nbcompress_warnings", default=None)


@contextmanager
def warnings_to(listener: Callable[[str], object]) -> Iterator[None]:
    """Give the texts of `warn` to `listener` inside the `with` block, in this context only.

    Python shows a warning once for each line of code and writes it to the standard error; a search needs to know it of
    every trial, and shows it itself.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def warn(text: str, stacklevel: int = 2) -> None:
    """Warn of something worth a line that stops nothing: in a trial to its search, else as an `NbcompressWarning`.

    Args:
        text: One line.
        stacklevel: As in `warnings.warn`, counted from the caller.
    """
    listener = _listener.get()
    if listener is not None:
        listener(text)
    else:
        warnings.warn(text, NbcompressWarning, stacklevel=stacklevel + 1)


class MissingPart(NbcompressError, ImportError):
    """An optional package is needed; the text says what to install."""


# The packages of each optional part, as in pyproject.toml.
EXTRAS = {"onnx": ("ml_dtypes", "onnx", "onnx_ir", "onnxruntime", "onnxscript")}


def check_installed(extra: str) -> None:
    """Raise an error that names a package of an optional part that is not installed.

    Call it before importing a module of ours that imports such a package.

    Raises:
        MissingPart: A package is missing.
    """
    for name in EXTRAS[extra]:
        try:
            import_module(name)
        except ImportError as err:
            raise MissingPart(f'{extra.upper()} needs the package {name}: pip install "nbcompress[{extra}]"') from err


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Return `" Did you mean 'x'?"` for the known word nearest to `word`, or an empty string."""
    near = get_close_matches(str(word), [str(candidate) for candidate in known], n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_integer(
    keyword: str,
    value: object,
    low: int | None = None,
    high: int | None = None,
    *,
    error: type[NbcompressError] = SearchError,
) -> int:
    """Return `value` as an int of Python; a bool is refused.

    Args:
        keyword: The option that it was given for, such as `trials`.
        value: What came.
        low: The smallest value that is allowed, or None.
        high: The largest value that is allowed, or None.
        error: The class of the error.

    Raises:
        NbcompressError: As `error`; `value` is no integer from `low` to `high`.

    Example:
        >>> check_integer("trials", 0, low=1)
        Traceback (most recent call last):
        ...
        nbcompress.errors.SearchError: trials is an integer of at least 1, but got 0.
    """
    number = None if isinstance(value, bool) or not isinstance(value, Integral) else int(value)
    if number is not None and (low is None or number >= low) and (high is None or number <= high):
        return number
    if low is not None and high is not None:
        bounds = f" from {low} to {high}"
    else:
        bounds = f" of at least {low}" if low is not None else f" of at most {high}" if high is not None else ""
    raise error(f"{option(keyword)} is an integer{bounds}, but got {shown(value)}.")


def first_line(error: BaseException) -> str:
    """Return the type of `error` and the first line of its text that is not blank, such as `ValueError: no data`."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


_LONGEST_SHOWN = 80


def shown(value: object) -> str:
    """Return the `repr` of a value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
