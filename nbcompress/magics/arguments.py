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


# Values of the notebook -----------------------------------------------------------------------------------------------

Evaluate = Callable[["Expression"], Any]
"""Returns the value of an expression in the notebook, or raises a `UsageError`."""

_REFERENCE = re.compile(r"\$\$|\{\{|\}\}|\$(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)|(?P<opening>\{)")
_CONVERSIONS: Mapping[str, Callable[[object], str]] = {"r": repr, "s": str, "a": ascii}


def expanded(word: str, evaluate: Evaluate) -> str:
    """Return a word of a line with `{expression}` and `$name` replaced by their values.

    `$object.attribute` and formats such as `{x:.2f}` are understood; `{{`, `}}` and `$$` stand for one character each.

    Raises:
        UsageError: An expression cannot be evaluated, or a brace is not closed.
    """
    parts, position = [], 0
    while found := _REFERENCE.search(word, position):
        parts.append(word[position : found.start()])
        position = found.end()
        if found["opening"]:
            position = _end_of_braces(word, position)
            parts.append(_formatted(word[found.end() : position - 1], evaluate))
        elif found["name"]:
            parts.append(str(_plain(_value_of_dollar(found["name"], evaluate))))
        else:
            parts.append(found.group()[0])
    return "".join(parts) + word[position:]


def _value_of_dollar(name: str, evaluate: Evaluate) -> Any:
    """Return the value of `name` or `object.attribute`."""
    try:
        return evaluate(Expression(name))
    except UsageError as err:
        variable, dot, rest = name.partition(".")
        hint = f". Write {{{variable}}}.{rest} if .{rest} is text" if dot else ""
        raise UsageError(f"{err}{hint}") from None


def _end_of_braces(word: str, start: int) -> int:
    """Return the position after the brace that closes the one before `start`."""
    depth = 1
    for piece in _PIECE.finditer(word, start):
        depth += (piece.lastgroup == "opening") - (piece.lastgroup == "closing")
        if not depth:
            return piece.end()
    raise UsageError(f"a brace is opened and not closed in: {word}")


def _formatted(text: str, evaluate: Evaluate) -> str:
    """Return the value of `x`, `x!r` or `x:.2f` as text."""
    # An expression may hold colons and exclamation marks, so the longest one counts.
    ends = [len(text), *(index for index, character in enumerate(text) if character in ":!")]
    end = next((index for index in ends if _is_expression(text[:index])), len(text))
    value = _plain(evaluate(expression_or_error(text[:end])))
    conversion, _, form = text[end:].removeprefix("!").partition(":")
    try:
        return format(_CONVERSIONS[conversion](value) if conversion else value, form)
    except (KeyError, TypeError, ValueError) as err:
        raise UsageError(f"{{{text}}} cannot be written as text: {err}") from None


def _plain(value: Any) -> Any:
    """Return the number in a tensor or an array without dimensions; other values as they are."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _is_expression(text: str) -> bool:
    try:
        ast.parse(text.strip(), mode="eval")
    except SyntaxError:
        return False
    return True


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

    def read(self, line: str, evaluate: Evaluate | None = None) -> argparse.Namespace:
        """Parse a line.

        Args:
            line: What follows the name of the magic.
            evaluate: Returns the value of an expression. With it, `{expression}` and `$name` are replaced in all values
                but those that are Python expressions themselves.

        Raises:
            UsageError: An argument is misspelt, missing or out of range, or an expression cannot be evaluated.
            HelpRequested: `-h` or `--help` is on the line.
        """
        words = split_line(line)
        arguments, unknown = self.parse_known_args(words if evaluate is None else self._expanded(words, evaluate))
        if unknown:
            word = unknown[0].split("=")[0]
            if word.startswith("-"):
                self.error(f"there is no option {word}.{did_you_mean(word, self.options())} See {self.prog} -h.")
            self.error(
                f"{word!r} is not expected. Options have names, see {self.prog} -h; "
                "an expression with spaces needs quotes or brackets."
            )
        return arguments

    def _expanded(self, words: Iterable[str], evaluate: Evaluate) -> list[str]:
        """Return the words with the values of the notebook in them."""
        positionals = [action for action in self._actions if not action.option_strings]
        n_positional = 0
        found: list[str] = []
        action: argparse.Action | None = None  # of the option that takes the next word
        for word in words:
            option, equals, text = word.partition("=")
            if action is None and option in self._option_string_actions:
                action = self._option_string_actions[option]
                if not equals:
                    found.append(word)
                    action = None if action.nargs == 0 else action
                    continue
            elif action is None:
                if not word.startswith("-"):
                    # The last one may take several words.
                    place = min(n_positional, len(positionals) - 1)
                    word = self._value_of(positionals[place] if positionals else None, word, evaluate)
                    n_positional += 1
                found.append(word)
                continue
            else:
                option, text = found.pop(), word
            value = self._value_of(action, text, evaluate)
            # A value that begins with a dash is no option if it was not typed.
            found += [f"{option}={value}"] if equals or value != text else [option, text]
            action = None
        return found

    def _value_of(self, action: argparse.Action | None, text: str, evaluate: Evaluate) -> str:
        is_code = action is not None and action.type is expression_or_file and not is_file_name(text)
        if action is None or action.type in (expression, verbatim) or is_code:
            return text
        try:
            text = expanded(text, evaluate)
            if isinstance(action.type, WholeNumber) and not _is_integer(text) and _is_expression(text):
                return str(_plain(evaluate(Expression(text))))
        except UsageError as err:
            where = action.option_strings[0] if action.option_strings else action.metavar
            raise UsageError(f"{where}: {err}") from None
        return text

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
        types = [action.type for action in self._actions if option in action.option_strings]
        return any(kind is number_or_expression or isinstance(kind, WholeNumber) for kind in types)

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


class FileName(str):
    """The name of a file of a model."""


def is_file_name(text: str) -> bool:
    """Return whether a word is the name of a file of a model, not an expression."""
    return text.endswith((".onnx", ".nbz"))


def expression_or_file(text: str) -> Expression | FileName:
    """Accept a Python expression, or the name of a file that ends in .onnx or .nbz, with or without quotes."""
    return FileName(text) if is_file_name(text) else expression(text)


def expression_or_error(text: str) -> Expression:
    """Accept a Python expression outside of a parser.

    Raises:
        UsageError: It is none.
    """
    try:
        return expression(text)
    except argparse.ArgumentTypeError as err:
        raise UsageError(str(err)) from None


def verbatim(text: str) -> str:
    """Accept any text; `{expression}` and `$name` in it are not replaced."""
    return text


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


class WholeNumber:
    """Accepts a whole number, of at least `low` if that is given. An expression is evaluated by `MagicParser.read`."""

    def __init__(self, low: int | None = None) -> None:
        self._low = low

    def __call__(self, text: str) -> int:
        if not _is_integer(text):
            raise argparse.ArgumentTypeError(f"a whole number is needed, but got {text!r}.")
        value = int(text)
        if self._low is not None and value < self._low:
            raise argparse.ArgumentTypeError(f"at least {self._low} is needed, but got {value}.")
        return value


def _is_integer(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


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
NO_PROGRESS = argument("--no-progress", action="store_true", help="show no progress bar")


def as_keywords(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return the options among `names` that are given, as keywords. The others keep the function's defaults."""
    return {key: getattr(arguments, key) for key in names if getattr(arguments, key, None) is not None}
