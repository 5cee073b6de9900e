"""A study in a few lines of text: for terminals, logs and whatever shows nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbcompress.panels.text import cut, duration, spell

View = Mapping[str, Any]


def goal_text(goal: Mapping[str, Any]) -> str:
    """Return `maximize accuracy, minimize kilobytes, subject to kilobytes <= 60`."""
    parts = [f"{one['direction']} {one['metric']}" for one in goal["objectives"]]
    bounds = [f"{one['metric']} {one['operator']} {spell(one['bound'])}" for one in goal["constraints"]]
    return ", ".join(parts) + (f", subject to {' and '.join(bounds)}" if bounds else "")


def counts_text(view: View) -> str:
    """Return `38 trials: 30 complete, 6 infeasible, 2 failed`, or `600 trials, 100 shown: ...`."""
    parts = ", ".join(f"{n} {state}" for state, n in view["counts"].items())
    total, shown = total_of(view), len(view["trials"])
    text = f"{total} trial{'' if total == 1 else 's'}" + (f", {shown} shown" if shown < total else "")
    return text + (f": {parts}" if parts else "")


def total_of(view: View) -> int:
    """Return how many trials the study has, of which the view may hold a part."""
    return sum(view["counts"].values())


def params_text(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {spell(value)}" for key, value in params.items())


def values_text(trial: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """Return the known metrics of a trial: `accuracy 0.97, kilobytes 18.2`."""
    known = [(key, trial["metrics"].get(key)) for key in metrics]
    return ", ".join(f"{key} {spell(value)}" for key, value in known if value is not None)


def trial_line(trial: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """Return one trial as one line: number, state, metrics, point, seconds, and why it failed."""
    parts = [f"#{trial['number']:<3} {trial['state']:<11}", values_text(trial, metrics), params_text(trial["params"])]
    failure = trial.get("failure")
    if failure:
        parts.append(f"{failure['kind']}: {failure['message']}".rstrip(": "))
    if trial["seconds"] is not None:
        parts.append(duration(trial["seconds"]))
    return cut("  ".join(part for part in parts if part).replace("\n", " "), 400)


def by_number(view: View) -> dict[int, Mapping[str, Any]]:
    return {one["number"]: one for one in view["trials"]}


def best_text(view: View) -> str:
    """Return the best trial as one line, or that there is none."""
    best = by_number(view).get(view["best"]) if view["best"] is not None else None
    if best is None:
        return "no feasible trial yet" if view["state"] == "running" else "no feasible trial"
    return f"best: #{best['number']}  {values_text(best, view['metrics'])}  ({params_text(best['params'])})"


def closing_line(view: View) -> str:
    """Return the whole search in one line."""
    line = f"Study {view['name']}: {counts_text(view)}; {best_text(view)}."
    return cut(f"{line} {view['ending'] or ''}".strip().replace("\n", " "), 600)


def study_text(view: View) -> str:
    """Return the study as plain text: goal, counts, ending, warnings, and the front."""
    lines = [f"Study {view['name']}: {goal_text(view['goal'])}", counts_text(view)]
    lines += [view["ending"]] if view["ending"] else []
    lines += [f"warning: {one}" for one in view["warnings"]]
    trials = by_number(view)
    front = [trials[number] for number in view["front"] if number in trials]
    if len(view["goal"]["objectives"]) > 1 and front:
        lines.append(f"front ({len(front)}), best in {view['goal']['objectives'][0]['metric']} first:")
        lines += ["  " + trial_line(one, view["metrics"]) for one in front[:10]]
        if len(front) > 10:
            lines.append(f"  and {len(front) - 10} more")
    else:
        lines.append(best_text(view))
    return "\n".join(lines)
