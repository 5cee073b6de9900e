"""`%%bo_search`: a cell of the user's own code becomes a Bayesian search."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, cast

from IPython.core.error import UsageError
from IPython.core.magic import no_var_expand

from nbcompress.magics.arguments import HelpWanted, MagicParser
from nbcompress.magics.base import one_line_errors
from nbcompress.magics.scope import Scope
from nbcompress.magics.search_options import search_parser
from nbcompress.magics.search_setup import prepared
from nbcompress.magics.watched import panel_of, run_watched

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbcompress.magics.output import Output
    from nbcompress.panels import Panel
    from nbcompress.run.controls import Controls
    from nbcompress.run.preparing import Search


class BoSearch:
    """The cell magic of one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell

    @cached_property
    def parser(self) -> MagicParser:
        return search_parser()

    def function(self) -> Callable[[str, str], None]:
        """Return the function that IPython registers."""

        @no_var_expand
        def bo_search(line: str, cell: str) -> None:
            with one_line_errors("%%bo_search"):
                self._run(line, cell)

        bo_search.__doc__ = self.parser.format_help()
        return cast(Callable[[str, str], None], bo_search)

    def line_function(self) -> Callable[[str], None]:
        """Return what `%bo_search`, with one per cent, does: it helps."""

        @no_var_expand
        def bo_search(line: str) -> None:
            with one_line_errors("%bo_search"):
                if {"-h", "--help"} & set(line.split()):
                    print(self.parser.format_help())
                    return
                raise UsageError("a search is a cell: write %%bo_search, with two per cents, and a body below.")

        bo_search.__doc__ = self.parser.format_help()
        return cast(Callable[[str], None], bo_search)

    def _run(self, line: str, cell: str) -> None:
        try:
            arguments = self.parser.read(line)
        except HelpWanted as wanted:
            print(wanted)
            return
        scope = Scope(self._shell)
        if scope.in_trial:
            raise UsageError("a search cannot run inside a trial of another one.")
        if arguments.dry_run:
            from nbcompress.magics.dry_run import dry_run

            print(dry_run(arguments, cell, scope))
            return
        try:
            search = prepared(arguments, cell, scope)
        except KeyboardInterrupt:
            print("%%bo_search: interrupted before its first trial; run the cell again to begin.")
            return
        scope.namespace[arguments.out] = search.study
        running = _Running(search, arguments, scope)
        if arguments.background:
            running.start()
        else:
            running.run()


class _Running:
    """A search with its panel, in this thread or in one of its own."""

    def __init__(self, search: Search, arguments: argparse.Namespace, scope: Scope) -> None:
        from nbcompress.magics.output import Output
        from nbcompress.run.controls import Controls

        self._search = search
        self._controls: Controls = Controls()
        self._output: Output = Output(scope.shell)
        self._panel: Panel = panel_of(arguments.panel, search, self._controls, self._output)

    def start(self) -> None:
        """Run in a thread of its own; output stays in the cell that runs now."""
        thread = threading.Thread(target=self._in_background, name=f"search {self._search.study.name}", daemon=True)
        thread.start()

    def run(self) -> None:
        """Run until the search ends; whatever happens, the panel is replaced by the finished output.

        Raises:
            UsageError: The search could not go on: the first trials failed alike, or the engine broke.
            KeyboardInterrupt: The second interrupt.
        """
        ending = run_watched(self._search, self._panel, self._controls)
        if ending.kind in ("same failure", "broken"):
            raise UsageError(ending.reason)

    def _in_background(self) -> None:
        self._output.follow()
        try:
            with one_line_errors("%%bo_search"):
                self.run()
        except UsageError as err:
            self._output.print(str(err))
