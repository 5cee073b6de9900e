"""Remove whole blocks of a model: transformer layers, residual blocks, layers of equal shape in a row.

A block is a part of the model whose output has the shape of its input, so that the input can stand for the output. It
is found by running the model on the example. A model without some of its blocks must compute what the original
computes when these blocks return their inputs, or zeros if they are residual branches (see `bypassed`); a removal for
which this is not so is not made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import islice
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nbcompress.compressors.blocks import bypass_, name_after_removal, packed_indices, remove_items_
from nbcompress.compressors.coupling import tensors_of
from nbcompress.compressors.data import Batches
from nbcompress.compressors.inputs import Inputs
from nbcompress.compressors.keras import has_keras_layers
from nbcompress.compressors.layers import Patterns, check_patterns, copied, is_chosen
from nbcompress.compressors.modes import evaluating, seeded
from nbcompress.compressors.prune.block_search import Block, Blocks, Calls, as_branches, bypassed, find_blocks
from nbcompress.compressors.prune.equivalence import EquivalenceCheck, equivalence_check, run
from nbcompress.compressors.record import Record, Surgery, attach_, record_of
from nbcompress.errors import CompressionError, option

# Heuristic, see benchmarks.md#layer-removal: the change of the outputs is measured on so many examples.
_MAX_EXAMPLES = 256


# ---- Scores ----


def change_of_outputs(
    model: nn.Module,
    removed: Sequence[Block],
    candidates: Sequence[Block],
    calls: Mapping[str, Calls],
    batches: Batches,
) -> list[float]:
    """Return for each candidate how much the outputs change if it is removed besides `removed`.

    The change is the sum of squared differences of all floating outputs, relative to the sum of their squares, over the
    first batches of the data up to 256 examples.
    """
    totals, size, n_examples = np.zeros(len(candidates)), 0.0, 0
    with torch.no_grad(), evaluating(model):
        for batch in batches.for_model(model):
            expected = [tensor.double() for tensor in tensors_of(batch(model)) if tensor.is_floating_point()]
            size += sum(float(tensor.square().sum()) for tensor in expected)
            for index, candidate in enumerate(candidates):
                with bypassed(model, [*removed, candidate], calls):
                    actual = [tensor for tensor in tensors_of(batch(model)) if tensor.is_floating_point()]
                pairs = zip(expected, actual, strict=True)
                totals[index] += sum(float((a - b.double()).square().sum()) for a, b in pairs)
            n_examples += max((len(tensor) for tensor in expected if tensor.ndim), default=1)
            if n_examples >= _MAX_EXAMPLES:
                break
    scores: list[float] = (totals / (size or 1.0)).tolist()
    return scores


def own_change(
    model: nn.Module, blocks: Sequence[Block], inputs: Inputs, calls: Mapping[str, Calls] | None = None
) -> list[float]:
    """Return for each block how much it changes its input on the example: `|f(x) - x|^2 / |x|^2`.

    The change that a residual branch f of `calls` makes is `|f(x)|^2 / |x|^2`.
    """
    branches = {path for path, call in (calls or {}).items() if call.is_branch}
    values: dict[str, Tensor] = {}
    scores: dict[str, float] = {}

    def begin(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values[name] = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)).detach().double()

    def end(name: str, _: nn.Module, __: Any, result: Any) -> None:
        y = (result[0] if isinstance(result, (tuple, list)) else result).detach().double()
        x = values.pop(name)
        change = y if name in branches else y - x
        scores[name] = float(change.square().sum()) / (float(x.square().sum()) or 1.0)

    handles = []
    for block in blocks:
        first, last = model.get_submodule(block.paths[0]), model.get_submodule(block.paths[-1])
        handles.append(first.register_forward_pre_hook(partial(begin, block.name), with_kwargs=True))
        handles.append(last.register_forward_hook(partial(end, block.name)))
    try:
        with evaluating(model):
            run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [scores[block.name] for block in blocks]


# ---- The cut ----


def cut_blocks(
    model: nn.Module,
    amount: float,
    *,
    criterion: str = "magnitude",
    layers: Patterns = None,
    example: Inputs,
    data: object = None,
    seed: int = 0,
    n_original: int | None = None,
) -> nn.Module:
    """Return a copy of `model` without its least important blocks.

    Args:
        model: Any module; it does not change.
        amount: Share of the blocks to remove, above 0 and below 1. At least one block stays.
        criterion: `magnitude`: with data, the change of the outputs when a block is removed (see `change_of_outputs`),
            one block after the other; without data, the change that a block makes to its input (see `own_change`).
            `random`: any blocks.
        layers: Shell patterns on dotted module names of blocks.
        example: Inputs that the model runs on.
        data: See `Batches`.
        seed: Seed of `random` and of the order of the data.
        n_original: How many blocks the amount is a share of, if some were removed before.

    Raises:
        CompressionError: The model has no blocks, the amount rounds to none, or none can be removed.
    """
    check, has_run = equivalence_check(model, example)
    check.without_nested_tensors_()
    blocks = find_blocks(_unpacked(has_run), check.inputs[0])
    del has_run
    patterns = check_patterns(layers)
    candidates = [block for block in blocks.found if any(is_chosen(path, patterns) for path in block.paths)]
    left_out = {path: why for path, why in blocks.reasons.items() if is_chosen(path, patterns)}
    if len(candidates) < 2:
        raise CompressionError(_no_blocks(candidates, left_out, model))
    n_all = n_original or len(candidates)
    n_removed = int(amount * n_all + 0.5 + 1e-9) - (n_all - len(candidates))
    n_removed = min(n_removed, len(candidates) - 1)
    if n_removed < 1:
        if n_original:
            return copied(model)
        raise CompressionError(
            f"{option(f'amount={amount:g}')} rounds to none of {len(candidates)} blocks, so pass at least "
            f"{ceil(500 / len(candidates)) / 1000:g}"
        )
    score = _Scorer(model, blocks.calls, criterion, example, data, seed)
    chosen, refused = _removable(model, check, blocks, candidates, score, n_removed)
    if not chosen:
        branches = as_branches(model, blocks)
        candidates = [block for block in branches.found if block in candidates]
        score = _Scorer(model, branches.calls, criterion, example, data, seed)
        chosen, of_branches = _removable(model, check, branches, candidates, score, n_removed)
        refused = of_branches if chosen else refused
    left_out |= refused
    if not chosen:
        raise CompressionError(_no_blocks([], left_out, model))
    return _without_blocks(model, chosen, left_out, score.ranges(candidates))


def count_blocks(model: nn.Module, example: Inputs, layers: Patterns) -> int:
    """Return how many blocks of `model` the patterns choose."""
    blocks = find_blocks(_unpacked(copied(model).eval()), example)
    patterns = check_patterns(layers)
    return sum(any(is_chosen(path, patterns) for path in block.paths) for block in blocks.found)


def _unpacked(model: nn.Module) -> nn.Module:
    """The model, in which torch's encoder does not pack sequences of several lengths into nested tensors."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return model


class _Scorer:
    """Scores blocks; the lowest go first."""

    def __init__(
        self, model: nn.Module, calls: Mapping[str, Calls], criterion: str, example: Inputs, data: object, seed: int
    ) -> None:
        self._model, self._calls, self._criterion = _unpacked(copied(model)), calls, criterion
        self._example, self._seed = example, seed
        self._batches = None if data is None else Batches(data)
        self._random = np.random.default_rng(seed)
        self._fixed: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def __call__(self, removed: Sequence[Block], candidates: Sequence[Block]) -> list[float]:
        """Return the scores of `candidates` when `removed` are gone."""
        if self._criterion == "magnitude" and self._batches is not None:
            with seeded(self._seed, *self._batches.generators):
                found = change_of_outputs(self._model, removed, candidates, self._calls, self._batches)
        else:
            found = [self._score_alone(candidates)[block.name] for block in candidates]
        for block, score in zip(candidates, found, strict=True):
            self._seen.setdefault(block.name, score)
        return found

    def ranges(self, blocks: Sequence[Block]) -> dict[str, tuple[float, float]]:
        """Return the lowest and the highest score by container, when no block was removed."""
        ranges: dict[str, tuple[float, float]] = {}
        for block in blocks:
            if block.name not in self._seen:
                continue  # it must stay, so it was not scored
            score = self._seen[block.name]
            name = block.name if block.container is None else block.container
            low, high = ranges.get(name, (score, score))
            ranges[name] = min(low, score), max(high, score)
        return ranges

    def _score_alone(self, candidates: Sequence[Block]) -> dict[str, float]:
        new = [block for block in candidates if block.name not in self._fixed]
        if new:
            is_random = self._criterion == "random"
            scores = (
                self._random.random(len(new)).tolist()
                if is_random
                else own_change(self._model, new, self._example, self._calls)
            )
            self._fixed |= {block.name: score for block, score in zip(new, scores, strict=True)}
        return self._fixed


def _removable(
    model: nn.Module,
    check: EquivalenceCheck,
    blocks: Blocks,
    candidates: Sequence[Block],
    score: _Scorer,
    n_removed: int,
) -> tuple[list[Block], dict[str, str]]:
    """The blocks to remove: those of the lowest scores that are valid together. Also why others cannot go."""
    refused: dict[str, str] = {}
    usable = list(candidates)
    sizes = {
        name: len(model.get_submodule(name)._modules) for block in candidates if (name := block.container) is not None
    }
    while True:
        chosen = _lowest(usable, score, min(n_removed, len(usable) - 1), sizes)
        objection = _objection(check, blocks, chosen) if chosen else None
        if objection is None:
            return chosen, refused
        guilty = {block: why for block in chosen if (why := _objection(check, blocks, [block]))}
        if not guilty:
            # Each can go alone. The last one to be chosen is the one that matters most, so it stays.
            guilty = {chosen[-1]: f"together with other blocks, {objection}"}
        refused |= {block.name: why for block, why in guilty.items()}
        usable = [block for block in usable if block not in guilty]


def _lowest(blocks: Sequence[Block], score: _Scorer, n_removed: int, sizes: Mapping[str, int]) -> list[Block]:
    chosen: list[Block] = []
    while len(chosen) < n_removed:
        rest = [block for block in blocks if block not in chosen and not _would_empty(block, chosen, sizes)]
        if not rest:
            break
        scores = score(chosen, rest)
        # NaN, as from a model that overflows without a block, is the worst score.
        chosen.append(rest[int(np.argmin(np.nan_to_num(scores, nan=np.inf)))])
    return chosen


def _would_empty(block: Block, chosen: Sequence[Block], sizes: Mapping[str, int]) -> bool:
    """Whether the list that holds `block` would lose its last item."""
    if block.container is None:
        return False
    gone = {path for other in (*chosen, block) if other.container == block.container for path in other.paths}
    return len(gone) >= sizes[block.container]


def _objection(check: EquivalenceCheck, blocks: Blocks, removed: Sequence[Block]) -> str | None:
    """Why a model without `removed` is not the model whose blocks return their inputs; None if it is."""

    def bypass(model: nn.Module, index: int) -> Any:
        with bypassed(model, removed, blocks.calls):
            return run(model, check.inputs[index])

    problem = check.compare(lambda model: remove_(model, removed), bypass, tuple(removed))
    return None if problem is None else reduce(lambda text, words: text.replace(*words), _WORDS, problem)


# How the comparison speaks of the two models, and how it is said of blocks.
_WORDS = (
    ("the cut model fails in training mode", "the model fails in training mode without it"),
    ("the cut model fails", "the model fails without it"),
    ("the masked model fails", "the model fails when it returns its input"),
    ("masked model", "model in which it returns its input"),
)


def remove_(model: nn.Module, removed: Sequence[Block]) -> tuple[Surgery, ...]:
    """Remove blocks from `model`, in place, and return the changes."""
    steps: list[Surgery] = []
    gone: dict[str, set[int]] = {}
    for block in removed:
        if block.container is None:
            steps += [Surgery("bypass", path) for path in block.paths]
        else:
            gone.setdefault(block.container, set()).update(block.positions)
    for container, positions in gone.items():
        kept = [index for index in range(len(model.get_submodule(container)._modules)) if index not in positions]
        steps.append(Surgery("remove", container, kept={"": packed_indices(kept)}))
    # A list in a list goes first, because the outer one gives its items new names.
    steps.sort(key=lambda step: -len(step.module.split(".")) if step.module else 0)
    for step in steps:
        if step.kind == "bypass":
            bypass_(model, step.module)
        else:
            remove_items_(model, step.module, step.positions)
    return tuple(steps)


def _without_blocks(
    model: nn.Module, removed: Sequence[Block], left_out: Mapping[str, str], scores: Mapping[str, tuple[float, float]]
) -> nn.Module:
    small = copied(model)
    record = replace(record_of(small), scores={})
    record = replace(record, left_out={**record.left_out, **left_out})
    steps = remove_(small, removed)
    for step in steps:
        record = _after(record, step)
    attach_(small, replace(record, surgery=(*record.surgery, *steps), scores=dict(scores)))
    return small


def _after(record: Record, step: Surgery) -> Record:
    """The record with the names that things have after `step`, without what was removed."""

    def renamed(names: Mapping[str, Any]) -> dict[str, Any]:
        if step.kind == "bypass":
            return {name: item for name, item in names.items() if not f"{name}.".startswith(f"{step.module}.")}
        pairs = ((name_after_removal(name, step.module, step.positions), item) for name, item in names.items())
        return {name: item for name, item in pairs if name is not None}

    return replace(
        record,
        tensors=renamed(record.tensors),
        left_out=renamed(record.left_out),
        activations=renamed(record.activations),
    )


def _no_blocks(candidates: Sequence[Block], left_out: Mapping[str, str], model: nn.Module) -> str:
    if has_keras_layers(model):
        return (
            f"{option('granularity', 'layer')} removes no layers of Keras, which calls, counts and saves the layers of "
            "a model by a graph of its own: cut channels with "
            f"{option('granularity', 'channel')}, or build the model with fewer layers and distill into it"
        )
    listed = "; ".join(f"{name}: {why}" for name, why in islice(left_out.items(), 4))
    more = f"; and {len(left_out) - 4} more" if len(left_out) > 4 else ""
    because = f" ({listed}{more})" if listed else ""
    if candidates:
        return (
            f"{option('granularity', 'layer')} keeps at least one block, but there is only {candidates[0].name!r} to "
            f"remove{because}: choose more blocks, or another {option('granularity=')}"
        )
    return (
        f"{option('granularity', 'layer')} finds no block that can go{because}: blocks are items of a list "
        "(nn.Sequential, nn.ModuleList), several modules of one class of yours, or layers of equal shape in a row; "
        "their outputs have the shape of their inputs"
    )


__all__ = [
    "Block",
    "Blocks",
    "bypassed",
    "change_of_outputs",
    "count_blocks",
    "cut_blocks",
    "find_blocks",
    "own_change",
]
