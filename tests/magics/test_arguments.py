"""The arguments of a magic: how its line is split and parsed, and the errors."""

from __future__ import annotations

import argparse

import pytest
import torch
from IPython.core.error import UsageError

from nbcompress.magics.arguments import (
    Expression,
    HelpRequested,
    MagicParser,
    OneOf,
    WholeNumber,
    expanded,
    expression,
    name,
    number_or_expression,
    split_line,
)


def parser() -> MagicParser:
    made = MagicParser("%shrink", "Make it small.", "  %shrink model --amount 0.5")
    made.add_argument("model", type=expression, metavar="MODEL")
    made.add_argument("--amount", type=number_or_expression)
    made.add_argument("--scheme", type=OneOf(["symmetric", "affine"]), default="symmetric")
    made.add_argument("--jobs", type=WholeNumber(1))
    made.add_argument("--out", type=name)
    made.add_argument("--fresh", action="store_true")
    return made


def test_values() -> None:
    read = parser().read("models['a'] --amount 0.5 --scheme affine --jobs 2 --out small --fresh")
    assert (read.model, read.amount, read.scheme, read.jobs, read.out, read.fresh) == (
        *("models['a']", 0.5, "affine", 2, "small", True),
    )
    assert isinstance(read.model, Expression)


def test_a_number_may_be_an_expression() -> None:
    assert isinstance(parser().read("model --amount share").amount, Expression)
    assert parser().read("model --amount 3").amount == 3


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "%shrink: MODEL is missing. See %shrink -h."),
        ("model --amont 1", "there is no option --amont. Did you mean '--amount'? See %shrink -h."),
        ("model other", "'other' is not expected. Options have names, see %shrink -h; an expression"),
        ("model --scheme afine", "'afine' is not one of symmetric, affine. Did you mean 'affine'?"),
        ("model --jobs 0", "at least 1 is needed, but got 0."),
        ("model --jobs two", "a whole number is needed, but got 'two'."),
        ("model --out my-name", "a Python name is needed, but got 'my-name'."),
        ("model --amount", "%shrink: --amount needs a value. See %shrink -h."),
        ("(model --amount 1", "a bracket is opened and not closed in: (model --amount 1"),
        ("model. --amount 1", "'model.' is not a Python expression"),
    ],
)
def test_errors(line: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parser().read(line)
    assert text in str(caught.value)
    assert type(caught.value) is UsageError
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["-h", "--help", "model --amount 1 -h"])
def test_help_shows_options_and_examples(flag: str) -> None:
    with pytest.raises(HelpRequested) as caught:
        parser().read(flag)
    text = str(caught.value)
    assert "Make it small." in text
    assert "examples:\n  %shrink model --amount 0.5" in text
    assert "--scheme" in text


def test_options_and_their_words() -> None:
    made = parser()
    assert "--amount" in made.options()
    assert made.values_of("--scheme") == ("symmetric", "affine")
    assert made.values_of("--amount") == ()
    assert made.values_of("--fresh") is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("model --amount 0.8", ["model", "--amount", "0.8"]),
        ("  model\t--bits  8 ", ["model", "--bits", "8"]),
        ("--data (X, y) --lr 1", ["--data", "(X, y)", "--lr", "1"]),
        ("[small, large]", ["[small, large]"]),
        ("--data pair[0, 1]", ["--data", "pair[0, 1]"]),
        ('--subject-to "kilobytes <= 60"', ["--subject-to", "kilobytes <= 60"]),
        ("--subject-to 'kilobytes <= 60'", ["--subject-to", "kilobytes <= 60"]),
        ("--start [{'a': 1, 'b': \"x y\"}]", ["--start", "[{'a': 1, 'b': \"x y\"}]"]),
        ('models["a b"]', ['models["a b"]']),
        ("model --bits 8  # a comment, don't mind", ["model", "--bits", "8"]),
        ("models['#1']", ["models['#1']"]),
        ("f(')')", ["f(')')"]),
        (r'"say \"hi\" now"', ['say "hi" now']),
        ("'a' + 'b'", ["a", "+", "b"]),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    assert split_line(line) == words


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('--subject-to "kilobytes <= 60', 'a quote " is opened and not closed in: --subject-to "kilobytes <= 60'),
        ("--data (X, y", r"a bracket is opened and not closed in: --data \(X, y"),
    ],
)
def test_an_open_quote_or_bracket_is_an_error(line: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        split_line(line)


VALUES = {"n": 3, "share": 0.1 + 0.2, "name": "digits", "bits": {"low": 2}, "zero": torch.tensor(0.5)}


def evaluated(text: Expression) -> object:
    try:
        return eval(text, dict(VALUES))
    except NameError as err:
        raise UsageError(f"there is no variable {err.name!r} in this notebook.") from None
    except AttributeError as err:
        raise UsageError(str(err)) from None


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("{n}", "3"),
        ("$n", "3"),
        ("{ n + 1 }", "4"),
        ("{share}", repr(0.1 + 0.2)),
        ("{share:.2f}", "0.30"),
        ("{name!r:>9}", " 'digits'"),
        ("{name != 'x'}", "True"),
        ("run-{name}-$n-{n}.journal", "run-digits-3-3.journal"),
        ("{bits['low']}", "2"),
        ("{ {1: 'a}'}[1] }", "a}"),
        ("{zero}", "0.5"),
        ("$zero", "0.5"),
        ("{{n}} $$n", "{n} $n"),
        ("5$ or 5 $", "5$ or 5 $"),
        ("$name.__class__.__name__", "str"),
        ("kilobytes <= {n}", "kilobytes <= 3"),
    ],
)
def test_values_of_the_notebook(word: str, text: str) -> None:
    assert expanded(word, evaluated) == text


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("{m}", "there is no variable 'm'"),
        ("$m", "there is no variable 'm'"),
        ("$n.journal", "Write {n}.journal if .journal is text"),
        ("{n", "a brace is opened and not closed in: {n"),
        ("{n +}", "'n +' is not a Python expression"),
        ("{}", "is not a Python expression"),
        ("{name:d}", "{name:d} cannot be written as text"),
        ("{name!q}", "{name!q} cannot be written as text"),
    ],
)
def test_a_value_that_is_missing_is_an_error(word: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        expanded(word, evaluated)
    assert text in str(caught.value)


def test_values_reach_all_arguments_that_are_no_expressions() -> None:
    def read(line: str) -> argparse.Namespace:
        return parser().read(line, evaluated)

    for line in ("model --jobs {n}", "model --jobs=$n", "model --jobs n", "model --jobs 2+1"):
        assert read(line).jobs == 3
    for text in ("{share}", "$share", "share"):
        amount = read(f"model --amount {text}").amount
        assert (evaluated(amount) if isinstance(amount, Expression) else amount) == 0.1 + 0.2
    read_line = read("{'model'} --fresh --out {name}")
    assert (read_line.model, read_line.fresh, read_line.out) == ("{'model'}", True, "digits")
    assert read("model --amount={-n}").amount == read("model --amount {-n}").amount == -3
    for line, text in (
        ("model --jobs {m}", "--jobs: there is no variable 'm'"),
        ("model --jobs m", "--jobs: there is no variable 'm'"),
        ("model --jobs share", "--jobs: a whole number is needed, but got '0.30000000000000004'."),
        ("model --out {n}", "a Python name is needed, but got '3'."),
    ):
        with pytest.raises(UsageError) as caught:
            read(line)
        assert text in str(caught.value)
