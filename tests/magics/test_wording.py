"""Keywords become options, and nothing else changes."""

from __future__ import annotations

import pytest

from nbcompress.magics.wording import in_options

OPTIONS = ["--amount", "--criterion", "--data", "--layers", "--finetune", "--rank", "--trial-timeout", "--scope"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("criterion='hessian' needs data: pass data=, so", "--criterion hessian needs data: pass --data, so"),
        ("prune needs amount=, a share, or threshold=", "prune needs --amount, a share, or threshold="),
        ("pass finetune=EPOCHS and data=", "pass --finetune EPOCHS and --data"),
        ("amount must be a number from 0 to 1, got 2", "--amount must be a number from 0 to 1, got 2"),
        ("the amount must be small", "the amount must be small"),
        ("layers='block.*.fc' matches no layer.", "--layers block.*.fc matches no layer."),
        ("4 of 64 are rank=0.0625", "4 of 64 are --rank 0.0625"),
        ("leave out criterion= and scope=", "leave out --criterion and --scope"),
        ("trial_timeout is above 0, got trial_timeout='a b'", "--trial-timeout is above 0, got --trial-timeout 'a b'"),
        ("metadata=3, x.data=4, my_data=5", "metadata=3, x.data=4, my_data=5"),
    ],
)
def test_keywords_as_options(text: str, expected: str) -> None:
    assert in_options(text, OPTIONS) == expected


def test_without_options_a_text_stays() -> None:
    assert in_options("amount= must", []) == "amount= must"
