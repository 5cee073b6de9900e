"""Figures from the runs: scores by trial, and seconds by the number of known points."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import NullFormatter

# One colour for each peer, whichever of them ran; ours stands out.
COLOURS = {
    "ours": "tab:red",
    "optuna-gp": "tab:blue",
    "botorch": "tab:green",
    "ax": "tab:pink",
    "bayes_opt": "tab:purple",
    "skopt": "tab:orange",
    "smac": "tab:brown",
    "optuna-tpe": "tab:cyan",
    "random": "tab:gray",
}
# A logarithmic axis needs a floor: scores at or below it are as good as perfect.
FLOOR = 1e-6


def draw_curves(table: pd.DataFrame, path: Path) -> None:
    """Draw the median score after each trial, one panel a problem; quartiles where at least five seeds ran."""
    long = table[["problem", "peer", "seed", "scores"]].explode("scores", ignore_index=True)
    long["trial"] = long.groupby(["problem", "peer", "seed"]).cumcount() + 1
    long["score"] = long["scores"].astype(float).replace(np.inf, np.nan).clip(lower=FLOOR)
    seeds = table.groupby(["problem", "peer"])["seed"].transform("nunique")
    many = set(map(tuple, table.loc[seeds >= 5, ["problem", "peer"]].to_numpy()))
    order = [peer for peer in COLOURS if peer in set(table.peer)]
    sns.set_theme(style="whitegrid", font_scale=0.8)
    problems = list(table.problem.unique())
    rows = -(-len(problems) // 5)
    figure, axes = plt.subplots(rows, 5, figsize=(15, 2.5 * rows), squeeze=False, layout="constrained")
    for ax, problem in zip(axes.flat, problems, strict=False):
        for peer in reversed(order):
            own = long[(long.problem == problem) & (long.peer == peer)]
            band = ("pi", 50) if (problem, peer) in many else None
            sns.lineplot(own, x="trial", y="score", estimator="median", errorbar=band, color=COLOURS[peer], ax=ax,
                         linewidth=1.8 if peer == "ours" else 1.1)  # fmt: skip
        ax.set(yscale="log", title=problem, xlabel="", ylabel="")
        label_decades(ax)
    for ax in axes.flat[len(problems) :]:
        ax.set_axis_off()
    handles = [plt.Line2D([], [], color=COLOURS[peer], label=peer) for peer in order]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(order))
    figure.supxlabel("trial")
    figure.supylabel("score: median, and quartiles of five or more seeds; less is better")
    figure.savefig(path, dpi=75)
    plt.close(figure)


def label_decades(ax: plt.Axes) -> None:
    """Write plain numbers on a logarithmic axis; between the powers of ten only where there are hardly any."""
    low, high = ax.get_ylim()
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())


def draw_growth(speed: pd.DataFrame, path: Path) -> None:
    """Draw CPU seconds a suggestion against the number of known points, one panel a problem."""
    sns.set_theme(style="whitegrid", font_scale=0.8)
    palette = {peer: COLOURS[peer] for peer in speed.peer.unique()}
    grid = sns.relplot(
        speed, x="n", y="cpu_s", hue="peer", col="problem", kind="line", marker="o", palette=palette, height=3
    )
    grid.set(xscale="log", yscale="log", xlabel="known points", ylabel="CPU seconds a suggestion")
    grid.set_titles("{col_name}")
    grid.savefig(path, dpi=90)
    plt.close(grid.figure)
