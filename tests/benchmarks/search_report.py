"""The report of a benchmark: `report.txt`, `scores.csv`, `best.csv`, `ranks.csv`, `curves.png`, `growth.png`."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from problems import Problem
from search_figures import draw_curves, draw_growth
from search_tables import OURS, against_best, by_problem, duels, fronts, ranks, scored

LEGEND = """Scores: less is better, 0 is perfect. Regret above the optimum (public, own, penalties), missing share of \
the best front's hypervolume (fronts), regret between a long search (0) and the median of random points (1; tuning).
seeds: how many searches a figure stands on; low, high: quartiles; wins: seeds where no peer that ran is better;
cpu_s: median CPU seconds a suggestion, telling included, after the tenth; common, better, worse: seeds that ours ran
too, and on how many ours is better or worse; p: two-sided signed-rank test on these (none below six)."""


def readable(table: pd.DataFrame, digits: int = 2) -> str:
    shown = table.copy()
    for name in shown.select_dtypes("float"):
        shown[name] = ["" if pd.isna(value) else f"{value:.{digits}g}" for value in shown[name]]
    return shown.to_string(index=False)


def reasons(unable: Mapping[str, Mapping[str, str]]) -> str:
    """Return a line for each peer and reason, with the problems that it holds for."""
    lines = []
    for peer, why in unable.items():
        lines += [
            f"{peer}: {reason}: {', '.join(name for name, known in why.items() if known == reason)}"
            for reason in sorted(set(why.values()))
        ]
    return "\n".join(lines) or "Every peer can search every problem asked for."


def growth(folder: Path) -> tuple[str, str] | None:
    """Return the section on speed, if it was measured."""
    path = folder / "speed.csv"
    if not path.exists():
        return None
    speed = pd.read_csv(path)
    draw_growth(speed, folder / "growth.png")
    wide = speed.pivot_table(index=["problem", "n"], columns="peer", values="cpu_s").reset_index()
    if {OURS, "optuna-gp"} <= set(wide):
        wide["ours / optuna-gp"] = wide[OURS] / wide["optuna-gp"]
    return "CPU seconds a suggestion by known points, peers in turn in one process", readable(wide)


def write_report(
    folder: Path,
    lines: Sequence[Mapping[str, object]],
    problems: Sequence[Problem],
    unable: Mapping[str, Mapping[str, str]],
) -> str:
    """Write the tables and figures of all runs in `lines`; return the text."""
    table = scored(lines, problems)
    if table.empty:
        return "Nothing was run."
    scores, best, mean_ranks = by_problem(table), against_best(by_problem(table)), ranks(table)
    for name, part in (("scores", scores), ("best", best), ("ranks", mean_ranks)):
        part.to_csv(folder / f"{name}.csv", index=False)
    draw_curves(table, folder / "curves.png")
    trials = ", ".join(str(n) for n in sorted({line["n"] for line in lines}))
    sections = [
        (f"{trials} trials, one thread, {platform.machine()}, Python {platform.python_version()}", LEGEND),
        ("Ours against the best peer that ran the same seeds", readable(best)),
        ("Mean rank (1 is best)", readable(mean_ranks, 3)),
        ("Ours against each peer, all problems and seeds that both ran", readable(duels(table))),
        ("Fronts: share of the hypervolume; trials until what optuna-gp has in the end", readable(fronts(table), 3)),
        growth(folder),
        ("Every problem and peer", readable(scores.drop(columns="group"))),
        ("What peers cannot search", reasons(unable)),
    ]
    text = "\n\n".join(f"== {title}\n\n{body}" for title, body in filter(None, sections))
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    return text
