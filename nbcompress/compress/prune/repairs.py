"""Numbers in the user's own modules that must follow a cut.

Attention that writes `view(batch, length, self.n_heads, -1)`, or a network that writes `view(-1, self.n_flat)`, runs
on when that number is changed as well. Which number it is cannot be read from the graph, where it is a constant. So
the modules around the cut layers, and the configurations that they hold, are searched for whole numbers that equal a
size that changes, and a few of these are tried; the comparison with the masked model decides. Layers of one kind are
tried together, since they may share a configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from nbcompress.compress.coupling import Group, named_tensors
from nbcompress.compress.numbers import numbers_of
from nbcompress.compress.prune.cutting import Plan

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
        averaging = {one.module for one in group.averages}
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
    sets += [[one] for one in names]
    sets += [[name for name in names if name != one] for one in names]
    first = [[name for name in heads if name in own], heads, own]
    tries: list[Attributes] = [
        {key: value for key, value in found.items() if key[1] in one and key not in doubtful} for one in first
    ]
    tries += [{key: value for key, value in found.items() if key[1] in one} for one in sets]
    if len(groups) == 1:
        tries += [{key: value} for key, value in found.items()]
    unique = [one for k, one in enumerate(tries) if one and one not in tries[:k]]
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
    for path in [name.rpartition(".")[0] for name, _ in group.places] + [one.module for one in group.averages]:
        while path:
            paths[path] = None
            path = path.rpartition(".")[0]
        paths[""] = None
    own = [path for path in paths if not type(model.get_submodule(path)).__module__.startswith("torch.")]
    return sorted(own, key=lambda path: -path.count(".") - bool(path))


__all__ = ["Attributes", "repairs_of"]
