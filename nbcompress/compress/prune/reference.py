"""What the masked model computes if its norms average over the channels that are left.

A layer norm averages over all channels of its input. One that is zero counts as well, so a model that has lost
channels under a norm cannot equal the masked model as it is. It equals the masked model whose norms do not look at
these channels. That one is run here along its traced graph, operator by operator. A call that averages over channels
of which some go is given what is left of its input and weights; where it gives a number for each channel, those that
go get zero. All other operators run on the full width, on parameters of full size: nothing of the cut model is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from nbcompress.compress.coupling import Average, Trace, named_tensors
from nbcompress.compress.prune.cutting import Plan

# The indices that are left, by dimension counted from the last.
Kept = Mapping[int, list[int]]


class AveragesOverKept(nn.Module):
    """A masked model whose averages leave out what is masked.

    Args:
        masked: Its parameters and buffers are those of the traced model.
        traced: Its graph, for inputs of the shapes that it is called with.
        averages: Of this graph.
        plan: What is masked.
    """

    def __init__(self, masked: nn.Module, traced: Trace, averages: tuple[Average, ...], plan: Plan) -> None:
        super().__init__()
        self.masked, self.traced = masked, traced
        self.kept: dict[fx.Node, dict[int, list[int]]] = {}
        for average in averages:
            left = average.kept(plan.removed)
            if len(left) < len(average.sources):
                self.kept.setdefault(average.node, {})[average.dim] = left

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """The tensors that the model returns, in the order of `tensors_of`."""
        own = named_tensors(self.masked)
        given = dict(zip(self.traced.inputs, pytree.tree_leaves((args, kwargs)), strict=True))
        given |= {node: own[name] for node, name in self.traced.tensors.items()} | dict(self.traced.constants)
        graph = self.traced.graph
        values = [given.get(node) for node in graph.find_nodes(op="placeholder")]
        return list(_Interpreter(cast(fx.GraphModule, graph.owning_module), self.kept).run(*values))


class _Interpreter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, kept: Mapping[fx.Node, Kept]) -> None:
        super().__init__(module)
        self._kept = kept

    def run_node(self, n: fx.Node) -> Any:
        """Run one call, over a part of its input if it is to be."""
        if n not in self._kept:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return _over(cast(torch._ops.OpOverload, n.target), args, kwargs, self._kept[n])

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Calls of parts of the graph, as of what runs under `torch.no_grad()`, are followed into the parts."""
        parts: list[Any] = [
            _Interpreter(one, self._kept).run if isinstance(one, fx.GraphModule) else one for one in args
        ]
        return super().call_function(target, tuple(parts), kwargs)


# Operators that give a number for each channel, where others give one for all.
_NORMS = ("layer_norm", "rms_norm", "group_norm")


def _over(target: torch._ops.OpOverload, args: Any, kwargs: Any, kept: Kept) -> Any:
    """Call `target` on the part `kept` of its input."""
    schema = target._schema
    names = [one.name for one in schema.arguments]
    given: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
    x: Tensor = given[names[0]]
    given[names[0]] = _part(x, kept)
    name = schema.name.split("::")[-1]
    if name not in _NORMS:
        return target(**given)
    # Weights have the last dimensions of the input; those of a group norm its channels alone.
    along = {-1: next(iter(kept.values()))} if name == "group_norm" else kept
    given |= {one: _part(given[one], along) for one in ("weight", "bias") if given.get(one) is not None}
    if "normalized_shape" in given:
        given["normalized_shape"] = list(given[names[0]].shape[-len(given["normalized_shape"]) :])
    return _put_back(target(**given), x, kept)


def _part(x: Tensor, kept: Kept) -> Tensor:
    for dim, indices in kept.items():
        x = x.index_select(dim, torch.tensor(indices, device=x.device))
    return x


def _put_back(part: Tensor, x: Tensor, kept: Kept) -> Tensor:
    """A tensor of the shape of `x` with `part` in its places, and zeros elsewhere."""
    shape = list(part.shape)
    for dim, indices in kept.items():
        shape[dim] = x.shape[dim]
        part = part.new_zeros(shape).index_copy(dim, torch.tensor(indices, device=x.device), part)
    return part


__all__ = ["AveragesOverKept"]
