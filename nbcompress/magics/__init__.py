"""The magics: each parses its line, calls a function of a lower folder, shows the result and returns it.

`%load_ext nbcompress` registers only their names. The module of a magic is imported when it is first used, or when its
help or completion is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.interactiveshell import InteractiveShell

    from nbcompress.magics.arguments import MagicParser
    from nbcompress.magics.base import LineMagic

    Matcher = Callable[[CompletionContext], SimpleMatcherResult]

# Each line magic and its module in this folder, where it is a `LineMagic` under its name in capitals.
LINE_MAGICS = {
    "prune": "compressors",
    "quantize": "compressors",
    "cluster": "compressors",
    "factorize": "compressors",
    "distill": "compressors",
    "compress": "compress",
    "footprint": "measures",
    "sensitivity": "measures",
    "compare": "files",
    "export": "files",
    "weights": "measures",
    "bo_study": "study",
    "bo_report": "study",
}
CELL_MAGIC = "bo_search"

Function = TypeVar("Function", bound=Callable[..., Any])

# What removes from each shell what was added to it, for `unregister`.
_added: dict[int, ExitStack] = {}


def register(shell: InteractiveShell) -> None:
    """Register in `shell` the magics, their completion, and how results are displayed. It may be called again."""
    unregister(shell)
    # What magics returned in the cell that runs. They have shown it, so the end of the cell does not show it again.
    returned: list[Any] = []
    _added[id(shell)] = stack = ExitStack()
    add: Any = shell.register_magic_function
    magics: Any = shell.magics_manager.magics
    add(_cell_function(shell), "cell", CELL_MAGIC)
    stack.callback(magics["cell"].pop, CELL_MAGIC, None)
    for name in (CELL_MAGIC, *LINE_MAGICS):
        add(_line_function(shell, name, returned), "line", name)
        stack.callback(magics["line"].pop, name, None)
    if shell.Completer is not None:
        _add_to(shell.Completer.custom_matchers, _matcher(shell), stack)
    _add_to(shell.input_transformers_cleanup, _with_body, stack)
    if shell.display_formatter is not None:
        formatter: Any = shell.display_formatter.mimebundle_formatter
        for shown in _SHOWN:
            formatter.for_type_by_name(*shown, _view(shell.display_formatter, returned))
            stack.callback(formatter.pop, ".".join(shown), None)
        events: Any = shell.events

        def begin_cell(_info: object) -> None:
            returned.clear()

        events.register("pre_run_cell", begin_cell)
        stack.callback(events.unregister, "pre_run_cell", begin_cell)


def unregister(shell: InteractiveShell) -> None:
    """Remove from `shell` what `register` has added."""
    added = _added.pop(id(shell), None)
    if added is not None:
        added.close()


def _add_to(items: list[Any], item: Any, stack: ExitStack) -> None:
    def remove() -> None:
        if item in items:
            items.remove(item)

    items.append(item)
    stack.callback(remove)


def _with_body(lines: list[str]) -> list[str]:
    """Give a search cell without a body an empty line; IPython refuses a cell magic without one, also with `-h`."""
    is_alone = bool(lines) and lines[0].split()[:1] == [f"%%{CELL_MAGIC}"] and not any(map(str.strip, lines[1:]))
    return [lines[0].rstrip("\n") + "\n", "\n"] if is_alone else lines


# The classes whose objects are displayed as a card or a panel, by name, so that they need not be imported.
_SHOWN = (
    ("nbcompress.study.study", "Study"),
    ("nbcompress.measure.costs", "Footprint"),
    ("nbcompress.measure.footprint", "FootprintTable"),
    ("nbcompress.measure.comparison", "Comparison"),
    ("nbcompress.measure.sensitivity", "Sensitivity"),
    ("nbcompress.measure.distribution", "WeightTable"),
    ("nbcompress.measure.explain", "Explanation"),
)


def _view(display: DisplayFormatter, returned: Sequence[Any]) -> Callable[[Any], Any]:
    """Return the function that displays a result at the end of a cell: its card, or only its text in a terminal."""

    def view(value: Any) -> Any:
        if display.active_types == ["text/plain"] or any(value is item for item in returned):
            return None
        from nbcompress.magics.result_card import result_view

        return result_view(value)

    return view


def line_magic(name: str) -> LineMagic:
    """Import the module of a line magic and return the magic."""
    magic: LineMagic = getattr(import_module(f"nbcompress.magics.{LINE_MAGICS[name]}"), name.upper())
    return magic


def parser_of(name: str) -> MagicParser:
    """Return the parser of a line magic, or of the search cell."""
    if name != CELL_MAGIC:
        return line_magic(name).parser
    from nbcompress.magics.search_options import search_parser

    return search_parser()


def _line_function(shell: InteractiveShell, name: str, returned: list[Any]) -> Callable[[str], Any]:
    """Return the function that IPython registers for a line magic. It adds its result to `returned`."""
    from IPython.core.magic import no_var_expand, output_can_be_silenced

    @no_var_expand
    @output_can_be_silenced
    def magic(line: str) -> Any:
        if name != CELL_MAGIC:
            returned.append(line_magic(name).run(line, shell))
            return returned[-1]
        from nbcompress.magics.search_cell import run_line

        run_line(line, shell)
        return None

    return _named(magic, name)


def _cell_function(shell: InteractiveShell) -> Callable[[str, str], None]:
    """Return the function that IPython registers for the search cell."""
    from IPython.core.magic import no_var_expand

    @no_var_expand
    def magic(line: str, cell: str) -> None:
        from nbcompress.magics.search_cell import run_cell

        run_cell(line, cell, shell)

    return _named(magic, CELL_MAGIC)


def _named(function: Function, name: str) -> Function:
    settable: Any = function
    settable.__name__ = name
    # `%prune?` calls `getdoc()`, so the parser is built only then.
    settable.getdoc = lambda: parser_of(name).format_help()
    return function


def _matcher(shell: InteractiveShell) -> Matcher:
    """Return the matcher that IPython's completer calls."""
    from IPython.core.completer import context_matcher

    @context_matcher()  # type: ignore[untyped-decorator]
    def match(context: CompletionContext) -> SimpleMatcherResult:
        if "%" not in context.text_until_cursor:
            return {"completions": []}
        from nbcompress.magics.completion import completions

        return completions(context, shell)

    matcher: Matcher = match
    return matcher


__all__ = ["CELL_MAGIC", "LINE_MAGICS", "line_magic", "parser_of", "register", "unregister"]
