"""Cut whole channels, neurons and heads out of a model, so that it is smaller and faster as it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import ceil

from torch import nn

from nbcompress.compress.attention import free_heads_
from nbcompress.compress.coupling import Group, as_inputs, couple, trace
from nbcompress.compress.keras_layers import inference_arguments, restate_
from nbcompress.compress.layers import Patterns, check_model, check_patterns, copied, is_chosen, select
from nbcompress.compress.losses import LossSpec
from nbcompress.compress.options import check_choice, check_number
from nbcompress.compress.prune.agreeing import Removal, agreed, named, plan_for
from nbcompress.compress.prune.channel_scores import (
    CRITERIA,
    Scores,
    activation_scores,
    information_scores,
    lowest_of_all,
    lowest_per_group,
    magnitude_scores,
    random_scores,
    taylor_scores,
)
from nbcompress.compress.prune.checking import check_of
from nbcompress.compress.prune.cutting import Plan, cut_, cut_record
from nbcompress.compress.prune.remade import without_remade
from nbcompress.compress.record import attach_
from nbcompress.errors import CompressionError

_UNUSED = "the model does not use it when it runs on the example"


def cut_channels(
    model: nn.Module,
    amount: float,
    *,
    criterion: str = "magnitude",
    scope: str = "layer",
    norms: str = "keep",
    layers: Patterns = None,
    example: object,
    data: object = None,
    seed: int = 0,
    spec: LossSpec | None = None,
) -> nn.Module:
    """Return a copy of `model` without its least important channels.

    Output channels of convolutions, neurons of linear layers and attention heads go together with everything that is
    coupled with them; no output of the model changes its shape. The cut model is compared with the original in which
    the removed channels are zero (see `checking`); what disagrees or fails is left as it was and named in the
    record's `left_out`, as is everything that could not be cut for another reason.

    Args:
        model: Any module; it stays as it is.
        amount: Share of the channels, above 0 and below 1. At least one channel of each group stays.
        criterion: `magnitude` (L2 norm of everything that goes with a channel), `random`, `gradient` (see
            `taylor_scores`), `activation` (mean absolute activation) or `mutual-information` (of activation and
            label).
        scope: `layer` takes the share from each coupled group, `global` from all of them together, ranked by the
            score over its group's mean.
        norms: `keep` leaves a width whole that a layer norm, an RMS norm or any other mean or variance is computed
            over, since a channel of zeros still counts in it. `cut` cuts it like any other, down to two channels at
            most; the cut model then equals the masked one whose averages are over the channels that are left. Such a
            channel is scored by all that goes with it: its numbers in embeddings, in weights and biases of norms, and
            in both sides of every projection.
        layers: Shell patterns on dotted module names: groups in which the outputs of such a layer take part.
        example: A tensor, a tuple of positional or a dict of keyword inputs.
        data: For the last three criteria.
        seed: Of `random`, and of the order of the data.
        spec: What the user says of the loss, for `gradient`.

    Raises:
        CompressionError: The model cannot be traced, nothing can be cut, or the amount rounds to nothing.
        LayerNotFound: `layers` matches nothing.
        DataError: The example is missing, or the model does not run on it.
    """
    check_model(model)
    check_choice("criterion", criterion, CRITERIA)
    check_choice("scope", scope, ("layer", "global"))
    check_choice("norms", norms, ("keep", "cut"))
    amount = check_number("amount", amount, 0, 1, is_open_low=True)
    if amount == 1:
        raise CompressionError("amount must leave channels, so it is below 1, got 1: a layer is never cut to nothing")
    inputs = as_inputs(example)
    inputs = replace(inputs, kwargs={**inference_arguments(model), **inputs.kwargs})
    patterns = check_patterns(layers)
    if patterns is not None:
        select(model, layers)
    check = check_of(model, inputs)
    traced_model = copied(check.originals[0])
    free_heads_(traced_model)
    traced = trace(traced_model, check.inputs[0])
    coupling = couple(traced_model, traced, norms=norms == "cut")
    # One expects the outputs of weights to be cut; biases and norms follow.
    weights = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    traced_names = set(traced.tensors.values())
    left_out = {name: coupling.frozen[name] for name in weights if name in coupling.frozen}
    left_out |= {name: _UNUSED for name in weights if name not in traced_names}
    groups = [
        one for one in coupling.groups if patterns is None or any(is_chosen(name, patterns) for name in one.makers)
    ]
    groups, scores, unscored = _scored(model, groups, criterion, data, seed, spec)
    chosen, single = _choose(groups, scores, amount, scope)
    left_out = {name: why for name, why in (left_out | unscored | single).items() if is_chosen(name, patterns)}
    if not chosen:
        raise CompressionError(_too_little(amount, groups, scope) or _nothing(left_out))
    chosen, remade = without_remade(model, check, chosen)
    left_out |= remade
    if not chosen:
        raise CompressionError(_nothing(left_out))
    if any(one.group.averages for one in chosen):
        check = check.with_averages(traced_model, (traced, coupling.averages))
    kept, refused = agreed(model, check, chosen)
    left_out |= refused
    if not kept:
        raise CompressionError(_nothing(left_out))
    return _carry_out(model, plan_for(kept), left_out)


def _scored(
    model: nn.Module, groups: Sequence[Group], criterion: str, data: object, seed: int, spec: LossSpec | None
) -> tuple[list[Group], list[Scores], dict[str, str]]:
    """The groups that have scores, these, and why the other groups have none."""
    found: Sequence[Scores | str]
    if criterion == "magnitude" or not groups:
        found = magnitude_scores(model, groups)
    elif criterion == "random":
        found = random_scores(groups, seed)
    elif criterion == "gradient":
        found = taylor_scores(model, groups, data, seed, spec)
    elif criterion == "activation":
        found = activation_scores(model, groups, data, seed)
    else:
        found = information_scores(model, groups, data, seed)
    pairs = list(zip(groups, found, strict=True))
    reasons: dict[str, str] = {}
    for group, one in pairs:
        if isinstance(one, str):
            reasons |= named(group, one)
    known = [(group, one) for group, one in pairs if not isinstance(one, str)]
    return [group for group, _ in known], [one for _, one in known], reasons


def _choose(
    groups: Sequence[Group], scores: Sequence[Scores], amount: float, scope: str
) -> tuple[list[Removal], dict[str, str]]:
    """What goes from each group, and why nothing goes from some."""
    n_stay = [group.n_stay for group in groups]
    lowest = lowest_per_group(scores, amount, n_stay) if scope == "layer" else lowest_of_all(scores, amount, n_stay)
    removals: list[Removal] = []
    untouched: dict[str, str] = {}
    for group, units in zip(groups, lowest, strict=True):
        if units:
            removals.append(Removal(group, tuple(units)))
        elif len(group.units) == 1:
            untouched |= named(group, "all its channels hang together, and at least one must stay")
        elif len(group.units) == group.n_stay:
            untouched |= named(group, "a norm needs two channels at least, and it has no more")
        elif scope == "layer":
            untouched |= named(group, f"amount={amount:g} of its {len(group.units)} channels rounds to none")
        else:
            untouched |= named(group, "its channels all rank above those that went")
    return removals, untouched


def _carry_out(model: nn.Module, plan: Plan, left_out: Mapping[str, str]) -> nn.Module:
    small = copied(model)
    surgeries = cut_(small, plan)
    restate_(small)
    attach_(small, cut_record(model, plan, surgeries, left_out))
    return small


def _too_little(amount: float, groups: Sequence[Group], scope: str) -> str:
    """What is wrong with an amount that rounds to no channel where some could go."""
    sizes = [len(group.units) for group in groups]
    if max(sizes, default=0) < 2:
        return ""
    n_units = max(sizes) if scope == "layer" else sum(sizes)
    of_what = f"in every group: the largest has {n_units}" if scope == "layer" else f"of {n_units}"
    return f"amount={amount:g} rounds to no channel {of_what}, so pass at least {ceil(500 / n_units) / 1000:g}"


def _nothing(left_out: Mapping[str, str]) -> str:
    reasons = "; ".join(f"{name}: {why}" for name, why in islice(left_out.items(), 4))
    more = f"; and {len(left_out) - 4} more" if len(left_out) > 4 else ""
    return f"no channel of the model can be cut ({reasons or 'it has no layer with channels'}{more})"


__all__ = ["cut_channels"]
