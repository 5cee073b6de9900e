"""A network cut by half and exported in 8 bits, against what it was: size, speed and accuracy.

A ResNet-18-like network of 11 million weights learns digits of 32 by 32 pixels (small pictures first, which is quick).
Half of every group of channels is cut and the rest tuned; then it is quantized with calibrated activations and exported
to ONNX. Accuracy is that on 500 digits that nothing was fitted to.

Networks that were trained once are kept in `results/` and taken again; `--fresh` trains anew. Time it on a quiet
machine.

    python tests/benchmarks/export.py [--seed 0] [--fresh] [--smoke]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from against_eager import Rival, compare
from digits import Data, as_images, digits, hits
from records import conditions, kept, n_dense
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.measure import proportion_interval
from nbcompress.measure.files import OnnxModel

SIDE = 32
N_CALIBRATION = 200


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


def pictures(data: Data, side: int) -> Data:
    """Digits as `(n, 3, side, side)`, from -.5 to .5."""
    images, labels = as_images(data)
    wide = nn.functional.interpolate(images - 0.5, size=(side, side), mode="bilinear")
    return wide.expand(-1, 3, -1, -1).contiguous(), labels


def learned(model: nn.Module, train: Data, n_small: int, n_full: int, seed: int) -> nn.Module:
    """`model` after so many epochs on small pictures, then on those of full size."""
    nc.finetune(model, pictures(train, SIDE // 2), epochs=n_small, lr=1e-3, schedule="cosine", seed=seed)
    return nc.finetune(model, pictures(train, SIDE), epochs=n_full, lr=3e-4, schedule="cosine", seed=seed)


def networks(train: Data, seed: int, *, is_fresh: bool, is_smoke: bool) -> tuple[nn.Module, nn.Module]:
    """The dense network and the one cut by half, both in evaluation mode."""

    def make() -> nn.Module:
        torch.manual_seed(seed)
        return ResNet(8) if is_smoke else ResNet()

    def trained(model: nn.Module) -> nn.Module:
        return learned(model, train, *((1, 1) if is_smoke else (5, 1)), seed).eval()

    name = f"resnet-{'smoke' if is_smoke else seed}"
    dense = kept(name, make, trained, is_fresh=is_fresh).eval()

    def cut(_: nn.Module) -> nn.Module:
        small = nc.prune(dense, 0.5, granularity="channel", data=calibration(train), seed=seed)
        return learned(small, train, *((1, 1) if is_smoke else (4, 2)), seed).eval()

    return dense, kept(f"{name}-cut", make, cut, is_fresh=is_fresh).eval()


def calibration(train: Data) -> Data:
    """A few of the training pictures, in full size."""
    return pictures((train[0][:N_CALIBRATION], train[1][:N_CALIBRATION]), SIDE)


def quality(model: nn.Module, test: Data) -> str:
    """Accuracy with its interval."""
    right = hits(model, test)
    found = proportion_interval(int(right.sum()), len(right))
    return f"accuracy {100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


class FirstOutput(OnnxModel):
    """A file in ONNX Runtime that gives one tensor."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.cat([super(FirstOutput, self).forward(part)[0] for part in x.split(50)])


def rivals(dense: nn.Module, cut: nn.Module, train: Data, test: Data, folder: Path) -> list[Rival]:
    """Every form of the two networks."""
    few = calibration(train)
    found = [Rival("eager fp32", dense, n_dense(dense), quality(dense, test))]
    models = {
        "ONNX Runtime fp32": dense,
        "int8": nc.quantize(dense, 8, activations="static", data=few),
        "cut, ONNX Runtime fp32": cut,
        "cut, int8": nc.quantize(cut, 8, activations="static", data=few),
    }
    for name, model in models.items():
        path = nc.export(model, folder / f"{len(found)}.onnx", example=few[0][:2], data=few)
        found.append(Rival(name, path, path.stat().st_size, quality(FirstOutput(str(path)), test)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the split, of the start and of training")
    parser.add_argument("--fresh", action="store_true", help="train anew")
    parser.add_argument("--smoke", action="store_true", help="a thin network, two epochs")
    options = parser.parse_args()
    print(f"{conditions()}; {SIDE} by {SIDE} pixels, one a call")
    train, test = digits(options.seed)
    is_fresh = options.fresh or options.smoke
    dense, cut = networks(train, options.seed, is_fresh=is_fresh, is_smoke=options.smoke)
    test = pictures(test, SIDE)
    with TemporaryDirectory() as folder:
        found = rivals(dense, cut, train, test, Path(folder))
        name = "export-smoke" if options.smoke else f"export-{options.seed}"
        compare(found, test[0][:1], name, repeats=6 if options.smoke else 30)


if __name__ == "__main__":
    main()
