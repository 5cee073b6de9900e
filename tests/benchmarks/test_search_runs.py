"""Kept runs are read again and give the same tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import search


def line(peer: str, seed: int) -> str:
    run = {"problem": "branin", "peer": peer, "seed": seed, "n": 1, "losses": [[1 / 3]], "slacks": [[]], "cpu_s": 0.1}
    return json.dumps(run) + "\n"


def test_a_folder_begins_with_the_runs_of_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "KEPT", tmp_path / "kept.jsonl.gz")
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    search.begin(second)
    assert not second.exists()
    first.write_text(line("ours", 0) + line("smac", 1) + line("smac", 0), encoding="utf-8")
    search.keep(first)
    search.begin(second)
    assert [(run["peer"], run["seed"], run["losses"]) for run in search.read(second)] == [
        ("smac", 0, [[0.3333333333]]),
        ("smac", 1, [[0.3333333333]]),
    ]
    # Runs that are there stay.
    search.begin(first)
    assert len(list(search.read(first))) == 3


def test_every_kept_run_can_be_scored(tmp_path: Path) -> None:
    by_name = {problem.name: problem for problem in search.ALL}
    path = tmp_path / "runs.jsonl"
    search.begin(path)
    runs = list(search.read(path))
    assert len(runs) > 500
    for run in runs[::25]:
        scores = by_name[run["problem"]].scores(run["losses"], run["slacks"])
        assert len(scores) == run["n"]
