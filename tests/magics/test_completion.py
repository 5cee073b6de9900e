"""Tab completion on a magic's line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.magics.arguments import MagicParser, OneOf, Suggests, expression, number_or_expression
from nbcompress.magics.completion import suggestions

NAMES = {
    "model": nn.Sequential(nn.Linear(1, 1)),
    "train": [1],
    "pair": (1, 2),
    "x": torch.zeros(1),
    "rate": 0.1,
    "flag": True,
    "score": len,
    "_hidden": 1,
    "In": [],
}
OPTIONS = [
    "--help",
    "--scheme",
    "--data",
    "--layers",
    "--match",
    "--bits",
    "--lr",
    "--evaluate",
    "--example",
    "--seed",
    "--fresh",
]


def parser() -> MagicParser:
    made = MagicParser("%shrink", "Make it small.")
    made.add_argument("model", type=expression)
    made.add_argument("--scheme", type=OneOf(["symmetric", "affine"]))
    made.add_argument("--data", type=expression)
    made.add_argument("--layers", action="append")
    made.add_argument("--match")
    made.add_argument("--bits", type=Suggests(int, ["auto"]))
    made.add_argument("--lr", type=number_or_expression)
    made.add_argument("--evaluate", type=expression)
    made.add_argument("--example", type=expression)
    made.add_argument("--seed")
    made.add_argument("--fresh", action="store_true")
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["model"]),
        ("mo", ["model"]),
        ("model --", OPTIONS),
        ("model --data train --", OPTIONS),
        ("model ", OPTIONS),
        ("model --data train ", OPTIONS),
        ("--data train ", ["model"]),
        ("--data=train ", ["model"]),
        ("model --scheme=", ["symmetric", "affine"]),
        ("model --scheme=af", ["symmetric", "affine"]),
        ("model --bits ", ["auto"]),
        ("model --match ", ["0:"]),
        ("model --lr ", ["rate"]),
        ("model --evaluate ", ["score"]),
        ("model --example ", ["pair", "x"]),
        ("model --seed ", ["flag", "model", "pair", "rate", "score", "train", "x"]),
        ("model --scheme ", ["symmetric", "affine"]),
        ("model --scheme a", ["symmetric", "affine"]),
        ("model --data ", ["pair", "train"]),
        ("model --layers ", ["0"]),
        ("--fresh ", ["model"]),
        ("model --data (tr", []),
    ],
)
def test_suggestions(text: str, expected: list[str]) -> None:
    assert suggestions(parser(), text, NAMES) == expected


def test_names_of_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = MagicParser("%bo_study", "Show one.")
    made.add_argument("name", nargs="?", metavar="NAME")
    assert suggestions(made, "", NAMES) == []
    space = {"x": nc.Float(0, 1)}
    nc.maximize(lambda x: x, space, trials=1, sampler="sobol", study="digits", storage="nbcompress.journal")
    assert suggestions(made, "", NAMES) == ["digits"]
    assert suggestions(made, "digits ", NAMES) == ["--help"]
    Path("nbcompress.journal").write_text("no journal\n")
    assert suggestions(made, "", NAMES) == []


def test_several_models_may_follow() -> None:
    made = MagicParser("%footprint", "Costs.")
    made.add_argument("models", nargs="+", metavar="MODEL")
    assert suggestions(made, "model ", NAMES) == ["model"]
