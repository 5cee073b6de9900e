"""What the files in `samples/<version>/` were written from: networks, search cells and functions.

`samples/make.py` writes the files, `test_samples.py` opens them. A study stores hashes of the texts of `CELL`, `SETUP`
and of the functions that are searched here, and a file stores the names of classes and tensors. So nothing here may
change, not even a comment inside a function; a new case gets a new name. Only public names of nbcompress are used.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from torch import Tensor, nn

import nbcompress as nc

JOURNAL = "nbcompress.journal"  # the default of `--storage`; what is kept lies in `nbcompress.kept`
TRIALS = "trials.txt"  # the objectives below add a line for each run of a trial
INTERRUPT = "interrupt"  # while there is a file of this name, the cell below interrupts itself


# Networks ------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.head = nn.Conv2d(6, 8, 3), nn.Linear(8 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv2(torch.relu(self.norm(self.conv1(x))))).flatten(1))


class Tied(nn.Module):
    """An embedding whose weight is also that of the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.embedding(tokens).mean(dim=1))


class Recurrent(nn.Module):
    """Embedding, GRU, attention and layer norm: layers that hold several weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(20, 6, padding_idx=0), nn.GRU(6, 8, batch_first=True)
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.gru(self.embedding(tokens))[0]
        return self.head(self.norm(self.attention(x, x, x, need_weights=False)[0]).mean(dim=1))


class Dtypes(nn.Module):
    """A parameter of the model itself and buffers of other dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.zeros(6, 3)), nn.Parameter(torch.zeros(()))
        self.register_buffer("counts", torch.zeros(5, dtype=torch.int64))
        self.register_buffer("flags", torch.zeros(3, dtype=torch.bool))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("as_float16", torch.zeros(4, dtype=torch.float16))
        self.register_buffer("as_bfloat16", torch.zeros(4, dtype=torch.bfloat16))
        self.register_buffer("as_float64", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("as_complex64", torch.zeros(4, dtype=torch.complex64))
        self.register_buffer("special", torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-45, 6e-8]))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight * self.scale + self.as_float16[:3].float() + self.as_float64[0].float()


def filled(model: nn.Module) -> nn.Module:
    """Fill a model with numbers that do not depend on any random generator, in place; return it in evaluation mode."""
    with torch.no_grad():
        for place, (name, tensor) in enumerate(model.state_dict().items()):
            if name in ("special", "empty") or tensor.dtype in (torch.bool, torch.int64):
                tensor.copy_(tensor if name == "special" else (torch.arange(tensor.numel()) * 3 % 7).view(tensor.shape))
                continue
            # Three sines of unrelated periods look like noise; rounding takes away what libraries compute differently.
            n = torch.arange(tensor.numel(), dtype=torch.float64) + 100 * place
            wave = (torch.sin(1.7 * n) + torch.sin(2.9 * n) + torch.sin(0.37 * n)) / 3
            values = torch.round(wave * 4096) / 4096
            values = values.abs() + 0.5 if "running_var" in name else values
            tensor.copy_(values.view(tensor.shape))
    return model.eval()


def numbers(*shape: int) -> Tensor:
    n = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return (torch.round(torch.sin(2.3 * n) * 256) / 256).float().view(shape)


def tokens(*shape: int) -> Tensor:
    return (torch.arange(int(np.prod(shape))) * 7 % 20).view(shape)


def digest(model: nn.Module) -> str:
    """Hash names, dtypes, shapes and values of a state dict. Minus zero counts as zero."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        if tensor.dtype.is_floating_point:
            tensor = tensor + 0.0
        if tensor.numel():
            found.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class File:
    """A kind of `.nbz` file.

    Attributes:
        fresh: Makes an instance of the class that was saved.
        compress: What is done to it before it is saved.
        inputs: What it is called with.
    """

    fresh: Callable[[], nn.Module]
    compress: Callable[[nn.Module], nn.Module]
    inputs: Callable[[], Tensor]


def _rows() -> Tensor:
    return numbers(4, 6)


def _images() -> Tensor:
    return numbers(2, 1, 6, 6)


def _sentences() -> Tensor:
    return tokens(3, 5)


def _data() -> tuple[Tensor, Tensor]:
    return numbers(24, 6), torch.arange(24) % 3


BITS = {"fc1.weight": 2, "fc2.weight": 5, "fc3.weight": 8}


def _cut(model: nn.Module) -> nn.Module:
    return nc.prune(model, 0.5, granularity="channel", example=_images())


def _all_together(model: nn.Module) -> nn.Module:
    return nc.quantize(nc.prune(_cut(model), 0.5), bits=3)


def _finetuned(model: nn.Module) -> nn.Module:
    return nc.quantize(nc.prune(model, 0.5), bits=4, data=_data(), finetune=2)


FILES: dict[str, File] = {
    "dense": File(Net, lambda model: model, _rows),
    "dense-conv": File(ConvNet, lambda model: model, _images),
    "dense-dtypes": File(Dtypes, lambda model: model, _rows),
    "dense-bfloat16": File(lambda: Net().bfloat16(), lambda model: model, lambda: _rows().bfloat16()),
    "pruned": File(Net, lambda model: nc.prune(model, 0.8), _rows),
    "pruned-2-4": File(ConvNet, lambda model: nc.prune(model, granularity="2:4", layers="head"), _images),
    "channels": File(ConvNet, _cut, _images),
    "channels-pruned-quantized": File(ConvNet, _all_together, _images),
    "quantized-1": File(Net, lambda model: nc.quantize(model, bits=1), _rows),
    "quantized-1-pruned": File(Net, lambda model: nc.quantize(nc.prune(model, 0.5), bits=1), _rows),
    "quantized-4": File(Net, lambda model: nc.quantize(model, bits=4), _rows),
    "quantized-4-affine": File(Net, lambda model: nc.quantize(model, bits=4, scheme="affine"), _rows),
    "quantized-4-groups": File(Net, lambda model: nc.quantize(model, bits=4, granularity="group:5"), _rows),
    "quantized-4-finetuned": File(Net, _finetuned, _rows),
    "quantized-8": File(Net, lambda model: nc.quantize(model, bits=8), _rows),
    "quantized-8-tensor": File(Net, lambda model: nc.quantize(model, granularity="tensor", rest="float32"), _rows),
    "quantized-8-dynamic": File(Net, lambda model: nc.quantize(model, activations="dynamic"), _rows),
    "quantized-8-static": File(Net, lambda model: nc.quantize(model, activations="static", data=_data()), _rows),
    "quantized-by-layer": File(Net, lambda model: nc.quantize(model, bits=BITS), _rows),
    "quantized-to-budget": File(Net, lambda model: nc.quantize(model, bits="auto", budget=420), _rows),
    "clustered": File(Net, lambda model: nc.cluster(model, 6), _rows),
    "clustered-pruned": File(Net, lambda model: nc.cluster(nc.prune(model, 0.6), 6), _rows),
    "clustered-quantized": File(Net, lambda model: nc.quantize(nc.cluster(model, 9), bits=4), _rows),
    "factorized": File(Net, lambda model: nc.factorize(model, 0.4), _rows),
    "factorized-quantized": File(ConvNet, lambda model: nc.quantize(nc.factorize(model, 0.4), bits=6), _images),
    "tied": File(Tied, lambda model: model, _sentences),
    "tied-quantized": File(Tied, lambda model: nc.quantize(model, bits=5), _sentences),
    "distilled": File(Student, lambda model: nc.distill(filled(Net()), model, _data(), epochs=2), _rows),
    "recurrent-quantized": File(Recurrent, lambda model: nc.quantize(nc.prune(model, 0.4), bits=4), _sentences),
}


# A search cell -------------------------------------------------------------------------------------------------------

SETUP = """\
import os
import torch
from sample_cases import Net, filled, numbers

model = filled(Net())
inputs = numbers(4, 6)
target = 0.4
limits = (0.85, "plain")

def note_trial(amount):
    with open("trials.txt", "a") as file:
        print(amount, file=file)
    if os.path.exists("interrupt"):
        raise KeyboardInterrupt
"""

CELL = """\
%%bo_search --trials {trials} --maximize accuracy --subject-to "kilobytes <= 0.7" --study digits --keep small \
--pruner median --seed 1 --panel off --start "[{{'amount': 0.4, 'method': 'quantize', 'bits': 8}}, \
{{'amount': 0.88, 'method': 'plain'}}, {{'amount': 0.1, 'method': 'plain'}}]"
amount = Float(0.1, 0.9)
method = Choice("plain", "cluster", "quantize")

note_trial(amount)
if method == "plain" and amount > limits[0]:
    raise ValueError(f"amount={{amount}} is over {{limits[0]}}")
small = prune(model, amount=amount)
if method == "cluster":
    clusters = Int(2, 16, log=True)
    small = cluster(small, clusters=clusters)
elif method == "quantize":
    bits = Choice(2, 4, 8)
    small = quantize(small, bits=bits)
kilobytes = size_bytes(small) / 1000
for epoch in range(1, 4):
    report(accuracy=1 - abs(amount - target) - 0.1 / epoch, step=epoch)
print("measured", method)
error = float((small(inputs) - model(inputs)).detach().abs().mean())
accuracy = 1 - abs(amount - target) - 0.01 * error
"""


# Functions -----------------------------------------------------------------------------------------------------------


def _note_trial(point: dict[str, Any]) -> None:
    with open(TRIALS, "a", encoding="utf-8") as file:
        print(sorted(point), file=file)


def n_runs() -> int:
    """Return how many trials were run in this folder."""
    return len(Path(TRIALS).read_text(encoding="utf-8").splitlines()) if os.path.exists(TRIALS) else 0


def two_objectives(amounts: dict[str, float], method: str | None, fast: bool, rounds: int, **rest: Any) -> Any:
    _note_trial({"amounts": amounts, "method": method, "fast": fast, "rounds": rounds, **rest})
    if rounds == 9:
        raise RuntimeError("9 rounds take too long")
    net = nc.prune(filled(Net()), amounts["fc1"], layers="fc1")
    kilobytes = 1.2 - 0.4 * sum(amounts.values()) + 0.01 * rest.get("clusters", 20)
    nc.report(kilobytes=kilobytes)
    error = sum((value - 0.3) ** 2 for value in amounts.values()) + 0.01 * rounds + 0.1 * (method is None) - 0.05 * fast
    summary = {"text": "a summary", "numbers": [1, 2.5, None, True], "tensor": torch.arange(6).view(2, 3) * 0.5}
    nc.keep(net=net, parts=[net.fc2, {"second": net.fc3}], summary=summary)
    return {"error": error, "kilobytes": kilobytes, "seconds_of_training": 0.5 * rounds}


TWO_OBJECTIVES: dict[str, Any] = {
    "space": {
        "amounts": nc.Float(0, 0.9, each=("fc1", "fc2")),
        "method": nc.Choice("cluster", "plain", None),
        "fast": nc.Choice(True, False),
        "rounds": nc.Int(1, 9, step=2),
        "clusters": nc.Int(4, 64, log=True, when={"method": "cluster"}),
    },
    "minimize": ["error", "kilobytes"],
    "subject_to": ["kilobytes <= 1.1"],
    "baseline": {"error": 0.0, "kilobytes": 1.2},
    "start": [
        {"amounts[fc1]": 0.3, "amounts[fc2]": 0.3, "method": "plain", "fast": True, "rounds": 1},
        {"amounts[fc1]": 0.5, "amounts[fc2]": 0.5, "method": "plain", "fast": True, "rounds": 9},
        {"amounts[fc1]": 0.0, "amounts[fc2]": 0.1, "method": None, "fast": False, "rounds": 3},
    ],
    "study": "two objectives",
    "seed": 3,
}

CENTER = (0.25, 0.75)
WEIGHTS = {"x": 1.0, "y": 2.0, "names": ("a", None)}


def one_number(x: float, y: float) -> float:
    _note_trial({"x": x, "y": y})
    return -WEIGHTS["x"] * (x - CENTER[0]) ** 2 - WEIGHTS["y"] * (y - CENTER[1]) ** 2


ONE_NUMBER: dict[str, Any] = {
    "space": {"x": nc.Float(0, 1), "y": nc.Float(0, 1, step=0.125)},
    "study": "one number",
    "repeats": 2,
}


def killed(x: float) -> dict[str, float]:
    """Kill the process in the third trial, if the folder says so."""
    _note_trial({"x": x})
    if os.path.exists(INTERRUPT) and n_runs() == 3:
        os._exit(1)
    return {"loss": (x - 0.3) ** 2}


KILLED: dict[str, Any] = {
    "space": {"x": nc.Float(0, 1)},
    "minimize": ["loss"],
    "sampler": "sobol",
    "study": "killed",
}


def optuna_objective(trial: Any) -> float:
    _note_trial({})
    x = trial.suggest_float("x", -1, 1)
    kind = trial.suggest_categorical("kind", ["line", "wave"])
    shift = trial.suggest_int("shift", 1, 4) / 10 if kind == "wave" else 0.0
    return (x - 0.3) ** 2 + shift


def optuna_study() -> Any:
    """Begin or continue a study of Optuna in this folder."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="optuna",
        storage=JournalStorage(JournalFileBackend(JOURNAL)),
        sampler=nc.optuna.Sampler(seed=5),
        load_if_exists=True,
    )


# Studies -------------------------------------------------------------------------------------------------------------


def described(study: nc.Study) -> list[dict[str, Any]]:
    """Return all trials as JSON. `reason` and `note` are left out: words may change."""
    return [
        {
            "number": trial.number,
            "state": str(trial.state),
            "params": dict(trial.params),
            "values": dict(trial.values),
            "seconds": trial.seconds,
            "seed": trial.seed,
            "failure": str(trial.failure) if trial.failure else None,
            "printed": trial.printed,
            "reports": {name: [list(pair) for pair in steps.items()] for name, steps in trial.reports.items()},
            "kept": sorted(trial.kept),
        }
        for trial in study.all_trials
    ]


class Shell:
    """A real IPython shell with our magics."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.names: dict[str, Any] = shell.user_ns

    def run(self, cell: str) -> str:
        """Run a cell that ends without an error and return what it printed and showed, as text."""
        with capture_output() as captured:
            done = self.shell.run_cell(cell, store_history=False)
        shown = [output.data.get("text/plain", "") for output in captured.outputs]
        printed = "\n".join([captured.stdout, captured.stderr, *shown])
        error = done.error_before_exec or done.error_in_exec
        if error is not None:
            raise AssertionError(printed) from error
        return printed

    def stored(self, name: str) -> nc.Study:
        """Open a study of the journal in this folder, for reading."""
        self.run(f"%bo_study '{name}' --out found")
        study: nc.Study = self.names["found"]
        return study


@contextmanager
def shell_in(folder: Path) -> Iterator[Shell]:
    """Open a shell in `folder`."""
    before, hook, variable = Path.cwd(), sys.displayhook, os.environ.get("IPYTHONDIR")
    settings = tempfile.TemporaryDirectory()
    os.environ["IPYTHONDIR"] = settings.name
    os.chdir(folder)
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(user_ns={"__name__": "__main__"})
    shell.history_manager.enabled = False
    shell.run_line_magic("load_ext", "nbcompress")
    try:
        yield Shell(shell)
    finally:
        shell.run_line_magic("unload_ext", "nbcompress")
        shell.history_manager.end_session()
        InteractiveShell.clear_instance()
        sys.displayhook = hook
        os.chdir(before)
        settings.cleanup()
        if variable is None:
            del os.environ["IPYTHONDIR"]
        else:
            os.environ["IPYTHONDIR"] = variable
