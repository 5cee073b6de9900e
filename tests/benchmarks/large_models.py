"""Time and peak memory of every operation at 23, 110 and 354 million and 1 billion parameters, on one thread.

Models are built from configurations of Hugging Face with random weights, so nothing is downloaded. Each chain of
operations runs in a process of its own. The extra peak is the largest memory of the process during an operation, above
that before it, as a multiple of the model's weights in float32. Rows are appended to `results/large-models.csv`, and a
row that is there already is not measured again. Chains need up to four times the model's memory: see `free -g` first.

    python tests/benchmarks/large_models.py [--sizes 23 110] [--chains "8 bits" prune] [--table]
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import gc
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from records import RESULTS, conditions
from torch import nn

import nbcompress as nc

# Millions of parameters in name; layers, width and heads of BERT or GPT-2.
SHAPES = {
    23: ("bert", 6, 384, 12),
    110: ("bert", 12, 768, 12),
    350: ("gpt2", 24, 1024, 16),
    1000: ("gpt2", 24, 1792, 28),
}
N_TOKENS = 16
COLUMNS = ("millions", "chain", "operation", "parameters", "CPU s", "s", "extra peak", "MB")
TABLE = RESULTS / "large-models.csv"
Work = Callable[[], Any]
Step = tuple[str, Work]


def network(size: int) -> nn.Module:
    """BERT, or GPT-2 with a head that shares its embedding."""
    import transformers

    kind, depth, width, n_heads = SHAPES[size]
    torch.manual_seed(0)
    if kind == "bert":
        config = transformers.BertConfig(
            num_hidden_layers=depth, hidden_size=width, intermediate_size=4 * width, num_attention_heads=n_heads
        )
        return transformers.BertModel(config).eval()
    gpt2 = transformers.GPT2Config(n_layer=depth, n_embd=width, n_head=n_heads, use_cache=False)
    return transformers.GPT2LMHeadModel(gpt2).eval()


def example() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(0, 30000, (2, N_TOKENS), generator=torch.Generator().manual_seed(0))}


class Chain:
    """Operations one after the other on one model, in a folder for files."""

    def __init__(self, size: int, folder: Path) -> None:
        self.size, self.folder = size, folder
        self.model, self.small = network(size), nn.Module()

    def shrunk(self, shrink: Callable[[nn.Module], nn.Module]) -> Work:
        def work() -> None:
            self.small = nn.Module()
            self.small = shrink(self.model)

        return work

    def stored(self) -> Iterator[Step]:
        """Size, writing and reading of what `small` is; the model is filled by reading."""
        path = self.folder / "model.nbz"
        yield "size_bytes", lambda: nc.size_bytes(self.small)
        yield "save", lambda: nc.save(self.small, path)
        self.small = nn.Module()
        yield "load", lambda: nc.load(path, self.model)

    def exported(self, model: nn.Module) -> Work:
        return lambda: nc.export(model, self.folder / "model.onnx", example=example())

    def plain(self) -> Iterator[Step]:
        self.small = self.model
        yield from self.stored()
        yield "export", self.exported(self.model)

    def only_export(self) -> Iterator[Step]:
        """Without the other operations; at 1 billion parameters with the weights in a file of their own."""
        yield "export", self.exported(self.model)

    def bits8(self) -> Iterator[Step]:
        yield "quantize", self.shrunk(lambda model: nc.quantize(model, 8))
        yield from self.stored()

    def groups(self) -> Iterator[Step]:
        yield "quantize", self.shrunk(lambda model: nc.quantize(model, 4, granularity="group:32"))
        yield "export", self.exported(self.small)
        yield from self.stored()

    def prune(self) -> Iterator[Step]:
        yield "prune", self.shrunk(lambda model: nc.prune(model, 0.5))
        yield from self.stored()

    def prune_by_layer(self) -> Iterator[Step]:
        yield "prune", self.shrunk(lambda model: nc.prune(model, 0.5, scope="layer"))

    def cluster(self) -> Iterator[Step]:
        yield "cluster", self.shrunk(lambda model: nc.cluster(model, 16))
        yield from self.stored()

    def gptq(self) -> Iterator[Step]:
        """One layer of the stack, so that it ends in time; seconds are for 10 million of the rounded weights."""
        first = "encoder.layer.0" if SHAPES[self.size][0] == "bert" else "transformer.h.0"
        texts = torch.randint(0, 30000, (8, 64), generator=torch.Generator().manual_seed(0))

        def work() -> None:
            nc.quantize(self.model, 4, granularity="group:32", rounding="gptq", layers=first, data=texts)

        yield "gptq, one layer", work

    def torchao(self) -> Iterator[Step]:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        yield "torchao, 8 bits in place", lambda: quantize_(self.model, Int8WeightOnlyConfig())

    def runtime(self) -> Iterator[Step]:
        """ONNX Runtime's own quantizers, from a file in float32."""
        import onnx
        from onnxruntime.quantization import quantize_dynamic
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        path = self.folder / "model.onnx"
        self.exported(self.model)()
        is_large = self.size >= 500
        yield (
            "ONNX Runtime, 8 bits",
            lambda: quantize_dynamic(path, self.folder / "8.onnx", use_external_data_format=is_large),
        )

        def by_groups() -> None:
            quantizer = MatMulNBitsQuantizer(onnx.load(path), block_size=32, is_symmetric=True, accuracy_level=4)
            quantizer.process()
            quantizer.model.save_model_to_file(str(self.folder / "4.onnx"), is_large)

        yield "ONNX Runtime, 4 bits in groups", by_groups


CHAINS: dict[str, Callable[[Chain], Iterator[Step]]] = {
    "plain": Chain.plain,
    "only export": Chain.only_export,
    "8 bits": Chain.bits8,
    "4 bits in groups": Chain.groups,
    "prune": Chain.prune,
    "prune by layer": Chain.prune_by_layer,
    "cluster": Chain.cluster,
    "gptq": Chain.gptq,
    "torchao": Chain.torchao,
    "ONNX Runtime": Chain.runtime,
}


def memory(name: str) -> float:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most since the last reset."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * float(text.partition(f"{name}:")[2].split()[0])


def run_chain(size: int, name: str) -> None:
    """Measure the operations of a chain in this process, one line of JSON for each."""
    torch.set_num_threads(1)
    with TemporaryDirectory(dir=os.environ.get("LARGE_TMP")) as folder:
        chain = Chain(size, Path(folder))
        n = sum(parameter.numel() for parameter in chain.model.parameters())
        for operation, work in CHAINS[name](chain):
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
            work()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            extra = (memory("VmHWM") - before) / (4 * n)
            size_mb = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
            print(
                json.dumps(
                    [size, name, operation, n, round(cpu, 2), round(wall, 2), round(extra, 2), round(size_mb, 1)]
                ),
                flush=True,
            )


def measured() -> list[dict[str, str]]:
    if not TABLE.exists():
        return []
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measure(size: int, name: str) -> None:
    """Run a chain in a process of its own and append its rows."""
    command = [sys.executable, __file__, "--one", str(size), name]
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    is_new = not TABLE.exists()
    # Rows are written as they come: a chain that is ended in between leaves what it measured.
    with (
        TABLE.open("a", newline="", encoding="utf-8") as file,
        subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process,
    ):
        writer = csv.writer(file)
        if is_new:
            writer.writerow(COLUMNS)
        for line in process.stdout or ():
            if line.startswith("["):
                writer.writerow(json.loads(line))
                file.flush()
                print(line, end="", flush=True)
    if process.returncode:
        print(f"{size} {name}: ended with {process.returncode}", flush=True)


def print_table() -> None:
    """CPU seconds for 10 million parameters and the extra peak, a column for each size; the slope of the seconds."""
    rows = measured()
    sizes = sorted({int(row["millions"]) for row in rows})
    print(f"| operation | {' | '.join(f'{size} million' for size in sizes)} | slope |")
    print("| --- |" + " --- |" * (len(sizes) + 1))
    for chain, operation in dict.fromkeys((row["chain"], row["operation"]) for row in rows):
        found = {int(row["millions"]): row for row in rows if (row["chain"], row["operation"]) == (chain, operation)}
        cells = []
        for size in sizes:
            row = found.get(size)
            rate = float(row["CPU s"]) / float(row["parameters"]) * 1e7 if row else 0.0
            cells.append(f"{rate:.2f} s, {float(row['extra peak']):.1f}x" if row else "")
        ends = [found[min(found)], found[max(found)]]
        grown = math.log(float(ends[1]["parameters"]) / float(ends[0]["parameters"]))
        slope = math.log(float(ends[1]["CPU s"]) / max(float(ends[0]["CPU s"]), 0.01)) / grown if grown else math.nan
        label = operation if chain in operation else f"{chain}: {operation}"
        print(f"| {label} | {' | '.join(cells)} | {slope:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[23, 110, 350], choices=list(SHAPES))
    parser.add_argument(
        "--chains",
        nargs="+",
        default=[name for name in CHAINS if name != "only export"],
        choices=list(CHAINS),
        metavar="CHAIN",
    )
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no chain after so many seconds")
    parser.add_argument("--table", action="store_true", help="print the table of what was measured")
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "CHAIN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_chain(int(options.one[0]), options.one[1])
        return
    if options.table:
        print_table()
        return
    print(conditions())
    started, done = time.monotonic(), {(int(row["millions"]), row["chain"]) for row in measured()}
    for size in options.sizes:
        for name in options.chains:
            if (size, name) not in done and time.monotonic() - started < options.seconds:
                measure(size, name)


if __name__ == "__main__":
    main()
