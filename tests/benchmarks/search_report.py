"""Tables and the figure from the runs: medians, spread, wins, ranks, paired tests, CPU seconds."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from scipy.stats import wilcoxon

# Everything is compared with this one.
OURS = "ours"
# Regrets below this are rounding: they count as equal.
ZERO = 1e-12


def final_scores(lines: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Return one row a run: problem, group, peer, seed, score, cpu_s.

    The tuning tasks have no known optimum: 0 is the best that any run found, 1 the median of all first random points.
    """
    table = pd.DataFrame([{**one, "score": one["scores"][-1], "first": one["scores"][0]} for one in lines])
    for problem in table.loc[table.group == "tuning", "problem"].unique():
        own = table.problem == problem
        best = table.loc[own, "score"].min()
        typical = table.loc[own & (table.peer == "random"), "first"].median()
        typical = table.loc[own, "first"].median() if np.isnan(typical) else typical
        table.loc[own, "score"] = (table.loc[own, "score"] - best) / (typical - best)
    # A search that found nothing feasible is worse than any that did.
    table["score"] = table["score"].fillna(np.inf)
    return table


def by_problem(table: pd.DataFrame) -> pd.DataFrame:
    """Return median, quartiles, wins, p against ours and CPU seconds for each problem and peer."""
    rows = []
    for problem, runs in table.groupby("problem", sort=False):
        wide = runs.pivot_table(index="seed", columns="peer", values="score")
        lowest = wide.min(axis=1)
        for peer in wide.columns:
            scores = wide[peer].dropna()
            rows.append(
                {
                    "problem": problem,
                    "group": runs.group.iloc[0],
                    "peer": peer,
                    "seeds": len(scores),
                    "median": scores.median(),
                    "low": scores.quantile(0.25),
                    "high": scores.quantile(0.75),
                    "wins": int((wide[peer] <= lowest + ZERO).sum()),
                    "p": paired_p(wide, peer),
                    "better": int((wide[OURS] < wide[peer] - ZERO).sum()) if OURS in wide else 0,
                    "cpu_s": runs.loc[runs.peer == peer, "cpu_s"].median(),
                }
            )
    return pd.DataFrame(rows)


def paired_p(wide: pd.DataFrame, peer: str) -> float:
    """Return the two-sided signed-rank probability that ours and the peer are alike, over seeds both have."""
    if OURS not in wide or peer == OURS:
        return np.nan
    both = wide[[OURS, peer]].replace(np.inf, np.nan).dropna()
    difference = (both[OURS] - both[peer]).to_numpy(copy=True)
    difference[np.abs(difference) <= ZERO] = 0.0
    if len(both) < 5 or not difference.any():
        return np.nan
    return float(wilcoxon(difference, zero_method="zsplit").pvalue)


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean rank of each peer in each group, over problems and seeds; only where all of the peers ran.

    Peers that cannot search every problem of a group are ranked on what they ran: read them with the count beside.
    """
    table = table.assign(rank=table.groupby(["problem", "seed"])["score"].rank(method="average"))
    mean = table.pivot_table(index="peer", columns="group", values="rank", aggfunc="mean")
    mean["all"] = table.groupby("peer")["rank"].mean()
    mean["problems"] = table.groupby("peer")["problem"].nunique()
    return mean.sort_values("all")


def draw_curves(lines: Sequence[Mapping[str, object]], path: Path) -> None:
    """Draw the median score after each trial, with quartiles, one panel a problem."""
    long = pd.DataFrame(
        [
            {"problem": one["problem"], "peer": one["peer"], "trial": i + 1, "score": max(score, 1e-6)}
            for one in lines
            for i, score in enumerate(one["scores"])
            if one["group"] != "tuning"
        ]
    )
    if long.empty:
        return
    grid = sns.relplot(
        long, x="trial", y="score", hue="peer", col="problem", col_wrap=4, kind="line", estimator="median",
        errorbar=("pi", 50), height=2.4, aspect=1.2, facet_kws={"sharey": False},
    )  # fmt: skip
    grid.set(yscale="log")
    grid.set_titles("{col_name}")
    grid.savefig(path, dpi=120)
    plt.close("all")


def write_report(
    folder: Path, lines: Sequence[Mapping[str, object]], order: Sequence[str], unable: Mapping[str, set[str]]
) -> str:
    """Write `scores.csv`, `ranks.csv`, `report.txt` and `curves.png`; return the text."""
    if not lines:
        return "Nothing was run."
    lines = sorted(lines, key=lambda one: order.index(one["problem"]) if one["problem"] in order else len(order))
    lines = [one for one in lines if one["problem"] in order]
    table = final_scores(lines)
    scores, mean_ranks = by_problem(table), ranks(table)
    scores.to_csv(folder / "scores.csv", index=False)
    mean_ranks.to_csv(folder / "ranks.csv")
    draw_curves(lines, folder / "curves.png")
    shown = scores.copy()
    for name in ("median", "low", "high", "p", "cpu_s"):
        shown[name] = [f"{value:.2g}" for value in shown[name]]
    trials = {one["n"] for one in lines}
    parts = [
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, one thread, "
        f"{', '.join(map(str, sorted(trials)))} trials. Scores: less is better. `p`: paired signed-rank test "
        "against ours; `better`: seeds where ours is better; `wins`: seeds where nobody is better; "
        "cpu_s: median a suggestion.",
        shown.drop(columns="group").to_string(index=False),
        "Mean rank (1 is best)",
        mean_ranks.round(2).to_string(),
        *(f"{peer} did not run: {'; '.join(sorted(why))}" for peer, why in unable.items()),
    ]
    text = "\n\n".join(parts)
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    return text
