"""What a result shows at the end of a cell: its card, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.panels.html import Picture

if TYPE_CHECKING:
    from conftest import Notebook

CARD = {"text/plain", "text/html", "image/png"}


@pytest.fixture
def ready(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    # The pictures have tests of their own, and take most of the time.
    monkeypatch.setattr("nbcompress.panels.cards.render", lambda *_args, **_keywords: Picture("AAAA"))
    torch.manual_seed(0)
    formatter = notebook.shell.display_formatter
    assert formatter is not None
    formatter.active_types = formatter.format_types
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    notebook.names.update(
        model=model, small=nc.quantize(model, bits=4), x=torch.randn(8, 8), y=torch.arange(8) % 4, nc=nc
    )
    return notebook


def at_end(notebook: Notebook, cell: str) -> tuple[set[str], str]:
    """Run a cell and return the forms in which its value is shown at the end, and its text."""
    ran = notebook.must(cell)
    formatter: Any = notebook.shell.display_formatter
    data = formatter.format(ran.value)[0]
    return set(data), data["text/plain"]


@pytest.mark.parametrize(
    ("cell", "head", "text"),
    [
        ("nc.explain(model, small, x)", "explain", "<Explanation of 8 examples: rank correlation "),
        ("nc.compare(model, small, data=(x, y), repeats=0)", "compare", "<Comparison: 882 B to "),
        ("nc.weights(model)", "weights", "<Weight"),
        ("nc.footprint(model)", "footprint", "<Footprint of Sequential: "),
        ("nc.footprint([model, small])", "footprint", "<Footprints of "),
        ("nc.sensitivity(model, lambda net: 1.0, levels=[0.5])", "sensitivity", "<Sensitivity of 2 layers to prune>"),
    ],
)
def test_a_result_shows_its_card_and_has_a_short_text(ready: Notebook, cell: str, head: str, text: str) -> None:
    forms, shown = at_end(ready, cell)
    assert forms == CARD
    assert shown.splitlines()[0] == head
    value = repr(ready.run(cell).value)
    assert value.startswith(text)
    assert len(value) < 160


def test_what_a_magic_has_shown_is_not_shown_again_in_its_cell(ready: Notebook) -> None:
    ran = ready.must("costs = %footprint model\ncosts")
    assert len(ran.shown) == 1
    forms, text = at_end(ready, "costs = %footprint model\ncosts")
    assert (forms, text[:10]) == ({"text/plain"}, "<Footprint")
    assert at_end(ready, "costs")[0] == CARD


def test_a_terminal_and_a_notebook_without_us_show_the_text(ready: Notebook) -> None:
    formatter: Any = ready.shell.display_formatter
    formatter.active_types = ["text/plain"]
    assert at_end(ready, "nc.explain(model, small, x)")[1].startswith("<Explanation")
    formatter.active_types = formatter.format_types
    ready.must("%unload_ext nbcompress")
    assert at_end(ready, "nc.explain(model, small, x)")[0] == {"text/plain"}
    ready.must("%load_ext nbcompress")


def test_the_card_of_a_compressor_explains_what_flipped(ready: Notebook) -> None:
    ready.names["labels"] = ready.names["model"](ready.names["x"]).argmax(1)
    (card,) = ready.must("other = %prune model --amount 0.7 --data (x, labels)").shown
    text = card["text/plain"].split("Which inputs decided\n")[1]
    assert text.split("\n")[0].split("  ")[0] == "example"
    flipped = (
        torch.nonzero(ready.names["other"](ready.names["x"]).argmax(1) != ready.names["labels"]).flatten().tolist()
    )
    shown = [int(line.split()[0]) for line in text.split("\n\n")[0].splitlines()[2:]]
    assert shown == flipped[:4] != []
    assert card["text/html"].count("<img") == 2
