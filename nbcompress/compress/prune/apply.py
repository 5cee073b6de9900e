"""Pruning: what a person asks for, checked, and handed to the part that does it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from nbcompress.compress.calibration import with_ranges
from nbcompress.compress.data import Batches
from nbcompress.compress.layers import Patterns, check_model, copied, select
from nbcompress.compress.losses import LossFunction, LossSpec
from nbcompress.compress.modes import outside_inference
from nbcompress.compress.options import check_choice, check_number
from nbcompress.compress.outputs import Output
from nbcompress.compress.prune.weights import Cut, prune_gradually, prune_once
from nbcompress.compress.record import attach_, record_of
from nbcompress.compress.rest import round_rest_
from nbcompress.compress.seeding import seeded
from nbcompress.compress.training import train_
from nbcompress.compress.workpiece import Tuning, Workpiece
from nbcompress.errors import CompressionError, DataError

_CRITERIA = ("magnitude", "random", "gradient", "activation", "mutual-information", "hessian")
_WITH_DATA = ("gradient", "activation", "mutual-information", "hessian")


@outside_inference
def prune(
    model: nn.Module,
    amount: float | None = None,
    *,
    threshold: float | None = None,
    granularity: Literal["weight", "2:4", "channel"] = "weight",
    criterion: Literal["magnitude", "random", "gradient", "activation", "mutual-information", "hessian"] = "magnitude",
    scope: Literal["global", "layer", "lamp"] | None = None,
    schedule: Literal["one-shot", "gradual"] = "one-shot",
    norms: Literal["keep", "cut"] = "keep",
    layers: Patterns = None,
    example: object = None,
    data: object = None,
    finetune: int = 0,
    lr: float = 1e-3,
    seed: int = 0,
    loss: LossFunction | None = None,
    output: Output | None = None,
) -> nn.Module:
    """Return a copy of `model` with the least important weights set to zero, or whole channels cut out.

    Args:
        model: Any module; it stays as it is.
        amount: Share of the weights that goes, 0 to 1. Weights that are zero already count and go first, so pruning
            a pruned model by the same amount changes nothing, and by less does not bring weights back.
        threshold: Instead of `amount`: weights of smaller magnitude go.
        granularity: `weight` sets single weights to zero; `2:4` two of every four consecutive inputs of an output
            (along the flattened inputs of a convolution), and needs no amount; `channel` cuts neurons, channels and
            heads physically.
        criterion: What is cut first: small `magnitude`; `random`; small `gradient` (weight times gradient over the
            data, first-order Taylor; of a channel see `taylor_scores`); small `activation` (a weight times the norm
            of its input, Sun et al. 2024; a channel's mean activation); small `mutual-information` of a channel's
            activation and the label (binned, corrected by Miller and Madow); `hessian` takes weights that change the
            outputs of their layer least and lets the others make up for them (see `second_order`). `activation` and
            `hessian` know single weights of linear layers and convolutions; other layers are left out by name.
        scope: `global` ranks the weights of all layers together, `layer` takes the share from each, `lamp` ranks
            globally by scores made comparable (Lee et al. 2021). The default is `global` for weights and `layer`
            for channels. By `activation`, the default takes the share from every output of a layer by itself. With
            `hessian`, it says how the share is divided among layers, by magnitude; which weights go is decided within
            each.
        schedule: `one-shot`, or `gradual`: a little before every epoch of `finetune`, by the cubic of Zhu and
            Gupta (2017).
        norms: What `channel` does with a width that layer norms average over, as that of everything a transformer adds
            up: `keep` leaves it whole; `cut` cuts it too. The cut model then equals the model without these channels
            only if its norms average over the channels that are left (see `cut_channels`).
        layers: Shell patterns on dotted module names.
        example: Input of the model, for `channel`; the first batch of the data serves too.
        data: For all criteria but the first two, and for fine-tuning. With `channel`, the statistics of batch norms are
            measured on it again.
        finetune: Epochs of training afterwards; zeros stay zeros.
        lr: Step size of fine-tuning (Adam).
        seed: Of `random`, of the order of the data and of fine-tuning.
        loss: As in `finetune`: from what the model returns and the target to a scalar. For `gradient`, too.
        output: Index or key of the prediction, where the model returns several tensors.

    Returns:
        A copy. With `granularity="weight"`, exactly `round(amount * n)` of the n chosen weights are zero (in each
        tensor with scope `layer`, in each output by `activation`), unless more were before; ties fall by position. No
        tensor loses its last weight unless `amount` is 1. Grids and codebooks are kept, fitted anew where values left
        them: zero is a value of each (`hessian`, which changes other weights too, refuses them). With `2:4`, tensors
        whose rows do not divide by 4 are left out by name. With `channel`, see `cut_channels`; an amount of 0 gives a
        plain copy.

    Raises:
        CompressionError: An option or a weight makes no sense, or fine-tuning diverges.
        LayerNotFound: `layers` matches nothing.
        DataError: Data is needed and missing, or does not fit.
    """
    check_choice("granularity", granularity, ("weight", "2:4", "channel"))
    check_choice("criterion", criterion, _CRITERIA)
    check_choice("schedule", schedule, ("one-shot", "gradual"))
    check_choice("norms", norms, ("keep", "cut"))
    if scope is not None:
        check_choice("scope", scope, ("global", "layer", "lamp"))
    if granularity == "2:4":
        _check_two_of_four(amount, threshold, scope, schedule)
    elif (amount is None) == (threshold is None):
        raise CompressionError("prune needs amount=, a share from 0 to 1, or threshold=, a magnitude, and not both")
    if amount is not None:
        amount = check_number("amount", amount, 0, 1)
    if threshold is not None:
        threshold = check_number("threshold", threshold, 0, float("inf"))
        if criterion != "magnitude" or scope is not None:
            raise CompressionError("threshold= is a magnitude for every weight: leave out criterion= and scope=")
    tuning = Tuning(data, finetune, lr, seed, LossSpec(loss, output))
    if criterion in _WITH_DATA and data is None:
        raise DataError(f"criterion={criterion!r} needs data: pass data=, such as (inputs, labels)")
    if granularity == "channel":
        if schedule == "gradual" or amount is None:
            raise CompressionError("granularity='channel' cuts a share at once: pass amount= and schedule='one-shot'")
        return _prune_channels(model, amount, criterion, scope or "layer", norms, layers, example, tuning)
    if norms != "keep":
        raise CompressionError(f"norms={norms!r} is about the width of channels: pass granularity='channel'")
    _check_criterion(criterion, schedule)
    ranked = "2:4" if granularity == "2:4" else scope or {"activation": "row"}.get(criterion, "global")
    cut = Cut(amount, threshold, criterion, ranked, data, seed, tuning.spec)
    if schedule == "gradual":
        return _start_gradually(model, layers, tuning, cut)
    return prune_once(Workpiece(model, layers, tuning), cut)


def _check_two_of_four(amount: object, threshold: object, scope: str | None, schedule: str) -> None:
    if threshold is not None or amount not in (None, 0.5):
        got = f"threshold={threshold!r}" if threshold is not None else f"amount={amount!r}"
        raise CompressionError(
            f"granularity='2:4' always keeps two of four: leave out amount= and threshold=, got {got}"
        )
    if scope is not None:
        raise CompressionError(f"granularity='2:4' ranks within every four weights: leave out scope=, got {scope!r}")
    if schedule == "gradual":
        raise CompressionError("granularity='2:4' has no share in between to go through: use schedule='one-shot'")


def _check_criterion(criterion: str, schedule: str) -> None:
    """Refuse what makes no sense for single weights."""
    if criterion == "mutual-information":
        raise CompressionError(
            "criterion='mutual-information' is about the activations of channels and neurons: pass "
            "granularity='channel', or another criterion"
        )
    if criterion == "hessian" and schedule == "gradual":
        raise CompressionError("criterion='hessian' makes up for what goes at once: use schedule='one-shot'")


def _start_gradually(model: nn.Module, layers: Patterns, tuning: Tuning, cut: Cut) -> nn.Module:
    if not tuning.finetune:
        raise CompressionError("schedule='gradual' prunes between epochs: pass finetune=EPOCHS and data=")
    work = Workpiece(model, layers, tuning)
    for target in work.targets:
        before = work.record_of(target)
        if before.grid is not None or before.codebook is not None:
            raise CompressionError(
                f"schedule='gradual' comes before quantizing and clustering, but {target.name!r} has "
                f"{'a grid' if before.grid is not None else 'a codebook'}: use schedule='one-shot'"
            )
        if not target.parameter.requires_grad:
            raise CompressionError(f"schedule='gradual' retrains, but {target.name!r} does not require a gradient")
    return prune_gradually(work, cut)


def _prune_channels(
    model: nn.Module,
    amount: float,
    criterion: str,
    scope: str,
    norms: str,
    layers: Patterns,
    example: object,
    tuning: Tuning,
) -> nn.Module:
    # Imported here because tracing a graph takes its time to load, and few need it.
    from nbcompress.compress.prune.batchnorm import recompute_batchnorm_
    from nbcompress.compress.prune.channels import cut_channels

    if criterion == "hessian":
        raise CompressionError(
            "criterion='hessian' is about single weights: granularity='channel' takes magnitude, random, gradient, "
            "activation or mutual-information"
        )
    if scope == "lamp":
        raise CompressionError("granularity='channel' takes scope layer or global, got scope='lamp'")
    select(check_model(model), layers)
    if amount == 0:
        return copied(model)
    batches = None if tuning.data is None else Batches(tuning.data)
    with seeded(tuning.seed, *(batches.generators if batches else ())):
        if example is None and batches is not None:
            first = batches.first(model)
            example = dict(first.kwargs) if first.kwargs else first.args
        if example is None:
            raise DataError("granularity='channel' runs the model once: pass example=, an input, or data=")
        small: nn.Module = cut_channels(
            model,
            amount,
            criterion=criterion,
            scope=scope,
            norms=norms,
            layers=layers,
            example=example,
            data=tuning.data,
            seed=tuning.seed,
            spec=tuning.spec,
        )
        if tuning.data is not None:
            # Half of a network cut away shifts what is left; measuring again brings back most of its accuracy.
            recompute_batchnorm_(small, tuning.data)
    record = record_of(small)
    if record.rest == "float16":
        attach_(small, replace(record, left_out={**record.left_out, **round_rest_(small, record)}))
    if tuning.finetune:
        train_(small, tuning.data, tuning.plan(), spec=tuning.spec)
    else:
        attach_(small, with_ranges(small, record_of(small), tuning.data, tuning.seed))
    return small


__all__ = ["prune"]
