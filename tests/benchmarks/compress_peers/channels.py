"""Whole channels, neurons and heads cut out: ours and torch-pruning.

A budget is the share of a hidden layer's products that is removed, in per cent. For 75, half of the channels of every
group are cut, since both sides of a product shrink. In the encoder, both libraries cut heads and the inner layer of the
block, and the budget is the share of these. Both can also cut the width under the layer norms (ours with
`norms="cut"`). These are separate methods that leave no more weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

from methods import OURS, Method, Stage, ours, theirs
from nets import Case, Encoder
from torch import nn

import nbcompress as nc

# Shares of channels, in steps that come out even for 16 and 32 channels: ours rounds to the nearest, theirs up.
CHANNELS = {50: 9 / 32, 75: 16 / 32, 90: 22 / 32, 95: 25 / 32}
SHARES = tuple(CHANNELS)
# Of everything in the encoder if the width goes too, and of its four heads; even for both in the same way.
WIDTHS = {50: 9 / 32, 75: 14 / 32, 90: 39 / 64, 95: 40 / 64}
HEADS = {50: 1 / 4, 75: 2 / 4, 90: 2 / 4, 95: 3 / 4}


def channel_share(case: Case, share: int, *, with_width: bool = False) -> float:
    if with_width:
        return WIDTHS[share]
    return share / 100 if case.net == "encoder" else CHANNELS[share]


def cut(case: Case, share: int, **options: object) -> Iterator[Stage]:
    """Ours; the statistics of batch norms are measured again on the training data."""
    options |= {"granularity": "channel", "example": case.example, "data": case.train, "seed": case.seed}
    amount = channel_share(case, share, with_width=options.get("norms") == "cut")
    model = nc.prune(case.model, amount, **options)
    yield ours("plain", model)
    yield ours("tuned", case.tuned(model))


def torch_pruned(case: Case, share: int, importance: str, *, with_width: bool = False) -> Iterator[Stage]:
    """By torch-pruning, as its documentation shows for a network with attention."""
    import torch_pruning

    model = copy.deepcopy(case.model)
    rank = getattr(torch_pruning.importance, importance)()
    amount = channel_share(case, share, with_width=with_width)
    ignored: list[nn.Module] = [model.head]
    heads: dict[str, object] = {}
    if isinstance(model, Encoder):
        block = model.block
        if not with_width:
            ignored += [model.rows, block.out, block.down]
        projections = [block.query, block.key, block.value]
        heads = {"num_heads": dict.fromkeys(projections, 4), "prune_num_heads": True, "prune_head_dims": False}
        heads["head_pruning_ratio"] = HEADS[share] if with_width else amount
    pruner = torch_pruning.pruner.BasePruner(
        model, case.example, importance=rank, pruning_ratio=amount, ignored_layers=ignored, **heads
    )
    if importance in ("GroupTaylorImportance", "GroupHessianImportance"):
        _with_gradients(case, model, rank)
    pruner.step()
    model.zero_grad(set_to_none=True)
    yield theirs("plain", model)
    yield theirs("tuned", case.tuned(model))


def _with_gradients(case: Case, model: nn.Module, rank: object) -> None:
    """Give every weight the gradient that the criterion reads: of the whole data, or of each example for Hessians."""
    x, y = case.train
    loss = nn.functional.cross_entropy(model(x), y, reduction="none")
    if not hasattr(rank, "accumulate_grad"):
        loss.mean().backward()
        return
    rank.zero_grad()
    # As many examples as the documentation's batch: each costs a backward pass of its own.
    for example_loss in loss[:64]:
        model.zero_grad()
        example_loss.backward(retain_graph=True)
        rank.accumulate_grad(model)


def _ours(name: str, **options: object) -> tuple[Method, ...]:
    make = partial(cut, **options)
    # One head of four stays, so an encoder that keeps its width cannot lose more than three quarters.
    return (
        Method("channels", OURS, name, make, SHARES, ("mlp", "conv")),
        Method("channels", OURS, name, make, SHARES[:2], ("encoder",)),
        Method("channels", OURS, f"{name}, with width", partial(make, norms="cut"), SHARES, ("encoder",)),
    )


def _theirs(name: str, importance: str, nets: tuple[str, ...] = ("mlp", "conv", "encoder")) -> tuple[Method, ...]:
    make = partial(torch_pruned, importance=importance)
    plain = tuple(net for net in nets if net != "encoder")
    found = [Method("channels", "torch-pruning", name, make, SHARES, plain)]
    if "encoder" in nets:
        wide = partial(make, with_width=True)
        found.append(Method("channels", "torch-pruning", name, make, SHARES[:2], ("encoder",)))
        found.append(Method("channels", "torch-pruning", f"{name}, with width", wide, SHARES, ("encoder",)))
    return tuple(found)


METHODS = (
    *_ours("magnitude"),
    *_ours("random", criterion="random"),
    *_ours("gradient", criterion="gradient"),
    *_ours("activation", criterion="activation"),
    *_ours("mutual-information", criterion="mutual-information"),
    *_theirs("magnitude", "GroupMagnitudeImportance"),
    *_theirs("random", "RandomImportance"),
    *_theirs("gradient", "GroupTaylorImportance"),
    *_theirs("hessian", "GroupHessianImportance"),
    *_theirs("geometric median", "FPGMImportance"),
    *_theirs("batch norm scale", "BNScaleImportance", ("conv",)),
)
