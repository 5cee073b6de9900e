"""Rounding to the nearest values against data-aware rounding (GPTQ), on a causal language model of characters.

The model is trained on the documentation of Python's standard library, so nothing is downloaded. Each seed has a model,
and a split of the text, of its own. The loss is measured on text that neither training nor rounding saw.

    python tests/benchmarks/rounding.py [SEEDS]
"""

from __future__ import annotations

import ast
import math
import sys
import sysconfig
import time
from pathlib import Path
from statistics import mean

import torch
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


def main(n_seeds: int) -> None:
    text = characters()
    rows: dict[tuple[int, str, str], list[float]] = {}
    seconds: list[float] = []
    plain = []
    for seed in range(n_seeds):
        cut = len(text) * 9 // 10
        moved = text.roll(int(len(text) * seed / n_seeds))
        model, test = trained(moved[:cut], seed), windows(moved[cut:], 256, 7)
        calibration = windows(moved[:cut], 128, 10**6 + seed)[:, :-1]
        plain.append(loss_of(model, test))
        for bits, granularity in SETTINGS:
            for rounding in ("nearest", "gptq"):
                start = time.perf_counter()
                small = nc.quantize(
                    model,
                    bits,
                    granularity=granularity,
                    rounding=rounding,
                    data=calibration if rounding == "gptq" else None,
                )
                if rounding == "gptq":
                    seconds.append(time.perf_counter() - start)
                rows.setdefault((bits, granularity, rounding), []).append(loss_of(small, test))
    print(f"{len(text):,} characters, {n_seeds} seeds, float32: perplexity {math.exp(mean(plain)):.2f}")
    print(f"GPTQ took {mean(seconds):.1f} s")
    print("\n| bits | scales | nearest | gptq | seeds better |\n| --- | --- | --- | --- | --- |")
    for bits, granularity in SETTINGS:
        near, carried = rows[bits, granularity, "nearest"], rows[bits, granularity, "gptq"]
        better = sum(a > b for a, b in zip(near, carried, strict=True))
        values = " | ".join(f"{math.exp(mean(losses)):.2f}" for losses in (near, carried))
        print(f"| {bits} | {granularity} | {values} | {better} of {n_seeds} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
