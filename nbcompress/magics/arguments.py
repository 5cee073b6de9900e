"""Arguments of a magic: declared once, read into values, refused in one line."""

from __future__ import annotations

import argparse
import ast
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from IPython.core.error import UsageError

from nbcompress.errors import did_you_mean
from nbcompress.magics.line import split_line

# Of a help text's sentences, as wide as argparse makes its lists where nobody knows how wide a page is.
_WIDTH = 78


class HelpWanted(Exception):
    """`-h` was given; carries the help text."""


class _ShowHelp(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        raise HelpWanted(parser.format_help())


class MagicParser(argparse.ArgumentParser):
    """Reads the line of one magic. What is wrong becomes a `UsageError`, which IPython shows as one line."""

    def __init__(self, magic: str, summary: str, examples: str = "") -> None:
        super().__init__(
            prog=magic,
            description=textwrap.fill(summary, _WIDTH),
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument("-h", "--help", action=_ShowHelp, nargs=0, help="show this help")

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an argument; one that takes a word out of several is shown as WORD."""
        if isinstance(settings.get("type"), OneOf):
            settings.setdefault("metavar", "WORD")
        return super().add_argument(*names, **settings)

    def read(self, line: str) -> argparse.Namespace:
        """Parse a line.

        Raises:
            UsageError: Something is misspelt, missing or out of range.
            HelpWanted: `-h` or `--help` is on the line.
        """
        arguments, unknown = self.parse_known_args(split_line(line))
        if unknown:
            word = unknown[0].split("=")[0]
            if word.startswith("-"):
                self.error(f"there is no option {word}.{did_you_mean(word, self.options())} See {self.prog} -h.")
            self.error(
                f"{word!r} is one word too many. Options have names, see {self.prog} -h; "
                "an expression with spaces stands in quotes or brackets."
            )
        return arguments

    def options(self) -> list[str]:
        """Return every option of the magic, as typed."""
        return [option for action in self._actions for option in action.option_strings if option.startswith("--")]

    def values_of(self, option: str) -> tuple[str, ...] | None:
        """Return the words that `option` takes; empty if it takes any value; None if it takes none."""
        for action in self._actions:
            if option in action.option_strings:
                if action.nargs == 0:
                    return None
                return tuple(getattr(action.type, "choices", ()))
        return ()

    def takes_number(self, option: str) -> bool:
        """Return whether `option` takes a number."""
        return any(action.type is number_or_expression for action in self._actions if option in action.option_strings)

    def positional_after(self, words: Sequence[str]) -> str | None:
        """Return what the word after `words` names, such as MODEL; None if only options may follow."""
        n_given, place = 0, 0
        while place < len(words):
            is_option = words[place].startswith("--")
            n_given += not is_option
            # The value of an option is no word of its own, unless it is written behind an equals sign.
            place += 2 if is_option and "=" not in words[place] and self.values_of(words[place]) is not None else 1
        places = [action for action in self._actions if not action.option_strings]
        if n_given < len(places):
            return str(places[n_given].metavar)
        return str(places[-1].metavar) if places and places[-1].nargs == "+" else None

    def error(self, message: str) -> NoReturn:
        for pattern, text in _PLAINER:
            message = re.sub(pattern, text.format(prog=self.prog), message)
        raise UsageError(f"{self.prog}: {message}")


# What argparse says, and how a person would say it.
_PLAINER = (
    (r"^the following arguments are required: (.*)$", r"\1 is missing. See {prog} -h."),
    (r"^argument ([^:]*): expected .*$", r"\1 needs a value. See {prog} -h."),
    (r"^argument ([^:]*): ", r"\1: "),
)


class Expression(str):
    """A Python expression, not yet looked up."""


def expression(text: str) -> Expression:
    """Accept text that parses as one Python expression."""
    try:
        ast.parse(text.strip(), mode="eval")
    except SyntaxError as err:
        raise argparse.ArgumentTypeError(f"{text!r} is not a Python expression: {err.msg}.") from err
    return Expression(text.strip())


def number_or_expression(text: str) -> float | int | Expression:
    """Accept a number, or an expression that will be one: a parameter of a search cell, say."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return expression(text)


def index_or_key(text: str) -> int | str:
    """Accept an index of a tuple, or any other word as a key; quotes around it are left out."""
    try:
        return int(text)
    except ValueError:
        return text.strip("'\"")


class OneOf:
    """Accepts one of several words; also knows what to suggest."""

    def __init__(self, choices: Iterable[str]) -> None:
        self.choices = tuple(choices)

    def __call__(self, text: str) -> str:
        if text in self.choices:
            return text
        listed = ", ".join(self.choices)
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {listed}.{did_you_mean(text, self.choices)}")


class Suggests:
    """Accepts any word and knows some to suggest."""

    def __init__(self, read: Callable[[str], Any], words: Iterable[str]) -> None:
        self._read, self.choices = read, tuple(words)
        # What argparse names in its own refusals.
        self.__name__ = getattr(read, "__name__", "value")

    def __call__(self, text: str) -> Any:
        return self._read(text)


def whole(low: int) -> Callable[[str], int]:
    """Accept a whole number of at least `low`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"a whole number is needed, but got {text!r}.") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"at least {low} is needed, but got {value}.")
        return value

    return read


def pattern(text: str) -> str:
    """Accept one shell pattern on layer names."""
    if "," in text:
        several = " ".join(f"--layers {part.strip()}" for part in text.split(",") if part.strip())
        raise argparse.ArgumentTypeError(
            f"{text!r} is one pattern, and no layer's name holds a comma. Write {several}."
        )
    return text


def name(text: str) -> str:
    """Accept a Python name."""
    if not text.isidentifier():
        raise argparse.ArgumentTypeError(f"a Python name is needed, but got {text!r}.")
    return text


def as_keywords(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return the given options among `names` as keywords; the ones not given keep the function's own defaults."""
    return {key: getattr(arguments, key) for key in names if getattr(arguments, key, None) is not None}
