"""`%compress --run` on five trained models, against a search cell that a person would write, with as many trials.

The models are a perceptron, a LeNet-5-like and a ResNet-like network on digits, an encoder that tells modules of
Python's documentation apart, and a causal language model of characters of the same documentation. Both searches get the
same budget, seed and number of trials, and choose on the same part of the data; a third part says what the winner is
worth. The cell by hand prunes weights, shares or quantizes them and trains for 8 epochs (the most that `%compress`
tries). The number of the language model is minus its loss. Rows are appended to `results/compress-line.csv`.

    python tests/benchmarks/compress_line.py [--trials 24] [--only perceptron lenet] [--seconds 800]
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import rounding
import torch
from digits import as_images, digits, digits_to_choose_on, lenet, perceptron, trained
from encoder import encoder
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from records import RESULTS, conditions
from texts import texts
from torch import Tensor, nn

import nbcompress as nc

TABLE = RESULTS / "compress-line.csv"
COLUMNS = ("network", "how", "trials", "dense kB", "budget kB", "kB", "chosen on", "test", "dense test", "CPU s")

BY_HAND = """\
amount = Float(0.2, 0.98)
method = Choice("plain", "cluster")
lr = Float(1e-4, 1e-2, log=True)

small = prune(model, amount=amount)
if method == "cluster":
    clusters = Int(4, 64, log=True)
    small = cluster(small, clusters=clusters)
else:
    bits = Choice(2, 3, 4, 8)
    small = quantize(small, bits=bits)
report(kilobytes=size_bytes(small) / 1000)
finetune(small, train, lr=lr, epochs=8)
kilobytes = size_bytes(small) / 1000
accuracy = evaluate(small)
"""


@dataclass(frozen=True)
class Task:
    """A trained model, data to train on, how good it is on two further parts, and a budget in kB."""

    model: nn.Module
    train: tuple[Tensor, ...]
    evaluate: Callable[[nn.Module], float]
    test: Callable[[nn.Module], float]
    kilobytes: float


class ResNet(nn.Module):
    """Two residual blocks, of 16 and 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.one, self.two = self._branch(16, 16, 1), self._branch(16, 32, 2)
        self.shortcut = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
        self.head = nn.Linear(32, 10)

    @staticmethod
    def _branch(n_in: int, n_out: int, stride: int) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()),
            *(nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.relu(x + self.one(x))
        x = torch.relu(self.shortcut(x) + self.two(x))
        return self.head(x.mean((2, 3)))


def share_right(data: tuple[Tensor, ...]) -> Callable[[nn.Module], float]:
    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            found = model.eval()(*data[:-1])
        scores = getattr(found, "logits", found)
        return float((scores.argmax(1) == data[-1]).double().mean())

    return evaluate


def on_digits(make: Callable[[int], nn.Module], kilobytes: float, *, is_flat: bool = False) -> Task:
    (train, chosen), (_, test) = digits_to_choose_on(0), digits(0)
    parts = [part if is_flat else as_images(part) for part in (train, chosen, test)]
    model = trained(make(0), parts[0], 30, 0).eval()
    return Task(model, parts[0], share_right(parts[1]), share_right(parts[2]), kilobytes)


def resnet(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return ResNet()


def on_texts() -> Task:
    train, test, n_words = texts(4, 200, 200, seed=0)
    chosen, test = (tuple(part[half] for part in test) for half in (slice(100), slice(100, None)))
    model = nc.finetune(encoder(n_words, 4, is_tiny=True), train, epochs=8, lr=1e-3, batch_size=32, schedule="cosine")
    return Task(model.eval(), train, share_right(chosen), share_right(test), 60)


def on_characters() -> Task:
    rounding.WIDTH, rounding.LAYERS, rounding.STEPS = 64, 2, 400
    text = rounding.characters()
    cut = len(text) * 8 // 10
    model = rounding.trained(text[:cut], 0)
    train = rounding.windows(text[:cut], 300, 1)
    parts = [rounding.windows(text[cut:], 100, seed) for seed in (2, 3)]

    def minus_loss(part: Tensor) -> Callable[[nn.Module], float]:
        return lambda small: -rounding.loss_of(small.eval(), part)

    return Task(model, (train[:, :-1], train[:, 1:]), minus_loss(parts[0]), minus_loss(parts[1]), 45)


TASKS: dict[str, Callable[[], Task]] = {
    "perceptron": lambda: on_digits(perceptron, 4, is_flat=True),
    "lenet": lambda: on_digits(lenet, 6),
    "resnet": lambda: on_digits(resnet, 6),
    "encoder": on_texts,
    "language model": on_characters,
}


def measure(name: str, trials: int) -> None:
    """Run both searches in a real shell, and append their rows."""
    task = TASKS[name]()
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "nbcompress")
    budget = f"{task.kilobytes}kB"
    dense, dense_test = nc.size_bytes(task.model) / 1000, task.test(task.model)
    for how in ("%compress --run", "by hand"):
        shell.user_ns.update(model=task.model, train=task.train, evaluate=task.evaluate)
        started = time.process_time()
        with capture_output():
            if how == "by hand":
                line = (
                    f'--trials {trials} --maximize accuracy --subject-to "kilobytes <= {task.kilobytes}" --keep small'
                )
                shell.run_cell_magic("bo_search", line, BY_HAND)
            else:
                line = f"model --data train --evaluate evaluate --budget {budget} --trials {trials} --run"
                shell.run_line_magic("compress", line)
        study: Any = shell.user_ns["study"]
        best = study.best
        row: list[Any] = [name, how, len(study.trials), round(dense, 1), task.kilobytes]
        row += (
            ["", "", ""]
            if best is None
            else [
                round(best.values["kilobytes"], 3),
                round(best.values["accuracy"], 4),
                round(task.test(study.kept["small"]), 4),
            ]
        )
        row += [round(dense_test, 4), round(time.process_time() - started, 1)]
        is_new = not TABLE.exists()
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        with TABLE.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, row] if is_new else [row])
        print(row, None if best is None else best.params, flush=True)


def done() -> set[str]:
    if not TABLE.exists():
        return set()
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["network"] for row in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--only", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no network after so many seconds")
    options = parser.parse_args()
    print(conditions())
    started, known = time.monotonic(), done()
    before = Path.cwd()
    for name in options.only:
        if name not in known and time.monotonic() - started < options.seconds:
            # The cell by hand is the same for all: in one folder the second network would go on with the first study.
            with TemporaryDirectory() as folder:
                os.chdir(folder)
                measure(name, options.trials)
                os.chdir(before)


if __name__ == "__main__":
    main()
