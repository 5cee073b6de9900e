"""Write `tests/samples/<version>/`: studies, kept models and files as this version of nbcompress writes them.

    python tests/samples/make.py

The folder `0.1.0` was written by nbcompress 0.1.0 at commit 7af040d. Run this only for a new version of the format of
journals or files: it never writes into a folder that exists, and the folders of older versions stay as they are, so
that `tests/test_samples.py` shows that they can be opened. A new kind of file is a new entry of `FILES` in
`tests/sample_cases.py`; write it with `python tests/samples/make.py --file NAME`.

- `cell`: a `%%bo_search` with conditional parameters, a constraint, a pruner and kept models. One trial failed, the
  last one was interrupted.
- `two objectives`: `nc.search` with two objectives, a group of parameters, kept values of several types and a failed
  trial.
- `one number`: `nc.maximize` of a function that reads a tuple and a dict.
- `killed`: `nc.search` whose process was killed. Its last trial is still recorded as running, on another host.
- `optuna`: a study of Optuna with `nbcompress.optuna.Sampler`.
- `files`: `.nbz` files of every kind, each with a `.npz` of an input, the output and a hash of the weights.

Each journal has an `expected.json` beside it. Host name, process id and paths are taken out of the journals.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import sample_cases as cases  # noqa: E402 - found by the line above

import nbcompress as nc  # noqa: E402

N_CELL, N_SEARCH, N_MAXIMIZE, N_OPTUNA = 14, 10, 8, 8


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--killed"]:
        nc.search(cases.killed, trials=6, storage=cases.JOURNAL, **cases.KILLED)
        return
    root = HERE / nc.__version__
    if sys.argv[1:2] == ["--file"]:
        write_file(root / "files", sys.argv[2])
        return
    if root.exists():
        sys.exit(f"{root} exists already and stays as it is.")
    write_cell(folder_in(root, "cell"))
    write_search(folder_in(root, "two objectives"))
    write_maximize(folder_in(root, "one number"))
    write_killed(folder_in(root, "killed"))
    write_optuna(folder_in(root, "optuna"))
    files = folder_in(root, "files")
    for name in cases.FILES:
        write_file(files, name)


def folder_in(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    return folder


def write_cell(folder: Path) -> None:
    with cases.shell_in(folder) as shell:
        shell.run(cases.SETUP)
        shell.run(cases.CELL.format(trials=N_CELL))
        with interrupted():
            shell.run(cases.CELL.format(trials=N_CELL + 3))
    finish(folder, "digits")
    study = stored(folder, "digits")
    model = study.kept["small"].load(into=cases.Net())
    write_outputs(folder / "small.npz", model, cases.numbers(4, 6))


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    """A `with` block in which the cell is interrupted where it looks for the file `cases.INTERRUPT`.

    The cell itself must stay as it is, because a study says if a function of its cell has changed. What the function
    raises by itself would be a failure.
    """
    exists = os.path.exists

    def interrupting(path: str) -> bool:
        if path == cases.INTERRUPT:
            signal.raise_signal(signal.SIGINT)
        return exists(path)

    with mock.patch("os.path.exists", interrupting):
        yield


def write_search(folder: Path) -> None:
    os.chdir(folder)
    nc.search(cases.two_objectives, trials=N_SEARCH, storage=cases.JOURNAL, **cases.TWO_OBJECTIVES)
    finish(folder, "two objectives")
    net = stored(folder, "two objectives").front[0].kept["net"].load(into=cases.Net())
    write_outputs(folder / "net.npz", net, cases.numbers(4, 6))


def write_maximize(folder: Path) -> None:
    os.chdir(folder)
    nc.maximize(cases.one_number, trials=N_MAXIMIZE, storage=cases.JOURNAL, **cases.ONE_NUMBER)
    finish(folder, "one number")


def write_killed(folder: Path) -> None:
    (folder / cases.INTERRUPT).touch()
    done = subprocess.run([sys.executable, __file__, "--killed"], cwd=folder, check=False)
    assert done.returncode == 1
    (folder / cases.INTERRUPT).unlink()
    finish(folder, "killed")


def write_optuna(folder: Path) -> None:
    os.chdir(folder)
    study = cases.optuna_study()
    study.optimize(cases.optuna_objective, n_trials=N_OPTUNA)
    expected = [{"state": one.state.name, "params": one.params, "values": one.values} for one in study.trials]
    write_json(folder / "expected.json", expected)
    neutralise(folder)


def stored(folder: Path, name: str) -> nc.Study:
    with cases.shell_in(folder) as shell:
        return shell.stored(name)


def finish(folder: Path, name: str) -> None:
    """Neutralise a journal, write what is expected of it, and remove everything else."""
    neutralise(folder)
    study = stored(folder, name)
    expected = {
        "name": study.name,
        "trials": cases.described(study),
        "front": [trial.number for trial in study.front],
        "baseline": study.record.get("baseline"),
        "cell": study.record.get("cell"),
        "python": study.record["versions"]["python"],
    }
    write_json(folder / "expected.json", expected)


def neutralise(folder: Path) -> None:
    """Take out of a journal what names this machine, and remove the list of runs beside it."""
    (folder / cases.TRIALS).unlink()
    journal = folder / cases.JOURNAL
    lines = [json.dumps(_neutral(json.loads(line)), separators=(",", ":")) for line in journal.read_text().splitlines()]
    journal.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _neutral(value: Any) -> Any:
    if isinstance(value, dict):
        worker = {"host": "host", "pid": 1000} if value.keys() >= {"host", "pid", "started"} else {}
        return {name: _neutral(part) for name, part in {**value, **worker}.items()}
    if isinstance(value, list):
        return [_neutral(part) for part in value]
    if isinstance(value, str):
        return re.sub(r"(?:/[\w.+-]+)+/((?:tests|nbcompress|site-packages)/)", r"/home/user/\1", value)
    return value


def write_file(folder: Path, name: str) -> None:
    case = cases.FILES[name]
    path = folder / f"{name}.nbz"
    if path.exists():
        sys.exit(f"{path} exists already and stays as it is.")
    nc.save(case.compress(cases.filled(case.fresh())).eval(), path)
    write_outputs(path.with_suffix(".npz"), nc.load(path, case.fresh()).eval(), case.inputs())


def write_outputs(path: Path, model: nn.Module, inputs: torch.Tensor) -> None:
    """Store an input, the output of the model and a hash of its state dict."""
    with torch.no_grad():
        output = model.eval()(inputs)
    # NumPy has no bfloat16; float32 holds each of its numbers.
    plain = inputs.float() if inputs.dtype == torch.bfloat16 else inputs
    np.savez_compressed(path, input=plain.numpy(), output=output.float().numpy(), digest=np.array(cases.digest(model)))


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
