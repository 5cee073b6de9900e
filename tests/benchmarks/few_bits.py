"""4 bits in groups of 32 as `MatMulNBits`: speed and size of an exported transformer, on one thread, batch 1.

Two transformers with random weights, four layers of width 1,024 (58 million weights): GPT-2-like (causal, a head that
shares the embedding) and BERT-like (a classifier). Each is exported in float32 and, quantized by `nc.quantize`, in 4
bits; the float32 file is also quantized by ONNX Runtime's own `MatMulNBitsQuantizer` (same groups, `accuracy_level` 4).
The three files are timed in turn. A second table times single layers, small ones too.

    python tests/benchmarks/few_bits.py [--width 1024] [--repeats 30]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import onnx
import torch
from records import conditions
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

import nbcompress as nc
from nbcompress.measure import latencies, median_interval

N_LAYERS, N_TOKENS = 4, 8192


class Layer(nn.Module):
    def __init__(self, width: int, *, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.mixed(self.before(x)).unflatten(-1, (3, -1, 64)).transpose(1, 3)
        found = scaled_dot_product_attention(*heads.unbind(2), is_causal=self.is_causal)
        x = x + self.out(found.transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.between(x))))


class Transformer(nn.Module):
    """A causal language model, or a classifier of two classes."""

    def __init__(self, width: int, *, is_causal: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(N_TOKENS, width)
        self.layers = nn.Sequential(*(Layer(width, is_causal=is_causal) for _ in range(N_LAYERS)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, N_TOKENS if is_causal else 2, bias=False)
        if is_causal:
            self.head.weight = self.tokens.weight
        self.is_causal = is_causal

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.layers(self.tokens(tokens)))
        return self.head(x if self.is_causal else x[:, 0])


def by_the_runtime(path: Path, to: Path) -> None:
    """Quantize the float32 file with ONNX Runtime's own quantizer."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(path), block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    onnx.save(quantizer.model.model, to)


def measure(name: str, model: nn.Module, n_tokens: int, repeats: int, folder: Path) -> None:
    tokens = torch.randint(0, N_TOKENS, (1, n_tokens))
    # A length of 1 would be a constant to the tracer.
    example = torch.randint(0, N_TOKENS, (2, max(2, n_tokens)))
    small = nc.quantize(model, 4, granularity="group:32", scale="absmax")
    files = {"float32": folder / "float.onnx", "ours": folder / "ours.onnx", "runtime": folder / "runtime.onnx"}
    nc.export(model, files["float32"], example=example, dynamic=1)
    path = nc.export(small, files["ours"], example=example, dynamic=1)
    by_the_runtime(files["float32"], files["runtime"])
    found = latencies(files, tokens, repeats=repeats)
    base = found["float32"].samples_ms
    assert path.report is not None
    for key, file in files.items():
        ratio = median_interval([a / b for a, b in zip(base, found[key].samples_ms, strict=True)])
        size = file.stat().st_size
        smaller = files["float32"].stat().st_size / size
        speed = f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"
        print(
            f"| {name}, {n_tokens} | {key} | {size / 1e6:.1f} | {smaller:.2f}x | {found[key].median_ms:.2f} | {speed} |"
        )
    print(f"  level {path.report.level}: {path.report.why}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    print(conditions())
    torch.manual_seed(0)
    print("| model, tokens | file | MB | smaller | ms | faster |\n| --- | --- | --- | --- | --- | --- |")
    with TemporaryDirectory() as folder, torch.no_grad():
        for is_causal, name in ((True, "GPT-2-like"), (False, "BERT-like")):
            model = Transformer(arguments.width, is_causal=is_causal).eval()
            for n_tokens in (1, 32):
                measure(name, model, n_tokens, arguments.repeats, Path(folder))
        print("\n| layer, rows | speed, float32 is 1 |\n| --- | --- |")
        for width in (32, 64, 128, 256, 512, 1024, 2048):
            for rows in (1, 32):
                layer = nc.quantize(nn.Linear(width, width), 4, granularity="group:32")
                path = nc.export(layer, Path(folder) / "layer.onnx", example=torch.randn(2, rows, width))
                assert path.report is not None
                print(f"| {width} to {width}, {rows} | {path.report.speeds()[0].speedup:.2f} |", flush=True)


if __name__ == "__main__":
    main()
