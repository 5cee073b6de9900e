"""Tables and a figure from the runs: accuracy with intervals, against the best peer and against equal methods."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from math import nan
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from methods import OURS
from nets import TUNING_EPOCHS
from runs import Line
from scipy.stats import t as student

from nbcompress.measure import proportion_interval

PLACE = ["family", "net", "budget", "stage"]
METHOD = ["by", "name"]
# A method that leaves more weights unchanged has another budget and is not compared.
COVERED = 0.95
PEERS = ("torch-pruning", "torchao", "nncf", "neural-compressor", "onnxruntime")


def table_of(lines: Sequence[Line]) -> pd.DataFrame:
    """One row a stage that ended well."""
    table = pd.DataFrame([line for line in lines if line["stage"] != "failed"])
    table["case"] = table.seed.astype(str) + "." + table.fold.astype(str)
    table["accuracy"] = 100 * table.hits / table.n
    # The order of these is that of the tables.
    table["family"] = pd.Categorical(table.family, ["dense", "weights", "channels", "bits"], ordered=True)
    table["net"] = pd.Categorical(table.net, ["mlp", "conv", "encoder"], ordered=True)
    return table


def half_width(values: Sequence[float]) -> float:
    """Of the 95 % interval of a mean, by Student's t; NaN of fewer than two."""
    n = len(values)
    return float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else nan


def scores_of(table: pd.DataFrame) -> pd.DataFrame:
    """One row a method at each place.

    `low` and `high` bound the accuracy over all test predictions (Wilson, 95 %). `models` counts trained networks,
    and `between` is half the 95 % interval of their mean: the wider of the two is the one to trust.
    """
    rows = []
    for key, runs in table.groupby([*PLACE, *METHOD], sort=False, observed=True):
        found = proportion_interval(int(runs.hits.sum()), int(runs.n.sum()))
        rows.append(
            dict(zip([*PLACE, *METHOD], key, strict=True))
            | {
                "accuracy": 100 * found.value,
                "low": 100 * found.low,
                "high": 100 * found.high,
                "predictions": int(runs.n.sum()),
                "models": len(runs),
                "between": half_width(runs.accuracy.tolist()),
                "bytes": runs.n_bytes.mean(),
                "covers": runs.covers.mean(),
                "n_weights": runs.n_weights.mean(),
            }
        )
    order = [*PLACE[:2], "budget", "stage", "by"]
    return pd.DataFrame(rows).sort_values(order, kind="stable", ignore_index=True)


def _pair(table: pd.DataFrame, mine: pd.Series, other: pd.Series) -> dict[str, object]:
    """Two methods at one place, over the networks that both have compressed."""
    place = np.logical_and.reduce([table[name] == mine[name] for name in PLACE])

    def by_case(method: pd.Series) -> pd.Series:
        runs = table[place & (table.by == method.by) & (table.name == method["name"])]
        return runs.set_index("case").accuracy

    both = pd.concat([by_case(mine), by_case(other)], axis=1, join="inner", keys=["ours", "theirs"])
    return {
        **{name: mine[name] for name in PLACE},
        "ours": mine["name"],
        "accuracy": mine.accuracy,
        "bytes": mine.bytes,
        "peer": f"{other.by}: {other['name']}",
        "peer_accuracy": other.accuracy,
        "peer_bytes": other.bytes,
        "difference": (both.ours - both.theirs).mean(),
        "half_width": half_width((both.ours - both.theirs).tolist()),
        "models": len(both),
    }


def best_against_best(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """At each place the best of ours and the best of the peers that keep the budget.

    Both are chosen by the accuracy that is shown, so both are a little too good. Ours has more methods to choose from.
    """
    rows = []
    for _, methods in scores[scores.covers >= COVERED].groupby(PLACE, sort=False, observed=True):
        # While runs are missing, only methods that have compressed all networks of the place are looked at.
        methods = methods[methods.models == methods.models.max()]
        mine, others = methods[methods.by == OURS], methods[methods.by != OURS]
        if len(mine) and len(others):
            best = [methods.loc[methods.accuracy.idxmax()] for methods in (mine, others)]
            rows.append(_pair(table, *best))
    return pd.DataFrame(rows)


def twins(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Each method of ours against every peer's of the same name."""
    found = scores[scores.covers >= COVERED]
    theirs = found[found.by != OURS]
    rows = []
    for _, mine in found[found.by == OURS].iterrows():
        same = np.logical_and.reduce([theirs[name] == mine[name] for name in (*PLACE, "name")])
        rows += [_pair(table, mine, other) for _, other in theirs[same].iterrows()]
    return pd.DataFrame(rows)


def failures(lines: Sequence[Line]) -> list[str]:
    """What could not be done, each sentence once."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line["stage"] == "failed":
            place = f"{line['by']}, {line['name']}, {line['net']} at {line['budget']}"
            found.setdefault(line["failure"], []).append(place)
    return [f"{min(places)} (and {len(set(places)) - 1} more): {why}" for why, places in found.items()]


def draw(scores: pd.DataFrame, path: Path) -> None:
    """Draw the best method of everybody at each budget."""
    found = scores[(scores.covers >= COVERED) & (scores.family != "dense")].copy()
    best = found.loc[found.groupby([*PLACE, "by"], observed=True).accuracy.idxmax()]
    best["what"] = best.family.astype(str) + ", " + best.stage
    best["budget"] = best.budget.astype(str)
    grid = sns.relplot(
        best, x="budget", y="accuracy", hue="by", style="by", row="what", col="net", kind="line", markers=True,
        height=2.2, aspect=1.4, facet_kws={"sharex": False, "sharey": False},
    )  # fmt: skip
    grid.set_titles("{row_name}: {col_name}")
    grid.set_axis_labels("percent that go, or bits", "accuracy")
    grid.savefig(path, dpi=100)
    plt.close("all")


def write_report(folder: Path, lines: Sequence[Line]) -> str:
    """Write `scores.csv`, `best.csv`, `twins.csv`, `report.txt` and `peers.png`; return the text."""
    if not any(line["stage"] != "failed" for line in lines):
        return "Nothing was run."
    table = table_of(lines)
    scores = scores_of(table)
    best, same = best_against_best(table, scores), twins(table, scores)
    for name, part in (("scores", scores), ("best", best), ("twins", same)):
        part.to_csv(folder / f"{name}.csv", index=False, float_format="%.3f")
    draw(scores, folder / "peers.png")
    parts = [
        f"{platform.processor() or platform.machine()}, one thread, {_versions()}; up to "
        f"{table.case.nunique()} networks each. Percent of the test digits; `tuned` is after {TUNING_EPOCHS} epochs, "
        "or trained with rounded weights.",
        "Dense\n" + _shown(scores[scores.family == "dense"][["net", "accuracy", "low", "high", "between", "bytes"]]),
        "The best of ours and the best peer that keeps the budget\n" + _shown(best),
        _behind("best against best", best),
        _behind("methods of the same name", same),
        "All methods\n" + _shown(scores[scores.family != "dense"].drop(columns="n_weights")),
        "What could not be done\n" + "\n".join(failures(lines)),
    ]
    text = "\n\n".join(parts)
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    return text


def _behind(what: str, pairs: pd.DataFrame) -> str:
    """How often ours is more than a point away, and where it is behind."""
    if pairs.empty:
        return f"{what}: nothing to compare"
    low = pairs[pairs.difference < -1]
    head = (
        f"{what}: {len(pairs)} comparisons, {(pairs.difference > 1).sum()} more than a point ahead, {len(low)} behind"
    )
    return f"{head}\n{_shown(low)}" if len(low) else head


def _shown(table: pd.DataFrame) -> str:
    return table.to_string(
        index=False, float_format=lambda value: f"{value:.1f}" if abs(value) < 1e3 else f"{value:.0f}"
    )


def _versions() -> str:
    found = []
    for name in ("torch", *PEERS):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} is not installed")
    return ", ".join(found)
