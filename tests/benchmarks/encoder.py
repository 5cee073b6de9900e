"""An encoder in 8 and 4 bits, against eager torch in float32: size, speed and what the outputs are worth.

Hugging Face's BERT, built from a configuration (6 layers of 384, as MiniLM has them), learns to tell from which module
of Python's standard library a passage of documentation comes. Then it is quantized: to 8 bits with activations
quantized at every run, exported to ONNX, and to 8 and 4 bits in our file. Fidelity is the cosine between the scores of
the quantized and the dense network, over passages that nothing was fitted to.

A network that was trained once is kept in `results/` and taken again; `--fresh` trains anew. Time it on a quiet
machine.

    python tests/benchmarks/encoder.py [--fresh] [--smoke]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import one_thread  # noqa: F401 (before NumPy and PyTorch, which read it once)
import torch
from against_eager import Rival, compare
from records import conditions, kept, n_dense
from texts import N_TOKENS, Texts, texts
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import nbcompress as nc
from nbcompress.measure import proportion_interval
from nbcompress.measure.files import OnnxModel

LR = 2e-4


def encoder(n_words: int, n_labels: int, *, is_tiny: bool) -> nn.Module:
    """BERT with a head that tells classes apart."""
    sizes = (1, 64, 128, 2) if is_tiny else (6, 384, 1536, 12)
    n_layers, width, inner, n_heads = sizes
    config = BertConfig(
        vocab_size=n_words,
        num_hidden_layers=n_layers,
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=n_heads,
        max_position_embeddings=N_TOKENS,
        num_labels=n_labels,
    )
    torch.manual_seed(0)
    return BertForSequenceClassification(config)


@torch.no_grad()
def scores(model: nn.Module, data: Texts) -> Tensor:
    """`(n, classes)`."""
    found = [model.eval()(*batch) for batch in zip(data[0].split(50), data[1].split(50), strict=True)]
    return torch.cat([item[0] if isinstance(item, list) else item.logits for item in found])


def quality(found: Tensor, dense: Tensor, labels: Tensor) -> str:
    """Accuracy with its interval, and fidelity to the dense network."""
    right = proportion_interval(int((found.argmax(1) == labels).sum()), len(labels))
    cosine = nn.functional.cosine_similarity(found, dense)
    return (
        f"accuracy {100 * right.value:.1f} % ({100 * right.low:.1f} to {100 * right.high:.1f}), "
        f"cosine {float(cosine.mean()):.4f}, least {float(cosine.min()):.4f}"
    )


def rivals(model: nn.Module, test: Texts, folder: Path) -> list[Rival]:
    """Every form of the trained network."""
    example = {"input_ids": test[0][:2], "attention_mask": test[1][:2]}
    dense, labels = scores(model, test), test[2]
    found = [Rival("eager fp32", model, n_dense(model), quality(dense, dense, labels))]
    bits8 = nc.quantize(model, 8, activations="dynamic")
    for name, net in (("ONNX Runtime fp32", model), ("int8 dynamic", bits8)):
        path = nc.export(net, folder / f"{len(found)}.onnx", example=example)
        told = quality(scores(OnnxModel(str(path)), test), dense, labels)
        found.append(Rival(name, path, path.stat().st_size, told))
    bits4 = nc.quantize(model, 4, granularity="group:32")
    for name, net in (("our file, fp32", model), ("our file, 8 bits", bits8), ("our file, 4 bits by 32", bits4)):
        found.append(Rival(name, None, nc.size_bytes(net), quality(scores(net, test), dense, labels)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="train anew")
    parser.add_argument("--smoke", action="store_true", help="a tiny network, one epoch, few passages")
    options = parser.parse_args()
    print(f"{conditions()}; passages of {N_TOKENS} tokens, one a call")
    n_modules, n_passages, n_test, epochs, repeats = (3, 60, 60, 1, 6) if options.smoke else (10, 280, 600, 4, 30)
    train, test, n_words = texts(n_modules, n_passages, n_test, seed=0)

    def make() -> nn.Module:
        return encoder(n_words, n_modules, is_tiny=options.smoke)

    def trained(model: nn.Module) -> nn.Module:
        return nc.finetune(model, train, epochs=epochs, lr=LR, batch_size=32, schedule="cosine")

    name = "encoder-smoke" if options.smoke else "encoder"
    model = kept(name, make, trained, is_fresh=options.fresh or options.smoke).eval()
    print(f"{len(train[2])} passages to train on, {len(test[2])} to test, {n_words} words, {n_modules} modules")
    with TemporaryDirectory() as folder:
        example = {"input_ids": test[0][:1], "attention_mask": test[1][:1]}
        compare(rivals(model, test, Path(folder)), example, name, repeats)


if __name__ == "__main__":
    main()
