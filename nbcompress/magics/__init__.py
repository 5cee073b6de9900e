"""The magics: each parses its line, calls a function of a lower folder, shows the result and returns it.

`%load_ext nbcompress` registers only their names. The module of a magic is imported when it is first used, or when its
help or completion is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
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
    "footprint": "measures",
    "sensitivity": "measures",
    "compare": "files",
    "export": "files",
    "bo_study": "study",
    "bo_report": "study",
}
CELL_MAGIC = "bo_search"

Function = TypeVar("Function", bound=Callable[..., Any])

# The completion matcher that was added to each shell, for `unregister`.
_matchers: dict[int, Matcher] = {}


def register(shell: InteractiveShell) -> None:
    """Register the magics and their completion in `shell`. It may be called again."""
    unregister(shell)
    add: Any = shell.register_magic_function
    add(_cell_function(shell), "cell", CELL_MAGIC)
    add(_line_function(shell, CELL_MAGIC), "line", CELL_MAGIC)
    for name in LINE_MAGICS:
        add(_line_function(shell, name), "line", name)
    matcher = _matcher(shell)
    _matchers[id(shell)] = matcher
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(matcher)


def unregister(shell: InteractiveShell) -> None:
    """Remove the magics and their completion from `shell`."""
    matcher = _matchers.pop(id(shell), None)
    if matcher is None:
        return
    if shell.Completer is not None and matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(matcher)
    shell.magics_manager.magics["cell"].pop(CELL_MAGIC, None)
    for name in (CELL_MAGIC, *LINE_MAGICS):
        shell.magics_manager.magics["line"].pop(name, None)


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


def _line_function(shell: InteractiveShell, name: str) -> Callable[[str], Any]:
    """Return the function that IPython registers for a line magic."""
    from IPython.core.magic import no_var_expand, output_can_be_silenced

    @no_var_expand
    @output_can_be_silenced
    def magic(line: str) -> Any:
        if name != CELL_MAGIC:
            return line_magic(name).run(line, shell)
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
