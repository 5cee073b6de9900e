"""What a search shows while it runs: the right rung of the ladder from a live widget to one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from nbcompress.panels.assets import asset
from nbcompress.panels.clock import Clock
from nbcompress.panels.lines import Output, Panel, SilentPanel, TextPanel
from nbcompress.panels.view import StudyLike

if TYPE_CHECKING:
    from nbcompress.optimize import Proposer
    from nbcompress.run.controls import Controls

Kind = Literal["live", "text", "off"]


def panel(
    kind: Kind,
    study: StudyLike,
    *,
    output: Output,
    trials: int | None = None,
    seconds: float | None = None,
    baseline: Mapping[str, float] | None = None,
    proposer: Proposer | None = None,
    controls: Controls | None = None,
) -> Panel:
    """Return the panel of a search.

    Args:
        kind: `live` (a widget, where its front end was built; else as `text`), `text` (a line for each trial, then
            the bundle), or `off` (one closing line).
        study: Opened for the search.
        output: Where to draw.
        trials: How many trials were asked for.
        seconds: The search's time limit.
        baseline: Metrics of the original model.
        proposer: What proposes, for slices of its surrogate.
        controls: The search's buttons; None shows none.
    """
    clock = Clock(trials, seconds)
    script = asset("panel.js")
    if kind == "off":
        return SilentPanel(study, output, clock)
    if kind == "text" or script is None:
        return TextPanel(study, output, clock, baseline, proposer)
    from nbcompress.panels.live import LivePanel

    return LivePanel(study, output, clock, baseline, proposer, controls, script)
