"""The headline benchmark: rows that are there are not computed again, and the table says what was delivered."""

from __future__ import annotations

import sys
from pathlib import Path

import headline
import pytest


def made_up(model: str, contestant: str, *, within: bool, accuracy: float = 0.0, note: str = "") -> dict[str, object]:
    found: dict[str, object] = dict.fromkeys(headline.COLUMNS, "")
    found |= {"model": model, "seed": 0, "contestant": contestant, "seconds": 5.0, "trials": 4, "within": int(within)}
    found |= {"dense_accuracy": 0.97, "note": note}
    return found | ({"size": 0.1, "time": 0.5, "accuracy": accuracy} if within else {})


def test_a_run_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []

    def row(model: str, seed: int, contestant: str, *_: object) -> dict[str, object]:
        computed.append((model, seed, contestant))
        return made_up(model, contestant, within=True, accuracy=0.96) | {"seed": seed}

    monkeypatch.setattr(headline, "RESULTS", tmp_path)
    monkeypatch.setattr(headline, "row", row)
    line = ["headline.py", "--models", "mlp", "--contestants", "nbcompress", "NNCF", "--seconds", "5", "--seeds"]
    for n_seeds in ("1", "2"):
        monkeypatch.setattr(sys, "argv", [*line, n_seeds])
        headline.main()
    assert computed == [("mlp", 0, "nbcompress"), ("mlp", 0, "NNCF"), ("mlp", 1, "nbcompress"), ("mlp", 1, "NNCF")]
    assert len(headline.known_rows(tmp_path / "headline.csv")) == 4


def test_the_table_says_who_delivered_nothing() -> None:
    rows = [
        made_up("mlp", "nbcompress", within=True, accuracy=0.95),
        made_up("mlp", "nbcompress", within=False),
        made_up("mlp", "NNCF", within=True, accuracy=0.95) | {"time": 0.9},
        made_up("mlp", "torchao", within=False, note="ValueError: no"),
    ]
    text = [{name: str(value) for name, value in row.items()} for row in rows]
    lines = headline.table(text).splitlines()
    assert lines[2] == "| mlp | nbcompress | 1 of 2 | 4 | 0.100 | 0.50 | 95.0 % | 97.0 % |"
    assert lines[3] == "| mlp | NNCF | 0 of 1 | 4 |  |  | time 0.90 when measured again | 97.0 % |"
    assert lines[4] == "| mlp | torchao | 0 of 1 | 4 |  |  | ValueError: no | 97.0 % |"
