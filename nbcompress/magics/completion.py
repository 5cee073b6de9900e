"""Tab completion on the lines of our magics: options, their words, variables, models, layers and studies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult
from IPython.core.error import UsageError

from nbcompress.errors import StudyError
from nbcompress.magics import CELL_MAGIC, LINE_MAGICS, parser_of
from nbcompress.magics.arguments import MagicParser, split_line
from nbcompress.magics.base import variables
from nbcompress.run.reads import is_of_loaded
from nbcompress.space import is_number
from nbcompress.study.storage import DEFAULT_STORAGE

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# `%prune model`, `small = %prune model` and `%%bo_search --trials 3`.
_LINE = re.compile(r"\s*(?:[\w., ]+=\s*)?%{1,2}(\w+)\s(.*)", re.DOTALL)


def completions(context: CompletionContext, shell: InteractiveShell) -> SimpleMatcherResult:
    """Return the completions at the cursor, if it is on the line of one of our magics."""
    line = _LINE.fullmatch(context.text_until_cursor)
    if line is None or line[1] not in (CELL_MAGIC, *LINE_MAGICS):
        return {"completions": []}
    words = suggestions(parser_of(line[1]), line[2], shell.user_ns)
    matching = [word for word in words if word.startswith(context.token)]
    return {"completions": [SimpleCompletion(word, type="magic") for word in matching], "suppress": bool(matching)}


def suggestions(parser: MagicParser, text: str, namespace: Mapping[str, Any]) -> list[str]:
    """Return the words that may come at the end of `text`, the part of the line after the magic's name."""
    unfinished = "" if text[-1:].isspace() or not text else text.split()[-1]
    try:
        words = split_line(text[: len(text) - len(unfinished)])
    except UsageError:  # an open quote or bracket: Python code, which IPython completes
        return []
    if unfinished[:1] and unfinished[0] in "([{\"'":
        return []
    option, equals, _ = unfinished.partition("=")
    if option.startswith("--") and equals:
        return _values(parser, option, words, namespace)
    if unfinished.startswith("-"):
        return parser.options()
    last = words[-1] if words else ""
    if last.startswith("--") and "=" not in last and parser.values_of(last) is not None:
        return _values(parser, last, words, namespace)
    expected = parser.positional_after(words)
    if expected is None:
        return parser.options()
    if expected == "NAME":
        return _studies()
    return _models(namespace) or sorted(variables(namespace))


def _values(parser: MagicParser, option: str, words: Iterable[str], namespace: Mapping[str, Any]) -> list[str]:
    """Return what `option` may be set to: its fixed words, layers of the model, or variables of the right kind."""
    words_of_option = parser.values_of(option)
    if words_of_option:
        return list(words_of_option)
    if option in ("--layers", "--match"):
        return _layer_names(words, namespace, ":" if option == "--match" else "")
    names = sorted(variables(namespace))
    fits = is_number if parser.takes_number(option) else _VALUE_CHECKS.get(option)
    return [name for name in names if fits is not None and fits(namespace[name])] or names


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not is_of_loaded(value, "torch.nn", "Module")


def _is_data(value: Any) -> bool:
    return isinstance(value, (tuple, list)) or is_of_loaded(value, "torch.utils.data", "DataLoader", "Dataset")


def _is_input(value: Any) -> bool:
    return isinstance(value, (tuple, dict)) or is_of_loaded(value, "torch", "Tensor")


_VALUE_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "--evaluate": _is_function,
    "--data": _is_data,
    "--example": _is_input,
}


def _models(namespace: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted(variables(namespace)) if is_of_loaded(namespace[name], "torch.nn", "Module")]


def _layer_names(words: Iterable[str], namespace: Mapping[str, Any], suffix: str) -> list[str]:
    """Return the layers of the first model among `words`."""
    for word in words:
        model = namespace.get(word)
        if word in _models(namespace) and model is not None:
            return [name + suffix for name, _ in model.named_modules() if name]
    return []


def _studies() -> list[str]:
    """Return the names of the studies in the journal of the working directory."""
    if not Path(DEFAULT_STORAGE).is_file():
        return []
    from nbcompress.study import list_studies

    try:
        return [study.name for study in list_studies(DEFAULT_STORAGE)]
    except StudyError:  # the file is not a journal; completion shows no errors
        return []
