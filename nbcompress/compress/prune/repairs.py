"""Numbers in the user's own modules that must follow a cut.

Attention that writes `view(batch, length, self.n_heads, -1)`, or a network that writes `view(-1, self.n_flat)`, runs
on when that number is changed as well. Which number it is cannot be read from the graph, where it is a constant. So
the modules around the cut layers are searched for whole numbers that equal a size that changes, and a few of these
are tried; the comparison with the masked model decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from nbcompress.compress.coupling import Group, named_tensors
from nbcompress.compress.prune.cutting import Plan

Attributes = Mapping[tuple[str, str], int]

# Each try costs a few runs of the model.
_MOST_TRIES = 24


def repairs_of(model: nn.Module, group: Group, plan: Plan) -> Iterator[Attributes]:
    """Sets of numbers to try, the likeliest first."""
    changes = _changed_sizes(model, group, plan)
    found: dict[tuple[str, str], int] = {}
    for path in _around(model, group):
        for name, value in vars(model.get_submodule(path)).items():
            if type(value) is int and not name.startswith("_") and value in changes:
                found[path, name] = changes[value]
    heads = {key: value for key, value in found.items() if "head" in key[1] and "dim" not in key[1]}
    rest = {key: value for key, value in found.items() if key not in heads}
    tries: list[Attributes] = [found, heads, rest]
    tries += [{key: value} for key, value in found.items()]
    tries += [{key: value for key, value in found.items() if key != one} for one in found]
    unique = [one for k, one in enumerate(tries) if one and one not in tries[:k]]
    yield from unique[:_MOST_TRIES]


def _changed_sizes(model: nn.Module, group: Group, plan: Plan) -> dict[int, int]:
    """New by old size: of the dimensions that are cut, and of the factors that reshapes split them into."""
    tensors = named_tensors(model)
    changes: dict[int, int] = {}
    shares = []
    for name, dim in group.places:
        old = tensors[name].shape[dim]
        new = old - len(plan.removed.get((name, dim), ()))
        changes[old] = new
        shares.append((old, new))
    old, new = shares[0]
    for split in group.splits:
        size = split.sizes[split.axis]
        if size * new % old == 0:
            changes.setdefault(size, size * new // old)
    return {before: after for before, after in changes.items() if before != after}


def _around(model: nn.Module, group: Group) -> list[str]:
    """The modules that hold what is cut and those around them, the innermost first, without torch's own layers."""
    paths: dict[str, None] = {}
    for name, _ in group.places:
        path = name.rpartition(".")[0]
        while path:
            paths[path] = None
            path = path.rpartition(".")[0]
        paths[""] = None
    own = [path for path in paths if not type(model.get_submodule(path)).__module__.startswith("torch.")]
    return sorted(own, key=lambda path: -path.count(".") - bool(path))


__all__ = ["Attributes", "repairs_of"]
