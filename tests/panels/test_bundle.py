"""The saved output is complete, small, and holds nothing that viewers strip; the first bundle needs no drawing."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest
from panel_studies import HOSTILE, choices, curve, digits_study, empty_study, hostile_study, single_study
from PIL import Image

from nbcompress.panels.bundle import MAX_BYTES, encoded_size, first_bundle, study_bundle
from nbcompress.panels.document import SUMMARY_WIDTH, summary_lines
from nbcompress.panels.surrogate_data import SurrogateInsight, slice_data
from nbcompress.panels.text import ViewLimits
from nbcompress.panels.view import MIME, SearchStatus, schema
from nbcompress.study import Failure, State

STUDIES = {"digits": digits_study, "single": single_study, "empty": empty_study, "hostile": hostile_study}
ALLOWED = {
    "div", "span", "bdi", "strong", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "img",
    "h2", "h3",
}  # fmt: skip


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "img":
            self.images.append(dict(attrs))
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module", params=STUDIES)
def bundle(request: pytest.FixtureRequest) -> dict[str, Any]:
    return study_bundle(STUDIES[request.param]())


def test_has_every_form(bundle: dict[str, Any]) -> None:
    assert set(bundle) == {MIME, "text/html", "text/latex", "image/png", "text/plain"}
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).format == "PNG"


def test_html_needs_no_style_sheet_script_or_svg(bundle: dict[str, Any]) -> None:
    page = Reader(bundle["text/html"])
    assert page.tags <= ALLOWED
    assert page.attributes <= {"style", "open", "colspan", "scope", "src", "alt", "cellpadding", "rules", "dir"}
    assert page.images
    for image in page.images:
        assert image["src"] is not None
        assert image["src"].startswith("data:image/png;base64,")
        assert image["alt"]


@pytest.mark.parametrize("make", [digits_study, hostile_study], ids=["digits", "hostile"])
def test_200_trials_stay_below_300_kb(make: Any) -> None:
    study = make(200)
    lines = [slice_data("amount", curve(), study.goal)] * 4 if make is digits_study else []
    bundle = study_bundle(study, insight=SurrogateInsight(lines))
    assert encoded_size(bundle) <= MAX_BYTES
    if make is digits_study:
        assert len(bundle[MIME]["trials"]) == 200


def test_hostile_strings_are_text() -> None:
    study = hostile_study(10)
    page = Reader(study_bundle(study)["text/html"])
    for text in HOSTILE[:4]:
        assert text in page.text
    assert "alert" not in "".join(page.attributes)


def test_no_string_ends_in_a_half_letter() -> None:
    bundle = study_bundle(hostile_study())
    for part in ("text/html", "text/plain"):
        bundle[part].encode("utf-8")
        assert "\x1b" not in bundle[part]
        assert "\x00" not in bundle[part]


CELL = "%%bo_search --trials 3\nx = Float(0, 1)\n\nfor i in range(3):\n    if i:\n        y = x\n \t\n\nscore = x\n\n"


def test_markdown_keeps_the_cell_and_its_blank_lines() -> None:
    study = digits_study(12)
    text = "first\n\n    second"
    failed = replace(study.all_trials[0], state=State.FAILED, failure=Failure("E", text, text), printed=text)
    study = replace(study, all_trials=(failed, *study.all_trials[1:]), record={**study.record, "cell": CELL})
    html = study_bundle(study, warnings=[text])["text/html"]
    # A blank line ends the HTML for a reader of Markdown, and what follows is a paragraph or a block of code.
    assert all(line.strip() for line in html.rstrip("\n").split("\n"))
    shown = Reader(html).text
    assert CELL in shown
    assert shown.count(text) >= 3


def test_html_has_a_line_for_each_row_headings_and_no_empty_header() -> None:
    html = study_bundle(digits_study(12))["text/html"]
    rows = [line for line in html.split("\n") if "<tr" in line]
    assert all(line.count("<tr") == 1 for line in rows)
    assert len(rows) > 12
    assert re.findall(r"<h2 [^>]*>([^<]*)", html) == ["Study digits"]
    headings = re.findall(r"<h3 [^>]*>([^<]*)", html)
    assert headings[0].startswith("The front")
    assert {"All trials (12)", "Record of the experiment"} <= set(headings)
    assert not re.search(r"<th[^>]*></th>", html)
    assert "●\u00a0complete" in html
    assert not re.search("[●■▲✖◆○] [a-z]", html)


def test_the_picture_holds_winner_and_table_for_latex(bundle: dict[str, Any]) -> None:
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    shown = Image.open(io.BytesIO(base64.b64decode(Reader(bundle["text/html"]).images[0]["src"].partition(",")[2])))
    assert picture.width == shown.width
    assert picture.height > shown.height + 30
    lines = summary_lines(bundle[MIME])
    assert lines[0].startswith("Study ")
    best = bundle[MIME]["best"]
    assert best is None or any(line.split(" ")[0] == str(best) for line in lines)
    assert max(map(len, lines)) <= SUMMARY_WIDTH


def test_slices_and_gaps_are_named() -> None:
    study = digits_study()
    lines = [slice_data("amount", curve(), study.goal, at=0.7), slice_data("method", choices(), study.goal)]
    page = Reader(study_bundle(study, insight=SurrogateInsight(lines))["text/html"])
    assert len(page.images) == 2
    assert "amount: next at 0.8045" in str(page.images[1]["alt"])
    assert "Not recorded: data, baseline." in page.text


def test_the_record_tells_the_data_line_by_line_and_its_gaps() -> None:
    study = digits_study()
    data = {"train <b>": "float32[1437, 64], int64[1437], sha256 0123456789abcdef (DataLoader of TensorDataset)"}
    study.record |= {"data": data, "not recorded": ["content of files (Files)"]}
    html = study_bundle(study)["text/html"]
    assert "<div>train &lt;b&gt;: float32[1437, 64], int64[1437], sha256 0123456789abcdef" in html
    assert "Not recorded: baseline, content of files (Files)." in Reader(html).text


@pytest.mark.parametrize("kept", [100, 400])
def test_counts_are_the_studys_and_not_of_what_is_shown(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    study = digits_study(600)
    monkeypatch.setattr("nbcompress.panels.bundle.SAVED_LIMITS", (ViewLimits(trials=kept),))
    bundle = study_bundle(study)
    data, page = bundle[MIME], Reader(bundle["text/html"])
    counts = {state.value: sum(trial.state is state for trial in study.all_trials) for state in State}
    assert data["counts"] == {state: n for state, n in counts.items() if n}
    assert len(data["trials"]) == kept
    line = f"600 trials, {kept} shown: {counts['complete']} complete, {counts['stopped']} stopped"
    assert line in bundle["text/plain"]
    assert line in page.text
    assert f"Shows {kept} of 600 trials" in page.text
    rows = min(kept, 200)
    assert f"Trials ({rows} of 600)" in page.text
    assert f"The other {600 - rows} trials are in the study." in page.text
    assert f"{kept} of 600 trials ({counts['complete']} complete" in str(page.images[0]["alt"])


def test_text_says_how_it_went() -> None:
    status = SearchStatus(ending="Stopped by you after 24 trials.", elapsed=40.0)
    text = study_bundle(digits_study(), status=status, warnings=["The body changed."])["text/plain"]
    assert text.splitlines()[0] == "Study digits: maximize accuracy, minimize kilobytes, subject to kilobytes <= 60"
    assert "24 trials: 16 complete, 2 stopped, 4 infeasible, 2 failed" in text
    assert "Stopped by you after 24 trials." in text
    assert "warning: The body changed." in text
    assert "front (" in text


def test_the_first_bundle_is_a_view_without_pictures() -> None:
    bundle = first_bundle(digits_study(24), {"accuracy": 0.98})
    jsonschema.validate(bundle[MIME], dict(schema()))
    assert set(bundle) == {MIME, "text/plain"}
    assert "digits" in bundle["text/plain"]


def test_the_first_bundle_and_lines_of_text_load_nothing_that_draws() -> None:
    code = "import sys, nbcompress.panels.text_panel; print({'seaborn', 'matplotlib', 'pandas'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
