"""What a benchmark leaves behind: rows in a file, written as they come, and the machine that they come from."""

from __future__ import annotations

import csv
import json
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from scipy.stats import t as student
from torch import nn

import nbcompress as nc

RESULTS = Path(__file__).parent / "results"


class Rows:
    """A table of comma-separated values that is on disk after every row.

    Args:
        name: Of the file, without its ending; it starts anew.
        columns: Names of the columns.
    """

    def __init__(self, name: str, columns: tuple[str, ...]) -> None:
        self.path = RESULTS / f"{name}.csv"
        self._n_columns = len(columns)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(columns)

    def add(self, *values: object) -> None:
        """Write one row, a value for every column."""
        if len(values) != self._n_columns:
            raise ValueError(f"a row of {self.path.name} has {self._n_columns} values, got {len(values)}")
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(values)


class Runs:
    """Results by key in a file of `results/`, a line for each; one that is there is not computed again.

    Args:
        name: Of the file, without its ending.
        is_fresh: Forget what is there.
    """

    def __init__(self, name: str, *, is_fresh: bool = False) -> None:
        self.path = RESULTS / f"{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if is_fresh:
            self.path.unlink(missing_ok=True)
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        self.found: dict[str, Any] = {line["key"]: line["value"] for line in lines}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return the stored value of `key`, or compute it now and store it."""
        if key not in self.found:
            self.found[key] = compute()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "value": self.found[key]}) + "\n")
            print(f"{key}: {self.found[key]}", flush=True)
        return self.found[key]


def interval_text(values: Sequence[float], digits: int = 1) -> str:
    """The mean of the values of several seeds with its 95 % interval by Student's t."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    middle = mean(values)
    return f"{middle:.{digits}f} ({middle - half:.{digits}f} to {middle + half:.{digits}f})"


def kept(
    name: str, make: Callable[[], nn.Module], train: Callable[[nn.Module], nn.Module], *, is_fresh: bool = False
) -> nn.Module:
    """Return a trained network from the results, or train it now and keep it there.

    Args:
        name: Of the file; one name for every way of training.
        make: Gives the network as it starts.
        train: Returns what is kept: the trained network, or another one made from it.
        is_fresh: Train even if there is a kept one.
    """
    path = RESULTS / f"{name}.nbz"
    if path.exists() and not is_fresh:
        print(f"{name}: as trained before")
        return nc.load(path, make())
    model = train(make())
    path.parent.mkdir(parents=True, exist_ok=True)
    nc.save(model, path)
    return model


def n_dense(model: nn.Module) -> int:
    """Length of the safetensors file of the state dict. Shared tensors are in it once."""
    parameters = dict(model.named_parameters())
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: tensor for name, tensor in model.state_dict().items() if name not in names}
    return len(to_safetensors({**parameters, **buffers}))


def processor() -> str:
    """The processor's name and its instructions for products of 8-bit integers."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"model name\s*: (.*)", text)
    flags = set(re.findall(r"\w+", (re.search(r"flags\s*: (.*)", text) or [""])[0]))
    known = [flag for flag in ("avx2", "avx_vnni", "avx512_vnni", "amx_int8") if flag in flags]
    return f"{name[1] if name else platform.machine()}, 8-bit products by {', '.join(known) or 'nothing of their own'}"


def conditions() -> str:
    """One line on machine and versions; pins torch to one thread."""
    torch.set_num_threads(1)
    return f"{processor()}; 1 thread, Python {platform.python_version()}, torch {torch.__version__}"
