"""What every line magic shares: parse, call, show, return.

Where a magic looks names up: in the notebook, or in the trial that it runs in.

The output of one cell: shown under an id, replaced later, also from another thread.
"""

from __future__ import annotations

import argparse
import ast
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.display import display

from nbcompress.cell.evaluator import current_globals
from nbcompress.errors import NbcompressError, did_you_mean
from nbcompress.magics.arguments import Expression, HelpWanted, MagicParser
from nbcompress.public import HOMES, public

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbcompress.panels.live import PanelKind


# What IPython itself puts into a notebook's namespace.
OF_IPYTHON = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


class Scope:
    """The names that a magic may use, and where its output goes."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        running = current_globals()
        self.in_trial = running is not None
        self.namespace: dict[str, Any] = shell.user_ns if running is None else running

    def evaluate(self, text: Expression) -> Any:
        """Evaluate an expression here.

        Raises:
            UsageError: A name is unknown, or evaluating raised.
        """
        try:
            # The user's own expression in the user's own kernel; our functions are there as in a trial, also inside
            # a lambda, which sees globals alone.
            ours = self._library(text)
            return eval(text, {**ours, **self.namespace} if ours else self.namespace)  # noqa: S307
        except NameError as err:
            missing = err.name or str(err)
            near = did_you_mean(missing, _visible(self.namespace))
            raise UsageError(f"there is no variable {missing!r} in this notebook.{near}") from None
        except Exception as err:  # whatever the user's expression raises is the user's to read
            raise UsageError(f"evaluating {text!s} raised {type(err).__name__}: {err}") from err

    def _library(self, text: Expression) -> dict[str, Any]:
        read = {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}
        return {name: public(name) for name in read & set(HOMES) if name not in self.namespace}

    def evaluate_node(self, node: ast.expr) -> Any:
        """Evaluate a part of a syntax tree here; errors rise as they are."""
        return eval(compile(ast.Expression(node), "<declaration>", "eval"), self.namespace)  # noqa: S307

    def value(self, given: Any) -> Any:
        """Return `given`, evaluated if it is an expression."""
        return self.evaluate(given) if isinstance(given, Expression) else given

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return `given` with every expression in it evaluated."""
        return {key: self.value(item) for key, item in given.items()}


def _visible(namespace: Mapping[str, Any]) -> list[str]:
    return [name for name in namespace if not name.startswith("_") and name not in OF_IPYTHON]


class Output:
    """Where a panel draws. It belongs to the cell that runs when it is made."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._id = uuid.uuid4().hex
        self._parent: Any = getattr(shell, "get_parent", lambda: None)()
        self._is_shown = False

    @property
    def best_kind(self) -> PanelKind:
        """`live` in a kernel, whose front end may draw widgets; `text` in a terminal."""
        return "live" if hasattr(self._shell, "kernel") else "text"

    def show(self, bundle: Mapping[str, Any]) -> None:
        """Show a mime bundle, or put it in the place of the one shown before."""
        display(dict(bundle), raw=True, display_id=self._id, update=self._is_shown)
        self._is_shown = True

    def print(self, text: str) -> None:
        """Add a line of text below."""
        print(text, flush=True)

    def follow(self) -> None:
        """Send what this thread shows to the cell, whatever other cells run meanwhile."""
        if self._parent is None:
            return
        # ipykernel 7.4 keeps a parent per thread; before that, there is one setter for all.
        shell: Any = self._shell
        setter = getattr(shell, "set_thread_parent", None) or shell.set_parent
        setter(self._parent)


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

    def run(self, line: str, shell: InteractiveShell) -> Any:
        """Do what a line asks for and return its result.

        Raises:
            UsageError: The line, or what it names, cannot be used.
        """
        with one_line_errors(f"%{self.name}", self.parser.options()):
            return self._run(line, Scope(shell))

    def _run(self, line: str, scope: Scope) -> Any:
        try:
            # A semicolon at the end silences the result, as everywhere in a notebook; it is no part of the line.
            typed = line.strip().removesuffix(";")
            arguments = self.parser.read(typed)
        except HelpWanted as wanted:
            print(wanted)
            return None
        arguments.typed = f"%{self.name} {typed}".strip()
        arguments.options = tuple(self.parser.options())
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
        options: Those of it, such as `--layers`: where an error of ours names one, it is shown as typed.
    """
    try:
        yield
    except UsageError as err:
        raise UsageError(_one_line(magic, str(err))) from None
    except NbcompressError as err:
        raise UsageError(_one_line(magic, err.as_typed(tuple(options)))) from None


def _one_line(magic: str, text: str) -> str:
    line = " ".join(text.splitlines())
    return line if line.startswith(magic) else f"{magic}: {line}"
