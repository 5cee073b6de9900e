"""The buttons of a running search, pressed in a real JupyterLab while the cell runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from lab import SHOTS, Lab, browser, lab, server  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402
from small_notebooks import search, write  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

# Waits for a click on the button of this name, and then counts the milliseconds until the page shows Python's answer.
TIMED = """([name, shows]) => {
    const holds = new Function('return ' + shows);
    window.answered = new Promise((done, failed) => {
        const clicked = event => {
            if (event.target.closest('button')?.textContent !== name) return;
            document.removeEventListener('click', clicked, true);
            const start = performance.now();
            const look = () => {
                const took = performance.now() - start;
                if (holds()) done(took);
                else if (took > 20000) failed(new Error(`${name} was not answered`));
                else setTimeout(look, 2);
            };
            setTimeout(look);
        };
        document.addEventListener('click', clicked, true);
    });
}"""
PAUSED = "[...document.querySelectorAll('.nbc-buttons button')].some(made => made.textContent === 'Resume')"
SKIPPED = "/Skipped/.test(document.querySelector('.nbc-notes').innerText)"
STOPPING = "/Stopp/.test(document.querySelector('.nbc-notes').innerText)"
ANSWERED = "/ueued/.test(document.querySelector('.nbc-answer').innerText)"
# No message is handled, as in a front end that cannot reach a busy kernel.
NO_ANSWER = "from nbcompress.panels import live\nlive.LivePanel._on_message = lambda *given: None"
# Each trial has a figure open while it trains, and saves it afterwards.
DRAWS = """import matplotlib.pyplot as plt
plt.plot([0, 1], [x, 1], linewidth=30)
time.sleep(2)
plt.savefig(f"drawn-{round(1000 * x)}.png")
plt.close("all")
time.sleep(.1)"""
AFTER = "time.sleep(1)\nprint('after:', len(study.trials))"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, str, Path]]:
    folder = tmp_path_factory.mktemp("controls")
    with browser() as running, server(folder) as address:
        yield running, address, folder


@pytest.fixture
def page(place: tuple[Browser, str, Path]) -> Iterator[Lab]:
    with lab(place[0], place[1]) as page:
        yield page


def begin(page: Lab, notebook: Path, *cells: str) -> None:
    """Run a notebook until its panel has heard from Python."""
    write(notebook, *cells)
    page.open(notebook.name)
    page.run_all()
    page.page.get_by_role("button", name="Stop", exact=True).wait_for(timeout=120_000)
    page.page.locator(".nbc-header").first.scroll_into_view_if_needed()


def says(page: Lab, words: str, seconds: float = 30) -> None:
    page.page.wait_for_function(
        "words => document.querySelector('.nbc-header').innerText.includes(words)", arg=words, timeout=seconds * 1000
    )


def press(page: Lab, name: str, shows: str) -> float:
    """Click a button as a person does; return the milliseconds until the answer shows."""
    page.page.evaluate(TIMED, [name, shows])
    page.page.get_by_role("button", name=name, exact=True).click()
    return float(page.page.evaluate("window.answered"))


def test_every_button_is_answered_within_a_second_while_the_cell_runs(
    page: Lab, place: tuple[Browser, str, Path]
) -> None:
    begin(page, place[2] / "controls.ipynb", search(400), AFTER)
    page.page.get_by_role("button", name="Pause", exact=True).wait_for(timeout=30_000)
    says(page, "complete")
    page.page.get_by_role("tab", name="What if").click()
    page.page.locator(".nbc-predicted").wait_for(timeout=60_000)
    took = []
    for _ in range(6):
        took.append(press(page, "Pause", PAUSED))
        took.append(press(page, "Resume", f"!{PAUSED}"))
        took.append(press(page, "Skip", SKIPPED))
        page.page.locator(".nbc-slider input").press("ArrowRight")
        took.append(press(page, "Run this next", ANSWERED))
        page.page.wait_for_function(f"() => !({SKIPPED})", timeout=10_000)
    says(page, "stopped")
    page.shot(SHOTS / "controls.png")
    took.append(press(page, "Stop", STOPPING))
    took.sort()
    print(f"{len(took)} clicks: median {took[len(took) // 2]:.0f} ms, longest {took[-1]:.0f} ms")
    assert took[int(0.95 * len(took))] < 1_000, took
    says(page, "Stopped at")
    page.wait_for_end(60)
    # The search ended without an error, and the cell after it ran to its end.
    assert "after:" in page.page.locator(".jp-Notebook").inner_text()
    assert page.page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


def test_a_press_leaves_the_figure_of_a_trial_open(page: Lab, place: tuple[Browser, str, Path]) -> None:
    cell = search(3).replace("time.sleep(0.3)", DRAWS).replace("score = ", "score = ink - ")
    begin(
        page, place[2] / "drawn.ipynb", cell.replace("--study small", "--study drawn"), "print(list(study.trials.ink))"
    )
    page.page.get_by_role("button", name="Pause", exact=True).wait_for(timeout=30_000)
    for _ in range(4):
        press(page, "Pause", PAUSED)
        press(page, "Resume", f"!{PAUSED}")
    page.wait_for_end(60)
    pictures = [plt.imread(path) for path in place[2].glob("drawn-*.png")]
    assert len(pictures) == 3
    assert all((picture[..., :3] < 0.9).any(axis=2).mean() > 0.02 for picture in pictures)


def test_without_an_answer_stop_interrupts_this_search_and_nothing_else(
    page: Lab, place: tuple[Browser, str, Path]
) -> None:
    begin(page, place[2] / "unanswered.ipynb", NO_ANSWER, search(400), AFTER)
    page.page.wait_for_function(
        "() => document.querySelector('.nbc-notes').innerText.includes('--background')", timeout=60_000
    )
    assert page.page.get_by_role("button", name="Skip", exact=True).count() == 0
    page.shot(SHOTS / "unanswered.png")
    page.page.get_by_role("button", name="Stop", exact=True).click()
    says(page, "Interrupted at")
    page.wait_for_end(60)
    assert "after:" in page.page.locator(".jp-Notebook").inner_text()
    assert page.page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


HOSTILE = """%%bo_search --trials 12 --maximize score --study "<img src=x onerror=window.hit=1>" --sampler random
kind = Choice("<script>window.hit=2</script>", "'\\"><svg onload=window.hit=3>", "\\u202eright to left", "n" * 10_000)
time.sleep(.2)
print("<b onmouseover=window.hit=4>printed</b>")
if kind.startswith("<script>"):
    raise ValueError("<iframe src='javascript:parent.hit=5'></iframe>")
score = float(len(kind))"""


def test_hostile_strings_are_text_while_it_runs_and_afterwards(page: Lab, place: tuple[Browser, str, Path]) -> None:
    begin(page, place[2] / "hostile.ipynb", HOSTILE)
    for name in ("running", "ended"):
        page.page.wait_for_selector(".nbc-toggle")
        page.page.evaluate("document.querySelectorAll('.nbc-toggle').forEach(toggle => toggle.click())")
        assert "<img src=x onerror=window.hit=1>" in page.page.locator(".nbc-title").inner_text()
        assert page.page.locator(".nbc script, .nbc img, .nbc iframe, .nbc b, .nbc svg[onload]").count() == 0
        page.shot(SHOTS / f"hostile-{name}.png")
        page.wait_for_end(60)
        says(page, "12 trials")
    assert "<script>window.hit=2</script>" in page.page.locator(".nbc").inner_text()
    assert page.page.evaluate("window.hit") is None
