"""A study as text and as HTML without style sheets, scripts and SVG, for viewers that show nothing else.

Both are made from a view, the data of `study_view`. Drawing the pictures is left to `figures`, since the plotting
libraries take seconds to import.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbcompress.panels.html import PRE_STYLE, Markup, Picture, details, heading, join, table, tag, user_text
from nbcompress.panels.text import format_duration, format_value, shorten
from nbcompress.panels.view import CELL_KEY

View = Mapping[str, Any]


def goal_text(goal: Mapping[str, Any]) -> str:
    """Return `maximize accuracy, minimize kilobytes, subject to kilobytes <= 60`."""
    parts = [f"{objective['direction']} {objective['metric']}" for objective in goal["objectives"]]
    bounds = [
        f"{constraint['metric']} {constraint['operator']} {format_value(constraint['bound'])}"
        for constraint in goal["constraints"]
    ]
    return ", ".join(parts) + (f", subject to {' and '.join(bounds)}" if bounds else "")


def counts_text(view: View) -> str:
    """Return `38 trials: 30 complete, 6 infeasible, 2 failed`, or `600 trials, 100 shown: ...`."""
    parts = ", ".join(f"{n} {state}" for state, n in view["counts"].items())
    total, shown = total_of(view), len(view["trials"])
    text = f"{total} trial{'' if total == 1 else 's'}" + (f", {shown} shown" if shown < total else "")
    return text + (f": {parts}" if parts else "")


def total_of(view: View) -> int:
    """Return how many trials the study has; the view may hold only a part of them."""
    return sum(view["counts"].values())


def params_text(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {format_value(value)}" for key, value in params.items())


def values_text(trial: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """Return the known metrics of a trial: `accuracy 0.97, kilobytes 18.2`."""
    known = [(key, trial["metrics"].get(key)) for key in metrics]
    return ", ".join(f"{key} {format_value(value)}" for key, value in known if value is not None)


def trial_line(trial: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """Return a trial as one line: number, state, metrics, parameters, failure and time."""
    parts = [f"#{trial['number']:<3} {trial['state']:<11}", values_text(trial, metrics), params_text(trial["params"])]
    failure = trial.get("failure")
    if failure:
        parts.append(f"{failure['kind']}: {failure['message']}".rstrip(": "))
    if trial["seconds"] is not None:
        parts.append(format_duration(trial["seconds"]))
    return shorten("  ".join(part for part in parts if part).replace("\n", " "), 400)


def by_number(view: View) -> dict[int, Mapping[str, Any]]:
    return {trial["number"]: trial for trial in view["trials"]}


def best_text(view: View) -> str:
    """Return the best trial as one line, or a sentence if there is none."""
    best = by_number(view).get(view["best"]) if view["best"] is not None else None
    if best is None:
        return "no feasible trial yet" if view["state"] == "running" else "no feasible trial"
    objectives = view["goal"]["objectives"]
    where = f" in {objectives[0]['metric']}" if len(objectives) > 1 else ""
    return f"best{where}: #{best['number']}  {values_text(best, view['metrics'])}  ({params_text(best['params'])})"


def summary_line(view: View) -> str:
    """Return the whole search in one line."""
    line = f"Study {view['name']}: {counts_text(view)}; {best_text(view)}."
    return shorten(f"{line} {view['ending'] or ''}".strip().replace("\n", " "), 600)


def study_text(view: View) -> str:
    """Return the study as plain text: goal, counts, ending, warnings and front."""
    lines = [f"Study {view['name']}: {goal_text(view['goal'])}", counts_text(view)]
    lines += [view["ending"]] if view["ending"] else []
    lines += [f"warning: {warning}" for warning in view["warnings"]]
    trials = by_number(view)
    front = [trials[number] for number in view["front"] if number in trials]
    if len(view["goal"]["objectives"]) > 1 and front:
        lines.append(f"front ({len(front)}), best in {view['goal']['objectives'][0]['metric']} first:")
        lines += ["  " + trial_line(trial, view["metrics"]) for trial in front[:10]]
        if len(front) > 10:
            lines.append(f"  and {len(front) - 10} more")
    else:
        lines.append(best_text(view))
    return "\n".join(lines)


SUMMARY_WIDTH = 148


def summary_lines(view: View) -> list[str]:
    """Return goal, counts, warnings, and the table of the front, each line at most `SUMMARY_WIDTH` characters long."""
    trials = by_number(view)
    front = [trials[number] for number in view["front"] if number in trials][:10]
    lines = study_text({**view, "front": []}).splitlines()
    if front:
        first, *others = view["goal"]["objectives"]
        if others:
            lines[-1] = f"front, best in {first['metric']} first:"
        cells = [columns(view), *(row_texts(view, trial) for trial in front)]
        cells = [[shorten(text.replace("\n", " "), 18) for text in line] for line in cells]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines += ["", *("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)]
    return [shorten(line, SUMMARY_WIDTH) for line in lines]


# A symbol for each state: a state must be visible without colours.
STATE_SYMBOLS = {"complete": "●", "stopped": "■", "infeasible": "▲", "failed": "✖", "interrupted": "◆", "running": "○"}
NO_BREAK_SPACE = "\u00a0"
MAX_ROWS = 200
# What a reader needs to repeat the experiment.
EXPECTED_RECORD_KEYS = ("data", "search", "versions", "machine", CELL_KEY)
# The key under which the record itself lists what is missing.
NOT_RECORDED_KEY = "not recorded"


@dataclass(frozen=True)
class StudyPictures:
    """The pictures of a study; None where there is nothing to draw.

    Attributes:
        overview: Trade-off and history.
        slices: Predictions of the surrogate along each parameter.
        calibration: How well it predicts each trial from the others.
    summary: The overview with the winner and a table below, for programs that take nothing but a picture.
    """

    overview: Picture | None
    slices: Picture | None = None
    calibration: Picture | None = None
    summary: Picture | None = None


def study_html(view: View, pictures: StudyPictures, alt: str, *, level: int = 2) -> Markup:
    """Return the study as HTML.

    Args:
        view: The data of `study_view`.
        pictures: Its pictures.
        alt: Alternative text of the overview.
        level: Of its heading; its parts have the next one.
    """
    slices = tag("div", pictures.slices.html(slices_alt(view), 960)) if pictures.slices else None
    parts = [
        header(view, level),
        pictures.overview.html(alt, 960) if pictures.overview else None,
        top_trials(view, level + 1),
        unseen_data(view, level + 1),
        importance(view, pictures.calibration, level + 1),
        details("Predictions of the surrogate", slices, level=level + 1) if slices else None,
        all_trials(view, level + 1),
        record(view, level + 1),
    ]
    return tag(
        "div",
        join(parts),
        dir="ltr",
        style="max-width:1000px;line-height:1.4",
    )


def header(view: View, level: int) -> Markup:
    lines = [
        heading(level, "Study ", user_text(view["name"]), style="font-size:1.2em;margin:0"),
        tag("div", user_text(goal_text(view["goal"]))),
        tag(
            "div",
            user_text(counts_text(view)),
            f" in {format_duration(view['elapsed'])}" if view["elapsed"] is not None else None,
        ),
        tag("div", tag("strong", user_text(best_text(view)))),
    ]
    lines += [tag("div", user_text(view["ending"]))] if view["ending"] else []
    lines += [tag("div", "⚠ ", user_text(warning)) for warning in view["warnings"]]
    lines += [tag("div", view["cut"])] if view["cut"] else []
    return tag("div", lines, style="margin-bottom:8px;overflow-wrap:anywhere")


def columns(view: View) -> list[str]:
    return ["trial", "state", *view["metrics"], *(parameter["name"] for parameter in view["parameters"]), "seconds"]


def row_texts(view: View, trial: Mapping[str, Any]) -> list[str]:
    """Return the cells of one trial; an inactive parameter or an unknown metric is an empty cell."""
    params = trial["params"]
    return [
        str(trial["number"]),
        f"{STATE_SYMBOLS[trial['state']]}{NO_BREAK_SPACE}{trial['state']}",
        *(_known(trial["metrics"].get(key)) for key in view["metrics"]),
        *(
            format_value(params[parameter["name"]]) if parameter["name"] in params else ""
            for parameter in view["parameters"]
        ),
        _known(trial["seconds"]),
    ]


def row(view: View, trial: Mapping[str, Any]) -> list[Markup]:
    """Return the cells of one trial as HTML."""
    number, state, *values, seconds = row_texts(view, trial)
    return [Markup(number), Markup(state), *map(user_text, values), Markup(seconds)]


def _known(value: float | None) -> str:
    return "" if value is None else format_value(value)


def text_columns(view: View) -> frozenset[int]:
    first = 2 + len(view["metrics"])
    return frozenset(
        {1} | {first + i for i, parameter in enumerate(view["parameters"]) if parameter["kind"] == "choice"}
    )


def top_trials(view: View, level: int) -> Markup | None:
    """Return the table of the front, at most ten rows."""
    trials = by_number(view)
    front = [trials[number] for number in view["front"] if number in trials][:10]
    if not front:
        return None
    title = "The front" if len(view["goal"]["objectives"]) > 1 else "The best trial"
    more = f", best in {view['goal']['objectives'][0]['metric']} first" if len(front) > 1 else ""
    return join(
        [
            heading(level, title, user_text(more), style="font-size:1em;margin:8px 0 0"),
            table(columns(view), [row(view, trial) for trial in front], text_columns=text_columns(view)),
        ]
    )


def unseen_data(view: View, level: int) -> Markup | None:
    """Return the table of what was measured once on data that no trial saw."""
    test = view.get("test")
    if not test:
        return None
    rows = [[user_text(text) for text in texts] for texts in test["rows"]]
    title = heading(level, "On data that no trial saw", style="font-size:1em;margin:8px 0 0")
    return join([title, table(test["columns"], rows, text_columns=frozenset(range(len(test["columns"]))))])


def all_trials(view: View, level: int) -> Markup:
    """Return the folded table of trials; failures and printed texts are folded below their rows."""
    rows: list[Sequence[str | Markup]] = []
    for trial in view["trials"][-MAX_ROWS:]:
        rows.append(row(view, trial))
        rows += [["", line] for line in trial_details(trial)]
    shown, total = min(MAX_ROWS, len(view["trials"])), total_of(view)
    left_out = total - shown
    note = tag("div", f"The other {left_out} trials are in the study.") if left_out > 0 else None
    title = f"Trials ({shown} of {total})" if left_out > 0 else f"All trials ({total})"
    return details(title, note, table(columns(view), rows, text_columns=text_columns(view)), level=level)


def trial_details(trial: Mapping[str, Any]) -> list[Markup]:
    """Return the failure and the printed text of a trial, folded."""
    parts = []
    failure = trial.get("failure")
    if failure:
        title = user_text(f"{failure['kind']}: {failure['message']}".rstrip(": "))
        trace = failure["traceback"]
        parts.append(details(title, tag("pre", user_text(trace), style=PRE_STYLE)) if trace else title)
    if trial.get("printed"):
        parts.append(details("printed", tag("pre", user_text(trial["printed"]), style=PRE_STYLE)))
    return parts


def importance(view: View, picture: Picture | None, level: int) -> Markup | None:
    """Return the importance of the parameters for each objective as bars, and whether the surrogate can be trusted.

    Args:
        view: The data of `study_view`.
        picture: The calibration for the first objective.
        level: Of the heading.
    """
    first = view["goal"]["objectives"][0]["metric"]
    insights = view.get("insights") or [
        {"metric": first, "importance": view["importance"] or {}, "calibration": view.get("calibration")}
    ]
    parts: list[Markup] = []
    for insight in insights:
        shares = [(key, value or 0.0) for key, value in insight["importance"].items()]
        if not shares:
            continue
        if len(insights) > 1:
            parts.append(tag("div", tag("b", "For ", user_text(insight["metric"]))))
        parts.append(_importance_bars(shares))
        calibration = insight["calibration"]
        if calibration:
            parts.append(tag("div", user_text(calibration["sentence"])))
            if picture and insight["metric"] == first:
                parts.append(tag("div", picture.html(calibration_alt(calibration), 420)))
    if not parts:
        return None
    title = f"Importance of the parameters for {', '.join(insight['metric'] for insight in insights)}"
    return details(title, *parts, level=level)


def _importance_bars(shares: Iterable[tuple[str, float]]) -> Markup:
    rows = []
    for key, share in sorted(shares, key=lambda share: -share[1]):
        style = f"background:#0072B2;height:.8em;width:{max(1, round(160 * max(0.0, min(1.0, share))))}px"
        rows.append([user_text(key), tag("span", f"{100 * share:.0f} %"), tag("div", style=style)])
    return table(["parameter", "share", ""], rows, text_columns=frozenset({0, 2}))


def calibration_alt(calibration: Mapping[str, Any]) -> str:
    """Return the alternative text of the calibration."""
    n, metric = len(calibration["residuals"]), calibration["metric"]
    return f"Histogram of the residuals of {n} trials in {metric}, predicted from the others, in standard deviations."


def slices_alt(view: View) -> str:
    """Return the alternative text of the slices."""
    parts = [
        f"{slice_['parameter']}: next at {format_value(slice_['next'])}"
        if slice_["next"] is not None
        else slice_["parameter"]
        for slice_ in view["slices"]
    ]
    metric = view["goal"]["objectives"][0]["metric"]
    return f"Predicted {metric} with its 95 % band, and the acquisition below, along each parameter. " + "; ".join(
        parts
    )


def record(view: View, level: int) -> Markup:
    """Return the record of the experiment, with a list of what was not recorded."""
    entries = view["record"]
    rows = [
        [user_text(str(key)), _entry(value)]
        for key, value in entries.items()
        if key not in (CELL_KEY, NOT_RECORDED_KEY, "baseline")
    ]
    if view["baseline"]:
        rows.append(
            [
                Markup("baseline"),
                user_text(", ".join(f"{key} {_known(value)}" for key, value in view["baseline"].items())),
            ]
        )
    source = entries.get(CELL_KEY)
    gaps = [key for key in EXPECTED_RECORD_KEYS if key not in entries] + ([] if view["baseline"] else ["baseline"])
    gaps += [str(key) for key in entries.get(NOT_RECORDED_KEY, ())]
    return details(
        "Record of the experiment",
        table(["what", "value"], rows, text_columns=frozenset({0, 1})) if rows else None,
        tag("pre", user_text(source), style=PRE_STYLE) if isinstance(source, str) else None,
        tag("div", "Not recorded: ", user_text(", ".join(gaps)), ".") if gaps else None,
        level=level,
    )


def _entry(value: Any) -> Markup:
    if isinstance(value, Mapping) and any(isinstance(item, str) and len(item) > 40 for item in value.values()):
        return join(tag("div", user_text(f"{key}: {_entry_text(item)}")) for key, item in value.items())
    if isinstance(value, Mapping):
        return user_text(", ".join(f"{key} {_entry_text(item)}" for key, item in value.items()))
    return user_text(_entry_text(value))


def _entry_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_entry_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_entry_text(item) for item in value)
    return str(value) if isinstance(value, str | bool) or value is None else format_value(value)


def overview_alt(view: View) -> str:
    """Return the alternative text of the overview."""
    shown, total = len(view["trials"]), sum(view["counts"].values())
    parts = ", ".join(f"{n} {state}" for state, n in view["counts"].items())
    objectives = " against ".join(objective["metric"] for objective in view["goal"]["objectives"][:2])
    trials = f"{total} trials" if shown == total else f"{shown} of {total} trials"
    text = f"Left: {objectives} of {trials} ({parts}); {len(view['front'])} on the front."
    values = [value for value in (view["progress"] or {"values": []})["values"] if value is not None]
    if values:
        label, first, last = view["progress"]["label"], format_value(values[0]), format_value(values[-1])
        text += f" Right: {label} after each trial, from {first} to {last}."
    return text
