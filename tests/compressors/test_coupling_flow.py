"""Groups by hand where control flow, loops and unequal pieces lie between layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nbcompress.compressors import prune
from nbcompress.compressors.coupling import Group, as_inputs, couple, trace


def groups_of(model: nn.Module, example: Tensor) -> tuple[Group, ...]:
    model = model.eval()
    return tuple(couple(model, trace(model, as_inputs(example))).groups)


def places(group: Group) -> set[str]:
    return {f"{name}[{dim}]" for name, dim in group.places}


class Branches(nn.Module):
    """One of two layers, by what the data says."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.left, self.right = nn.Linear(3, 4), nn.Linear(4, 6), nn.Linear(4, 6)
        self.leave = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        chosen: Any = torch.cond(h.sum() > 0, lambda t: self.left(t).relu(), lambda t: self.right(t).tanh(), (h,))
        out: Tensor = self.leave(chosen)
        return out


def test_both_branches_of_a_condition_lose_the_same_channels() -> None:
    enter, inner = groups_of(Branches(), torch.randn(2, 3))
    assert places(enter) == {"enter.weight[0]", "enter.bias[0]", "left.weight[1]", "right.weight[1]"}
    assert places(inner) == {"left.weight[0]", "left.bias[0]", "right.weight[0]", "right.bias[0]", "leave.weight[1]"}
    assert [len(group.units) for group in (enter, inner)] == [4, 6]
    assert inner.units[5][("right.weight", 0)] == inner.units[5][("leave.weight", 1)] == (5,)


def test_a_model_with_a_condition_is_cut_in_both_branches() -> None:
    torch.manual_seed(0)
    model = Branches()
    with torch.no_grad():
        # Channel 1 of the first layer gives nothing and is not read, channels 0 and 4 of both branches give nothing.
        model.enter.weight[1], model.enter.bias[1] = 0.0, 0.0
        for branch in (model.left, model.right):
            branch.weight[:, 1], branch.weight[[0, 4]], branch.bias[[0, 4]] = 0.0, 0.0, 0.0
    examples = torch.randn(8, 3)
    small = prune(model, amount=1 / 3, granularity="channel", example=examples)
    assert [tuple(parameter.shape) for parameter in small.parameters() if parameter.ndim > 1] == [
        (3, 3),
        (4, 3),
        (4, 3),
        (2, 4),
    ]
    with torch.no_grad():
        sums = model.enter(examples).sum(1)
        for row in (int(sums.argmin()), int(sums.argmax())):
            x = examples[row : row + 1]
            torch.testing.assert_close(small(x), model(x))
    assert sums.min() < 0 < sums.max()


class Loop(nn.Module):
    """A recurrent cell, called step by step."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 4), nn.Linear(5, 2)
        self.cell: Any = kind(4, 5)  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in range(x.shape[1]):
            state = self.cell(self.enter(x[:, step]), state)
        out: Tensor = self.leave(state[0] if isinstance(state, tuple) else state)
        return out


@pytest.mark.parametrize(("kind", "n_gates"), [(nn.RNNCell, 1), (nn.GRUCell, 3), (nn.LSTMCell, 4)])
def test_a_cell_in_a_loop_loses_a_unit_from_every_gate(kind: type[nn.RNNCellBase], n_gates: int) -> None:
    enter, hidden = groups_of(Loop(kind), torch.randn(2, 3, 3))
    assert places(enter) == {"enter.weight[0]", "enter.bias[0]", "cell.weight_ih[1]"}
    gates = tuple(1 + 5 * number for number in range(n_gates))
    assert hidden.units[1] == {
        ("cell.weight_ih", 0): gates,
        ("cell.weight_hh", 0): gates,
        ("cell.weight_hh", 1): (1,),
        ("cell.bias_ih", 0): gates,
        ("cell.bias_hh", 0): gates,
        ("leave.weight", 1): (1,),
    }
    assert [len(group.units) for group in (enter, hidden)] == [4, 5]


class Pieces(nn.Module):
    """A layer whose outputs go to several others, in pieces."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.up = nn.Linear(3, sum(sizes))
        self.parts = nn.ModuleList(nn.Linear(n, 2) for n in sizes)

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(self.up(x), list(self.sizes), dim=-1)
        return torch.stack([part(piece) for part, piece in zip(self.parts, pieces, strict=True)]).sum(0)


def test_unequal_pieces_lose_channels_of_their_own() -> None:
    first, second = groups_of(Pieces(3, 5), torch.randn(2, 3))
    assert [len(group.units) for group in (first, second)] == [3, 5]
    assert first.units[1] == {("up.weight", 0): (1,), ("up.bias", 0): (1,), ("parts.0.weight", 1): (1,)}
    # The second piece begins behind the three of the first.
    assert second.units[4] == {("up.weight", 0): (7,), ("up.bias", 0): (7,), ("parts.1.weight", 1): (4,)}


def test_pieces_of_several_times_a_size_lose_so_many_times_the_places() -> None:
    # As where several heads of queries share one of keys.
    (group,) = groups_of(Pieces(2, 4), torch.randn(2, 3))
    assert [unit[("up.weight", 0)] for unit in group.units] == [(0, 2, 4), (1, 3, 5)]
    assert group.units[1][("parts.0.weight", 1)] == (1,)
    assert group.units[1][("parts.1.weight", 1)] == (1, 3)


def test_equal_pieces_lose_the_same_places() -> None:
    (group,) = groups_of(Pieces(3, 3), torch.randn(2, 3))
    assert [unit[("up.weight", 0)] for unit in group.units] == [(0, 3), (1, 4), (2, 5)]
    assert group.units[2][("parts.1.weight", 1)] == (2,)


def test_a_piece_of_one_channel_stays() -> None:
    model = Pieces(2, 1).eval()
    coupling = couple(model, trace(model, as_inputs(torch.randn(2, 3))))
    (group,) = coupling.groups
    assert [unit[("up.weight", 0)] for unit in group.units] == [(0,), (1,)]
    assert coupling.frozen["up.weight"] == "split_with_sizes takes a single one of it"
