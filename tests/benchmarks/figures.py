"""The figures of `docs/benchmarks.md`, drawn from the stored runs beside this script.

    python tests/benchmarks/figures.py

`search_runs.jsonl.gz` was kept by `search.py --keep`; `size_runs.csv` and `headline_runs.csv` are rows of `size.py` and
`headline.py`; `--take` copies them from `results/`, with the date and the machine of the run.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from datetime import date
from pathlib import Path
from statistics import median

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from headline import CONTESTANTS, OURS, TASKS, TIME, is_within, known_rows
from problems import PROBLEMS
from pruned_layers import PRUNED_LAYERS
from records import RESULTS, processor
from search_figures import COLOURS, FLOOR, label_decades
from search_tables import scored

HERE = Path(__file__).parent
FIGURES = HERE.parents[1] / "docs" / "figures"
SIZE_NETWORKS = ("300-100", "LeNet-5-like")
# Problems that show what differs: smooth ones, one with noise of kinds, a real network, and two objectives.
SHOWN = ("branin", "hartmann6", "levy4", "rosenbrock4", "mixed", "conditional", "pruned layers", "zdt1")
NAMES = {
    **{"ours": "nbcompress", "optuna-gp": "Optuna GP", "optuna-tpe": "Optuna TPE", "skopt": "scikit-optimize"},
    **{"botorch": "BoTorch", "ax": "Ax", "smac": "SMAC"},
}
LETTERING = {"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False}


def search_figure(path: Path) -> None:
    """Draw the median score after each trial, with a band between the quartiles of the seeds."""
    lines = [json.loads(line) for line in gzip.decompress((HERE / "search_runs.jsonl.gz").read_bytes()).splitlines()]
    shown = [problem for name in SHOWN for problem in (*PROBLEMS, PRUNED_LAYERS) if problem.name == name]
    # The further seeds of some problems have two peers only.
    table = scored([line for line in lines if line["seed"] < 10], shown)
    figure, axes = plt.subplots(2, 4, figsize=(11, 5), layout="constrained")
    for axis, (problem, runs) in zip(axes.flat, table.groupby("problem", sort=False), strict=True):
        for peer in reversed([peer for peer in COLOURS if peer in set(runs.peer)]):
            scores = np.stack(runs[runs.peer == peer].scores.to_list()).clip(FLOOR)
            low, middle, high = np.quantile(scores, (0.25, 0.5, 0.75), axis=0)
            trials, is_ours = range(1, scores.shape[1] + 1), peer == "ours"
            axis.plot(trials, middle, color=COLOURS[peer], linewidth=2 if is_ours else 1)
            if peer in ("ours", "optuna-gp", "random"):
                axis.fill_between(trials, low, high, color=COLOURS[peer], alpha=0.15, linewidth=0)
        axis.set(yscale="log", title=f"{problem} ({runs.seed.nunique()} seeds)")
        label_decades(axis)
    handles = [plt.Line2D([], [], color=colour, label=NAMES.get(peer, peer)) for peer, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    figure.supxlabel("trial")
    figure.supylabel("regret, or missing hypervolume (zdt1)")
    save(figure, path)


def cost_figure(path: Path) -> None:
    """Draw processor seconds of a suggestion in searches of 40 trials: the median over problems and seeds."""
    lines = [json.loads(line) for line in gzip.decompress((HERE / "search_runs.jsonl.gz").read_bytes()).splitlines()]
    found = {peer: [line["cpu_s"] for line in lines if line["peer"] == peer] for peer in COLOURS}
    found = dict(sorted(found.items(), key=lambda pair: median(pair[1])))
    figure, axis = plt.subplots(figsize=(5.2, 2.8), layout="constrained")
    for place, (peer, seconds) in enumerate(found.items()):
        low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
        axis.barh(
            place, middle, color=COLOURS[peer], xerr=[[middle - low], [high - middle]], error_kw={"linewidth": 0.8}
        )
        axis.text(high * 1.25, place, f"{middle:.2g} s", va="center", fontsize=8)
    axis.set_yticks(range(len(found)), [NAMES.get(peer, peer) for peer in found])
    axis.set(xscale="log", xlabel="CPU seconds a suggestion (quartiles)")
    axis.invert_yaxis()
    save(figure, path)


def size_figure(path: Path) -> None:
    """Draw the length of the file against the change of accuracy: a point for each seed."""
    rows = known_rows(HERE / "size_runs.csv")
    recipes = {network: {row["recipe"] for row in rows if row["network"] == network} for network in SIZE_NETWORKS}
    networks = [network for network in SIZE_NETWORKS if len(recipes[network]) == 3]  # every recipe was run
    figure, axes = plt.subplots(1, len(networks), figsize=(1 + 4 * len(networks), 3), sharey=True, layout="constrained")
    axes = np.atleast_1d(axes)
    colours = {"ours": "tab:red", "Deep Compression": "tab:blue", "the same in our file": "tab:cyan"}
    for axis, network in zip(axes, networks, strict=True):
        own = [row for row in rows if row["network"] == network]
        for recipe, colour in colours.items():
            some = [row for row in own if row["recipe"] == recipe]
            changes = [float(row["small %"]) - float(row["dense %"]) for row in some]
            label = {"ours": "nbcompress", "the same in our file": "Deep Compression in our file"}.get(recipe, recipe)
            axis.plot([float(row["times"]) for row in some], changes, "o", color=colour, alpha=0.7, label=label)
        axis.axhline(0, color="k", linewidth=0.8, linestyle="--")
        seeds = len({row["seed"] for row in own})
        axis.set(xscale="log", title=f"{network}, {seeds} seeds", xlabel="times smaller than the float32 file")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
    axes[0].set_ylabel("change of test accuracy, points")
    axes[0].legend(fontsize=8)
    save(figure, path)


def headline_figure(path: Path) -> None:
    """Draw what each contestant delivered within the budgets: accuracy lost, size and time."""
    rows = known_rows(HERE / "headline_runs.csv")
    # A model that not every contestant was run on compares nothing.
    ran = {
        model: {row["contestant"] for row in rows if row["model"] == model} for model in (row["model"] for row in rows)
    }
    models = [model for model, contestants in ran.items() if contestants == set(CONTESTANTS)]
    colours = dict(zip(CONTESTANTS, ("tab:red", "tab:blue", "tab:green", "tab:orange", "tab:purple"), strict=True))
    figure, axes = plt.subplots(1, 3, figsize=(11, 1.5 + 0.75 * len(models)), sharey=True, layout="constrained")
    for at, model in enumerate(models):
        for place, contestant in enumerate(CONTESTANTS):
            own = [row for row in rows if (row["model"], row["contestant"]) == (model, contestant)]
            good, y = [row for row in own if is_within(row)], at + 0.16 * (place - 2)
            if own and not good:
                left = axes[0].get_yaxis_transform()
                nothing = "nothing within the budgets"
                axes[0].text(0.02, y, nothing, color=colours[contestant], fontsize=7, va="center", transform=left)
            for row in good:
                lost = 100 * (float(row["accuracy"]) - float(row["dense_accuracy"]))
                for axis, value in zip(
                    axes, (lost, float(row["size"]) / TASKS[model].size, float(row["time"])), strict=True
                ):
                    axis.plot([value], [y], "o", color=colours[contestant], markersize=6)
    axes[0].axvline(0, color="k", linewidth=0.8, linestyle="--")
    axes[1].axvline(1, color="k", linewidth=0.8)
    axes[2].axvline(TIME, color="k", linewidth=0.8)
    axes[0].set(title="change of test accuracy, points")
    axes[1].set(title="size, as a share of the budget", xlim=(0, 1.1))
    axes[2].set(title="time of a call, as a share", xlim=(0, 1.1 * TIME))
    axes[0].set_yticks(range(len(models)), models)
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    shown = [contestant for contestant in CONTESTANTS if any(row["contestant"] == contestant for row in rows)]
    handles = [
        plt.Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            color=colours[name],
            label=name if name == OURS else f"Optuna, torch-pruning, {name}",
        )
        for name in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """Write the figure, the same bytes for the same runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    print(path)


def take() -> None:
    """Copy the rows of the last runs from `results/`, so that they are stored with the project."""
    rows = []
    for network in SIZE_NETWORKS:
        for path in sorted(RESULTS.glob(f"size-{network}*.csv")):
            if path.stem == f"size-{network}" or path.stem.removeprefix(f"size-{network}-").isdigit():
                when = date.fromtimestamp(path.stat().st_mtime).isoformat()
                rows += [{"network": network, **row, "date": when, "machine": processor()} for row in known_rows(path)]
    for name, found in (("size_runs.csv", rows), ("headline_runs.csv", known_rows(RESULTS / "headline.csv"))):
        if found:
            with (HERE / name).open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", action="store_true", help="copy the rows of the last runs from results/ first")
    if parser.parse_args().take:
        take()
    with plt.rc_context(LETTERING):
        search_figure(FIGURES / "search.png")
        cost_figure(FIGURES / "search-cost.png")
        if (HERE / "size_runs.csv").exists():
            size_figure(FIGURES / "size.png")
        if (HERE / "headline_runs.csv").exists():
            headline_figure(FIGURES / "headline.png")


if __name__ == "__main__":
    main()
