"""What a search cell reads of the notebook belongs to its study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Notebook

SETUP = """
import argparse, dataclasses, types
runs, log, seen = [], [], {}
center = 0.3

@dataclasses.dataclass
class Settings:
    weight: float

class Config(dict):
    __getattr__ = dict.__getitem__
"""
BODY = "x = Float(0, 1)\nruns.append(x)\nloss = (x - center) ** 2\n"


def cell(options: str = "", body: str = BODY, trials: int = 3) -> str:
    return f"%%bo_search --panel off --sampler sobol --trials {trials} --minimize loss {options}\n{body}"


@pytest.fixture
def read(notebook: Notebook) -> Notebook:
    notebook.must(SETUP)
    return notebook


def n_runs(notebook: Notebook) -> int:
    return len(notebook.names["runs"])


def test_another_parameter_set_of_papermill_gets_its_own_result(read: Notebook) -> None:
    read.must(cell())
    first = read.names["study"].name
    read.must("center = 0.8")
    printed = read.must(cell()).printed
    assert n_runs(read) == 6
    assert f"Study '{first}~2' begins, since '{first}' was begun with something else: center = 0.3" in printed
    for center, name in ((0.3, first), (0.8, f"{first}~2")):
        read.must(f"center = {center}")
        read.must(cell())
        assert read.names["study"].name == name
    assert n_runs(read) == 6


def test_a_named_study_names_the_ways_on(read: Notebook) -> None:
    read.must(cell("--study s"))
    read.must("center = 0.8")
    line = read.refused(cell("--study s"))
    for text in ("center = 0.3 before and 0.8 now", "--fresh", "another --study", "--accept-changes"):
        assert text in line
    read.must(cell("--study s --accept-changes", trials=4))
    notes = [one.note.get("values") for one in read.names["study"].all_trials]
    assert notes == [None, None, None, {"center": 0.8}]
    read.must(cell("--study s --fresh"))
    assert read.names["study"].name == "s~2"
    read.must(cell("--study other"))


def test_a_number_measured_anew_is_a_warning(read: Notebook) -> None:
    read.must("baseline = {'accuracy': 0.981}")
    body = BODY + "gain = baseline['accuracy'] - loss\n"
    read.must(cell("--study s", body))
    read.must("baseline = {'accuracy': 0.983}")
    assert "less than 1 %: baseline.accuracy = 0.981 before and 0.983 now" in read.must(cell("--study s", body)).printed
    read.must("baseline = {'accuracy': 0.9}")
    read.refused(cell("--study s", body))


@pytest.mark.parametrize(
    "value",
    [
        "{'weight': 1}",
        "[{'weight': (1, 2)}]",
        "Settings(1)",
        "types.SimpleNamespace(weight=1)",
        "argparse.Namespace(weight=1)",
        "Config(weight=1)",
        "Config(inner=Settings(1))",
        "'1'",
    ],
)
def test_values_that_hold_values(read: Notebook, value: str) -> None:
    read.must(f"settings = {value}")
    body = BODY + "kept = settings\n"
    read.must(cell("--study s", body))
    read.must(f"settings = {value}")
    read.must(cell("--study s", body))
    read.must(f"settings = {value.replace('1', '7')}")
    assert "settings" in read.refused(cell("--study s", body))


def test_values_behind_functions(read: Notebook) -> None:
    read.must(
        "def make(k):\n    def score(x): return k * x\n    return score\nscore = make(1)\ndef use(x): return center * x"
    )
    body = "x = Float(0, 1)\nloss = score(x) + use(x)\n"
    read.must(cell("--study s", body))
    read.must("center = 0.9")
    assert "center = 0.3" in read.refused(cell("--study s", body))
    read.must("center = 0.3\nscore = make(2)")
    assert "score.k = 1 before and 2 now" in read.refused(cell("--study s", body))


def test_what_the_body_writes_into_does_not_count(read: Notebook) -> None:
    read.must("best = [9.0]\ncount = types.SimpleNamespace(n=0, step=1)\nnotes = ['a']")
    read.must("def note(x):\n    seen[x] = len(notes)\n    best[0] = min(best[0], x)\n    count.n += count.step")
    body = BODY + "log.append(x)\nnote(x)\n"
    for trials in (3, 4):
        read.must(cell("--study s", body, trials))
    assert n_runs(read) == 4
    # In a kernel that was restarted it is as before the first trial.
    read.must("log, seen, best, count.n = [], {}, [9.0], 0")
    assert "none was run again" in read.must(cell("--study s", body, 4)).printed
    read.must("count.step = 2")
    assert "count.step = 1 before and 2 now" in read.refused(cell("--study s", body, 5))


def test_what_a_body_binds_itself_and_what_nothing_reads_do_not_count(read: Notebook) -> None:
    read.must("loss, x, unused = 1, 2, 3")
    read.must(cell("--study s"))
    read.must("loss, x, unused = 4, 5, 6")
    read.must(cell("--study s"))


def test_classes_that_hold_settings(read: Notebook) -> None:
    read.must("class CFG:\n    lr = 0.1\nclass Args:\n    def __init__(self, lr): self.lr = lr\nargs = Args(0.1)")
    body = BODY + "kept = CFG.lr + args.lr\n"
    read.must(cell("--study s", body))
    read.must("args = Args(0.2)")
    assert "args.lr = 0.1 before and 0.2 now" in read.refused(cell("--study s", body))
    read.must("args = Args(0.1)\nclass CFG:\n    lr = 0.2")
    assert "CFG.lr = 0.1 before and 0.2 now" in read.refused(cell("--study s", body))
