"""What all magics share: the namespace of their expressions, the output of their cell, and the line magic itself."""

from __future__ import annotations

import argparse
import ast
import sys
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
from nbcompress.magics.arguments import Argument, Expression, HelpRequested, MagicParser
from nbcompress.progress import bars_shown, is_console, is_unattended
from nbcompress.public import HOMES, public

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbcompress.panels.live import PanelKind


# Names that IPython puts into a notebook's namespace.
IPYTHON_NAMES = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


class Scope:
    """The namespace in which a magic evaluates expressions: the notebook's, or that of the trial that runs the magic.

    Args:
        shell: The shell of the notebook.

    Attributes:
        shell: The shell of the notebook.
        in_trial: Whether a trial runs the magic.
        namespace: The variables by name.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        running = current_globals()
        self.in_trial = running is not None
        self.namespace: dict[str, Any] = shell.user_ns if running is None else running

    def evaluate(self, text: Expression) -> Any:
        """Evaluate an expression. The public functions of nbcompress may be used in it without an import.

        Raises:
            UsageError: A name is not defined, or the expression raised an error.
        """
        try:
            # As globals: a lambda in the expression sees no locals. The user's own code in the user's own kernel.
            public_names = self._public_names_in(text)
            return eval(text, {**public_names, **self.namespace} if public_names else self.namespace)  # noqa: S307
        except NameError as err:
            missing = err.name or str(err)
            near = did_you_mean(missing, variables(self.namespace))
            raise UsageError(f"there is no variable {missing!r} in this notebook.{near}") from None
        except Exception as err:  # the user's expression may raise anything
            raise UsageError(f"evaluating {text!s} raised {type(err).__name__}: {err}") from err

    def _public_names_in(self, text: Expression) -> dict[str, Any]:
        read = {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}
        return {name: public(name) for name in read & set(HOMES) if name not in self.namespace}

    def evaluate_node(self, node: ast.expr) -> Any:
        """Evaluate a part of a syntax tree. Errors are raised unchanged."""
        return eval(compile(ast.Expression(node), "<declaration>", "eval"), self.namespace)  # noqa: S307

    def value(self, given: Any) -> Any:
        """Return `given`, evaluated if it is an expression."""
        return self.evaluate(given) if isinstance(given, Expression) else given

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return `given` with every expression in it evaluated."""
        return {key: self.value(item) for key, item in given.items()}


def variables(namespace: Mapping[str, Any]) -> list[str]:
    """Return the names of the user's variables, without private ones and those of IPython."""
    return [name for name in namespace if not name.startswith("_") and name not in IPYTHON_NAMES]


def _can_replace(parent: Any) -> bool:
    """Return whether the front end handles `update_display_data` for the message that runs now.

    It does for the cells of a notebook. Jupyter console and qtconsole do not; an `ipywidgets.Output`, and those inside
    a Tab or an Accordion, take new outputs only; and what the callback of a button shows belongs to no cell.
    """
    header = parent.get("header") if isinstance(parent, Mapping) else None
    if not isinstance(header, Mapping):  # not in a kernel
        return True
    if header.get("msg_type") != "execute_request" or is_console(parent):
        return False
    # An `ipywidgets.Output` that captures holds the identifier of the message whose outputs it takes.
    widgets = getattr(sys.modules.get("ipywidgets.widgets.widget"), "_instances", {})
    message = header.get("msg_id")
    return all(getattr(widget, "msg_id", None) != message for widget in tuple(widgets.values()))


class Output:
    """The output of the cell that runs when this object is made. Another thread may use it later.

    Args:
        shell: The shell of the notebook.

    Attributes:
        can_replace: Whether the front end replaces an output that it shows already.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._id = uuid.uuid4().hex
        self._parent: Any = getattr(shell, "get_parent", lambda: None)()
        self._is_shown = False
        self.can_replace = _can_replace(self._parent)

    @property
    def best_kind(self) -> PanelKind:
        """The best kind of panel: `live` in a kernel, whose front end may draw widgets; `text` in a terminal."""
        return "live" if hasattr(self._shell, "kernel") and not is_console(self._parent) else "text"

    @property
    def ends_with_last_cell(self) -> bool:
        """Whether a program such as nbconvert or papermill runs the notebook, which ends the kernel after it.

        Such a program says that it takes no input. Voila does so, too, but it keeps the kernel.
        """
        return is_unattended(self._parent)

    def show(self, bundle: Mapping[str, Any]) -> None:
        """Show a mime bundle: in place of the one that was shown before, or below it if it cannot be replaced."""
        if self._is_shown and not self.can_replace:
            display(dict(bundle), raw=True)
        else:
            display(dict(bundle), raw=True, display_id=self._id, update=self._is_shown)
        self._is_shown = True

    def print(self, text: str) -> None:
        """Add a line of text."""
        print(text, flush=True)

    def follow(self) -> None:
        """Send the output of this thread to the cell, also while other cells run."""
        if self._parent is None:
            return
        # ipykernel 7.4 keeps a parent per thread; before that, there is one setter for all.
        shell: Any = self._shell
        setter = getattr(shell, "set_thread_parent", None) or shell.set_parent
        setter(self._parent)


Bundle = Mapping[str, Any]


@dataclass(frozen=True)
class MagicResult:
    """What a magic returns and shows.

    Attributes:
        value: The result.
        bundle: A mime bundle to show, or None.
    """

    value: Any
    bundle: Bundle | None = None


@dataclass(frozen=True)
class LineMagic:
    """A line magic.

    Attributes:
        name: Such as `prune`.
        summary: What it does, for its help.
        examples: Lines for its help.
        arguments: Its declared arguments.
        call: Runs it. The parsed line also has the attributes `typed` and `options`.
    """

    name: str
    summary: str
    examples: str
    arguments: tuple[Argument, ...]
    call: Callable[[argparse.Namespace, Scope], MagicResult]

    @cached_property
    def parser(self) -> MagicParser:
        """The parser of the line."""
        return MagicParser(f"%{self.name}", self.summary, self.examples, self.arguments)

    def run(self, line: str, shell: InteractiveShell) -> Any:
        """Parse a line, call the magic, show its bundle, set the variable of `--out`, and return the result.

        Raises:
            UsageError: The line is wrong, or nbcompress raised an error.
        """
        with one_line_errors(f"%{self.name}", self.parser.options()):
            return self._run(line, Scope(shell))

    def _run(self, line: str, scope: Scope) -> Any:
        try:
            # A semicolon at the end suppresses the result, as everywhere in a notebook; it is not part of the line.
            typed = line.strip().removesuffix(";")
            arguments = self.parser.read(typed, scope.evaluate)
        except HelpRequested as request:
            print(request)
            return None
        arguments.typed = f"%{self.name} {typed}".strip()
        arguments.options = tuple(self.parser.options())
        with bars_shown(not getattr(arguments, "no_progress", False)):
            result = self.call(arguments, scope)
        if result.bundle is not None and not scope.in_trial:
            display(dict(result.bundle), raw=True)
        if getattr(arguments, "out", None) is not None:
            scope.namespace[arguments.out] = result.value
        return result.value


@contextmanager
def one_line_errors(magic: str, options: Iterable[str] = ()) -> Iterator[None]:
    """Raise errors of nbcompress as `UsageError` of one line. It is no subclass: IPython shows a traceback for those.

    Args:
        magic: As typed, such as `%prune`.
        options: The options of the magic. Where a message names one, it is shown as typed, such as `--layers`.
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
