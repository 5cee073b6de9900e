"""What every line magic shares: parse, call, show, return."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from IPython.core.error import UsageError
from IPython.core.magic import no_var_expand, output_can_be_silenced
from IPython.display import display

from nbcompress.errors import NbcompressError, speaking_of_options
from nbcompress.magics.arguments import HelpWanted, MagicParser
from nbcompress.magics.scope import Scope
from nbcompress.magics.wording import in_options

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

Bundle = Mapping[str, Any]


@dataclass(frozen=True)
class Shown:
    """What a magic returns to the person, and what it shows them."""

    value: Any
    bundle: Bundle | None = None


@dataclass(frozen=True)
class LineMagic:
    """A line magic: its name, how its line is read, what it does."""

    name: str
    build_parser: Callable[[], MagicParser]
    call: Callable[[argparse.Namespace, Scope], Shown]

    @cached_property
    def parser(self) -> MagicParser:
        return self.build_parser()

    def get_parser(self) -> MagicParser:
        """Return the parser, for completion."""
        return self.parser

    def function(self, shell: InteractiveShell) -> Callable[[str], Any]:
        """Return the function that IPython registers."""

        @no_var_expand
        @output_can_be_silenced
        def magic(line: str) -> Any:
            with one_line_errors(f"%{self.name}", self.parser.options()):
                return self._run(line, Scope(shell))

        magic.__doc__ = self.parser.format_help()
        magic.__name__ = self.name
        return cast(Callable[[str], Any], magic)

    def _run(self, line: str, scope: Scope) -> Any:
        try:
            # A semicolon at the end silences the result, as everywhere in a notebook; it is no part of the line.
            typed = line.strip().removesuffix(";")
            arguments = self.parser.read(typed)
        except HelpWanted as wanted:
            print(wanted)
            return None
        arguments.typed = f"%{self.name} {typed}".strip()
        shown = self.call(arguments, scope)
        if shown.bundle is not None and not scope.in_trial:
            display(dict(shown.bundle), raw=True)
        if getattr(arguments, "out", None) is not None:
            scope.namespace[arguments.out] = shown.value
        return shown.value


@contextmanager
def one_line_errors(magic: str, options: Iterable[str] = ()) -> Iterator[None]:
    """Turn our errors into `UsageError` itself: IPython prints a traceback for subclasses.

    Args:
        magic: As typed, such as `%prune`.
        options: Those of it; where a text names the keyword of one, the option is named.
    """
    try:
        with speaking_of_options():
            yield
    except UsageError as err:
        raise UsageError(_one_line(magic, str(err))) from None
    except NbcompressError as err:
        raise UsageError(_one_line(magic, in_options(str(err), options))) from None


def _one_line(magic: str, text: str) -> str:
    line = " ".join(text.splitlines())
    return line if line.startswith(magic) else f"{magic}: {line}"
