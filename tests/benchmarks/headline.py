"""The main job: a trained model, a budget of size and one of time, and some minutes. Who delivers the better file?

Five networks, trained on data that scikit-learn and Python bring: a perceptron, one like LeNet, one like ResNet, an
encoder that says from which module a passage comes, and a causal language model of characters. Each contestant gets the
same processor seconds, one thread, the same range of settings (the share of channels to cut, the learning rate), the
same loop for tuning, and the same 8 bits for weights and activations:

- nbcompress: `nc.search` over `nc.prune`, `nc.finetune`, `nc.quantize`, `nc.export`;
- Optuna's TPE with constraints over torch-pruning, and then one of ONNX Runtime's quantizer, NNCF, torchao and Intel
  Neural Compressor. The last two deliver torch models: their size is that of `torch.save`, their time that of a call in
  torch.

A budget is a share of the dense network as a float32 file in ONNX Runtime: of its length (`Task.size`) and of the
median time of a call (`TIME`), files called in turn. Times are processor seconds of the calling thread, so a busy
machine does not change what a contestant may deliver. Each contestant delivers what is best on validation data among
what keeps both. What is delivered is measured again: length, time against the dense file in turn, accuracy on data that
no trial saw. It counts only if it still keeps the budget of time. Rows are appended to `results/headline.csv`; a row
that is there is not computed again.

    python tests/benchmarks/headline.py [--models mlp lenet] [--seeds 2] [--seconds 120] [--contestants ...] [--smoke]
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from digits import as_images, digits, lenet, parted, perceptron
from records import RESULTS, conditions, kept
from texts import N_TOKENS, texts
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.measure import median_interval
from nbcompress.measure.files import OnnxModel, for_onnx
from nbcompress.measure.inputs import model_inputs
from nbcompress.measure.latency import measure_latency

TIME = 0.7
AMOUNTS, RATES = (0.0, 0.85), (3e-4, 1e-2)
COLUMNS = (
    *("model", "seed", "contestant", "seconds", "trials", "within", "size", "time", "time_low", "time_high"),
    *("accuracy", "dense_accuracy", "dense_bytes", "n_test", "amount", "note", "date", "machine"),
)
Data = tuple[Tensor, Tensor]
LENGTH = 48


class Block(nn.Module):
    """Attention and an inner layer, each around a norm; the number of heads follows from the width of the layers."""

    def __init__(self, width: int, n_heads: int, *, is_causal: bool) -> None:
        super().__init__()
        self.head_width, self.is_causal = width // n_heads, is_causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (
            layer(y).reshape(x.shape[0], x.shape[1], -1, self.head_width).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) * self.head_width**-0.5
        if self.is_causal:
            n = x.shape[1]
            scores = scores + torch.full((n, n), -1e9, device=x.device).triu(1)
        mixed = (torch.softmax(scores, dim=3) @ v).transpose(1, 2)
        x = x + self.out(mixed.reshape(x.shape[0], x.shape[1], -1))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Three blocks over tokens; one answer for a passage, or, if it is causal, one for each place."""

    def __init__(self, n_tokens: int, length: int, n_out: int, *, is_causal: bool, width: int = 96) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(n_tokens, width), nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, 4, is_causal=is_causal) for _ in range(3)))
        self.norm, self.head, self.is_causal = nn.LayerNorm(width), nn.Linear(width, n_out), is_causal

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.blocks(self.tokens(x) + self.places))
        return self.head(y if self.is_causal else y.mean(1))


@dataclass(frozen=True)
class Task:
    """A network and its data.

    Attributes:
        data: From a seed to what is trained on, chosen on, and tested on.
        make: From a seed to the network with random weights.
        epochs: Of the dense network, and of tuning in a trial.
        batch: How many examples a timed call has.
        size: The budget of the file as a share of the dense file: about 0.6 of the channels must go.
        activations: How their range is found when they are rounded: `static` or `dynamic`.
    """

    data: Callable[[int], tuple[Data, Data, Data]]
    make: Callable[[int], nn.Module]
    epochs: tuple[int, int]
    batch: int
    size: float
    activations: str = "static"


def pictures(seed: int) -> tuple[Data, Data, Data]:
    rest, test = digits(seed)
    train, valid = parted(rest, 297, seed)
    return as_images(train), as_images(valid), as_images(test)


def rows_of_pixels(seed: int) -> tuple[Data, Data, Data]:
    train, valid, test = ((x.flatten(1), y) for x, y in pictures(seed))
    return train, valid, test


def passages(seed: int) -> tuple[Data, Data, Data]:
    train, test, _ = texts(6, 200, 300, seed)
    n = len(train[2]) // 5
    return (train[0][n:], train[2][n:]), (train[0][:n], train[2][:n]), (test[0], test[2])


def characters(seed: int) -> tuple[Data, Data, Data]:
    """Windows of documentation, and the character that follows each place; the last parts of the text are unseen."""
    from rounding import characters as text_of

    text = text_of()
    generator = torch.Generator().manual_seed(seed)
    borders = [0, len(text) * 8 // 10, len(text) * 9 // 10, len(text)]
    found = []
    for low, high, n in zip(borders, borders[1:], (1500, 100, 200), strict=False):
        starts = torch.randint(low, high - LENGTH - 1, (n,), generator=generator).tolist()
        found.append(tuple(torch.stack([text[s + k : s + k + LENGTH] for s in starts]) for k in (0, 1)))
    return tuple(found)  # type: ignore[return-value]


def resnet(seed: int) -> nn.Module:
    from export import ResNet

    torch.manual_seed(seed)
    return nn.Sequential(nn.Upsample(size=(16, 16), mode="nearest"), Wide(), ResNet(12))


class Wide(nn.Module):
    """A grey picture in three colours."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x, x], 1)


def encoder(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Transformer(1 + max(int(part[0].max()) for part in passages(seed)), N_TOKENS, 6, is_causal=False)


def causal(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Transformer(128, LENGTH, 128, is_causal=True)


TASKS = {
    "mlp": Task(rows_of_pixels, perceptron, (40, 4), 64, 0.1),
    "lenet": Task(pictures, lenet, (25, 3), 64, 0.05),
    "resnet": Task(pictures, resnet, (6, 2), 16, 0.06),
    "encoder": Task(passages, encoder, (15, 2), 1, 0.17, "dynamic"),
    "causal LM": Task(characters, causal, (8, 1), 1, 0.14, "dynamic"),
}


# ---- What the contestants do to a network ----

Delivered = tuple[Any, int]  # what is run (a path of an ONNX file or a module), and how many bytes it takes


@dataclass(frozen=True)
class Job:
    """A trained network, its data, and a folder for files."""

    task: Task
    dense: nn.Module
    train: Data
    folder: Path

    @property
    def few(self) -> Data:
        return self.train[0][:200], self.train[1][:200]


def _file(path: Path) -> Delivered:
    return path, path.stat().st_size


def ours(job: Job, amount: float, lr: float, name: str) -> Delivered:
    options = {"granularity": "channel", "data": job.train} if amount else {}
    small = nc.prune(job.dense, amount, **options) if amount else copy.deepcopy(job.dense)
    nc.finetune(small, job.train, epochs=job.task.epochs[1], lr=lr)
    small = nc.quantize(small, 8, activations=job.task.activations, data=job.few)
    return _file(nc.export(small, job.folder / f"{name}.onnx", example=job.train[0][:2], data=job.few))


def torch_pruned(job: Job, amount: float, lr: float) -> nn.Module:
    """By torch-pruning, the width under the layer norms left whole, as ours leaves it; then the same loop."""
    import torch_pruning

    model = copy.deepcopy(job.dense)
    example = job.train[0][:2]
    if amount:
        heads: dict[str, Any] = {}
        ignored = [list(model.modules())[-1] if not isinstance(model, Transformer) else model.head]
        if isinstance(model, Transformer):
            ignored += [model.tokens, *(layer for block in model.blocks for layer in (block.out, block.down))]
            projections = [layer for block in model.blocks for layer in (block.query, block.key, block.value)]
            heads = {"num_heads": dict.fromkeys(projections, 4), "prune_num_heads": True, "prune_head_dims": False}
            heads["head_pruning_ratio"] = amount
        rank = torch_pruning.importance.GroupMagnitudeImportance()
        torch_pruning.pruner.BasePruner(
            model, example, importance=rank, pruning_ratio=amount, ignored_layers=ignored, **heads
        ).step()
        model(example)
    return nc.finetune(model, job.train, epochs=job.task.epochs[1], lr=lr)


def to_onnx(model: nn.Module, example: Tensor, path: Path) -> Path:
    """A float32 file with a free batch size, without the notes of PyTorch on where each node comes from."""
    import onnx

    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        model.eval(), (example,), input_names=["x"], dynamic_shapes=({0: batch},), verbose=False
    )
    proto = program.model_proto
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(proto, path)
    return path


def by_onnxruntime(job: Job, model: nn.Module, name: str) -> Delivered:
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(job.few[0].split(50))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.left, None)
            return None if part is None else {"x": part.numpy()}

    plain, ready, path = (job.folder / f"{name}{end}.onnx" for end in ("-plain", "-ready", ""))
    to_onnx(model, job.train[0][:2], plain)
    quant_pre_process(str(plain), str(ready))
    if job.task.activations == "dynamic":
        quantize_dynamic(str(ready), str(path), per_channel=True)
    else:
        quantize_static(str(ready), str(path), Batches(), per_channel=True)
    return _file(path)


def by_nncf(job: Job, model: nn.Module, name: str) -> Delivered:
    import nncf
    import onnx

    plain, path = job.folder / f"{name}-plain.onnx", job.folder / f"{name}.onnx"
    to_onnx(model, job.train[0][:2], plain)
    kind = nncf.ModelType.TRANSFORMER if job.task.activations == "dynamic" else None
    batches = nncf.Dataset(list(job.few[0].split(1)), lambda x: {"x": x.numpy()})
    onnx.save(nncf.quantize(onnx.load(plain), batches, model_type=kind, subset_size=100), path)
    return _file(path)


def _state_bytes(model: nn.Module, path: Path) -> int:
    torch.save(model.state_dict(), path)
    return path.stat().st_size


def by_torchao(job: Job, model: nn.Module, name: str) -> Delivered:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model.eval(), Int8DynamicActivationInt8WeightConfig())
    return model, _state_bytes(model, job.folder / f"{name}.pt")


def by_neural_compressor(job: Job, model: nn.Module, name: str) -> Delivered:
    from neural_compressor.torch import quantization
    from neural_compressor.torch.export import export

    example = (job.train[0][:2],)
    program = export(model.eval(), example, dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=4096)},))
    is_static = job.task.activations == "static"
    config = quantization.get_default_static_config() if is_static else quantization.DynamicQuantConfig()
    prepared = quantization.prepare(program, config, example_inputs=example)
    prepared(job.few[0])
    small = quantization.convert(prepared)
    return small, _state_bytes(small, job.folder / f"{name}.pt")


PEERS = {
    "ONNX Runtime": by_onnxruntime,
    "NNCF": by_nncf,
    "torchao": by_torchao,
    "Neural Compressor": by_neural_compressor,
}
OURS = "nbcompress"
CONTESTANTS = (OURS, *PEERS)


# ---- What is delivered, measured ----


def predictions(delivered: Any, x: Tensor) -> Tensor:
    if isinstance(delivered, Path):
        from nbcompress.artifact.export.onnx_graph import OnnxSession

        session = OnnxSession(str(delivered), 1)
        return torch.cat([torch.from_numpy(session([part])[0]) for part in x.split(50)]).argmax(-1)
    with torch.no_grad():
        return torch.cat([delivered(part) for part in x.split(50)]).argmax(-1)


def right(delivered: Any, data: Data) -> float:
    return float((predictions(delivered, data[0]) == data[1]).double().mean())


def times(delivered: Any, dense: Path, x: Tensor, repeats: int) -> Any:
    """The processor time of what is delivered as a share of that of the dense file, with its interval."""
    timed = [OnnxModel(str(model), 1) if isinstance(model, Path) else model for model in (dense, delivered)]
    inputs = [
        for_onnx(found) if isinstance(model, OnnxModel) else found
        for model in timed
        if (found := model_inputs(model, x, None))
    ]
    plain, small = measure_latency(timed, inputs, repeats=repeats, clock=time.thread_time)
    return median_interval([a / b for a, b in zip(small.samples_ms, plain.samples_ms, strict=True)])


@dataclass
class Best:
    """The best trial so far that keeps both budgets, and how many were run."""

    n: int = 0
    n_failed: int = 0
    accuracy: float = -math.inf
    delivered: Any = None
    size: float = math.nan
    amount: float = math.nan
    error: str = ""


def search(job: Job, dense: Path, valid: Data, contestant: str, seconds: float, seed: int) -> Best:
    """Search for so many processor seconds; at least one trial."""
    best, began = Best(), time.process_time()

    def trial(amount: float, lr: float) -> dict[str, float]:
        best.n += 1
        name = f"{contestant}-{best.n}".replace(" ", "-")
        try:
            if contestant == OURS:
                delivered, n_bytes = ours(job, amount, lr, name)
            else:
                delivered, n_bytes = PEERS[contestant](job, torch_pruned(job, amount, lr), name)
            found = {
                "accuracy": right(delivered, valid),
                "size": n_bytes / dense.stat().st_size,
                "time": times(delivered, dense, valid[0][: job.task.batch], 12).value,
            }
        except Exception as error:
            best.n_failed += 1
            best.error = f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
            raise
        if found["size"] <= job.task.size and found["time"] <= TIME and found["accuracy"] > best.accuracy:
            best.accuracy, best.delivered, best.size, best.amount = found["accuracy"], delivered, found["size"], amount
        return found

    def is_over(n: int) -> bool:
        return n > 1 and (time.process_time() - began > seconds or best.n_failed >= 3)

    run = search_with_ours if contestant == OURS else search_with_optuna
    run(trial, is_over, job, seed)
    return best


def search_with_ours(trial: Any, is_over: Callable[[int], bool], job: Job, seed: int) -> None:
    space = {"amount": nc.Float(*AMOUNTS), "lr": nc.Float(*RATES, log=True)}
    bounds = [f"size <= {job.task.size}", f"time <= {TIME}"]
    for n in count(1):
        if is_over(n):
            return
        place = {"study": "headline", "storage": str(job.folder / "headline.journal")}
        nc.search(trial, space, maximize="accuracy", subject_to=bounds, trials=n, seed=seed, **place)


def search_with_optuna(trial: Any, is_over: Callable[[int], bool], job: Job, seed: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    sampler = optuna.samplers.TPESampler(seed=seed, constraints_func=lambda frozen: frozen.user_attrs["slack"])
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(frozen: Any) -> float:
        found = trial(frozen.suggest_float("amount", *AMOUNTS), frozen.suggest_float("lr", *RATES, log=True))
        frozen.set_user_attr("slack", (found["size"] - job.task.size, found["time"] - TIME))
        return found["accuracy"]

    for n in count(1):
        if is_over(n):
            return
        study.optimize(objective, n_trials=1, catch=(Exception,))


# ---- Rows ----


def known_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def row(model: str, seed: int, contestant: str, seconds: float, machine: str, folder: Path) -> dict[str, object]:
    task = TASKS[model]
    train, valid, test = task.data(seed)

    def trained(net: nn.Module) -> nn.Module:
        return nc.finetune(net, train, epochs=task.epochs[0], lr=1e-3, schedule="cosine", seed=seed)

    dense = kept(f"headline-{model.replace(' ', '-')}-{seed}", lambda: task.make(seed), trained).eval()
    file = to_onnx(dense, train[0][:2], folder / "dense.onnx")
    best = search(Job(task, dense, train, folder), file, valid, contestant, seconds, seed)
    found: dict[str, object] = dict.fromkeys(COLUMNS, "")
    found |= {"model": model, "seed": seed, "contestant": contestant, "seconds": seconds, "trials": best.n}
    found |= {"within": int(best.delivered is not None), "note": best.error, "machine": machine}
    found |= {"dense_accuracy": right(file, test), "dense_bytes": file.stat().st_size, "n_test": test[1].numel()}
    found["date"] = date.today().isoformat()
    if best.delivered is not None:
        ratio = times(best.delivered, file, test[0][: task.batch], 40)
        found |= {"size": best.size, "time": ratio.value, "time_low": ratio.low, "time_high": ratio.high}
        found |= {"accuracy": right(best.delivered, test), "amount": best.amount}
    return found


def is_within(found: dict[str, str]) -> bool:
    """Whether what was delivered keeps the budget of time when it is measured again.

    Of many trials with noisy times one can look fast by chance. The size does not change.
    """
    return found["within"] == "1" and float(found["time"]) <= TIME


def table(rows: list[dict[str, str]]) -> str:
    """A row for each model and contestant: means over seeds of what was delivered."""
    lines = ["| model | contestant | seeds within the budgets | trials | size | time | accuracy | dense |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for model in dict.fromkeys(found["model"] for found in rows):
        for contestant in CONTESTANTS:
            own = [found for found in rows if (found["model"], found["contestant"]) == (model, contestant)]
            if not own:
                continue
            good = [found for found in own if is_within(found)]

            def mean(name: str, among: list[dict[str, str]]) -> float:
                return sum(float(found[name]) for found in among) / len(among)

            trials = f"{mean('trials', own):.0f}"
            dense = f"{100 * mean('dense_accuracy', own):.1f} %"
            slow = [float(found["time"]) for found in own if found["within"] == "1"]
            why = f"time {slow[0]:.2f} when measured again" if slow else "none within the budgets"
            shown = ["", "", own[0]["note"] or why]
            if good:
                shown = [
                    f"{mean('size', good):.3f}",
                    f"{mean('time', good):.2f}",
                    f"{100 * mean('accuracy', good):.1f} %",
                ]
            cells = [model, contestant, f"{len(good)} of {len(own)}", trials, *shown, dense]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--seeds", type=int, default=2, help="how many, from 0 on")
    parser.add_argument("--seconds", type=float, default=120, help="processor seconds of a contestant")
    parser.add_argument("--smoke", action="store_true", help="one trial each of the perceptron, in a file of its own")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # of the other libraries
    machine = conditions()
    path = RESULTS / ("headline-smoke.csv" if options.smoke else "headline.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    if options.smoke:
        path.unlink(missing_ok=True)
        options.models, options.seeds, options.seconds = ["mlp"], 1, 0.0
    for model in options.models:
        for seed in range(options.seeds):
            for contestant in options.contestants:
                rows = known_rows(path)
                key = (model, str(seed), contestant, str(options.seconds))
                if key in {(r["model"], r["seed"], r["contestant"], r["seconds"]) for r in rows}:
                    continue
                with TemporaryDirectory() as folder:
                    found = row(model, seed, contestant, options.seconds, machine, Path(folder))
                is_new = not path.exists()
                with path.open("a", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    if is_new:
                        writer.writeheader()
                    writer.writerow(found)
                print({name: value for name, value in found.items() if name != "machine"}, flush=True)
    print(table(known_rows(path)))


if __name__ == "__main__":
    main()
