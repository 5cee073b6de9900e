"""What a benchmark leaves behind: rows in a file, written as they come, and the machine that they come from."""

from __future__ import annotations

import csv
import platform
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
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
