"""Find the largest plan that is valid: the cut model must compute what the masked model computes.

`equivalence` decides whether one plan is valid. This module tries plans: all removals together, then the removals of
layers of one kind, then single ones. Two obstacles are handled here:

Numbers of the user's own modules. Attention that writes `view(batch, length, self.n_heads, -1)`, or a network that
writes `view(-1, self.n_flat)`, works after a cut if that number is changed as well. The graph shows such a number as a
constant, so it is not known which attribute it is. The modules around the cut layers, and the configurations that they
hold, are searched for integers that equal a size that changes; some sets of them are tried, and the equivalence check
decides. Layers of one kind are tried together, because they may share a configuration.

Sizes in the code. Where no likely set of numbers helps, the code may hold the sizes as literals, or compute them from a
width that stays. Then the calls of `reshape` themselves get other sizes, see `resize`.

Recomputed buffers. Some forward passes compute a buffer again if it does not fit the inputs, which would undo a cut.
Groups with such buffers are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from torch import Tensor, nn

from nbcompress.compressors.buffers import non_persistent_buffers
from nbcompress.compressors.coupling import ChannelGroup, named_tensors
from nbcompress.compressors.numbers import numbers_of
from nbcompress.compressors.prune.cutting import RemovalPlan, plan_of_units
from nbcompress.compressors.prune.equivalence import EquivalenceCheck, run

# New numbers by dotted name of a module and path of the number in it.
Attributes = Mapping[tuple[str, str], int]

# Each try runs the model a few times.
_MAX_TRIES = 24
# All removals together are tried with this many sets of numbers, before layers of one kind are tried.
_MAX_TRIES_TOGETHER = 2
# Sizes in the code are changed after so many sets of numbers did not help.
_N_LIKELY = 3


@dataclass(frozen=True)
class GroupRemoval:
    """The units to remove from one group, the numbers of modules that change with them, and whether sizes do."""

    group: ChannelGroup
    units: tuple[int, ...]
    attributes: Attributes = field(default_factory=dict)
    resizes: bool = False


def plan_of_removals(removals: Sequence[GroupRemoval]) -> RemovalPlan:
    """Return the plan that carries out all of `removals`."""
    attributes: dict[tuple[str, str], int] = {}
    for removal in removals:
        attributes |= removal.attributes
    units = (removal.group.units[unit] for removal in removals for unit in removal.units)
    averages = (average for removal in removals for average in removal.group.averages)
    reshapes = (call for removal in removals if removal.resizes for call in removal.group.reshapes)
    return plan_of_units(units, attributes, averages, reshapes)


def reasons_for(group: ChannelGroup, reason: str) -> dict[str, str]:
    """Return `reason`, why nothing of `group` is removed, by the names of the group's weights."""
    return dict.fromkeys(group.producers or (group.tensor_axes[0][0],), reason)


def largest_valid_plan(
    model: nn.Module, check: EquivalenceCheck, removals: list[GroupRemoval]
) -> tuple[RemovalPlan, dict[str, str]]:
    """Return a plan with as many of the removals as are valid together, and why the others are refused.

    Args:
        model: The model before the cut.
        check: Decides whether a plan is valid.
        removals: The intended removals.

    Returns:
        The plan, which is empty if no removal is valid, and reasons by name of a weight.
    """
    if check.objection(plan_of_removals(removals)) is None:
        return plan_of_removals(removals), {}
    repaired = _with_changed_numbers(model, check, removals, _MAX_TRIES_TOGETHER)
    if repaired is not None:
        return plan_of_removals(repaired), {}
    # The names of layers of one kind differ in numbers only.
    kinds: dict[str, list[GroupRemoval]] = {}
    for removal in removals:
        kinds.setdefault(re.sub(r"\d+", "#", removal.group.name), []).append(removal)
    refused: dict[str, str] = {}
    valid_kinds = [_valid_of_kind(model, check, kind, refused) for kind in kinds.values()]
    valid = [removal for kind in valid_kinds for removal in kind]
    if valid and check.objection(plan_of_removals(valid)) is not None:
        # Each kind is valid by itself, but not all of them together.
        valid = _valid_together(check, valid_kinds, refused)
    return plan_of_removals(valid), refused


def _valid_of_kind(
    model: nn.Module, check: EquivalenceCheck, kind: list[GroupRemoval], refused: dict[str, str]
) -> list[GroupRemoval]:
    """The valid removals of layers of one kind: all of them, or those that are valid by themselves."""
    objection = check.objection(plan_of_removals(kind))
    if objection is None:
        return kind
    repaired = _with_changed_numbers(model, check, kind, _MAX_TRIES)
    if repaired is not None:
        return repaired
    if len(kind) > 1:
        return [valid for removal in kind for valid in _valid_of_kind(model, check, [removal], refused)]
    refused |= reasons_for(kind[0].group, objection)
    return []


def _valid_together(
    check: EquivalenceCheck, kinds: list[list[GroupRemoval]], refused: dict[str, str]
) -> list[GroupRemoval]:
    """Add one kind after the other, and single removals where a kind is not valid with the kinds before."""
    together: list[GroupRemoval] = []
    for kind in kinds:
        if check.objection(plan_of_removals([*together, *kind])) is None:
            together += kind
            continue
        for removal in kind:
            objection = check.objection(plan_of_removals([*together, removal]))
            if objection is None:
                together.append(removal)
            else:
                refused |= reasons_for(removal.group, f"together with other cuts, {objection}")
    return together


def _with_changed_numbers(
    model: nn.Module, check: EquivalenceCheck, kind: list[GroupRemoval], max_tries: int
) -> list[GroupRemoval] | None:
    """The removals with numbers of modules that make them valid; None if none are found."""
    groups = [removal.group for removal in kind]
    numbers = islice(_candidate_numbers(model, groups, plan_of_removals(kind)), max_tries)
    attempts = [[GroupRemoval(removal.group, removal.units, attributes) for removal in kind] for attributes in numbers]
    if any(group.reshapes for group in groups):
        attempts.insert(_N_LIKELY, [GroupRemoval(removal.group, removal.units, resizes=True) for removal in kind])
    return next((attempt for attempt in attempts if check.objection(plan_of_removals(attempt)) is None), None)


# Numbers of the user's own modules


def _candidate_numbers(model: nn.Module, groups: Sequence[ChannelGroup], plan: RemovalPlan) -> Iterator[Attributes]:
    """Sets of numbers to try, the most likely first.

    Args:
        model: The model before the cut.
        groups: Groups of layers of one kind, or a single group.
        plan: What is removed from them.
    """
    found: dict[tuple[str, str], int] = {}
    doubtful: set[tuple[str, str]] = set()
    for group in groups:
        lengths, factors = _changed_sizes(model, group, plan)
        changes = {**factors, **lengths}
        averaging = {average.module for average in group.averages}
        for path in _modules_around(model, group):
            module = model.get_submodule(path)
            is_layer = not module._modules and path not in averaging
            changed, unchanged = _layer_sizes(module, path, plan) if is_layer else (changes, set())
            for name, value in numbers_of(module):
                if value in changed:
                    found.setdefault((path, name), changed[value])
                    # A factor is a small number, such as 4 heads; other numbers may equal it by chance.
                    if value in unchanged or (value in factors and not _counts_heads(name)):
                        doubtful.add((path, name))
    names = list(dict.fromkeys(name for _, name in found))
    head_names = [name for name in names if _counts_heads(name)]
    # Numbers of the modules themselves come before those of a configuration, which much else may read.
    attribute_names = [name for name in names if "." not in name and "[" not in name]
    likely_sets = [[name for name in head_names if name in attribute_names], head_names, attribute_names]
    name_sets = [attribute_names, names, [name for name in names if name not in head_names]]
    name_sets += [[name] for name in names]
    name_sets += [[name for name in names if name != excluded] for excluded in names]
    candidates: list[Attributes] = [
        {key: value for key, value in found.items() if key[1] in chosen and key not in doubtful}
        for chosen in likely_sets
    ]
    candidates += [{key: value for key, value in found.items() if key[1] in chosen} for chosen in name_sets]
    if len(groups) == 1:
        candidates += [{key: value} for key, value in found.items()]
    unique = [candidate for k, candidate in enumerate(candidates) if candidate and candidate not in candidates[:k]]
    yield from unique[:_MAX_TRIES]


def _counts_heads(name: str) -> bool:
    """Whether a number is named like the number of heads or the width of all heads, and not like that of one head."""
    return "head" in name and "dim" not in name and ("size" not in name or "all" in name)


def _layer_sizes(module: nn.Module, path: str, plan: RemovalPlan) -> tuple[dict[int, int], set[int]]:
    """The sizes of the tensors of a single layer: new sizes by old ones that change, and the sizes that stay."""
    changed: dict[int, int] = {}
    unchanged: set[int] = set()
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        for dim, size in enumerate(tensor.shape if tensor is not None else ()):
            n_removed = len(plan.removed.get((f"{path}.{name}" if path else name, dim), ()))
            if n_removed:
                changed[size] = size - n_removed
            else:
                unchanged.add(size)
    return changed, unchanged


def _changed_sizes(model: nn.Module, group: ChannelGroup, plan: RemovalPlan) -> tuple[dict[int, int], dict[int, int]]:
    """New sizes by old ones: of the dimensions that are cut, and of the factors that reshapes split them into."""
    tensors = named_tensors(model)
    lengths: dict[int, int] = {}
    factors: dict[int, int] = {}
    changes = []
    for name, dim in group.tensor_axes:
        old = tensors[name].shape[dim]
        new = old - len(plan.removed.get((name, dim), ()))
        lengths[old] = new
        changes.append((old, new))
    old, new = changes[0]
    for split in group.splits:
        size = split.sizes[split.axis]
        if size not in lengths and old != new and size * new % old == 0:
            factors[size] = size * new // old
    return {before: after for before, after in lengths.items() if before != after}, factors


def _modules_around(model: nn.Module, group: ChannelGroup) -> list[str]:
    """The modules that hold cut tensors and all modules around them, innermost first, without torch's own."""
    paths: dict[str, None] = {}
    holders = [name.rpartition(".")[0] for name, _ in group.tensor_axes]
    for holder in [*holders, *(average.module for average in group.averages)]:
        path = holder
        while path:
            paths[path] = None
            path = path.rpartition(".")[0]
        paths[""] = None
    user_paths = [path for path in paths if not type(model.get_submodule(path)).__module__.startswith("torch.")]
    return sorted(user_paths, key=lambda path: -path.count(".") - bool(path))


# Recomputed buffers


def exclude_recomputed_buffers(
    model: nn.Module, check: EquivalenceCheck, buffers: Mapping[str, Tensor], removals: Sequence[GroupRemoval]
) -> tuple[list[GroupRemoval], dict[str, str]]:
    """Return the removals that cut no recomputed buffer, and why the others cannot be carried out.

    Args:
        model: The user's model, which may not have run yet.
        check: Makes copies of the model.
        buffers: The non-persistent buffers of a copy that has run.
        removals: The intended removals.
    """
    cut_names = {name for removal in removals for name, _ in removal.group.tensor_axes if name in buffers}
    recomputed = {name for name in sorted(cut_names) if _is_recomputed(model, check, name, buffers[name])}
    kept: list[GroupRemoval] = []
    reasons: dict[str, str] = {}
    for removal in removals:
        name = next((name for name, _ in removal.group.tensor_axes if name in recomputed), None)
        if name is None:
            kept.append(removal)
        else:
            reason = f"the buffer {name!r} would be cut too, but the forward pass computes it again"
            reasons |= reasons_for(removal.group, reason)
    return kept, reasons


def _is_recomputed(model: nn.Module, check: EquivalenceCheck, name: str, buffer: Tensor) -> bool:
    """Whether the forward pass computed `buffer`, or computes it where it is missing or has another shape."""
    before = non_persistent_buffers(model).get(name)
    if before is None or before.shape != buffer.shape:
        return True
    for start in (None, buffer.new_zeros((1,) * buffer.ndim)):
        tried = check.fresh()
        run(tried, check.inputs[0])
        aliases = [alias for alias, tensor in non_persistent_buffers(tried).items() if tensor is tried.get_buffer(name)]
        for path, _, last in (alias.rpartition(".") for alias in aliases):
            tried.get_submodule(path)._buffers[last] = start
        try:
            run(tried, check.inputs[0])
        except Exception:  # noqa: BLE001 - code that needs the buffer as it was may raise anything
            continue
        after = non_persistent_buffers(tried).get(name)
        if after is not None and after is not start and after.shape == buffer.shape:
            return True
    return False
