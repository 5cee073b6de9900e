"""A table of every architecture of the zoo: what is left after half of its channels are cut.

The column `with norms` is for `norms="cut"`, which also cuts the width that norms average over.

    python tests/benchmarks/zoo.py            prints it
    python tests/benchmarks/zoo.py FILE.md    and writes it
    python tests/benchmarks/zoo.py --layers   what is left after a third of its layers are removed

Takes about two minutes on one core. Nothing is downloaded: the models are small and have random weights, since
the shares, and what is left out, depend only on the architecture.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from architectures.entry import Architecture
from architectures.zoo import KINDS

import nbcompress as nc
from nbcompress.compressors.coupling import tensors_of
from nbcompress.compressors.inputs import inputs_from_example
from nbcompress.compressors.record import record_of
from nbcompress.errors import CompressionError

# Reasons in the words of the record, and what they come to.
WORDS = {
    "mean over it": "width of a normalization",
    "reduces it to one number": "width of a normalization",
    "an output of the model": "outputs",
    "its entries up by index": "tokens of an embedding",
    "by index": "entries of a table",
    "joins it": "width of what an input or a position is added to",
    "together": "hangs together",
}


def row(name: str, architecture: Architecture) -> str:
    """One architecture as a row of the table."""
    torch.manual_seed(0)
    model = architecture.build().eval()
    before = n_parameters(model)
    small, wide = (halved(model, architecture, norms) for norms in ("keep", "cut"))
    with_norms = "" if isinstance(wide, str) else f"{1 - n_parameters(wide) / before:.0%}"
    if isinstance(small, str):
        return f"| {name} | {before:,} | refused | | {with_norms} | {small[:160]} |"
    after = n_parameters(small)
    kinds = Counter(shortened(why) for why in record_of(small).left_out.values())
    left_out = ", ".join(f"{why} ({n})" for why, n in kinds.most_common())
    return f"| {name} | {before:,} | {after:,} | {1 - after / before:.0%} | {with_norms} | {left_out} |"


def halved(model: nn.Module, architecture: Architecture, norms: Literal["keep", "cut"]) -> nn.Module | str:
    """The model without half of its channels, or why it is refused."""
    try:
        return nc.prune(model, 0.5, granularity="channel", norms=norms, example=architecture.example())
    except CompressionError as err:
        return str(err)


def without_layers(name: str, architecture: Architecture) -> str:
    """One architecture as a row: a third of its layers removed, saved and loaded, or why it is refused."""
    torch.manual_seed(0)
    model, example = architecture.build().eval(), architecture.example()
    before = n_parameters(model)
    try:
        small = nc.prune(model, 0.34, granularity="layer", example=example)
    except CompressionError as err:
        return f"| {name} | {before:,} | refused | {str(err)[:240]} |"
    with TemporaryDirectory() as folder, torch.no_grad():
        loaded = nc.load(nc.save(small, Path(folder) / "small.nbz"), architecture.build()).eval()
        inputs = inputs_from_example(example)
        pairs = zip(tensors_of(inputs(small.eval())), tensors_of(inputs(loaded)), strict=True)
        is_equal = all(torch.allclose(a, b, rtol=1e-5, atol=1e-5, equal_nan=True) for a, b in pairs)
    gone = ", ".join(
        f"{key or 'the model'} keeps {value.tolist()}" for key, value in record_of(small).kept_indices.items()
    )
    told = "loaded with equal outputs" if is_equal else "NOT EQUAL WHEN LOADED"
    return f"| {name} | {before:,} | {1 - n_parameters(small) / before:.0%} | {told}; {gone[:120]} |"


def n_parameters(model: nn.Module) -> int:
    """How many numbers are left."""
    return sum(parameter.numel() for parameter in model.parameters())


def shortened(why: str) -> str:
    """A reason without the names of operators and modules."""
    return next((words for part, words in WORDS.items() if part in why), why)


def main() -> None:
    """Print the table, or write it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if "--layers" in sys.argv[1:]:
        for kind in KINDS.values():
            for name, architecture in kind.items():
                print(without_layers(name, architecture), flush=True)
        return
    rows = ["| architecture | parameters | after | cut | with norms | what was left whole, and why (weights) |"]
    rows.append("| --- | --- | --- | --- | --- | --- |")
    print(*rows, sep="\n", flush=True)
    for kind in KINDS.values():
        for name, architecture in kind.items():
            rows.append(row(name, architecture))
            print(rows[-1], flush=True)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
