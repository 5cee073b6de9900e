"""Remove whole channels, neurons and attention heads from a model, and measure the statistics of batch norms again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import ceil

import torch
from torch import nn

from nbcompress.choices import CHANNEL_CRITERIA
from nbcompress.compressors.attention import convert_all_attention_
from nbcompress.compressors.buffers import non_persistent_buffers
from nbcompress.compressors.copying import release_memory
from nbcompress.compressors.coupling import (
    ChannelGroup,
    Trace,
    canonical_names,
    find_dependencies,
    named_tensors,
    trace,
)
from nbcompress.compressors.data import Batches
from nbcompress.compressors.inputs import Inputs, inputs_from_example
from nbcompress.compressors.keras import inference_arguments, recompute_shapes_
from nbcompress.compressors.layers import (
    Patterns,
    check_choice,
    check_model,
    check_number,
    check_patterns,
    copied,
    is_chosen,
    select,
)
from nbcompress.compressors.losses import LossSpec
from nbcompress.compressors.modes import set_training_flags_, training_flags
from nbcompress.compressors.pretrained import (
    configuration_numbers,
    guard_save_pretrained_,
    is_pretrained,
    model_of_configuration,
    shapes_of,
    with_weights_of,
)
from nbcompress.compressors.prune.channel_scores import (
    ChannelScores,
    activation_scores,
    energy_scores,
    lowest_globally,
    lowest_per_group,
    magnitude_scores,
    mutual_information_scores,
    random_scores,
    redundancy_scores,
    taylor_scores,
    winner_scores,
)
from nbcompress.compressors.prune.cutting import RemovalPlan, cut_, cut_record
from nbcompress.compressors.prune.equivalence import EquivalenceCheck, difference, equivalence_check, run
from nbcompress.compressors.prune.valid_plan import (
    GroupRemoval,
    exclude_recomputed_buffers,
    largest_valid_plan,
    reasons_for,
)
from nbcompress.compressors.record import attach_, record_of
from nbcompress.errors import CompressionError, DataError, option


@torch.no_grad()
def recompute_batchnorm_(model: nn.Module, data: object) -> int:
    """Measure mean and variance of every batch norm that tracks them, in place, over one pass of `data`.

    All batches have equal weight. Dropout is off during the pass, and the mode of every module is put back.

    Args:
        model: Any module. If it has no batch norm, the data is not read.
        data: A `DataLoader`, a data set, or a pair of tensors.

    Returns:
        The number of batch norms that were measured.

    Raises:
        DataError: `data` is empty or has another form.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return 0
    batches = Batches(data)
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    flags = training_flags(model)
    momenta = [norm.momentum for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over all batches
            norm.train()
        for batch in batches.for_model(model):
            batch(model)
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            norm.load_state_dict(buffers, strict=False)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        set_training_flags_(flags)
    return len(norms)


_UNUSED = "the model does not use it when it runs on the example"
_IN_TRAINING = "the model uses it in training mode only, so its own channels stay"


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
    original: nn.Module | None = None,
) -> nn.Module:
    """Return a copy of `model` without its least important channels.

    Output channels of convolutions, neurons of linear layers and attention heads are removed together with all tensor
    axes that are coupled with them; no output of the model changes its shape. The cut model is compared with the
    original in which the removed channels are zero (see `equivalence`). A cut that fails this check is not made. Layers
    that were not cut are listed in the record's `left_out`, with the reason.

    Args:
        model: Any module; it does not change.
        amount: Share of the channels to remove, above 0 and below 1. At least one channel of each group stays.
        criterion: `magnitude` (L2 norm of all weights that are removed with a channel), `random`, `gradient` (see
            `taylor_scores`), or a score of activations: `activation`, `energy`, `winner`, `mutual-information`,
            `redundancy` (see the functions of these names in `channel_scores`).
        scope: `layer` removes the share from each coupled group; `global` ranks the channels of all groups together,
            by the score divided by the mean score of the group.
        norms: `keep` leaves a width whole if a layer norm, an RMS norm or another mean or variance is computed over it,
            because a channel of zeros would count there. `cut` cuts it like other widths, but keeps at least two
            channels; the cut model then equals the masked model whose averages are over the kept channels. The score
            of such a channel is over all its weights: in embeddings, norms, and both sides of every projection.
        layers: Shell patterns on dotted module names. A group is cut if the outputs of a chosen layer belong to it.
        example: A tensor, a tuple of positional or a dict of keyword inputs.
        data: Data for all criteria but `magnitude` and `random`.
        seed: Seed of `random` and of the order of the data.
        spec: The user's loss, for `gradient`.
        original: The model before earlier steps of a schedule. The share counts what these steps removed, and a step
            that removes nothing more returns a plain copy.

    Returns:
        A smaller copy, with its record.

    Raises:
        CompressionError: The model cannot be traced, nothing can be cut, or the amount rounds to nothing.
        LayerNotFound: `layers` matches nothing.
        DataError: The example is missing, or the model does not run on it.
    """
    check_model(model)
    check_choice("criterion", criterion, CHANNEL_CRITERIA)
    check_choice("scope", scope, ("layer", "global"))
    check_choice("norms", norms, ("keep", "cut"))
    amount, inputs = _checked_amount(amount), _checked_inputs(model, example)
    patterns = check_patterns(layers)
    if patterns is not None:
        select(model, layers)
    check, has_run = equivalence_check(model, inputs)
    buffers = non_persistent_buffers(has_run)
    convert_all_attention_(has_run)
    traced = trace(has_run, check.inputs[0])
    # Reasons are given for weights only: biases and norms are cut with them.
    weights = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    traced_names = set(traced.tensors.values())
    training = None if traced_names.issuperset(weights) else _trace_in_training(has_run, check.inputs[0])
    dependencies = find_dependencies(has_run, traced, training=training, cut_norms=norms == "cut")
    in_training = set(training.tensors.values()) - traced_names if training else set()
    del has_run, training
    release_memory(model, collect=True)
    left_out = {name: dependencies.frozen[name] for name in weights if name in dependencies.frozen}
    left_out |= {name: _IN_TRAINING if name in in_training else _UNUSED for name in weights if name not in traced_names}
    groups = [
        group
        for group in dependencies.groups
        # What runs in training mode only is not compared, so it stays.
        if not in_training.issuperset(name for name, _ in group.tensor_axes)
        and (patterns is None or any(is_chosen(name, patterns) for name in group.producers))
    ]
    groups, scores, unscored = _score_groups(model, groups, criterion, data, seed, spec)
    n_gone = [_n_gone(group, model, original) for group in groups]
    removals, untouched = _choose_units(groups, scores, amount, scope, n_gone)
    left_out = {name: why for name, why in (left_out | unscored | untouched).items() if is_chosen(name, patterns)}
    if not removals and original is not None:
        return copied(model)
    if not removals:
        raise CompressionError(_amount_too_small(amount, groups, scope) or _nothing_to_cut(left_out, norms))
    removals, recomputed = exclude_recomputed_buffers(model, check, buffers, removals)
    left_out |= recomputed
    if not removals:
        raise CompressionError(_nothing_to_cut(left_out, norms))
    if any(removal.group.averages for removal in removals):
        check.follow_averages_(traced, dependencies.averages)
    del traced, dependencies
    plan, refused = largest_valid_plan(model, check, removals)
    left_out |= refused
    if not plan.removed:
        raise CompressionError(_nothing_to_cut(left_out, norms))
    plan = _with_configuration(model, check, plan)
    return _cut_copy(model, plan, left_out, _score_ranges(groups, scores))


def _trace_in_training(model: nn.Module, inputs: Inputs) -> Trace | None:
    """The graph in training mode, in which auxiliary heads may run; None if it cannot be traced."""
    try:
        return trace(model.train(), inputs)
    except CompressionError:
        return None
    finally:
        model.eval()


def _checked_amount(amount: float) -> float:
    amount = check_number("amount", amount, 0, 1, is_open_low=True)
    if amount == 1:
        raise CompressionError(
            f"{option('amount')} must leave channels, so it is below 1, got 1: a layer is never cut to nothing"
        )
    return amount


def _checked_inputs(model: nn.Module, example: object) -> Inputs:
    if example is None:
        raise DataError(
            "channels are found by running the model, so an example is needed: "
            f"pass {option('example=')}, or {option('data=')}"
        )
    inputs = inputs_from_example(example)
    return replace(inputs, kwargs={**inference_arguments(model), **inputs.kwargs})


def _n_gone(group: ChannelGroup, model: nn.Module, original: nn.Module | None) -> int:
    """How many units of a group earlier steps of a schedule removed."""
    if original is None:
        return 0
    name, dim = group.tensor_axes[0]
    after, before = named_tensors(model)[name].shape[dim], named_tensors(original)[name].shape[dim]
    return len(group.units) * (before - after) // after


_BY_ACTIVATION = {
    "activation": activation_scores,
    "energy": energy_scores,
    "winner": winner_scores,
    "mutual-information": mutual_information_scores,
    "redundancy": redundancy_scores,
}


def _score_groups(
    model: nn.Module, groups: Sequence[ChannelGroup], criterion: str, data: object, seed: int, spec: LossSpec | None
) -> tuple[list[ChannelGroup], list[ChannelScores], dict[str, str]]:
    """The groups that have scores, their scores, and the reasons why the other groups have none."""
    found: Sequence[ChannelScores | str]
    if criterion == "magnitude" or not groups:
        found = magnitude_scores(model, groups)
    elif criterion == "random":
        found = random_scores(groups, seed)
    elif criterion == "gradient":
        found = taylor_scores(model, groups, data, seed, spec)
    else:
        found = _BY_ACTIVATION[criterion](model, groups, data, seed)
    pairs = list(zip(groups, found, strict=True))
    reasons: dict[str, str] = {}
    for group, score in pairs:
        if isinstance(score, str):
            reasons |= reasons_for(group, score)
    scored = [(group, score) for group, score in pairs if not isinstance(score, str)]
    return [group for group, _ in scored], [score for _, score in scored], reasons


def _choose_units(
    groups: Sequence[ChannelGroup],
    scores: Sequence[ChannelScores],
    amount: float,
    scope: str,
    n_gone: Sequence[int],
) -> tuple[list[GroupRemoval], dict[str, str]]:
    """The units to remove from each group, and the reasons why some groups lose none."""
    min_kept = [group.min_kept for group in groups]
    choose = lowest_per_group if scope == "layer" else lowest_globally
    lowest = choose(scores, amount, min_kept, n_gone)
    removals: list[GroupRemoval] = []
    untouched: dict[str, str] = {}
    for group, units, n_before in zip(groups, lowest, n_gone, strict=True):
        if units:
            removals.append(GroupRemoval(group, tuple(units)))
        elif n_before:
            continue  # earlier steps removed enough
        elif len(group.units) == 1:
            untouched |= reasons_for(group, "all its channels can only be removed together, and at least one must stay")
        elif len(group.units) == group.min_kept:
            untouched |= reasons_for(group, "a norm needs at least two channels, and it has no more")
        elif scope == "layer":
            untouched |= reasons_for(group, f"amount={amount:g} of its {len(group.units)} channels rounds to 0")
        else:
            untouched |= reasons_for(group, "all its channels rank above the removed ones")
    return removals, untouched


def _score_ranges(groups: Sequence[ChannelGroup], scores: Sequence[ChannelScores]) -> dict[str, tuple[float, float]]:
    """The lowest and the highest score of each layer."""
    return {
        name.removesuffix(".weight"): (float(score.min()), float(score.max()))
        for group, score in zip(groups, scores, strict=True)
        for name in group.producers
    }


def _with_configuration(model: nn.Module, check: EquivalenceCheck, plan: RemovalPlan) -> RemovalPlan:
    """The plan, with the numbers of a Hugging Face configuration that describe the cut model, if there are such."""
    if not is_pretrained(model) or plan.resizes or any(step.kind != "remove" for step in record_of(model).surgery):
        return plan
    shapes = shapes_of(model)
    for (name, dim), indices in plan.removed.items():
        if name in shapes:
            sizes = shapes[name]
            shapes[name] = (*sizes[:dim], sizes[dim] - len(indices), *sizes[dim + 1 :])
    for name, first in canonical_names(model).items():
        if name in shapes and first in shapes:
            shapes[name] = shapes[first]
    for numbers in configuration_numbers(model, shapes):
        described = replace(plan, attributes={**plan.attributes, **{("", path): n for path, n in numbers.items()}})
        if check.objection(described) is None and _computes_the_same(model, check, described, numbers):
            return described
    return plan


def _computes_the_same(
    model: nn.Module, check: EquivalenceCheck, plan: RemovalPlan, numbers: Mapping[str, int]
) -> bool:
    """Whether the class of `model`, built from a configuration with `numbers`, computes what the cut model does."""
    cut = check.fresh()
    cut_(cut, plan)
    try:
        built = with_weights_of(model_of_configuration(model, numbers, "cpu"), cut)
        return difference(run(cut, check.inputs[0]), run(built, check.inputs[0]), 1e-5) is None
    except Exception:  # noqa: BLE001 - the class may raise anything
        return False


def _cut_copy(
    model: nn.Module, plan: RemovalPlan, left_out: Mapping[str, str], scores: Mapping[str, tuple[float, float]]
) -> nn.Module:
    release_memory(model, collect=False)
    small = copied(model)
    surgeries = cut_(small, plan)
    recompute_shapes_(small)
    record = cut_record(model, plan, surgeries, left_out)
    attach_(small, replace(record, scores=scores))
    guard_save_pretrained_(small, record.surgery)
    return small


def _amount_too_small(amount: float, groups: Sequence[ChannelGroup], scope: str) -> str:
    """The message for an amount that rounds to no channel; empty if no group has a channel that could be removed."""
    sizes = [len(group.units) for group in groups]
    if max(sizes, default=0) < 2:
        return ""
    n_units = max(sizes) if scope == "layer" else sum(sizes)
    of_what = f"in every group: the largest has {n_units}" if scope == "layer" else f"of {n_units}"
    given = option(f"amount={amount:g}")
    return f"{given} rounds to no channel {of_what}, so pass at least {ceil(500 / n_units) / 1000:g}"


def _nothing_to_cut(left_out: Mapping[str, str], norms: str) -> str:
    reasons = "; ".join(f"{name}: {why}" for name, why in islice(left_out.items(), 4))
    more = f"; and {len(left_out) - 4} more" if len(left_out) > 4 else ""
    is_average = any(why.endswith(_AVERAGED) for why in left_out.values())
    hint = f"; {option('norms', 'cut')} also cuts widths that a norm averages over" if is_average else ""
    hint = hint if norms == "keep" else ""
    return f"no channel of the model can be cut ({reasons or 'it has no layer with channels'}{more}){hint}"


# How the rules of averages say why a width is left whole.
_AVERAGED = ("computes a mean over it", "reduces it to one number")
