"""What is left of every architecture of the zoo when half of its channels go, as a table.

The column `with norms` is for `norms="cut"`, which also cuts the width that norms average over.

    python tests/benchmarks/zoo.py            prints it
    python tests/benchmarks/zoo.py FILE.md    and writes it

Takes about two minutes on one core. Nothing is downloaded: the models are small ones with random weights, since the
shares, and what is left out, depend on the architecture alone.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Literal

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from architectures.entry import Architecture
from architectures.zoo import KINDS

import nbcompress as nc
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


def row(name: str, one: Architecture) -> str:
    """One architecture as a row of the table."""
    torch.manual_seed(0)
    model = one.build().eval()
    before = n_parameters(model)
    small, wide = (halved(model, one, norms) for norms in ("keep", "cut"))
    with_norms = "" if isinstance(wide, str) else f"{1 - n_parameters(wide) / before:.0%}"
    if isinstance(small, str):
        return f"| {name} | {before:,} | refused | | {with_norms} | {small[:160]} |"
    after = n_parameters(small)
    kinds = Counter(shortened(why) for why in record_of(small).left_out.values())
    left_out = ", ".join(f"{why} ({n})" for why, n in kinds.most_common())
    return f"| {name} | {before:,} | {after:,} | {1 - after / before:.0%} | {with_norms} | {left_out} |"


def halved(model: nn.Module, one: Architecture, norms: Literal["keep", "cut"]) -> nn.Module | str:
    """The model without half of its channels, or why it is refused."""
    try:
        return nc.prune(model, 0.5, granularity="channel", norms=norms, example=one.example())
    except CompressionError as err:
        return str(err)


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
    rows = ["| architecture | parameters | after | cut | with norms | what was left whole, and why (weights) |"]
    rows.append("| --- | --- | --- | --- | --- | --- |")
    print(*rows, sep="\n", flush=True)
    for kind in KINDS.values():
        for name, one in kind.items():
            rows.append(row(name, one))
            print(rows[-1], flush=True)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
