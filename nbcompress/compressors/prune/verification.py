"""Buffers that the forward pass makes anew when they do not fit its inputs: a cut through one would be undone.

Numbers in the user's own modules that must follow a cut.

Attention that writes `view(batch, length, self.n_heads, -1)`, or a network that writes `view(-1, self.n_flat)`, runs
on when that number is changed as well. Which number it is cannot be read from the graph, where it is a constant. So
the modules around the cut layers, and the configurations that they hold, are searched for whole numbers that equal a
size that changes, and a few of these are tried; the comparison with the masked model decides. Layers of one kind are
tried together, since they may share a configuration.

Which of the intended cuts can be carried out: those after which the model still does what it did.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from torch import Tensor, nn

from nbcompress.compressors.buffers import unstored_buffers
from nbcompress.compressors.coupling import Group, named_tensors
from nbcompress.compressors.layers import copied
from nbcompress.compressors.numbers import numbers_of
from nbcompress.compressors.prune.cutting import Plan, plan_of
from nbcompress.compressors.prune.equivalence import Check, run

# New numbers by dotted name of a module and path of the number in it.
Attributes = Mapping[tuple[str, str], int]

# Each try costs a few runs of the model.
_MOST_TRIES = 24


def repairs_of(model: nn.Module, groups: Sequence[Group], plan: Plan) -> Iterator[Attributes]:
    """Sets of numbers to try, the likeliest first.

    Args:
        model: Before the cut.
        groups: All of one kind, or a single one.
        plan: What goes from them.
    """
    found: dict[tuple[str, str], int] = {}
    doubtful: set[tuple[str, str]] = set()
    for group in groups:
        lengths, factors = _changed_sizes(model, group, plan)
        changes = {**factors, **lengths}
        averaging = {average.module for average in group.averages}
        for path in _around(model, group):
            module = model.get_submodule(path)
            is_layer = not module._modules and path not in averaging
            changed, same = _sizes_of(module, path, plan) if is_layer else (changes, set())
            for name, value in numbers_of(module):
                if value in changed:
                    found.setdefault((path, name), changed[value])
                    # A factor is a small number, such as 4 heads, that much else may be by chance.
                    if value in same or (value in factors and not _counts_heads(name)):
                        doubtful.add((path, name))
    names = list(dict.fromkeys(name for _, name in found))
    heads = [name for name in names if _counts_heads(name)]
    own = [name for name in names if "." not in name and "[" not in name]
    # A configuration may be read by much else, so it comes after the numbers of the modules themselves.
    sets = [own, names, [name for name in names if name not in heads]]
    sets += [[name] for name in names]
    sets += [[name for name in names if name != one] for one in names]
    first = [[name for name in heads if name in own], heads, own]
    tries: list[Attributes] = [
        {key: value for key, value in found.items() if key[1] in one and key not in doubtful} for one in first
    ]
    tries += [{key: value for key, value in found.items() if key[1] in group} for group in sets]
    if len(groups) == 1:
        tries += [{key: value} for key, value in found.items()]
    unique = [attempt for k, attempt in enumerate(tries) if attempt and attempt not in tries[:k]]
    yield from unique[:_MOST_TRIES]


def _counts_heads(name: str) -> bool:
    """Whether a number is called like the number of heads or the width of all of them, and not like that of one."""
    return "head" in name and "dim" not in name and ("size" not in name or "all" in name)


def _sizes_of(module: nn.Module, path: str, plan: Plan) -> tuple[dict[int, int], set[int]]:
    """Of the tensors that a single layer holds itself: new by old sizes that change, and sizes that stay."""
    changed: dict[int, int] = {}
    same: set[int] = set()
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        for dim, size in enumerate(tensor.shape if tensor is not None else ()):
            n_removed = len(plan.removed.get((f"{path}.{name}" if path else name, dim), ()))
            if n_removed:
                changed[size] = size - n_removed
            else:
                same.add(size)
    return changed, same


def _changed_sizes(model: nn.Module, group: Group, plan: Plan) -> tuple[dict[int, int], dict[int, int]]:
    """New by old size: of the dimensions that are cut, and of the factors that reshapes split them into."""
    tensors = named_tensors(model)
    lengths: dict[int, int] = {}
    factors: dict[int, int] = {}
    shares = []
    for name, dim in group.places:
        old = tensors[name].shape[dim]
        new = old - len(plan.removed.get((name, dim), ()))
        lengths[old] = new
        shares.append((old, new))
    old, new = shares[0]
    for split in group.splits:
        size = split.sizes[split.axis]
        if size not in lengths and old != new and size * new % old == 0:
            factors[size] = size * new // old
    return {before: after for before, after in lengths.items() if before != after}, factors


def _around(model: nn.Module, group: Group) -> list[str]:
    """The modules that hold what is cut and those around them, the innermost first, without torch's own layers."""
    paths: dict[str, None] = {}
    for path in [name.rpartition(".")[0] for name, _ in group.places] + [average.module for average in group.averages]:
        while path:
            paths[path] = None
            path = path.rpartition(".")[0]
        paths[""] = None
    own = [path for path in paths if not type(model.get_submodule(path)).__module__.startswith("torch.")]
    return sorted(own, key=lambda path: -path.count(".") - bool(path))


@dataclass(frozen=True)
class Removal:
    """What is to go from one group, and which numbers of modules change with it."""

    group: Group
    units: tuple[int, ...]
    attributes: Attributes = field(default_factory=dict)


def plan_for(removals: Sequence[Removal]) -> Plan:
    """The plan that carries out all of `removals`."""
    attributes: dict[tuple[str, str], int] = {}
    for removal in removals:
        attributes |= removal.attributes
    units = (removal.group.units[unit] for removal in removals for unit in removal.units)
    return plan_of(units, attributes, (average for removal in removals for average in removal.group.averages))


def named(group: Group, why: str) -> dict[str, str]:
    """The reason `why` nothing of `group` goes, by the names of its weights."""
    return dict.fromkeys(group.makers or (group.places[0][0],), why)


def agreed(model: nn.Module, check: Check, removals: list[Removal]) -> tuple[list[Removal], dict[str, str]]:
    """The removals that the comparison allows, together, and why the others are refused.

    If all together do not pass, and not with other numbers of heads either, layers of one kind (whose names differ in
    numbers only) are tried together, then one by one.
    """
    if check.objection(plan_for(removals)) is None:
        return removals, {}
    repaired = _repaired(model, check, removals, most=2)
    if repaired is not None:
        return repaired, {}
    kinds: dict[str, list[Removal]] = {}
    for removal in removals:
        kinds.setdefault(re.sub(r"\d+", "#", removal.group.name), []).append(removal)
    refused: dict[str, str] = {}
    allowed = [_allowed(model, check, kind, refused) for kind in kinds.values()]
    kept = [one for kind in allowed for one in kind]
    if not kept or check.objection(plan_for(kept)) is None:
        return kept, refused
    # Each part is right alone, but not all together.
    together: list[Removal] = []
    for kind in allowed:
        if check.objection(plan_for([*together, *kind])) is None:
            together += kind
            continue
        for one in kind:
            why = check.objection(plan_for([*together, one]))
            if why is None:
                together.append(one)
            else:
                refused |= named(one.group, f"together with other cuts, {why}")
    return together, refused


def _allowed(model: nn.Module, check: Check, kind: list[Removal], refused: dict[str, str]) -> list[Removal]:
    """What may go of layers of one kind: of all of them, or of each for itself."""
    why = check.objection(plan_for(kind))
    if why is None:
        return kind
    repaired = _repaired(model, check, kind)
    if repaired is not None:
        return repaired
    if len(kind) > 1:
        return [one for each in kind for one in _allowed(model, check, [each], refused)]
    refused |= named(kind[0].group, why)
    return []


def _repaired(model: nn.Module, check: Check, kind: list[Removal], most: int | None = None) -> list[Removal] | None:
    for attributes in islice(repairs_of(model, [one.group for one in kind], plan_for(kind)), most):
        attempt = [Removal(one.group, one.units, attributes) for one in kind]
        if check.objection(plan_for(attempt)) is None:
            return attempt
    return None


def without_remade(model: nn.Module, check: Check, removals: Sequence[Removal]) -> tuple[list[Removal], dict[str, str]]:
    """The removals that go through no such buffer, and why the others cannot be carried out.

    Args:
        model: As the user has it, which may not have run yet.
        check: With a copy that ran.
        removals: What is to go.
    """
    whole = unstored_buffers(check.originals[0])
    places = {name for removal in removals for name, _ in removal.group.places if name in whole}
    remade = {name for name in sorted(places) if _is_remade(model, check, name, whole[name])}
    kept: list[Removal] = []
    reasons: dict[str, str] = {}
    for removal in removals:
        name = next((name for name, _ in removal.group.places if name in remade), None)
        if name is None:
            kept.append(removal)
        else:
            reasons |= named(removal.group, f"the buffer {name!r} goes with it, which the forward pass makes anew")
    return kept, reasons


def _is_remade(model: nn.Module, check: Check, name: str, buffer: Tensor) -> bool:
    """Whether the forward pass made `buffer`, or makes it where it is missing or of another shape."""
    before = unstored_buffers(model).get(name)
    if before is None or before.shape != buffer.shape:
        return True
    for start in (None, buffer.new_zeros((1,) * buffer.ndim)):
        tried = copied(check.originals[0])
        same = [
            other
            for other, unstored_buffer in unstored_buffers(tried).items()
            if unstored_buffer is tried.get_buffer(name)
        ]
        for path, _, last in (other.rpartition(".") for other in same):
            tried.get_submodule(path)._buffers[last] = start
        try:
            run(tried, check.inputs[0])
        except Exception:  # noqa: BLE001 - code that needs the buffer as it was raises anything
            continue
        made = unstored_buffers(tried).get(name)
        if made is not None and made is not start and made.shape == buffer.shape:
            return True
    return False
