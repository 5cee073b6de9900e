"""The widgets of a live panel: one that carries a study to the page, and one that hears the buttons."""

from __future__ import annotations

from typing import Any

import anywidget
import ipywidgets
import traitlets

# What is left of the script of a closed widget.
NOTHING = "export default { render() {} }"


class StudyWidget(anywidget.AnyWidget):
    """The page's side of a study. `state` is read when a page opens; afterwards it learns by messages."""

    _esm = traitlets.Unicode().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    controls_id = traitlets.Unicode().tag(sync=True)
    # Whether an interrupt of the kernel ends the search: one in the background never sees it, the next cell does.
    interrupts = traitlets.Bool().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        hear_without_events(self)
        hear_without_events(self.layout)

    def keep(self, state: dict[str, Any]) -> None:
        """Hold the state for pages that open later, without sending it to those that know it."""
        self._trait_values["state"] = state


class ControlsWidget(ipywidgets.Widget):  # type: ignore[misc]
    """A comm of its own for the buttons.

    While a cell runs, a front end sends a message to the subshell that last published on its comm. ipykernel 7.4
    remembers for each comm which shell that was, and the one that opened it is the busy one; with that memory cleared
    and nothing ever published here, presses arrive on a free subshell.
    """

    def __init__(self) -> None:
        super().__init__()
        hear_without_events(self)
        if hasattr(self.comm, "_reply_subshell_id"):
            del self.comm._reply_subshell_id


def hear_without_events(widget: ipywidgets.Widget) -> None:
    """Let messages of a widget reach it without `pre_execute` and `post_execute`.

    ipykernel fires these around every message, and on the latter the inline backend shows and closes all figures of
    `pyplot`, also those that a trial in the background has open.
    """
    if widget.comm is not None:
        widget.comm.handle_msg = widget._handle_msg
