"""How fast the file is: megabytes of weights a second, writing and reading, on one thread.

The law is 20 MB/s either way, counted in bytes of the weights in memory, for whatever was done to them. Seconds are
those of the processor, so that other work on the machine does not count.

    python tests/benchmarks/file_speed.py [--megabytes 100] [--smoke]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from records import Rows, conditions
from torch import nn

import nbcompress as nc

COLUMNS = ("what", "MB", "file MB", "size_bytes MB/s", "save MB/s", "load MB/s")
WIDTH = 1024
RECIPES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "as it is": lambda model: model,
    "bfloat16": lambda model: model.bfloat16(),
    "90 % pruned": lambda model: nc.prune(model, amount=0.9),
    "8 bits": lambda model: nc.quantize(model, bits=8),
    "4 bits": lambda model: nc.quantize(model, bits=4),
    "4 bits in groups of 32": lambda model: nc.quantize(model, bits=4, granularity="group:32"),
    "96 % pruned, 3 bits": lambda model: nc.quantize(nc.prune(model, amount=0.96), bits=3),
    "50 % pruned, 8 bits affine": lambda model: nc.quantize(nc.prune(model, amount=0.5), bits=8, scheme="affine"),
    "16 clusters": lambda model: nc.cluster(model, 16),
}


def network(megabytes: float) -> nn.Module:
    """Linear layers of bell-shaped weights, `megabytes` in all."""
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(max(1, round(megabytes * 1e6 / (4 * WIDTH * WIDTH))))]
    for layer in layers:
        nn.init.normal_(layer.weight, std=WIDTH**-0.5)
    return nn.Sequential(*layers)


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds of a call."""
    found = []
    for _ in range(repeats):
        start = process_time()
        call()
        found.append(process_time() - start)
    return median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--smoke", action="store_true", help="8 MB")
    options = parser.parse_args()
    megabytes = 8 if options.smoke else options.megabytes
    print(f"{conditions()}; CPU seconds, median of 3")
    rows = Rows("file-speed-smoke" if options.smoke else "file-speed", COLUMNS)
    print(f"{'':28}{'MB':>8}{'file MB':>9}{'times':>7}{'size MB/s':>11}{'save MB/s':>11}{'load MB/s':>11}")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.nbz"
        for name, shrink in RECIPES.items():
            model = shrink(network(megabytes))
            fresh = network(megabytes).to(next(model.parameters()).dtype)
            n = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e6
            calls = (partial(nc.size_bytes, model), partial(nc.save, model, path), partial(nc.load, path, fresh))
            measured = [seconds(call) for call in calls]
            size = path.stat().st_size / 1e6
            rows.add(name, n, size, *(n / seconds for seconds in measured))
            rates = "".join(f"{n / seconds:11.0f}" for seconds in measured)
            print(f"{name:28}{n:8.1f}{size:9.2f}{n / size:6.1f}x{rates}", flush=True)


if __name__ == "__main__":
    main()
