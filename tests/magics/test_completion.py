"""What Tab offers on a magic's line."""

from __future__ import annotations

import pytest
from torch import nn

from nbcompress.magics.arguments import MagicParser, OneOf, expression
from nbcompress.magics.completion import suggestions

NAMES = {"model": nn.Sequential(nn.Linear(1, 1)), "train": [1], "_hidden": 1, "In": []}


def parser() -> MagicParser:
    made = MagicParser("%shrink", "Make it small.")
    made.add_argument("model", type=expression)
    made.add_argument("--scheme", type=OneOf(["symmetric", "affine"]))
    made.add_argument("--data", type=expression)
    made.add_argument("--layers", action="append")
    made.add_argument("--fresh", action="store_true")
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["model"]),
        ("mo", ["model"]),
        ("model --", ["--help", "--scheme", "--data", "--layers", "--fresh"]),
        ("model --data train --", ["--help", "--scheme", "--data", "--layers", "--fresh"]),
        ("model --scheme ", ["symmetric", "affine"]),
        ("model --scheme a", ["symmetric", "affine"]),
        ("model --data ", ["model", "train"]),
        ("model --layers ", ["0"]),
        ("--fresh ", ["model"]),
        ("model --data (tr", []),
    ],
)
def test_suggestions(text: str, expected: list[str]) -> None:
    assert suggestions(parser(), text, NAMES) == expected
