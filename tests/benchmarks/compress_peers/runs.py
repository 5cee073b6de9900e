"""Runs methods on cases. Every run that ends is a line of a file and is not repeated."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import torch
from methods import Method
from nets import N_FOLDS, Case, case_of

import nbcompress as nc

Line = dict[str, Any]
Key = tuple[str, int, int, str, str, str, int]


def read(path: Path) -> list[Line]:
    """All lines so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def key_of(line: Line) -> Key:
    """What identifies a run. The stages of a run share it."""
    names = ("net", "seed", "fold", "family", "by", "name", "budget")
    return tuple(line[name] for name in names)  # type: ignore[return-value]


def forget(path: Path, by: Sequence[str]) -> None:
    """Remove the lines of some packages."""
    if not by:
        return
    kept = [json.dumps(run) + "\n" for run in read(path) if run["by"] not in by]
    path.write_text("".join(kept), encoding="utf-8")


def run_all(
    path: Path,
    methods: Sequence[Method],
    nets: Sequence[str],
    seeds: Sequence[int],
    *,
    n_folds: int = N_FOLDS,
    n_budgets: int | None = None,
    **training: int,
) -> None:
    """Run what is missing: all methods on all networks of a seed before the next one begins.

    Args:
        path: Where the lines are.
        methods: What is run.
        nets: Names of networks.
        seeds: Of the splits and of everything random.
        n_folds: Halves that are tested.
        n_budgets: Only the first so many budgets of each method.
        training: Epochs, if not all of them; see `case_of`.
    """
    done = {key_of(run) for run in read(path)}
    for seed in seeds:
        for fold in range(n_folds):
            for net in nets:
                missing = [
                    (method, budget, key)
                    for method in methods
                    for budget in method.budgets[:n_budgets]
                    if method.fits(net, budget)
                    and (key := (net, seed, fold, method.family, method.by, method.name, budget)) not in done
                ]
                if not missing:
                    continue
                case = case_of(net, seed, fold, **training)
                dense = _dense(case)
                if key_of(dense) not in done:
                    _write(path, [dense])
                for method, budget, key in missing:
                    _write(path, [_line(key, case, **stage) for stage in _stages(method, case, budget)])
                print(f"{net} {seed}.{fold}: {len(missing)} runs", file=sys.stderr, flush=True)


def _dense(case: Case) -> Line:
    key = (case.net, case.seed, case.fold, "dense", "", "", 0)
    n_bytes = nc.size_bytes(case.model)
    return _line(key, case, stage="plain", hits=case.hits(case.model), n_bytes=n_bytes, covers=0.0)


def _line(key: Key, case: Case, **found: object) -> Line:
    names = ("net", "seed", "fold", "family", "by", "name", "budget")
    return dict(zip(names, key, strict=True)) | {"n": len(case.test[1])} | found


def _stages(method: Method, case: Case, budget: int) -> Iterator[Line]:
    """Measure the stages of one run; a peer that fails leaves one stage that says how."""
    start = process_time()
    torch.manual_seed(case.seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for stage in method.make(case, budget):
                yield {
                    "stage": stage.name,
                    "hits": case.hits(stage.run),
                    # Lengths hardly vary, and coding a file takes as long as a little training.
                    "n_bytes": stage.n_bytes() if case.fold == 0 else None,
                    "covers": round(stage.covers, 4),
                    "n_weights": stage.n_weights,
                    "cpu_s": round(process_time() - start, 3),
                }
    except Exception as err:  # noqa: BLE001 (whatever a peer raises is its result)
        text = " ".join(f"{type(err).__name__}: {err}".split())
        yield {"stage": "failed", "hits": None, "n_bytes": None, "covers": 0.0, "failure": text[:300]}


def _write(path: Path, lines: Sequence[Line]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
