r"""A saved study as LaTeX, for nbconvert's LaTeX and PDF, which show one form of an output and prefer `text/latex`.

The fragment needs no package: the table is a `tabular`, and the chart is drawn in LaTeX's own `picture` environment,
because a fragment cannot include the picture that lies beside it in the notebook.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from unicodedata import category

from nbcompress.panels.document import View, by_number, columns, row_texts, study_text
from nbcompress.panels.text import clean, format_value, shorten

# What LaTeX reads as a command, or as an argument after the end of a row.
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\char34{}", "[": "{[}", "*": "{*}", "\u2026": r"\ldots{}", "\ufffd": "?",
}  # fmt: skip
_COMMANDS = re.compile("|".join(map(re.escape, _SPECIAL)))

MAX_ROWS = 10
# A page is this many columns wide at the size of a footnote; further columns follow in a second table.
MAX_COLUMNS = 7
MAX_CELL = 18
# The chart in points, and the margin for its numbers.
WIDTH, HEIGHT, MARGIN = 270, 130, 40
# Values whose largest is more than this many times the smallest get a logarithmic axis, as in `figures.py`.
LOG_SCALE_RATIO = 20.0
# How a trial is drawn, by its state; others are not measured.
MARKS = {
    "complete": r"\circle*{3}", "stopped": r"\circle{3}", "infeasible": r"\makebox(0,0){$\times$}",
    "failed": r"\makebox(0,0){$+$}",
}  # fmt: skip
# The same in words, for the line below the chart.
LEGEND = {"complete": "dot", "stopped": "open dot", "infeasible": r"$\times$", "failed": "$+$"}


def escape_latex(text: str) -> str:
    """Return a text for LaTeX, on one line, in which nothing is a command.

    Example:
        >>> escape_latex("50 % of model_1")
        '50 \\\\% of model\\\\_1'
    """
    # Marks of the text direction and other characters without a shape are in no font.
    shown = "".join(char for char in clean(text) if category(char) != "Cf")
    return _COMMANDS.sub(lambda found: _SPECIAL[found[0]], " ".join(shown.split()))


def study_latex(view: View) -> str:
    """Return goal, counts, ending and warnings of a study, a chart of its trials, and the table of the front.

    Args:
        view: The data of `study_view`.
    """
    title, *lines = study_text({**view, "front": []}).splitlines()
    trials = by_number(view)
    front = [trials[number] for number in view["front"] if number in trials]
    if len(view["goal"]["objectives"]) > 1 and front:
        more = f", {MAX_ROWS} of {len(front)} shown" if len(front) > MAX_ROWS else ""
        lines[-1] = f"The front, best in {view['goal']['objectives'][0]['metric']} first{more}:"
    parts = [rf"\textbf{{{escape_latex(title)}}}", *(escape_latex(line) for line in lines if line.strip())]
    rows = [[_without_symbol(text) for text in row_texts(view, trial)] for trial in front[:MAX_ROWS]]
    parts += _tables(columns(view), rows) if rows else []
    if view.get("test"):
        parts += ["On data that no trial saw:", *_tables(view["test"]["columns"], view["test"]["rows"])]
    parts += _chart(view)
    return "{\\footnotesize\\noindent\n" + "\\par\\noindent\n".join(parts) + "\\par}\n"


def _without_symbol(text: str) -> str:
    """Return the name of a state without the symbol before it, which fonts of LaTeX lack."""
    symbol, space, state = text.partition("\u00a0")
    return state if space and len(symbol) == 1 else text


def _tables(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the table, cut into several with the same first column if it has too many columns for a page."""
    lines = [list(head), *(list(row) for row in rows)]
    if len(head) <= MAX_COLUMNS:
        return [_table(lines)]
    starts = range(1, len(head), MAX_COLUMNS - 1)
    return [_table([[line[0], *line[start : start + MAX_COLUMNS - 1]] for line in lines]) for start in starts]


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = (" & ".join(escape_latex(shorten(cell, MAX_CELL)) for cell in line) for line in lines)
    body = "\n".join(f"{row} \\\\" for row in rows)
    return f"\\begin{{tabular}}{{{'l' * len(lines[0])}}}\n{head} \\\\ \\hline\n{body}\n\\end{{tabular}}"


def _chart(view: View) -> list[str]:
    """Return the chart of the trials, in two objectives or along their numbers; nothing if no trial was measured."""
    up, *others = (objective["metric"] for objective in view["goal"]["objectives"])
    across = others[0] if others else None

    def place(trial: Mapping[str, Any]) -> tuple[float, float] | None:
        y = trial["metrics"].get(up)
        x = trial["number"] if across is None else trial["metrics"].get(across)
        return None if x is None or y is None else (float(x), float(y))

    dots = [(trial, place(trial)) for trial in view["trials"] if trial["state"] in MARKS]
    known = [(trial, at) for trial, at in dots if at is not None]
    if not known:
        return []
    x, x_ends = _scale([at[0] for _, at in known], WIDTH, is_log=across is not None)
    y, y_ends = _scale([at[1] for _, at in known], HEIGHT, is_log=True)
    chosen = set(view["front"]) if across else {view["best"]}
    marks = [rf"\put({x(at[0]):.0f},{y(at[1]):.0f}){{{MARKS[trial['state']]}}}" for trial, at in known]
    marks += [
        rf"\put({x(at[0]):.0f},{y(at[1]):.0f}){{\circle{{8}}}}" for trial, at in known if trial["number"] in chosen
    ]
    axes = [
        rf"\put(0,0){{\line(1,0){{{WIDTH}}}}}",
        rf"\put(0,0){{\line(0,1){{{HEIGHT}}}}}",
        *(rf"\put({x(end):.0f},-4){{\makebox(0,0)[t]{{{format_value(end)}}}}}" for end in x_ends),
        *(rf"\put(-4,{y(end):.0f}){{\makebox(0,0)[r]{{{format_value(end)}}}}}" for end in y_ends),
        rf"\put({WIDTH // 2},-4){{\makebox(0,0)[t]{{{escape_latex(shorten(across or 'trial', 36))}}}}}",
        rf"\put(0,{HEIGHT + 4}){{\makebox(0,0)[bl]{{{escape_latex(shorten(up, 36))}}}}}",
    ]
    size = f"({WIDTH + MARGIN + 20},{HEIGHT + 2 * MARGIN - 40})(-{MARGIN},-20)"
    states = {trial["state"] for trial, _ in known}
    words = [f"{LEGEND[state]}: {state}" for state in MARKS if state in states]
    if chosen & {trial["number"] for trial, _ in known}:
        words.append(f"ring: {'the front' if across else 'the best'}")
    picture = "\n".join([rf"\setlength{{\unitlength}}{{1pt}}\begin{{picture}}{size}", *axes, *marks, r"\end{picture}"])
    return [picture, ", ".join(words)]


def _scale(values: Sequence[float], length: int, *, is_log: bool) -> tuple[Callable[[float], float], list[float]]:
    """Return what places a value on an axis of this length, and the values at its ends, one if all are equal."""
    low, high = min(values), max(values)
    if low == high:
        return lambda _: length / 2, [low]
    if is_log and low > 0 and high / low > LOG_SCALE_RATIO:
        bottom, span = math.log(low), math.log(high) - math.log(low)
        return lambda value: length * (math.log(value) - bottom) / span, [low, high]
    # In units of the largest value, because the difference of the largest numbers is no float.
    unit = max(abs(low), abs(high))
    span = high / unit - low / unit
    return lambda value: length * ((value / unit - low / unit) / span), [low, high]
