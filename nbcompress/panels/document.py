"""A study as HTML that stands alone: no style sheet, no script, no inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbcompress.panels.drawing import Picture
from nbcompress.panels.html import PRE, Markup, details, join, table, tag, user
from nbcompress.panels.summary import best_text, by_number, counts_text, goal_text, total_of
from nbcompress.panels.text import duration, spell
from nbcompress.panels.view import CELL

View = Mapping[str, Any]
# A shape for each state, so that no state is told by colour alone.
GLYPHS = {"complete": "●", "stopped": "■", "infeasible": "▲", "failed": "✖", "interrupted": "◆", "running": "○"}
MOST_ROWS = 200
# What a reader who wants to repeat the experiment will ask for.
RECORD = ("data", "search", "versions", "machine", CELL)
# Where the record itself names what is missing.
GAPS = "not recorded"


@dataclass(frozen=True)
class Pictures:
    """What a study looks like; None where there is nothing to draw.

    Attributes:
        overview: Trade-off and history.
        slices: What the surrogate expects along each parameter.
        calibration: How well it foretells each trial from the others.
    """

    overview: Picture | None
    slices: Picture | None = None
    calibration: Picture | None = None


def study_html(view: View, drawn: Pictures, alt: str) -> Markup:
    """Return the study for viewers that only show plain HTML.

    Args:
        view: The data of `study_view`.
        drawn: Its pictures.
        alt: What the overview shows, in words.
    """
    slices = drawn.slices
    return tag(
        "div",
        header(view),
        drawn.overview.html(alt, 960) if drawn.overview else None,
        top_trials(view),
        importance(view, drawn.calibration),
        details("What the surrogate expects", tag("div", slices.html(slices_alt(view), 960))) if slices else None,
        all_trials(view),
        record(view),
        dir="ltr",
        style="max-width:1000px;line-height:1.4",
    )


def header(view: View) -> Markup:
    lines = [
        tag("div", "Study ", user(view["name"]), style="font-size:1.2em;font-weight:600"),
        tag("div", user(goal_text(view["goal"]))),
        tag(
            "div", user(counts_text(view)), f" in {duration(view['elapsed'])}" if view["elapsed"] is not None else None
        ),
        tag("div", tag("strong", user(best_text(view)))),
    ]
    lines += [tag("div", user(view["ending"]))] if view["ending"] else []
    lines += [tag("div", "⚠ ", user(one)) for one in view["warnings"]]
    lines += [tag("div", view["cut"])] if view["cut"] else []
    return tag("div", lines, style="margin-bottom:8px;overflow-wrap:anywhere")


def columns(view: View) -> list[str]:
    return ["trial", "state", *view["metrics"], *(one["name"] for one in view["parameters"]), "seconds"]


def row(view: View, trial: Mapping[str, Any]) -> list[Markup]:
    """Return the cells of one trial; an inactive parameter or a missing metric is an empty cell."""
    params = trial["params"]
    cells = [Markup(trial["number"]), Markup(f"{GLYPHS[trial['state']]} {trial['state']}")]
    cells += [user(_known(trial["metrics"].get(key))) for key in view["metrics"]]
    cells += [user(spell(params[one["name"]]) if one["name"] in params else "") for one in view["parameters"]]
    return [*cells, Markup(_known(trial["seconds"]))]


def _known(value: float | None) -> str:
    return "" if value is None else spell(value)


def text_columns(view: View) -> frozenset[int]:
    first = 2 + len(view["metrics"])
    return frozenset({1} | {first + i for i, one in enumerate(view["parameters"]) if one["kind"] == "choice"})


def top_trials(view: View) -> Markup | None:
    """Return the table of the front, at most ten rows."""
    trials = by_number(view)
    front = [trials[number] for number in view["front"] if number in trials][:10]
    if not front:
        return None
    title = "The front" if len(view["goal"]["objectives"]) > 1 else "The best trial"
    more = f", best in {view['goal']['objectives'][0]['metric']} first" if len(front) > 1 else ""
    return join(
        [
            tag("div", title, user(more), style="font-weight:600;margin-top:8px"),
            table(columns(view), [row(view, one) for one in front], texts=text_columns(view)),
        ]
    )


def all_trials(view: View) -> Markup:
    """Return the trials in one folded table; failures and printed texts are folded under their rows."""
    rows: list[Sequence[str | Markup]] = []
    for trial in view["trials"][-MOST_ROWS:]:
        rows.append(row(view, trial))
        rows += [["", one] for one in folded(trial)]
    shown, total = min(MOST_ROWS, len(view["trials"])), total_of(view)
    left_out = total - shown
    note = tag("div", f"The other {left_out} are in the study.") if left_out > 0 else None
    title = f"Trials ({shown} of {total})" if left_out > 0 else f"All trials ({total})"
    return details(title, note, table(columns(view), rows, texts=text_columns(view)))


def folded(trial: Mapping[str, Any]) -> list[Markup]:
    found = []
    failure = trial.get("failure")
    if failure:
        title = user(f"{failure['kind']}: {failure['message']}".rstrip(": "))
        trace = failure["traceback"]
        found.append(details(title, tag("pre", user(trace), style=PRE)) if trace else title)
    if trial.get("printed"):
        found.append(details("printed", tag("pre", user(trial["printed"]), style=PRE)))
    return found


def importance(view: View, calibration: Picture | None = None) -> Markup | None:
    """Return the parameters' shares as bars, and whether the surrogate that tells them can be trusted."""
    shares = [(key, value or 0.0) for key, value in (view["importance"] or {}).items()]
    if not shares:
        return None
    rows = []
    for key, share in sorted(shares, key=lambda one: -one[1]):
        style = f"background:#0072B2;height:.8em;width:{max(1, round(160 * max(0.0, min(1.0, share))))}px"
        rows.append([user(key), tag("span", f"{100 * share:.0f} %"), tag("div", style=style)])
    bars = table(["parameter", "share", ""], rows, texts=frozenset({0, 2}))
    trust = view.get("calibration")
    if not trust:
        return details("Which parameters matter", bars)
    sentence = tag("div", user(trust["sentence"]))
    shown = calibration.html(calibration_alt(trust), 420) if calibration else None
    return details("Which parameters matter", bars, sentence, tag("div", shown))


def calibration_alt(trust: Mapping[str, Any]) -> str:
    """Return what the calibration shows, in words."""
    n = len(trust["residuals"])
    return f"How far {n} trials lie from what the others foretell of {trust['metric']}, in standard deviations."


def slices_alt(view: View) -> str:
    """Return what the slices show, in words."""
    parts = [
        f"{one['parameter']}: next at {spell(one['next'])}" if one["next"] is not None else one["parameter"]
        for one in view["slices"]
    ]
    metric = view["goal"]["objectives"][0]["metric"]
    return f"Predicted {metric} with its 95 % band, and the acquisition below, along each parameter. " + "; ".join(
        parts
    )


def record(view: View) -> Markup:
    """Return the experiment's record, and name what was not recorded."""
    entries = view["record"]
    rows = [[user(str(key)), _entry(value)] for key, value in entries.items() if key not in (CELL, GAPS, "baseline")]
    if view["baseline"]:
        rows.append(
            [Markup("baseline"), user(", ".join(f"{key} {_known(one)}" for key, one in view["baseline"].items()))]
        )
    source = entries.get(CELL)
    gaps = [key for key in RECORD if key not in entries] + ([] if view["baseline"] else ["baseline"])
    gaps += [str(one) for one in entries.get(GAPS, ())]
    return details(
        "Record of the experiment",
        table(["what", "value"], rows, texts=frozenset({0, 1})) if rows else None,
        tag("pre", user(source), style=PRE) if isinstance(source, str) else None,
        tag("div", "Not recorded: ", user(", ".join(gaps)), ".") if gaps else None,
    )


def _entry(value: Any) -> Markup:
    if isinstance(value, Mapping) and any(isinstance(one, str) and len(one) > 40 for one in value.values()):
        return join(tag("div", user(f"{key}: {_entry_text(one)}")) for key, one in value.items())
    if isinstance(value, Mapping):
        return user(", ".join(f"{key} {_entry_text(one)}" for key, one in value.items()))
    return user(_entry_text(value))


def _entry_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_entry_text(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(_entry_text(one) for one in value)
    return str(value) if isinstance(value, str | bool) or value is None else spell(value)
