"""Along which dimension of a weight do its outputs lie? That depends on what reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from torch import fx

from nbcompress.compress.coupling.call import Call, size_of
from nbcompress.compress.coupling.labels import Labels

# The original dimensions in each dimension of what a weight became on its way to its reader.
Origins = tuple[frozenset[int], ...]

_SAME = ("to", "_to_copy", "contiguous", "clone", "detach", "alias")
# Operators that read a weight whose outputs are not along its first dimension: argument and dimension.
_TABLES = ("embedding", "embedding_bag", "index", "index_select")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_SECOND = {"addmm": 2, "baddbmm": 2, "mm": 1, "bmm": 1, "matmul": 1, "_grouped_mm": 1, "grouped_mm_fallback": 1}


def output_dims(node: fx.Node) -> set[int]:
    """The dimensions of the weight `node` along which its outputs lie, for everything that reads it."""
    found: set[int] = set()
    for user, source, origins in _readers(node, tuple(frozenset([dim]) for dim in range(len(_shape(node))))):
        if origins:
            found |= _outputs(user, source, origins)
    return found


def _readers(node: fx.Node, origins: Origins) -> Iterator[tuple[fx.Node, fx.Node, Origins]]:
    """Each call that reads `node`, or what became of it when its dimensions were put in another order or form."""
    for user in node.users:
        if Call(user, Labels(), {}).name.startswith("_assert"):
            continue
        after = _passed_on(user, node, origins)
        if after is None:
            yield user, node, origins
        else:
            yield from _readers(user, after)


def _passed_on(user: fx.Node, node: fx.Node, origins: Origins) -> Origins | None:
    call = Call(user, Labels(), {})
    if call.name in _SAME:
        return origins
    if call.name == "permute":
        return tuple(origins[dim] for dim in call["dims"])
    if call.name == "transpose":
        order = list(origins)
        order[call["dim0"]], order[call["dim1"]] = origins[call["dim1"]], origins[call["dim0"]]
        return tuple(order)
    if call.name in ("t", "numpy_T"):
        return origins[::-1]
    return _regrouped(_shape(node), origins, _shape(user)) if call.name in ("reshape", "view") else None


def _regrouped(before: Sequence[int], origins: Origins, after: Sequence[int]) -> Origins:
    """Dimensions in the runs of both shapes that have as many numbers belong to each other."""
    result: list[frozenset[int]] = []
    first = start = 0
    if 0 in before:
        return (frozenset[int](),) * len(after)
    while start < len(after):
        last, end = first + 1, start + 1
        while prod(before[first:last]) != prod(after[start:end]):
            if prod(before[first:last]) < prod(after[start:end]):
                last += 1
            else:
                end += 1
        run = frozenset[int]().union(*(origins[dim] for dim in range(first, min(last, len(before))) if before[dim] > 1))
        result += [run] * (end - start)
        first, start = last, end
    return tuple(result)


def _outputs(user: fx.Node, source: fx.Node, origins: Origins) -> frozenset[int]:
    name = Call(user, Labels(), {}).name
    if name == "einsum":
        return _outputs_of_einsum(user, source, origins)
    if name in _TABLES or _is_second(user, source):
        return origins[-1]
    if name in _TRANSPOSED and len(origins) > 1:
        return origins[1]
    # A bare parameter that is added, as the embedding of a class, has a first dimension for the batch.
    return origins[-1 if _shape(source)[:1] == (1,) else 0]


def _is_second(user: fx.Node, node: fx.Node) -> bool:
    """Whether `user` multiplies by `node` from the right."""
    place = _SECOND.get(Call(user, Labels(), {}).name)
    return place is not None and len(user.args) > place and user.args[place] is node


def _outputs_of_einsum(user: fx.Node, source: fx.Node, origins: Origins) -> frozenset[int]:
    """What only this operand brings into the result."""
    equation, operands = user.args[0], user.args[1]
    terms, _, result = str(equation).replace(" ", "").partition("->")
    own = terms.split(",")[list(operands).index(source)]  # type: ignore[arg-type]
    alone = [place for place, letter in enumerate(own) if letter in result and terms.count(letter) == 1]
    return frozenset[int]().union(*(origins[place] for place in alone))


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(map(size_of, node.meta["val"].shape))


__all__ = ["output_dims"]
