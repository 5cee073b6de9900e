"""The saved output: complete, small, and made of nothing that viewers strip."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from typing import Any

import pytest
from panel_studies import HOSTILE, choices, curve, digits_study, empty_study, hostile_study, single_study
from PIL import Image

from nbcompress.panels.bundle import MOST_BYTES, study_bundle, weight
from nbcompress.panels.expected import Expectations
from nbcompress.panels.limits import Limits
from nbcompress.panels.slices import slice_data
from nbcompress.panels.view import MIME, Course
from nbcompress.study import State

STUDIES = {"digits": digits_study, "single": single_study, "empty": empty_study, "hostile": hostile_study}
ALLOWED = {
    "div", "span", "bdi", "strong", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "img",
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
    assert set(bundle) == {MIME, "text/html", "image/png", "text/plain"}
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
    bundle = study_bundle(study, expected=Expectations(lines))
    assert weight(bundle) <= MOST_BYTES
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


def test_slices_and_gaps_are_named() -> None:
    study = digits_study()
    lines = [slice_data("amount", curve(), study.goal, at=0.7), slice_data("method", choices(), study.goal)]
    page = Reader(study_bundle(study, expected=Expectations(lines))["text/html"])
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
    monkeypatch.setattr("nbcompress.panels.bundle.SAVED", (Limits(trials=kept),))
    bundle = study_bundle(study)
    data, page = bundle[MIME], Reader(bundle["text/html"])
    counts = {state.value: sum(one.state is state for one in study.all_trials) for state in State}
    assert data["counts"] == {state: n for state, n in counts.items() if n}
    assert len(data["trials"]) == kept
    line = f"600 trials, {kept} shown: {counts['complete']} complete, {counts['stopped']} stopped"
    assert line in bundle["text/plain"]
    assert line in page.text
    assert f"Shows {kept} of 600 trials" in page.text
    rows = min(kept, 200)
    assert f"Trials ({rows} of 600)" in page.text
    assert f"The other {600 - rows} are in the study." in page.text
    assert f"{kept} of 600 trials ({counts['complete']} complete" in str(page.images[0]["alt"])


def test_text_says_how_it_went() -> None:
    course = Course(ending="Stopped by you after 24 trials.", elapsed=40.0)
    text = study_bundle(digits_study(), course=course, warnings=["The body changed."])["text/plain"]
    assert text.splitlines()[0] == "Study digits: maximize accuracy, minimize kilobytes, subject to kilobytes <= 60"
    assert "24 trials: 16 complete, 2 stopped, 4 infeasible, 2 failed" in text
    assert "Stopped by you after 24 trials." in text
    assert "warning: The body changed." in text
    assert "front (" in text
