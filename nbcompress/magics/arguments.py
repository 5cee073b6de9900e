"""The arguments of a magic: how its line is split, declared and read into values.

Every error is a `UsageError` of one line.
"""

from __future__ import annotations

import argparse
import ast
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from IPython.core.error import UsageError

from nbcompress.errors import did_you_mean

# The line -------------------------------------------------------------------------------------------------------------

_PIECE = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')  # a quoted text
      | (?P<open_text>["'])                            # a quote that is not closed
      | (?P<opening>[(\[{])
      | (?P<closing>[)\]}])
      | (?P<comment>(?<!\S)\#.*)
      | (?P<space>\s+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


def split_line(line: str) -> list[str]:
    """Split a line at white space outside of quotes and brackets, and drop a comment at its end.

    A word that is quoted as a whole loses its quotes.

    Raises:
        UsageError: A quote or a bracket is not closed.

    Example:
        >>> split_line('--data (X, y) --subject-to "kilobytes <= 60"')
        ['--data', '(X, y)', '--subject-to', 'kilobytes <= 60']
    """
    words = [""]
    depth = 0
    for piece in _PIECE.finditer(line):
        kind, text = piece.lastgroup, piece.group()
        if kind == "open_text":
            raise UsageError(f"a quote {text} is opened and not closed in: {line.strip()}")
        if kind == "comment" and not depth:
            break
        if kind == "space" and not depth:
            words.append("")
            continue
        depth += (kind == "opening") - (kind == "closing" and depth > 0)
        words[-1] += text
    if depth:
        raise UsageError(f"a bracket is opened and not closed in: {line.strip()}")
    return [_unquoted(word) for word in words if word]


def _unquoted(word: str) -> str:
    whole = _PIECE.fullmatch(word)
    if whole is None or whole.lastgroup != "text":
        return word
    return word[1:-1].replace("\\" + word[0], word[0])


# The parser -----------------------------------------------------------------------------------------------------------

# Width of the sentences in a help text: that of argparse's lists where the width of the page is unknown.
_WIDTH = 78


class HelpRequested(Exception):
    """`-h` is on the line. Its message is the help text."""


class _ShowHelp(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        raise HelpRequested(parser.format_help())


@dataclass(frozen=True)
class Argument:
    """A declared argument of a magic.

    Attributes:
        name: As typed, such as `--layers`; without dashes for a positional one.
        settings: What argparse takes beside the name.
    """

    name: str
    settings: Mapping[str, Any]

    @property
    def keyword(self) -> str:
        """The name as a keyword of Python."""
        return self.name.removeprefix("--").replace("-", "_")

    def with_help(self, text: str) -> Argument:
        """Return the argument with another help text."""
        return replace(self, settings={**self.settings, "help": text})


class MagicParser(argparse.ArgumentParser):
    """Parses the line of one magic. Every error is a `UsageError`, which IPython shows as one line.

    Args:
        magic: As typed, such as `%prune`.
        summary: What the magic does, for its help.
        examples: Lines for its help.
        arguments: The declared arguments.
    """

    def __init__(self, magic: str, summary: str, examples: str = "", arguments: Iterable[Argument] = ()) -> None:
        super().__init__(
            prog=magic,
            description=textwrap.fill(summary, _WIDTH),
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument("-h", "--help", action=_ShowHelp, nargs=0, help="show this help")
        for declared in arguments:
            self.add_argument(declared.name, **declared.settings)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an argument. The help shows one with fixed words as WORD."""
        if isinstance(settings.get("type"), OneOf):
            settings.setdefault("metavar", "WORD")
        return super().add_argument(*names, **settings)

    def read(self, line: str) -> argparse.Namespace:
        """Parse a line.

        Raises:
            UsageError: An argument is misspelt, missing or out of range.
            HelpRequested: `-h` or `--help` is on the line.
        """
        arguments, unknown = self.parse_known_args(split_line(line))
        if unknown:
            word = unknown[0].split("=")[0]
            if word.startswith("-"):
                self.error(f"there is no option {word}.{did_you_mean(word, self.options())} See {self.prog} -h.")
            self.error(
                f"{word!r} is not expected. Options have names, see {self.prog} -h; "
                "an expression with spaces needs quotes or brackets."
            )
        return arguments

    def options(self) -> list[str]:
        """Return all options of the magic, as typed."""
        return [option for action in self._actions for option in action.option_strings if option.startswith("--")]

    def values_of(self, option: str) -> tuple[str, ...] | None:
        """Return the words that `option` takes: empty if it takes any value, None if it takes no value."""
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
        """Return the name of the positional argument that may follow `words`, such as MODEL; None if none may."""
        n_given, index = 0, 0
        while index < len(words):
            is_option = words[index].startswith("--")
            n_given += not is_option
            # The value of an option is the next word, unless it follows an equals sign.
            index += 2 if is_option and "=" not in words[index] and self.values_of(words[index]) is not None else 1
        positionals = [action for action in self._actions if not action.option_strings]
        if n_given < len(positionals):
            return str(positionals[n_given].metavar)
        return str(positionals[-1].metavar) if positionals and positionals[-1].nargs == "+" else None

    def error(self, message: str) -> NoReturn:
        """Raise a message of argparse as a `UsageError`, in our words."""
        for pattern, text in _REWORDED:
            message = re.sub(pattern, text.format(prog=self.prog), message)
        raise UsageError(f"{self.prog}: {message}")


# Messages of argparse, and ours.
_REWORDED = (
    (r"^the following arguments are required: (.*)$", r"\1 is missing. See {prog} -h."),
    (r"^argument ([^:]*): expected .*$", r"\1 needs a value. See {prog} -h."),
    (r"^argument ([^:]*): ", r"\1: "),
)


# Types of arguments ---------------------------------------------------------------------------------------------------


class Expression(str):
    """A Python expression that is not evaluated yet."""


def expression(text: str) -> Expression:
    """Accept a Python expression."""
    try:
        ast.parse(text.strip(), mode="eval")
    except SyntaxError as err:
        raise argparse.ArgumentTypeError(f"{text!r} is not a Python expression: {err.msg}.") from err
    return Expression(text.strip())


def number_or_expression(text: str) -> float | int | Expression:
    """Accept a number, or an expression for one, such as a parameter of a search cell."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return expression(text)


def index_or_key(text: str) -> int | str:
    """Accept an index of a tuple, or another word as a key. Quotes around it are removed."""
    try:
        return int(text)
    except ValueError:
        return text.strip("'\"")


class OneOf:
    """Accepts one of several words, which Tab completion suggests."""

    def __init__(self, choices: Iterable[str]) -> None:
        self.choices = tuple(choices)

    def __call__(self, text: str) -> str:
        if text in self.choices:
            return text
        listed = ", ".join(self.choices)
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {listed}.{did_you_mean(text, self.choices)}")


class Suggests:
    """Accepts any word that `read` accepts. Tab completion suggests some."""

    def __init__(self, read: Callable[[str], Any], words: Iterable[str]) -> None:
        self._read, self.choices = read, tuple(words)
        # argparse shows this name in its own messages.
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


# Declarations ---------------------------------------------------------------------------------------------------------


def argument(name: str, **settings: Any) -> Argument:
    """Return an argument with the settings that argparse takes."""
    return Argument(name, settings)


def number(name: str, metavar: str, text: str) -> Argument:
    """Return an option that takes a number, or an expression for one."""
    return Argument(name, {"type": number_or_expression, "metavar": metavar, "help": text})


def one_of(name: str, words: Sequence[str], text: str) -> Argument:
    """Return an option that takes one of several words; `{words}` in the help text stands for them."""
    return Argument(name, {"type": OneOf(words), "help": text.format(words=", ".join(words))})


# Arguments of several magics.
MODEL = argument("model", type=expression, metavar="MODEL", help="an expression: the model, which stays as it is")
LAYERS = argument(
    "--layers",
    action="append",
    type=pattern,
    metavar="PATTERN",
    help="only layers whose dotted name matches; repeatable",
)
OUT = argument("--out", type=name, metavar="NAME", help="a variable that receives the result, too")


def as_keywords(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return the options among `names` that are given, as keywords. The others keep the function's defaults."""
    return {key: getattr(arguments, key) for key in names if getattr(arguments, key, None) is not None}
