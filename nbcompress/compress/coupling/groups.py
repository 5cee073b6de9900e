"""From a traced model to the groups of channels that can only be removed together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import fx, nn

from nbcompress.compress.attention import HeadwiseAttention
from nbcompress.compress.coupling.call import Marks, Split, owner_of
from nbcompress.compress.coupling.labels import NO_LABEL, Axes, Labels
from nbcompress.compress.coupling.makers import output_dims
from nbcompress.compress.coupling.trace import Trace, named_tensors
from nbcompress.compress.coupling.walk import Walk, axes_in

# One dimension of one parameter or buffer, by its first name.
Place = tuple[str, int]
# One unit: all indices, in all places, that go together.
Unit = Mapping[Place, tuple[int, ...]]


@dataclass(frozen=True)
class Average:
    """A call of the graph that averages over channels that may go, as a layer norm does.

    Attributes:
        node: The call.
        dim: The dimension of its input that it averages over, counted from the last.
        sources: For each index of that dimension, where a parameter holds the channel; None if none does.
    """

    node: fx.Node
    dim: int
    sources: tuple[tuple[Place, int] | None, ...]

    @property
    def module(self) -> str:
        """Dotted name of the module that makes the call."""
        return owner_of(self.node)

    def kept(self, removed: Mapping[Place, Collection[int]]) -> list[int]:
        """The indices that are left when `removed` goes from parameters."""
        return [
            index
            for index, source in enumerate(self.sources)
            if source is None or source[1] not in removed.get(source[0], ())
        ]


@dataclass(frozen=True)
class Group:
    """Units that sit in the same places: the channels of one layer and of everything coupled with it.

    Attributes:
        places: Where the units sit.
        units: What may be removed, one by one, but never all.
        splits: Reshapes that split a dimension of this group.
        makers: Weights whose outputs these channels are.
        averages: Calls that average over these channels.
    """

    places: tuple[Place, ...]
    units: tuple[Unit, ...]
    splits: tuple[Split, ...] = ()
    makers: tuple[str, ...] = ()
    averages: tuple[Average, ...] = ()

    @property
    def n_stay(self) -> int:
        """How many units must stay. A norm over a single number gives the same for whatever it is."""
        return 2 if self.averages else 1

    @property
    def name(self) -> str:
        """The first weight whose outputs these channels are."""
        return (self.makers or tuple(name for name, _ in self.places))[0]


@dataclass(frozen=True)
class Coupling:
    """What may be cut from a model, and what may not.

    Attributes:
        groups: In the order of the model's parameters.
        frozen: Why the outputs of a parameter may not be cut, by its name.
        averages: All calls that average over what may be cut.
    """

    groups: tuple[Group, ...]
    frozen: Mapping[str, str] = field(default_factory=dict)
    averages: tuple[Average, ...] = ()


def couple(model: nn.Module, traced: Trace, *, norms: bool = False) -> Coupling:
    """Follow the channels of `model` through its graph.

    Where a reshape splits a dimension in a way that lets nothing of it go, the other factors are tried, as long as
    that sets more free.

    Args:
        model: The model that was traced.
        traced: Its graph.
        norms: Whether channels that a norm averages over may be cut.
    """
    choices: dict[str, int] = {}
    best, stuck = _couple_once(model, traced, choices, norms)
    for _ in range(_MOST_CHOICES):
        choices |= {split.node: _next(split) for split in stuck}
        if not stuck:
            break
        other, stuck = _couple_once(model, traced, choices, norms)
        if sum(len(one.units) for one in other.groups) > sum(len(one.units) for one in best.groups):
            best = other
    return best


# Dimensions are split into two or three factors, so two changes try them all.
_MOST_CHOICES = 2


def _next(split: Split) -> int:
    return split.varying[(split.varying.index(split.axis) + 1) % len(split.varying)]


def _couple_once(
    model: nn.Module, traced: Trace, choices: Mapping[str, int], norms: bool
) -> tuple[Coupling, list[Split]]:
    """The coupling under `choices`, and the splits with a choice that end frozen."""
    labels = Labels()
    names = set(traced.tensors.values())
    own = {
        name: tuple(labels.fresh(size) for size in tensor.shape)
        for name, tensor in named_tensors(model).items()
        if name in names
    }
    _freeze_opaque(model, own, labels)
    walk = Walk(labels, choices, norms)
    for marks in walk.through(traced.graph, {node: own[name] for node, name in traced.tensors.items()}):
        for axes in axes_in(marks):
            labels.freeze_all(axes, "it is an output of the model, and outputs keep their shape")
    labels.settle_parts()
    outputs: dict[str, set[int]] = {}
    for node, name in traced.tensors.items():
        outputs.setdefault(name, set()).update(output_dims(node))
    splits = [(split, _roots_of(marks, labels)) for split, marks in walk.splits]
    weights = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    stuck = [split for split, roots in splits if len(split.varying) > 1 and roots <= {NO_LABEL}]
    averages = _averages_of(walk, own, labels)
    return _gather(own, labels, outputs, splits, averages, weights), stuck


def _freeze_opaque(model: nn.Module, own: Mapping[str, Axes], labels: Labels) -> None:
    """Freeze what is inside of the user's own kinds of torch's attention, whose code may count on its form."""
    tensors = named_tensors(model)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and not isinstance(module, HeadwiseAttention):
            inside = {id(one) for one in module.parameters()}
            for name, axes in own.items():
                if id(tensors[name]) in inside:
                    kind = type(module).__name__
                    labels.freeze_all(axes, f"{kind}, a class made from torch.nn.MultiheadAttention, cannot lose heads")


def _gather(
    own: Mapping[str, Axes],
    labels: Labels,
    outputs: Mapping[str, set[int]],
    splits: list[tuple[Split, set[int]]],
    averages: list[tuple[Average, set[int]]],
    weights: set[str],
) -> Coupling:
    """Collect what the labels say: a unit for each class, a group for units in the same places."""
    units: dict[int, dict[Place, list[int]]] = {}
    why: dict[str, str] = {}
    for name, axes in own.items():
        for dim, axis in enumerate(axes):
            for index, root in enumerate(labels.roots(axis).tolist()):
                if root != NO_LABEL:
                    units.setdefault(root, {}).setdefault((name, dim), []).append(index)
                elif dim in outputs[name] and axis is not None:
                    why.setdefault(name, labels.why_frozen(int(axis[index])) or "it is fixed")
    alike: dict[tuple[Place, ...], list[int]] = {}
    for root, unit in units.items():
        alike.setdefault(tuple(unit), []).append(root)
    groups = []
    for places, roots in alike.items():
        # Without a matrix of weights they are no channels, but a lone vector or a buffer.
        if not weights & {name for name, _ in places}:
            continue
        members = tuple({place: tuple(indices) for place, indices in units[root].items()} for root in roots)
        touched = tuple(split for split, found in splits if found & set(roots))
        over = tuple(average for average, found in averages if found & set(roots))
        made = [name for name, dim in places if dim in outputs[name]]
        wide = [name for name in made if len(own[name]) > 1]
        groups.append(Group(places, members, touched, tuple(wide or made), over))
    return Coupling(tuple(groups), why, tuple(average for average, _ in averages))


def _averages_of(walk: Walk, own: Mapping[str, Axes], labels: Labels) -> list[tuple[Average, set[int]]]:
    """What the walk met, and the classes of channels that each average is over."""
    holders: dict[int, tuple[Place, int]] = {}
    for name, axes in own.items() if walk.averages else ():
        for dim, axis in enumerate(axes):
            for index, label in enumerate(() if axis is None else axis.tolist()):
                holders.setdefault(labels.find(label), ((name, dim), index))
    return [
        (
            Average(node, dim, tuple(None if one < 0 else holders.get(labels.find(one)) for one in axis.tolist())),
            set(labels.roots(axis).tolist()) - {NO_LABEL},
        )
        for node, dim, axis in walk.averages
    ]


def _roots_of(marks: Marks, labels: Labels) -> set[int]:
    return {root for axes in axes_in(marks) for axis in axes for root in labels.roots(axis).tolist()}


__all__ = ["Average", "Coupling", "Group", "Place", "Unit", "couple"]
