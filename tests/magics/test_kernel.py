"""Magics in a real kernel: what they show, and what is stored when the kernel is interrupted or killed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from kernels import Kernel, kernel

from nbcompress.errors import StudyError
from nbcompress.study import read_study

pytestmark = pytest.mark.kernel

SETUP = """
%load_ext nbcompress
import time, torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
inputs, labels = torch.randn(128, 64), torch.randint(0, 10, (128,))
train = (inputs, labels)
def evaluate(net):
    return (net(inputs).argmax(1) == labels).float().mean().item()
"""
SEARCH = """
%%bo_search --trials {trials} --minimize loss --study s --seed 3
x = Float(0, 1)
y = Int(1, 9)
kind = Choice("a", "b")
time.sleep({seconds})
loss = (x - 0.3) ** 2 + y / 10 + (kind == "a")
"""
MIME = "application/vnd.nbcompress.study.v1+json"


def search(trials: int, seconds: float) -> str:
    return SEARCH.format(trials=trials, seconds=seconds).strip()


def counted(folder: Path) -> int:
    """How many trials have ended, as another process sees it."""
    try:
        return sum(trial.state.counts for trial in read_study("s", folder / "nbcompress.journal").all_trials)
    except StudyError:  # not begun yet
        return 0


def test_every_line_magic_shows_a_card_and_returns_its_result(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        notebook.must(SETUP)
        lines = {
            "small = %prune model --amount 0.8 --evaluate evaluate": "small",
            "few = %quantize model --bits 4 --example inputs[:1]": "few",
            "shared = %cluster model --clusters 8 --data train --finetune 1": "shared",
            "thin = %factorize model --rank 0.25": "thin",
            "told = %distill model thin --data train --epochs 1 --control --evaluate evaluate": "told",
            "cut = %prune model --amount 0.5 --granularity channel --example inputs[:1]": "cut",
        }
        for line, name in lines.items():
            reply = notebook.must(line)
            (bundle,) = reply.bundles
            assert {"text/plain", "text/html"} <= set(bundle), line
            assert notebook.must(f"print(isinstance({name}, nn.Module))").text == "True\n"
        footprint = notebook.must("costs = %footprint [model, small] --example inputs[:1]").bundles[0]
        assert "small" in footprint["text/plain"]
        assert "parameters" in footprint["text/plain"]
        sensitivity = notebook.must("rows = %sensitivity model --evaluate evaluate").bundles[0]
        assert "change of the evaluation" in sensitivity["text/plain"]
        refused = notebook.run("%prune modle --amount 0.5")
        assert refused.status == "error"
        assert "%prune: there is no variable 'modle' in this notebook. Did you mean 'model'?" in refused.text


def test_a_search_ends_as_a_bundle_and_again_repeats_nothing(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        notebook.must(SETUP)
        bundle = notebook.must(search(6, 0)).bundles[-1]
        assert {MIME, "text/html", "image/png", "text/plain"} <= set(bundle)
        assert len(bundle[MIME]["trials"]) == 6
        assert "widget" not in " ".join(bundle)
        again = notebook.must(search(6, 0)).bundles[-1]
        assert "none was run again" in again["text/plain"]
        listed = notebook.must("%bo_study").bundles[0]["text/plain"]
        assert "6 complete" in listed
        notebook.must("%bo_report s --html page.html")
        assert (tmp_path / "page.html").stat().st_size > 10_000


def test_an_interrupt_ends_the_cell_without_an_error(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        notebook.must(SETUP)
        message = notebook.start(search(50, 0.3))
        while counted(tmp_path) < 2:
            time.sleep(0.05)
        notebook.manager.interrupt_kernel()
        reply = notebook.finish(message)
        assert reply.status == "ok"
        assert "Interrupted" in reply.bundles[-1]["text/plain"]
        assert "To stop Run All, interrupt once more, or write --on-interrupt raise" in reply.text
        states = notebook.must("print(*study.trials.state)").text.split()
        assert 2 <= states.count("complete") < 50
        assert set(states) <= {"complete", "infeasible", "interrupted"}


def test_an_interrupt_stops_run_all_if_the_cell_says_so(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        notebook.must(SETUP)
        message = notebook.start(search(50, 0.3).replace("\n", " --on-interrupt raise\n", 1))
        while counted(tmp_path) < 2:
            time.sleep(0.05)
        notebook.manager.interrupt_kernel()
        reply = notebook.finish(message)
        assert reply.status == "error"
        assert reply.error.startswith("KeyboardInterrupt")
        assert "Interrupted" in reply.bundles[-1]["text/plain"]
        states = notebook.must("print(*study.trials.state)").text.split()
        # The interrupt comes in a trial or between two of them.
        assert states.count("complete") >= 2
        assert states.count("complete") + states.count("interrupted") == len(states) < 50


def test_a_killed_kernel_loses_nothing_and_changes_nothing(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    broken = tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    with kernel(whole) as notebook:
        notebook.must(SETUP)
        notebook.must(search(14, 0))
    for wanted in (2, 6):
        with kernel(broken) as notebook:
            notebook.must(SETUP)
            notebook.start(search(14, 0.2))
            while counted(broken) < wanted:
                time.sleep(0.05)
            notebook.kill()
    assert 6 <= counted(broken) < 14
    with kernel(broken) as notebook:
        notebook.must(SETUP)
        notebook.must(search(14, 0))
    expected = read_study("s", whole / "nbcompress.journal").all_trials
    got = read_study("s", broken / "nbcompress.journal").all_trials
    assert [trial.params for trial in got] == [trial.params for trial in expected]
    assert [trial.values for trial in got] == [trial.values for trial in expected]
    assert [trial.number for trial in got] == list(range(14))


def test_background_returns_at_once_and_other_cells_run(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        notebook.must(SETUP)
        began = time.monotonic()
        notebook.must(search(8, 0.4).replace("--seed 3", "--seed 3 --background"))
        # Eight trials of 0.4 s take longer than this; on a busy machine the first may not have begun.
        counted = "print(sum(t.state.counts for t in study.all_trials))"
        assert time.monotonic() - began < 8 * 0.4 or int(notebook.must(counted).text) < 8
        assert notebook.must("print(1 + 1)").text == "2\n"
        for _ in range(60):
            done = notebook.must(counted).text
            if done == "8\n":
                break
            time.sleep(0.3)
        assert done == "8\n"


MESSAGES = """
import threading, ipywidgets
from comm import get_comm_manager
foreign = ipywidgets.IntSlider()
heard = []
others = set(get_comm_manager().comms)
foreign.on_msg(lambda *given: heard.append(given))

def messages_arrive(*comm_ids):
    # As on a subshell: a message for each widget, on a thread of its own.
    manager = get_comm_manager()
    data = {"method": "custom", "content": {}}
    def handle():
        for comm_id in comm_ids or tuple(manager.comms):
            manager.comm_msg(None, None, {"content": {"comm_id": comm_id, "data": data}, "buffers": []})
    thread = threading.Thread(target=handle)
    thread.start()
    thread.join()
"""
DRAWS = """
%%bo_search --trials 3 --maximize still_open --study drawn --fresh {options}
import matplotlib.pyplot as plt
x = Float(0, 1)
plt.close("all")
plt.plot([0, 1], [0, x])
messages_arrive({comms})
still_open = len(plt.get_fignums())
"""


def test_figures_of_a_trial_stay_open_while_messages_of_widgets_arrive(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        notebook.must(SETUP)
        notebook.must(MESSAGES)
        reply = notebook.must(DRAWS.format(options="", comms="").strip())
        assert notebook.must("print(list(study.trials.still_open), len(heard))").text == "[1.0, 1.0, 1.0] 3\n"
        figures = [bundle for bundle in reply.bundles if "image/png" in bundle and MIME not in bundle]
        assert len(figures) == 1, "the cell's own end shows what is left open"
        assert notebook.must("print(plt.get_fignums() if 'plt' in dir() else [])").text == "[]\n"
        # In the background, the panel's own messages leave figures alone.
        ours = "*set(get_comm_manager().comms) - others"
        notebook.must(DRAWS.format(options="--background", comms=ours).strip())
        notebook.must("import time\nwhile len(study.trials) < 3 or not study.record.get('ending'): time.sleep(.05)")
        assert notebook.must("print(list(study.trials.still_open))").text == "[1.0, 1.0, 1.0]\n"
        # Elsewhere the backend shows figures after messages, as ever.
        shown = notebook.must(
            "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nmessages_arrive(foreign.comm.comm_id)"
        )
        assert sum("image/png" in bundle for bundle in shown.bundles) == 1


def outputs_of(notebook: Kernel, message: str) -> list[tuple[str, set[str]]]:
    """Return kind and MIME types of what a message shows, until it is done."""
    shown = []
    while True:
        got = notebook.client.get_iopub_msg(timeout=60)
        if got["parent_header"].get("msg_id") != message:
            continue
        content = got["content"]
        if got["msg_type"] in ("display_data", "update_display_data"):
            shown.append((got["msg_type"], set(content["data"])))
        elif got["msg_type"] == "status" and content["execution_state"] == "idle":
            return shown


def test_the_finished_panel_comes_where_outputs_cannot_be_replaced(tmp_path: Path) -> None:
    call = "get_ipython().run_cell_magic('bo_search', '--trials 2 --minimize loss', 'x = Float(0, 1)\\nloss = x')"
    with kernel(tmp_path) as notebook:
        notebook.must("%load_ext nbcompress\nimport ipywidgets")
        cell = outputs_of(notebook, notebook.start(call))
        console = outputs_of(notebook, notebook.type(call))
        captured = outputs_of(notebook, notebook.start(f"out = ipywidgets.Output()\nwith out:\n    {call}"))
        made = notebook.must(f"b = ipywidgets.Button()\nb.on_click(lambda _: {call})\nprint(b.comm.comm_id)")
        click = {"comm_id": made.text.strip(), "data": {"method": "custom", "content": {"event": "click"}}}
        message = notebook.client.session.msg("comm_msg", click)
        notebook.client.shell_channel.send(message)
        clicked = outputs_of(notebook, message["header"]["msg_id"])
    assert [kind for kind, _ in cell] == ["display_data", "update_display_data"]
    assert [kind for kind, _ in console] == ["display_data"]
    assert [kind for kind, _ in captured] == [kind for kind, _ in clicked] == ["display_data", "display_data"]
    for shown in (cell, console, captured, clicked):
        assert {MIME, "text/html", "text/plain"} <= shown[-1][1]


def test_under_a_program_that_runs_notebooks_background_runs_in_the_cell(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        notebook.must("%load_ext nbcompress\nimport time")
        reply = notebook.finish(notebook.start_by_program(search(3, 0.1).replace("--seed 3", "--background")))
        assert "runs in this cell and not in the background" in reply.text
        assert counted(tmp_path) == 3
        assert MIME in reply.bundles[-1]


DISPLAYING = """
%%bo_search --trials 6 --minimize loss --study shown --sampler sobol
from IPython.display import HTML, display
import matplotlib.pyplot as plt
x = Float(0, 1)
display(HTML(f"<b>x is {x:.6f}</b>"))
plt.plot([1, x])
plt.show()
loss = x
"""


def test_the_outputs_of_trials_are_those_of_the_best_one(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        notebook.must("%load_ext nbcompress")
        others = [bundle for bundle in notebook.must(DISPLAYING.strip()).bundles if MIME not in bundle]
        best = notebook.must("print('%.6f' % study.best.params['x'], *study.best.kept)").text.strip()
        html = [bundle["text/html"] for bundle in others if "x is" in bundle.get("text/html", "")]
        assert html == [f"<b>x is {best}</b>"]
        assert sum("image/png" in bundle for bundle in others) == 1
        # They are stored, so the cell shows them again when nothing is run.
        again = [bundle for bundle in notebook.must(DISPLAYING.strip()).bundles if MIME not in bundle]
        assert [bundle["text/html"] for bundle in again if "x is" in bundle.get("text/html", "")] == html
