"""A search that is watched: shown before its first trial, and finished however it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from IPython import get_ipython

from nbcompress.magics.open_figures import figures_stay_open
from nbcompress.magics.output import Output

if TYPE_CHECKING:
    from nbcompress.panels import Panel
    from nbcompress.panels.ladder import Kind
    from nbcompress.run.controls import Controls
    from nbcompress.run.observers import Ending, Observer
    from nbcompress.run.preparing import Search


def panel_of(kind: str, search: Search, controls: Controls, output: Output) -> Panel:
    """Return the panel of a search; `auto` is the best that the front end can show."""
    from nbcompress.panels import panel

    return panel(
        output.best_kind if kind == "auto" else cast("Kind", kind),
        search.study,
        trials=search.plan.trials,
        seconds=search.plan.timeout,
        baseline=search.baseline,
        proposer=search.proposer,
        controls=controls,
        output=output,
    )


def run_watched(search: Search, panel: Panel, controls: Controls, observers: Sequence[Observer] = ()) -> Ending:
    """Run a search to its end; whatever happens, the panel is replaced by the finished output.

    Raises:
        KeyboardInterrupt: The second interrupt.
    """
    from nbcompress.run.interrupts import uninterrupted

    ending: Ending | None = None
    panel.show()
    try:
        with figures_stay_open(get_ipython()):
            ending = search.run([*observers, panel], controls)
    finally:
        with uninterrupted():
            panel.finish(ending)
    return ending
