"""A study of 10,000 trials on a page: how long it takes to open, to sort, to filter and to choose a trial."""

from __future__ import annotations

import json
from dataclasses import dataclass

from panel_studies import digits_study
from playwright.sync_api import Browser, CDPSession, Page

from nbcompress.panels.page import asset
from nbcompress.panels.view import SearchStatus, study_view

N_TRIALS = 10_000
PLACE = '<div id="nbcompress-view"></div><script type="application/json" id="nbcompress-study"></script>'
FILL = "text => { document.getElementById('nbcompress-study').textContent = text }"
# Runs a script as a module, as a report does.
IMPORT = "script => import(URL.createObjectURL(new Blob([script], { type: 'text/javascript' })))"
# Runs something, and waits until its consequences are on screen.
TIMED = """([what, given]) => new Promise(async done => {
    const start = performance.now();
    if (what === 'open') await (@IMPORT@)(given);
    else if (what === 'search' || what === 'range') {
      const field = document.querySelector(what === 'search' ? '.nbc-filters input' : 'input[aria-label^=Lowest]');
      field.value = given;
      field.dispatchEvent(new Event(what === 'search' ? 'input' : 'change', { bubbles: true }));
    } else if (what === 'choose') document.querySelectorAll('.nbc-number')[5].click();
    else [...document.querySelectorAll('.nbc-sort')].find(button => button.innerText.trim().startsWith(given)).click();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})""".replace("@IMPORT@", IMPORT)


@dataclass(frozen=True)
class Took:
    """Milliseconds: on the clock, and of the page's own processor time, which other programs do not change."""

    wall: float
    cpu: float


def timed(running: Browser) -> dict[str, Took]:
    """Open the study, sort it by three columns, filter it, and choose a trial."""
    view = study_view(digits_study(N_TRIALS), status=SearchStatus(ending="Ended.", trials=N_TRIALS))
    script = asset("panel.js")
    assert script is not None, "the front end is not built"
    page = running.new_page()
    try:
        page.set_content(PLACE)
        page.evaluate(FILL, json.dumps(view))
        meter = page.context.new_cdp_session(page)
        meter.send("Performance.enable", {"timeDomain": "threadTicks"})
        found = {"open": _one(page, meter, "open", script)}
        for column in ("accuracy", "lr", "time"):
            found[f"sort by {column}"] = _one(page, meter, "sort", column)
        found["filter by words"] = _one(page, meter, "search", "cluster")
        found["filter by a range"] = _one(page, meter, "range", "0.5")
        found["choose a trial"] = _one(page, meter, "choose", "")
        assert page.locator(".nbc-table tbody tr").count() >= 200
        return found
    finally:
        page.close()


def _one(page: Page, meter: CDPSession, what: str, given: str) -> Took:
    before = _busy(meter)
    wall = float(page.evaluate(TIMED, [what, given]))
    return Took(wall, 1000 * (_busy(meter) - before))


def _busy(meter: CDPSession) -> float:
    """Return the seconds of processor time that the page's thread has spent on tasks."""
    metrics = meter.send("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))
