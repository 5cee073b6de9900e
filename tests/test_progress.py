"""Progress bars: when they appear, where they are drawn, and what they leave behind."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import tqdm.auto
import tqdm.notebook
import tqdm.std
from torch import nn

import nbcompress as nc
from nbcompress import progress
from nbcompress.progress import bars_shown, progress_bar


class Terminal(io.StringIO):
    """A stream that says whether it is a terminal."""

    is_terminal = True

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Where bars are drawn, at the first step of each."""
    stream = Terminal()

    class OnStream(tqdm.std.tqdm):
        def __init__(self, **options: Any) -> None:
            super().__init__(file=stream, **options)

    monkeypatch.setattr(tqdm.auto, "tqdm", OnStream)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    return stream


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


DATA = torch.randn(40, 8), torch.arange(40) % 4


def test_nothing_is_drawn_before_the_delay(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_DELAY", 1e9)
    with progress_bar("work", 2) as advance:
        advance(1)
        advance(1)
    assert terminal.getvalue() == ""


def test_a_bar_shows_its_text_and_how_far_it_is_and_leaves_an_empty_line(terminal: Terminal) -> None:
    with progress_bar("work", 4, "layer") as advance:
        advance(3)
        assert "work:  75%" in terminal.getvalue()
        assert "3/4" in terminal.getvalue()
    assert terminal.getvalue().rpartition("\r")[0].rpartition("\r")[2].strip() == ""


def test_a_bar_is_closed_by_an_error(terminal: Terminal) -> None:
    def fail() -> None:
        with progress_bar("work", 4) as advance:
            advance(1)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert terminal.getvalue().rpartition("\r")[0].rpartition("\r")[2].strip() == ""
    with progress_bar("next", 4) as advance:
        advance(1)
    assert "next" in terminal.getvalue()


def test_nothing_is_written_to_a_file(terminal: Terminal) -> None:
    terminal.is_terminal = False
    with progress_bar("work", 2) as advance:
        advance(1)
    assert terminal.getvalue() == ""


def test_only_the_outermost_bar_is_drawn(terminal: Terminal) -> None:
    with progress_bar("outer", 2) as advance:
        with progress_bar("inner", 2) as inner:
            inner(1)
        advance(1)
    assert "outer" in terminal.getvalue()
    assert "inner" not in terminal.getvalue()


def test_what_is_switched_off_outside_is_not_switched_on_inside(terminal: Terminal) -> None:
    with bars_shown(False), bars_shown(True), progress_bar("work", 2) as advance:
        advance(1)
    assert terminal.getvalue() == ""


def _exported(folder: Path, shown: bool) -> object:
    return nc.export(network(), folder / "model.onnx", example=torch.randn(2, 8), progress=shown)


def _loaded(folder: Path, shown: bool) -> object:
    path = nc.save(network(), folder / "model.nbz", progress=False)
    return nc.load(path, network(), progress=shown)


CALLS: dict[str, Callable[[Path, bool], object]] = {
    "quantize": lambda _, shown: nc.quantize(network(), 4, progress=shown),
    "gptq": lambda _, shown: nc.quantize(network(), 4, rounding="gptq", data=DATA, progress=shown),
    "auto": lambda _, shown: nc.quantize(network(), "auto", budget=300, progress=shown),
    "prune": lambda _, shown: nc.prune(network(), 0.5, progress=shown),
    "gradient": lambda _, shown: nc.prune(network(), 0.5, criterion="gradient", data=DATA, progress=shown),
    "channels": lambda _, shown: nc.prune(
        network(), 0.5, granularity="channel", criterion="activation", data=DATA, progress=shown
    ),
    "cluster": lambda _, shown: nc.cluster(network(), 4, progress=shown),
    "factorize": lambda _, shown: nc.factorize(network(), 0.25, progress=shown),
    "finetune": lambda _, shown: nc.finetune(network(), DATA, epochs=1, progress=shown),
    "distill": lambda _, shown: nc.distill(network(), network(), DATA, epochs=1, progress=shown),
    "export": _exported,
    "save": lambda folder, shown: nc.save(network(), folder / "model.nbz", progress=shown),
    "load": _loaded,
    "size_bytes": lambda _, shown: nc.size_bytes(network(), progress=shown),
    "sensitivity": lambda _, shown: nc.sensitivity(
        network(), lambda small: small(DATA[0]).mean().item(), levels=[0.5], progress=shown
    ),
    "accuracy": lambda _, shown: nc.accuracy(network(), DATA, progress=shown),
    "compare": lambda _, shown: nc.compare(network(), network(), data=DATA, repeats=0, progress=shown),
    "explain": lambda _, shown: nc.explain(network(), network(), DATA[0][:4], steps=2, progress=shown),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_function_that_can_take_long_has_a_bar(name: str, terminal: Terminal, tmp_path: Path) -> None:
    CALLS[name](tmp_path, True)
    assert "%|" in terminal.getvalue() or "it/s" in terminal.getvalue() or "try" in terminal.getvalue()
    length = len(terminal.getvalue())
    CALLS[name](tmp_path, False)
    assert len(terminal.getvalue()) == length


def test_a_function_of_the_user_takes_the_place_of_the_bar(terminal: Terminal) -> None:
    shares: list[float] = []
    nc.finetune(network(), DATA, epochs=2, progress=shares.append)
    assert shares[-1] == 1.0
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("value", [1, "no", None])
def test_progress_is_true_or_false(value: Any) -> None:
    with pytest.raises(nc.NbcompressError, match="progress must be True or False, got "):
        nc.quantize(network(), progress=value)


def test_a_trial_shows_no_bar(terminal: Terminal) -> None:
    def trial(bits: int) -> float:
        return nc.size_bytes(nc.quantize(network(), bits))

    nc.maximize(trial, {"bits": nc.Int(2, 8)}, trials=2, sampler="random")
    assert terminal.getvalue() == ""


def message(**content: Any) -> dict[str, Any]:
    return {"header": {"msg_type": "execute_request"}, "content": content, "metadata": {}}


def test_a_kernel_without_a_person_shows_no_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SimpleNamespace(kernel=object(), get_parent=lambda: message(allow_stdin=False))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    with progress_bar("work", 2) as advance:
        advance(1)
    assert terminal.getvalue() == ""


def test_a_notebook_is_left_without_a_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handle:
        shown: Any = None

        def update(self, bundle: Any, raw: bool) -> None:
            self.shown = bundle

    handle = Handle()

    def display(container: Any, display_id: bool) -> Handle:
        handle.shown = container
        return handle

    monkeypatch.setattr(progress, "_DELAY", 0.0)
    monkeypatch.setattr(tqdm.auto, "tqdm", tqdm.notebook.tqdm)
    monkeypatch.setattr(tqdm.notebook, "display", display)
    with progress_bar("work", 4) as advance:
        advance(2)
        label, bar, _ = handle.shown.children
        assert "50%" in label.value
        assert bar.value == 2
        container = handle.shown
    assert handle.shown == {"text/plain": ""}
    assert container.comm is None
