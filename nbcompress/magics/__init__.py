"""What does one type? Magics parse, call a floor below, show, and return; `%load_ext nbcompress` registers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbcompress.magics.completion import Matcher, option_matcher
from nbcompress.magics.compressors import CLUSTER, DISTILL, FACTORIZE, PRUNE, QUANTIZE
from nbcompress.magics.measures import FOOTPRINT, SENSITIVITY
from nbcompress.magics.search_cell import BoSearch
from nbcompress.magics.search_options import search_parser
from nbcompress.magics.study import BO_REPORT, BO_STUDY

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

LINE_MAGICS = (PRUNE, QUANTIZE, CLUSTER, FACTORIZE, DISTILL, FOOTPRINT, SENSITIVITY, BO_STUDY, BO_REPORT)
CELL_MAGIC = "bo_search"

# The matcher that each shell got, to take it away again.
_matchers: dict[int, Matcher] = {}


def register(shell: InteractiveShell) -> None:
    """Give `shell` our magics and their completion; doing it twice does no harm."""
    unregister(shell)
    add: Any = shell.register_magic_function
    search = BoSearch(shell)
    add(search.function(), "cell", CELL_MAGIC)
    add(search.line_function(), "line", CELL_MAGIC)
    for magic in LINE_MAGICS:
        add(magic.function(shell), "line", magic.name)
    parsers = {magic.name: magic.get_parser for magic in LINE_MAGICS} | {CELL_MAGIC: search_parser}
    matcher = option_matcher(shell, parsers)
    _matchers[id(shell)] = matcher
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(matcher)


def unregister(shell: InteractiveShell) -> None:
    """Take our magics and their completion away from `shell`."""
    matcher = _matchers.pop(id(shell), None)
    if matcher is None:
        return
    if shell.Completer is not None and matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(matcher)
    shell.magics_manager.magics["cell"].pop(CELL_MAGIC, None)
    for name in (CELL_MAGIC, *(magic.name for magic in LINE_MAGICS)):
        shell.magics_manager.magics["line"].pop(name, None)


__all__ = ["CELL_MAGIC", "LINE_MAGICS", "register", "unregister"]
