"""Tables from the runs: medians and spread, the best peer, ranks, duels, trials until a front is reached.

A row of `scored` is a run. Its score after each trial is in `scores`, after the last in `score`; less is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
import pandas as pd
from problems import Problem, wide_share
from scipy.stats import wilcoxon

# Everything is compared with this one.
OURS = "ours"
# Scores below this are rounding: they count as 0, and so as equal.
ZERO = 1e-12
# A peer with fewer runs in a group is not ranked there, since too few seeds would be common to all.
ENOUGH_RUNS = 6


def scored(lines: Sequence[Mapping[str, object]], problems: Sequence[Problem]) -> pd.DataFrame:
    """Return one row a run: problem, group, peer, seed, scores, score, cpu_s; in the order of the problems."""
    rows = []
    for problem in problems:
        for run in (line for line in lines if line["problem"] == problem.name):
            scores = np.array(problem.scores(run["losses"], run["slacks"]))
            scores[np.abs(scores) <= ZERO] = 0.0
            # A search that found nothing feasible is worse than any that did.
            scores[np.isnan(scores)] = np.inf
            row = {"problem": problem.name, "group": problem.group, "scores": scores, "score": scores[-1]}
            row |= {name: run[name] for name in ("peer", "seed", "cpu_s")}
            rows.append(row | {"wide": wide_share(problem, run["losses"])})
    return pd.DataFrame(rows)


def wide_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Return final scores: a row for each problem and seed, a column for each peer, NaN where it did not run."""
    return runs.set_index(["problem", "seed", "peer"])["score"].unstack("peer")


def by_problem(table: pd.DataFrame) -> pd.DataFrame:
    """Return for each problem and peer: seeds, median, quartiles, wins, CPU seconds, and the pairing with ours."""
    rows = []
    for problem, runs in table.groupby("problem", sort=False):
        wide = wide_of(runs)
        lowest = wide.min(axis=1)
        for peer in wide.columns:
            scores = wide[peer].dropna()
            row = {"problem": problem, "group": runs.group.iloc[0], "peer": peer, "seeds": len(scores)}
            row |= {"median": scores.median(), "low": scores.quantile(0.25), "high": scores.quantile(0.75)}
            row |= {"wins": int((scores <= lowest[scores.index]).sum())}
            row |= {"cpu_s": runs.loc[runs.peer == peer, "cpu_s"].median()} | duel(wide, peer)
            rows.append(row)
    return pd.DataFrame(rows)


def duel(wide: pd.DataFrame, peer: str) -> dict[str, float]:
    """Return of the seeds that both ran: how many, where ours is better and worse, and the signed-rank p."""
    if OURS not in wide or peer == OURS:
        return {"common": 0, "better": 0, "worse": 0, "p": np.nan}
    both = wide[[OURS, peer]].dropna()
    ours, theirs = both[OURS].to_numpy(), both[peer].to_numpy()
    better, worse = int((ours < theirs).sum()), int((ours > theirs).sum())
    finite = np.isfinite(ours) & np.isfinite(theirs)
    difference = ours[finite] - theirs[finite]
    # Below six pairs no outcome at all is significant.
    can_tell = len(difference) >= 6 and difference.any()
    p = float(wilcoxon(difference, zero_method="zsplit").pvalue) if can_tell else np.nan
    return {"common": len(both), "better": better, "worse": worse, "p": p}


def against_best(scores: pd.DataFrame) -> pd.DataFrame:
    """Return for each problem the best peer among those that ran all of our seeds, then one with fewer that is lower.

    Of the peers with fewer seeds only one whose median is below that of the best is named; no test can tell there.
    """
    rows = []
    for problem, found in scores.groupby("problem", sort=False):
        if OURS not in set(found.peer):
            continue
        ours = found[found.peer == OURS].iloc[0]
        others = found[(found.peer != OURS)].sort_values("median")
        full, fewer = others[others.common == ours.seeds], others[others.common < ours.seeds]
        if full.empty:
            continue
        best = full.iloc[0]
        row = {"problem": problem, "ours": ours["median"], "best peer": best.peer, "its": best["median"]}
        row |= {"seeds": best.common, "better": best.better, "worse": best.worse, "p": best.p}
        lower = fewer[fewer["median"] < min(best["median"], ours["median"])]
        row["lower, of fewer seeds"] = ", ".join(
            f"{other.peer} {other['median']:.2g} ({other.seeds}; ours better in {other.better})"
            for _, other in lower.iterrows()
        )
        rows.append(row)
    return pd.DataFrame(rows)


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean ranks by group, twice: among the peers with every run that ours has, and among all that ran enough.

    Ranks are taken within a problem and seed, and only where all of the peers compared ran: `blocks` says how many.
    """
    rows = []
    for group, runs in [*table.groupby("group", sort=False), ("all", table)]:
        wide = wide_of(runs)
        wide = wide[wide[OURS].notna()] if OURS in wide else wide
        every = wide.columns[wide.notna().all()].tolist()
        enough = wide.columns[wide.notna().sum() >= ENOUGH_RUNS].tolist()
        compared = {"every run": every} | ({} if enough == every else {f"{ENOUGH_RUNS} runs or more": enough})
        for among, peers in compared.items():
            blocks = wide[peers].dropna()
            if len(blocks) and len(peers) > 1:
                counts = {"problems": blocks.index.get_level_values("problem").nunique(), "blocks": len(blocks)}
                rows.append({"group": group, "among": among} | counts | blocks.rank(axis=1).mean().to_dict())
    return pd.DataFrame(rows)


def duels(table: pd.DataFrame) -> pd.DataFrame:
    """Return ours against each peer by group: the runs both made, and where ours is better and worse."""
    rows = []
    for group, runs in table.groupby("group", sort=False):
        wide = wide_of(runs)
        for peer in (column for column in wide.columns if column != OURS):
            found = duel(wide, peer)
            rows.append({"group": group, "peer": peer} | {name: found[name] for name in ("common", "better", "worse")})
    return pd.DataFrame(rows)


def fronts(table: pd.DataFrame, rival: str = "optuna-gp") -> pd.DataFrame:
    """Return for each front and peer the median share of the hypervolume, and the trials until the rival's median.

    `trials` is the median over seeds of the first trial at which the peer has what the rival has in the end (median
    over its seeds); `trials, paired` takes the rival's end on the same seed. Never getting there counts as infinite.
    `wide share` measures from the reference (11, 11), which BoTorch's ZDT problems have; ours is stricter.
    """
    rows = []
    for problem, runs in table[table.group == "fronts"].groupby("problem", sort=False):
        ends = runs[runs.peer == rival].set_index("seed")["score"]
        for peer, own in runs.groupby("peer"):
            row = {"problem": problem, "peer": peer, "seeds": len(own), "share": 1.0 - own.score.median()}
            row["wide share"] = own.wide.median()
            if len(ends):
                row["trials"] = median(first_at(scores, ends.median()) for scores in own.scores)
                pairs = [(run.scores, ends[run.seed]) for run in own.itertuples() if run.seed in ends.index]
                row["trials, paired"] = median(first_at(scores, end) for scores, end in pairs) if pairs else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def first_at(scores: np.ndarray, level: float) -> float:
    """Return the number of the first trial, from 1, whose score is at or below the level."""
    reached = np.flatnonzero(scores <= level)
    return float(reached[0] + 1) if len(reached) else np.inf
