"""How much of the gap to its teacher a student closes, against the same student without a teacher.

The teacher is the 300-100 network, trained on 1297 digits. The student has few neurons and sees few of these digits
with labels: it learns for the same number of epochs, from the same start and in the same order, once from the labels
alone (the control) and once from teacher and labels. The share is (student - control) / (teacher - control), of
accuracies on 500 test digits: of their means over all seeds, with a 95 % interval by bootstrap over seeds.

Settings of the teacher (temperature and weight) were chosen on other seeds, away from test digits, by `--choose`.

    python tests/benchmarks/distillation.py [--seeds 20] [--choose] [--smoke]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from digits import Data, accuracy, digits, digits_to_choose_on, parted, perceptron, trained
from records import Rows, conditions
from significance import mean_interval, share_interval
from torch import nn

import nbcompress as nc

SEEDS_TO_CHOOSE_ON = range(100, 104)
TEACHER_EPOCHS = 60
EPOCHS = 150


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


TASKS = (Task(32, 100), Task(32, 300), Task(8, 600))
TEMPERATURE, ALPHA = 4.0, 0.9
OTHERS = ((2.0, 0.9), (4.0, 1.0), (8.0, 0.9))


def accuracies(
    task: Task, teacher: nn.Module, train: Data, test: Data, seed: int, temperature: float, alpha: float, epochs: int
) -> tuple[float, float]:
    """Of the student and of its control, in percent."""
    few = parted(train, task.n_labelled, seed)[1]
    both = nc.distill(
        teacher,
        task.student(seed),
        few,
        epochs=epochs,
        temperature=temperature,
        alpha=alpha,
        seed=seed,
        control=True,
    )
    return accuracy(both.student, test), accuracy(both.control, test)


def measure(seeds: Iterable[int], teacher_epochs: int, epochs: int, name: str) -> None:
    """Print the table."""
    rows = Rows(name, ("neurons", "labelled", "seed", "teacher %", "control %", "student %"))
    found: dict[Task, list[tuple[float, float, float]]] = {task: [] for task in TASKS}
    for seed in seeds:
        train, test = digits(seed)
        teacher = trained(perceptron(seed), train, teacher_epochs, seed)
        for task in TASKS:
            student, control = accuracies(task, teacher, train, test, seed, TEMPERATURE, ALPHA, epochs)
            found[task].append((accuracy(teacher, test), control, student))
            rows.add(task.n_neurons, task.n_labelled, seed, *found[task][-1])
    print(f"{'neurons':>8}{'digits':>8}{'teacher':>9}{'control':>9}{'student':>9}  {'gain, points':24}share of the gap")
    for task, columns in found.items():
        teacher, control, student = zip(*columns, strict=True)
        gain = mean_interval([one - other for one, other in zip(student, control, strict=True)])
        share = share_interval(teacher, control, student)
        print(
            f"{task.n_neurons:8}{task.n_labelled:8}{mean(teacher):9.2f}{mean(control):9.2f}{mean(student):9.2f}  "
            f"{f'{gain.value:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})':24}"
            f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"
        )


def choose() -> None:
    """Print what settings of the teacher bring, away from test digits."""
    for temperature, alpha in ((TEMPERATURE, ALPHA), *OTHERS):
        gains: dict[Task, list[float]] = {task: [] for task in TASKS}
        for seed in SEEDS_TO_CHOOSE_ON:
            train, valid = digits_to_choose_on(seed)
            teacher = trained(perceptron(seed), train, TEACHER_EPOCHS, seed)
            for task in TASKS:
                student, control = accuracies(task, teacher, train, valid, seed, temperature, alpha, EPOCHS)
                gains[task].append(student - control)
        told = ", ".join(f"{task.n_neurons}/{task.n_labelled} {mean(one):+.2f}" for task, one in gains.items())
        print(f"temperature {temperature:g}, alpha {alpha:g}: {told} points over the control", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--choose", action="store_true", help="compare settings on a validation part")
    parser.add_argument("--smoke", action="store_true", help="three seeds, few epochs")
    options = parser.parse_args()
    print(f"{conditions()}; {3 if options.smoke else options.seeds} seeds")
    if options.choose:
        choose()
    elif options.smoke:
        measure(range(100, 103), 5, 10, "distillation-smoke")
    else:
        measure(range(options.seeds), TEACHER_EPOCHS, EPOCHS, "distillation")


if __name__ == "__main__":
    main()
