"""A network cut by half and exported in 8 bits, against what it was: size, speed and accuracy.

A ResNet-18-like network is trained on digits, half of every group of channels is cut and the rest tuned, and it is
quantized with calibrated activations and exported to ONNX. Times are medians with 95 % intervals over samples that
take turns, one example a call, on one thread; ratios are medians over pairs of samples taken one after the other.
Accuracy is told with its 95 % interval over digits that nothing was fitted to.

    python tests/benchmarks/export.py [--short]
"""

from __future__ import annotations

import argparse
import platform
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.artifact.export.session import Session
from nbcompress.measure import Latency, latencies, median_interval, proportion_interval

Pair = tuple[Tensor, Tensor]


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out)
        self.conv2, self.norm2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out)
        self.around: nn.Module = nn.Identity()
        if stride > 1:
            self.around = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.around(x))


class ResNet(nn.Module):
    """Eight blocks of 64 to 512 channels behind a convolution; 11.2 million weights."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        blocks, n_in = [], width
        for place in range(4):
            n_out = width << place
            blocks += [Block(n_in, n_out, 1 if place == 0 else 2), Block(n_out, n_out, 1)]
            n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(n_in, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.norm(self.conv(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def digits(side: int) -> tuple[Pair, Pair]:
    """Digits of `side` by `side` pixels and three colours: 1297 to train on, 500 to test."""
    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16 - 0.5
    x = nn.functional.interpolate(x, size=(side, side), mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    y = torch.tensor(found.target)
    return (x[:-500], y[:-500]), (x[-500:], y[-500:])


def processor() -> str:
    """The processor's name and its instructions for products of 8-bit integers."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"model name\s*: (.*)", text)
    flags = set(re.findall(r"\w+", (re.search(r"flags\s*: (.*)", text) or [""])[0]))
    known = [one for one in ("avx2", "avx_vnni", "avx512_vnni", "amx_int8") if one in flags]
    return f"{name[1] if name else platform.machine()}, 8-bit products by {', '.join(known) or 'nothing of their own'}"


def hits(logits: Tensor, labels: Tensor) -> str:
    """Accuracy with its interval."""
    n_hits = int((logits.argmax(1) == labels).sum())
    found = proportion_interval(n_hits, len(labels))
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def logits(model: nn.Module | Path, x: Tensor) -> Tensor:
    if isinstance(model, Path):
        return torch.from_numpy(Session(str(model), 1)([x])[0])
    with torch.no_grad():
        return model.eval()(x)


def ratio(one: Latency, other: Latency) -> str:
    """How many times faster the other is."""
    found = median_interval([a / b for a, b in zip(one.samples_ms, other.samples_ms, strict=True)])
    return f"{found.value:.1f} ({found.low:.1f} to {found.high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="small pictures and few epochs: minutes, not an hour")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    side, epochs, tuning = (16, 2, 2) if options.short else (32, 6, 6)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    train, test = digits(side)
    model = ResNet()
    nc.finetune(model, train, epochs=epochs, lr=1e-3)
    example = train[0][:2]
    cut = nc.prune(model.eval(), 0.5, granularity="channel", example=example, data=train, finetune=tuning, lr=1e-3)
    small = nc.quantize(cut.eval(), 8, activations="static", data=train)
    with TemporaryDirectory() as folder:
        where = Path(folder)
        plain = nc.export(model, where / "plain.onnx", example=example)
        models: dict[str, nn.Module | Path] = {
            "eager fp32": model,
            "ONNX Runtime fp32": plain,
            "cut, ONNX Runtime fp32": nc.export(cut, where / "cut.onnx", example=example),
            "int8": nc.export(
                nc.quantize(model, 8, activations="static", data=train), where / "8.onnx", example=example, data=train
            ),
            "cut, int8": nc.export(small, where / "small.onnx", example=example, data=train),
        }
        n_weights = sum(one.numel() for one in model.state_dict().values())
        times = latencies(models, test[0][:1], repeats=30)
        print(f"{processor()}; 1 thread, torch {torch.__version__}, {side} x {side} pixels, one a call, 30 samples")
        print(f"{'':24}{'MB':>7}{'smaller':>9}  {'ms':24}{'faster than eager':24}{'than ONNX fp32':24}accuracy")
        for name, one in models.items():
            size = one.stat().st_size if isinstance(one, Path) else 4 * n_weights
            found = times[name]
            shown = f"{found.median_ms:.2f} ({found.low_ms:.2f} to {found.high_ms:.2f})"
            faster = [ratio(times[other], found) for other in ("eager fp32", "ONNX Runtime fp32")]
            print(
                f"{name:24}{size / 1e6:7.2f}{4 * n_weights / size:8.1f}x  {shown:24}{faster[0]:24}{faster[1]:24}"
                f"{hits(logits(one, test[0]), test[1])}",
                flush=True,
            )


if __name__ == "__main__":
    main()
