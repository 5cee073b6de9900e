"""How much of the gap to its teacher a student closes, against the same student without a teacher.

The teacher is the 300-100 network, trained on 1297 digits. The student has few neurons and sees few of these digits
with labels: it learns for the same number of epochs, from the same start and in the same order, once from the labels
alone (the control) and once from teacher and labels. The share is (student - control) / (teacher - control), of
accuracies on 500 test digits: of their means over all seeds, with a 95 % interval by bootstrap over seeds.

Temperature and weight are what `distill` takes unless told otherwise. Budget and step size are those at which the
control did best on other seeds, away from test digits; with less training or smaller steps the teacher is no help,
since scores as sure as a teacher's take their time.

    python tests/benchmarks/distillation.py [--seeds 12] [--smoke]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from digits import Data, accuracy, digits, parted, perceptron, trained
from records import Rows, conditions
from significance import mean_interval, share_interval
from torch import nn

import nbcompress as nc

TEACHER_EPOCHS = 60
EPOCHS = 300
LR = 3e-3


@dataclass(frozen=True)
class Task:
    """A student and its lesson.

    Attributes:
        n_neurons: In its one hidden layer.
        n_labelled: How many digits it sees.
    """

    n_neurons: int
    n_labelled: int

    def student(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, self.n_neurons), nn.ReLU(), nn.Linear(self.n_neurons, 10))


TASKS = (Task(32, 50), Task(32, 100), Task(32, 300), Task(8, 300))


def accuracies(task: Task, teacher: nn.Module, train: Data, test: Data, seed: int, epochs: int) -> tuple[float, float]:
    """Of the control and of the student, in percent."""
    few = parted(train, task.n_labelled, seed)[1]
    both = nc.distill(teacher, task.student(seed), few, epochs=epochs, lr=LR, seed=seed, control=True)
    return accuracy(both.control, test), accuracy(both.student, test)


def measure(seeds: Iterable[int], teacher_epochs: int, epochs: int, name: str) -> None:
    """Print the table."""
    rows = Rows(name, ("neurons", "labelled", "seed", "teacher %", "control %", "student %"))
    found: dict[Task, list[tuple[float, float, float]]] = {task: [] for task in TASKS}
    for seed in seeds:
        train, test = digits(seed)
        teacher = trained(perceptron(seed), train, teacher_epochs, seed)
        for task in TASKS:
            both = accuracies(task, teacher, train, test, seed, epochs)
            found[task].append((accuracy(teacher, test), *both))
            rows.add(task.n_neurons, task.n_labelled, seed, *found[task][-1])
    print(f"{'neurons':>8}{'digits':>8}{'teacher':>9}{'control':>9}{'student':>9}  {'gain, points':24}share of the gap")
    for task, columns in found.items():
        teacher, control, student = zip(*columns, strict=True)
        gain = mean_interval([taught - alone for taught, alone in zip(student, control, strict=True)])
        share = share_interval(teacher, control, student)
        print(
            f"{task.n_neurons:8}{task.n_labelled:8}{mean(teacher):9.2f}{mean(control):9.2f}{mean(student):9.2f}  "
            f"{f'{gain.value:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})':24}"
            f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--smoke", action="store_true", help="three seeds, few epochs")
    options = parser.parse_args()
    print(f"{conditions()}; {3 if options.smoke else options.seeds} seeds")
    if options.smoke:
        measure(range(100, 103), 5, 10, "distillation-smoke")
    else:
        measure(range(options.seeds), TEACHER_EPOCHS, EPOCHS, "distillation")


if __name__ == "__main__":
    main()
