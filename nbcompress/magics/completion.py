"""Tab completion on the lines of our magics: options, their choices, variables, models and layer names."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.error import UsageError

from nbcompress.magics.arguments import MagicParser
from nbcompress.magics.line import split_line
from nbcompress.magics.scope import OF_IPYTHON

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# `%prune model`, `small = %prune model` and `%%bo_search --trials 3`.
_LINE = re.compile(r"\s*(?:[\w., ]+=\s*)?%{1,2}(\w+)\s(.*)", re.DOTALL)

Matcher = Callable[[CompletionContext], SimpleMatcherResult]


def option_matcher(shell: InteractiveShell, parsers: Mapping[str, Callable[[], MagicParser]]) -> Matcher:
    """Return a matcher for IPython's completer.

    Args:
        shell: Whose variables are suggested.
        parsers: How to get the parser of each magic, by name without per cents.
    """

    @context_matcher()  # type: ignore[untyped-decorator]
    def match(context: CompletionContext) -> SimpleMatcherResult:
        line = _LINE.fullmatch(context.text_until_cursor)
        if line is None or line[1] not in parsers:
            return {"completions": []}
        found = suggestions(parsers[line[1]](), line[2], shell.user_ns)
        token = context.token
        wanted = [one for one in found if one.startswith(token)]
        return {"completions": [SimpleCompletion(one, type="magic") for one in wanted], "suppress": bool(wanted)}

    return cast(Matcher, match)


def suggestions(parser: MagicParser, text: str, namespace: Mapping[str, Any]) -> list[str]:
    """Return what may stand at the end of `text`, the part of the line after the magic's name."""
    unfinished = "" if text[-1:].isspace() or not text else text.split()[-1]
    try:
        words = split_line(text[: len(text) - len(unfinished)])
    except UsageError:  # inside a quote or a bracket stands Python, which is not ours to complete
        return []
    if unfinished[:1] and unfinished[0] in "([{\"'":
        return []
    if unfinished.startswith("-"):
        return parser.options()
    last = words[-1] if words else ""
    if last == "--layers":
        return _layer_names(words, namespace)
    if last.startswith("--") and parser.values_of(last) is not None:
        return list(parser.values_of(last) or ()) or _variables(namespace)
    return _models(namespace) or _variables(namespace)


def _variables(namespace: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in namespace if not name.startswith("_") and name not in OF_IPYTHON)


def _models(namespace: Mapping[str, Any]) -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    return [name for name in _variables(namespace) if isinstance(namespace[name], torch.nn.Module)]


def _layer_names(words: Iterable[str], namespace: Mapping[str, Any]) -> list[str]:
    for word in words:
        model = namespace.get(word)
        if word in _models(namespace) and model is not None:
            return [name for name, _ in model.named_modules() if name]
    return []
