"""A magic's line, split."""

from __future__ import annotations

import pytest
from IPython.core.error import UsageError

from nbcompress.magics.line import split_line


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
def test_what_is_left_open_is_refused(line: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        split_line(line)
