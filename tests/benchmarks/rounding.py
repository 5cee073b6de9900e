"""Rounding to the nearest values against data-aware rounding (GPTQ), on a causal language model of characters.

The model is trained on the documentation of Python's standard library, so nothing is downloaded. Each seed has a model,
and a split of the text, of its own. The loss is measured on text that neither training nor rounding saw.

No package with GPTQ installs beside this torch, so the peer is algorithm 1 of Frantar et al. (2023) as their code has
it, written here independently: scales that end at the largest weights (symmetric or affine, `min-max`), columns in the
order of activation, damping of 1 % of the mean diagonal, groups with scales found before. The better of the two schemes
counts, chosen for each setting by the mean over seeds, which favours the peer. HQQ needs no data: the half-quadratic
iteration of Badri and Shaji (2023) for the zero points of an affine grid in floating point, with their settings.

Rows are appended to `results/rounding.csv`; what is there is not measured again.

    python tests/benchmarks/rounding.py [SEEDS] [--seconds 800]
"""

from __future__ import annotations

import argparse
import ast
import copy
import csv
import math
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from records import RESULTS, conditions
from torch import Tensor, nn

import nbcompress as nc

MODULES = ("typing.py", "argparse.py", "difflib.py", "turtle.py", "_pydecimal.py", "doctest.py", "inspect.py")
LENGTH, WIDTH, LAYERS, STEPS = 64, 128, 3, 600
SETTINGS = [(4, "channel"), (3, "channel"), (2, "channel"), (4, "group:32"), (3, "group:32"), (2, "group:32")]


def characters() -> Tensor:
    """The docstrings of some modules as numbers of ASCII characters."""
    folder = Path(sysconfig.get_path("stdlib"))
    texts = []
    for name in MODULES:
        tree = ast.parse((folder / name).read_text(encoding="utf-8"))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts += [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    data = "\n".join(texts).encode("ascii", "ignore")
    return torch.tensor(list(data), dtype=torch.int64)


class Model(nn.Module):
    """A small transformer that says the next character."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(128, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 128)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


def windows(text: Tensor, n: int, seed: int) -> Tensor:
    starts = torch.randint(0, len(text) - LENGTH - 1, (n,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([text[start : start + LENGTH + 1] for start in starts.tolist()])


def loss_of(model: nn.Module, parts: Tensor) -> float:
    with torch.no_grad():
        losses = [
            nn.functional.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten())
            for part in parts.split(64)
        ]
    return float(torch.stack(losses).mean())


def trained(text: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, STEPS)
    for step in range(STEPS):
        part = windows(text, 32, 1000 * seed + step)
        loss = nn.functional.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


# ---- Peers, written independently ----


def scale_and_zero(w: Tensor, bits: int, size: int, *, is_affine: bool) -> tuple[Tensor, Tensor]:
    """Scale and code of zero of each weight, from the smallest and largest weights of its group."""
    groups = w.reshape(len(w), -1, size)
    low, high = groups.amin(2, keepdim=True).clamp(max=0), groups.amax(2, keepdim=True).clamp(min=0)
    if not is_affine:
        high = torch.maximum(-low, high)
        low = -high
    scale = ((high - low) / (2**bits - 1)).clamp(min=1e-9)
    zero = torch.round(-low / scale) if is_affine else torch.full_like(scale, 2 ** (bits - 1))
    spread = [item.expand_as(groups).reshape(w.shape) for item in (scale, zero)]
    return spread[0], spread[1]


def gptq(w: Tensor, hessian: Tensor, bits: int, size: int, *, is_affine: bool) -> Tensor:
    """Algorithm 1 of Frantar et al. (2023), without blocks: `(out, n)` and `(n, n)`."""
    scale, zero = scale_and_zero(w, bits, size, is_affine=is_affine)
    w, hessian = w.double().clone(), hessian.clone()
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    w[:, dead] = 0
    order = torch.argsort(hessian.diagonal(), descending=True)
    hessian = hessian[order][:, order]
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    rounded = torch.zeros_like(w)
    for place, column in enumerate(order.tolist()):
        s, z = scale[:, column].double(), zero[:, column].double()
        code = (torch.round(w[:, column] / s) + z).clamp(0, 2**bits - 1)
        rounded[:, column] = (code - z) * s
        error = (w[:, column] - rounded[:, column]) / upper[place, place]
        later = order[place + 1 :]
        w[:, later] -= error[:, None] * upper[place, place + 1 :]
    return rounded.float()


def hqq(w: Tensor, bits: int, size: int) -> Tensor:
    """Half-quadratic quantization: an affine grid whose zero in floating point minimizes a norm of power 0.7."""
    groups = w.reshape(-1, size)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    scale = (2**bits - 1) / (high - low).clamp(min=1e-9)
    zero, beta, power, best = -low * scale, 10.0, 0.7, math.inf
    for _ in range(20):
        code = torch.round(groups * scale + zero).clamp(0, 2**bits - 1)
        error = groups - (code - zero) / scale
        shrunk = error.sign() * (error.abs() - error.abs().clamp(min=1e-9).pow(power - 1) / beta).clamp(min=0)
        zero = (code - (groups - shrunk) * scale).mean(1, keepdim=True)
        beta *= 1.01
        if float(error.abs().mean()) >= best:
            break
        best = float(error.abs().mean())
    code = torch.round(groups * scale + zero).clamp(0, 2**bits - 1)
    return ((code - zero) / scale).reshape(w.shape)


def by_peer(
    model: nn.Module, tokens: Tensor, bits: int, granularity: str, round_layer: Callable[[Tensor, Tensor, int], Tensor]
) -> nn.Module:
    """Round the linear layers one after the other, on the inputs that the rounded layers before give.

    Embeddings are rounded to the nearest values of our grid, and the rest to half precision, as ours does.
    """
    small = nc.quantize(model, bits, granularity=granularity)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            small.get_submodule(name).weight.data.copy_(layer.weight.data)
    for layer in small.modules():
        if not isinstance(layer, nn.Linear):
            continue
        products = torch.zeros(layer.in_features, layer.in_features, dtype=torch.float64)

        def add(_: nn.Module, args: tuple[Tensor, ...], products: Tensor = products) -> None:
            rows = args[0].reshape(-1, args[0].shape[-1]).double()
            products += rows.T @ rows

        handle = layer.register_forward_pre_hook(add)
        with torch.no_grad():
            for part in tokens.split(64):
                small(part)
        handle.remove()
        size = layer.in_features if granularity == "channel" else 32
        layer.weight.data.copy_(round_layer(layer.weight.data, products, size))
    return small


def methods(model: nn.Module, calibration: Tensor, bits: int, granularity: str) -> dict[str, Callable[[], nn.Module]]:
    """Functions that return a rounded model, by name."""
    return {
        "nearest": lambda: nc.quantize(model, bits, granularity=granularity),
        "gptq": lambda: nc.quantize(model, bits, granularity=granularity, rounding="gptq", data=calibration),
        "gptq affine": lambda: nc.quantize(
            model, bits, scheme="affine", granularity=granularity, rounding="gptq", data=calibration
        ),
        "peer symmetric": lambda: by_peer(
            model, calibration, bits, granularity, lambda w, h, n: gptq(w, h, bits, n, is_affine=False)
        ),
        "peer affine": lambda: by_peer(
            model, calibration, bits, granularity, lambda w, h, n: gptq(w, h, bits, n, is_affine=True)
        ),
        "hqq": lambda: by_peer(model, calibration[:1], bits, granularity, lambda w, _, n: hqq(w, bits, n)),
    }


METHODS = ("nearest", "gptq", "gptq affine", "peer symmetric", "peer affine", "hqq")


TABLE = RESULTS / "rounding.csv"


def known() -> list[dict[str, str]]:
    if not TABLE.exists():
        return []
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def missing(seed: int) -> set[tuple[int, str, str]]:
    """Bits, scales and method of what was not measured with this seed."""
    done = {(int(row["bits"]), row["scales"], row["method"]) for row in known() if int(row["seed"]) == seed}
    return {(bits, granularity, method) for bits, granularity in SETTINGS for method in METHODS} - done


def run(seed: int, n_seeds: int, text: Tensor, wanted: set[tuple[int, str, str]]) -> None:
    """Train the model of a seed, round it in the ways that are wanted, and append the rows."""
    cut = len(text) * 9 // 10
    moved = text.roll(int(len(text) * seed / n_seeds))
    model, test = trained(moved[:cut], seed), windows(moved[cut:], 256, 7)
    calibration = windows(moved[:cut], 128, 10**6 + seed)[:, :-1]
    plain = loss_of(model, test)
    for bits, granularity in SETTINGS:
        started = time.process_time()
        rows: list[list[object]] = []
        for name, method in methods(model, calibration, bits, granularity).items():
            if (bits, granularity, name) in wanted:
                rows.append([seed, bits, granularity, name, loss_of(copy.deepcopy(method()), test), plain])
        print(f"seed {seed}, {bits} bits, {granularity}: {time.process_time() - started:.0f} CPU s", flush=True)
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        is_new = not TABLE.exists()
        with TABLE.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["seed", "bits", "scales", "method", "loss", "float32"])
            writer.writerows(rows)


def print_table() -> None:
    """Perplexities, and on how many seeds GPTQ of ours is better than the best peer."""
    rows = known()
    seeds = [seed for seed in sorted({int(row["seed"]) for row in rows}) if not missing(seed)]
    rows = [row for row in rows if int(row["seed"]) in seeds]
    if not seeds:
        return
    plain = mean(float(next(row["float32"] for row in rows if int(row["seed"]) == seed)) for seed in seeds)
    print(f"\n{len(seeds)} seeds, float32: perplexity {math.exp(plain):.3f}\n")
    names = list(METHODS)
    print(f"| bits | scales | {' | '.join(names)} | ours better than the best peer |")
    print("| --- " * (len(names) + 3) + "|")
    for bits, granularity in SETTINGS:
        losses = {
            name: [
                float(row["loss"])
                for row in rows
                if (row["bits"], row["scales"], row["method"]) == (str(bits), granularity, name)
            ]
            for name in names
        }
        peer = min(names[3:], key=lambda name: mean(losses[name]))
        ours = min(names[1:3], key=lambda name: mean(losses[name]))
        better = sum(a < b for a, b in zip(losses[ours], losses[peer], strict=True))
        cells = " | ".join(f"{math.exp(mean(losses[name])):.3f}" for name in names)
        print(f"| {bits} | {granularity} | {cells} | {better} of {len(seeds)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="?", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no seed after so many seconds")
    options = parser.parse_args()
    text, started = characters(), time.monotonic()
    print(f"{conditions()}; {len(text):,} characters")
    for seed in range(options.seeds):
        wanted = missing(seed)
        if wanted and time.monotonic() - started < options.seconds:
            run(seed, options.seeds, text, wanted)
    print_table()


if __name__ == "__main__":
    main()
