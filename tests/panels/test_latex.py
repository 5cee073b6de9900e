"""The saved study as LaTeX: what is in it, and that no text of the person is read as a command."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from nbconvert import LatexExporter
from nbformat import v4
from panel_studies import HandMadeStudy, digits_study, empty_study, hostile_study, single_study

from nbcompress.panels.latex import escape_latex, study_latex
from nbcompress.panels.view import study_view


def latex(study: HandMadeStudy) -> str:
    return study_latex(study_view(study))


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables."""
    return [line.removesuffix(r"\\").split(" & ") for line in text.splitlines() if line.endswith(r" \\")]


def test_no_character_is_a_command() -> None:
    assert escape_latex("50 % of a_b & c#1 {x} $y$ ^2 ~\\n") == (
        r"50 \% of a\_b \& c\#1 \{x\} \$y\$ \textasciicircum{}2 \textasciitilde{}\textbackslash{}n"
    )
    assert escape_latex('<b> "q"\n[1] * |\u202e\u00e9\u00a0\u2026') == (
        r"\textless{}b\textgreater{} \char34{}q\char34{} {[}1] {*} \textbar{}" + "\u00e9 " + r"\ldots{}"
    )


def test_goal_counts_and_the_front_with_every_column() -> None:
    study = digits_study()
    text = latex(study)
    assert r"\textbf{Study digits: maximize accuracy, minimize kilobytes, subject to kilobytes \textless{}= 60}" in text
    assert "24 trials: 16 complete, 2 stopped, 4 infeasible, 2 failed" in text
    # Cut in two, because a page is seven columns wide; the number of the trial begins both.
    heads = [line for line in text.splitlines() if line.startswith("trial & ")]
    assert heads == [
        r"trial & state & accuracy & kilobytes & amount & bits & lr \\ \hline",
        r"trial & method & clusters & seconds \\ \hline",
    ]
    front = [str(trial.number) for trial in study.front]
    assert [cells[0] for cells in rows(text)] == front * 2
    best = rows(text)[0]
    assert best[:3] == [front[0], "complete", f"{study.front[0].values['accuracy']:.4g}"]


def test_the_chart_has_every_measured_trial_and_marks_the_front() -> None:
    study = digits_study()
    text = latex(study)
    measured = [trial for trial in study.all_trials if "accuracy" in trial.values]
    assert text.count(r"\circle*{3}") == len(measured)
    assert text.count(r"\circle{8}") == len(study.front)
    assert r"\makebox(0,0)[t]{kilobytes}" in text
    assert latex(single_study()).count(r"\circle{8}") == 1
    assert "picture" not in latex(empty_study())
    values = (1.7e308, -1.7e308, 0.0)
    trials = tuple(
        replace(trial, values={"loss": v}) for trial, v in zip(single_study().all_trials, values, strict=False)
    )
    places = re.findall(r"put\((\d+),(\d+)\)\{\\circle\*", latex(replace(single_study(), all_trials=trials)))
    assert [int(y) for _, y in places] == [130, 0, 65]


def test_nbconvert_keeps_winner_and_table() -> None:
    view = study_view(digits_study())
    data = {"text/latex": study_latex(view), "image/png": "iVBORw0KGgo=", "text/html": "<p>", "text/plain": "plain"}
    cell = v4.new_code_cell("1", outputs=[v4.new_output("display_data", data=data)])
    text, _ = LatexExporter().from_notebook_node(v4.new_notebook(cells=[cell]))
    assert data["text/latex"].strip() in text


@pytest.mark.parametrize("make", [digits_study, single_study, empty_study, hostile_study])
def test_it_is_well_formed(make: Any) -> None:
    text = re.sub(r"\\[{}]", "", latex(make()))
    assert text.count("{") == text.count("}")
    for name in ("tabular", "picture"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}")
    commands = {
        "textbf", "par", "noindent", "footnotesize", "begin", "end", "hline", "put", "line", "makebox", "circle",
        "times", "setlength", "unitlength", "char", "ldots", "textless", "textgreater", "textbar", "textbackslash",
        "textasciicircum", "textasciitilde",
    }  # fmt: skip
    assert set(re.findall(r"\\([A-Za-z]+)", text)) <= commands
    assert not re.search(r"(?<!\\)[#%_^~]", text)
    body = re.sub(r"\$\\times\$|\$\+\$", "", text)
    assert not re.search(r"(?<!\\)\$", body)
