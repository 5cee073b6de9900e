"""Groups of channels that can only be removed together, and the union-find of channel ids."""

from __future__ import annotations

from itertools import pairwise

import channel_zoo as zoo
import numpy as np
import pytest
import torch
from channel_zoo import ZOO
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nbcompress.compressors.coupling import ChannelDependencies, ChannelGroup, find_dependencies, trace
from nbcompress.compressors.coupling.channel_ids import NO_CHANNEL, ChannelIds
from nbcompress.compressors.coupling.rules_shape import common_factors
from nbcompress.compressors.inputs import inputs_from_example
from nbcompress.errors import CompressionError


def coupling_of(model: nn.Module, example: object) -> ChannelDependencies:
    model = model.eval()
    return find_dependencies(model, trace(model, inputs_from_example(example)))


def tensor_axes(group: ChannelGroup) -> set[str]:
    return {f"{name}[{dim}]" for name, dim in group.tensor_axes}


# Groups written out by hand


def test_the_groups_of_a_resnet_block_with_a_shortcut() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 1), zoo.BasicBlock(4, 6, 2), nn.Conv2d(6, 2, 1))
    coupling = coupling_of(block, torch.randn(2, 3, 8, 8))

    def norm(name: str) -> set[str]:
        return {f"{name}.{part}[0]" for part in ("weight", "bias", "running_mean", "running_var")}

    enter, inner, outer = coupling.groups
    assert tensor_axes(enter) == {"0.weight[0]", "0.bias[0]", "1.conv1.weight[1]", "1.down.0.weight[1]"}
    assert tensor_axes(inner) == {"1.conv1.weight[0]", "1.conv2.weight[1]"} | norm("1.bn1")
    assert tensor_axes(outer) == {"1.conv2.weight[0]", "1.down.0.weight[0]", "2.weight[1]"} | norm("1.bn2") | norm(
        "1.down.1"
    )
    assert [len(group.units) for group in coupling.groups] == [4, 6, 6]
    assert inner.units[2][("1.conv1.weight", 0)] == (2,)
    assert outer.producers == ("1.conv2.weight", "1.down.0.weight")
    assert outer.name == "1.conv2.weight"
    assert coupling.frozen == {
        "2.weight": "it is an output of the model, and outputs keep their shape",
        "2.bias": "it is an output of the model, and outputs keep their shape",
    }


def test_flattening_gives_each_channel_several_inputs_of_the_next_layer() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2 * 2 * 3, 1))
    (group,) = coupling_of(model, torch.randn(1, 1, 2, 3)).groups
    assert [unit[("2.weight", 1)] for unit in group.units] == [(0, 1, 2, 3, 4, 5), (6, 7, 8, 9, 10, 11)]


def test_concatenation_keeps_groups_apart_and_moves_their_indices() -> None:
    first, second, third = coupling_of(zoo.DenseNet(), ZOO["densenet"].example()).groups
    assert second.units[0][("conv3.weight", 1)] == (8,)
    assert first.units[3][("fc.weight", 1)] == (3,)
    assert third.units[5][("fc.weight", 1)] == (17,)
    assert [len(group.units) for group in (first, second, third)] == [8, 4, 6]


def test_a_gate_ties_the_halves() -> None:
    up, mid = coupling_of(zoo.Gate(), ZOO["gate"].example()).groups
    assert up.units[1][("up.weight", 0)] == (1, 17)
    assert mid.units[1][("mid.weight", 0)] == (1, 13)
    assert mid.units[1][("down.weight", 1)] == (1,)


def test_grouped_convolutions_lose_the_same_places_of_every_group() -> None:
    enter, grouped = coupling_of(zoo.Grouped(), ZOO["grouped"].example()).groups
    assert enter.units[1] == {
        ("conv1.weight", 0): (1, 5, 9, 13),
        ("conv1.bias", 0): (1, 5, 9, 13),
        ("conv2.weight", 1): (1,),
    }
    assert grouped.units[1][("conv2.weight", 0)] == (1, 9, 17, 25)
    assert grouped.units[1][("conv3.weight", 1)] == (1, 9, 17, 25)


def test_depthwise_filters_follow_their_input() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 6, 1, groups=3), nn.Conv2d(6, 1, 1))
    (group,) = coupling_of(model, torch.randn(1, 1, 2, 2)).groups
    assert group.units[1][("0.weight", 0)] == (1,)
    assert group.units[1][("1.weight", 0)] == (2, 3)
    assert group.units[1][("2.weight", 1)] == (2, 3)


def test_group_norm_loses_whole_groups() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 1), nn.GroupNorm(3, 6), nn.Conv2d(6, 1, 1))
    (group,) = coupling_of(model, torch.randn(1, 1, 2, 2)).groups
    assert [unit[("0.weight", 0)] for unit in group.units] == [(0, 1), (2, 3), (4, 5)]


def test_heads_go_whole() -> None:
    groups = coupling_of(zoo.PackedAttention(), ZOO["packed attention"].example()).groups
    (heads,) = groups
    assert len(heads.units) == 8
    assert heads.units[1][("qkv.weight", 0)] == (2, 3, 18, 19, 34, 35)
    assert heads.units[1][("out.weight", 1)] == (2, 3)


def test_a_key_head_goes_with_its_query_heads() -> None:
    (heads,) = coupling_of(zoo.GroupedQuery(), ZOO["grouped query"].example()).groups
    assert heads.units[1][("k.weight", 0)] == (4, 5, 6, 7)
    assert heads.units[1][("q.weight", 0)] == tuple(range(8, 16))


def test_recurrent_units_go_from_all_gates_and_layers() -> None:
    groups = coupling_of(zoo.Recurrent("LSTM"), ZOO["lstm"].example()).groups
    hidden = next(group for group in groups if ("rnn.weight_hh_l1", 1) in group.tensor_axes)
    assert hidden.units[1][("rnn.weight_ih_l0", 0)] == (1, 13, 25, 37)
    assert hidden.units[1][("rnn.weight_hh_l0", 1)] == (1,)
    assert hidden.units[1][("rnn.weight_ih_l1", 1)] == (1,)
    assert hidden.units[1][("mid.weight", 1)] == (1,)


def test_a_layer_used_again_ties_its_inputs_to_its_outputs() -> None:
    (group,) = coupling_of(zoo.Reused(), ZOO["reused"].example()).groups
    assert group.units[3][("again.weight", 0)] == group.units[3][("again.weight", 1)] == (3,)


def test_unknown_operators_freeze_what_reaches_them() -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(torch.fft.fft(self.a(x)).real))

    coupling = coupling_of(Waves(), torch.randn(3, 2))
    assert coupling.frozen["a.weight"] == "fft_fft is an operator without a rule for channels"
    assert [group.name for group in coupling.groups] == ["b.weight"]


@pytest.mark.parametrize("code", ["x[:, ::2]", "x[:, 1:3]", "x[:, 0:1]", "x.select(1, 0)[:, None]"])
def test_pieces_that_the_code_fixes_freeze(code: str) -> None:
    class Piece(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 4), nn.LazyLinear(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(eval(code, {"x": self.a(x)}))

    model, example = Piece(), torch.randn(3, 2)
    model(example)
    coupling = coupling_of(model, example)
    assert coupling.groups == ()
    assert "a.weight" in coupling.frozen


@pytest.mark.parametrize("name", [name for name, animal in ZOO.items() if not animal.refused])
def test_units_of_a_group_are_disjoint_and_alike(name: str) -> None:
    model = ZOO[name].build()
    for group in coupling_of(model, ZOO[name].example()).groups:
        for place in group.tensor_axes:
            indices = [index for unit in group.units for index in unit[place]]
            assert len(indices) == len(set(indices))
        assert all(tuple(unit) == group.tensor_axes for unit in group.units)
        assert set(group.producers) <= {name for name, _ in group.tensor_axes}


# Labels


def test_labels_tie_and_freeze_by_class() -> None:
    channel_ids = ChannelIds()
    first, second = channel_ids.new_axis(3), channel_ids.new_axis(3)
    assert channel_ids.tie(first, second, "") is not None
    channel_ids.freeze(second[:1], "because")
    assert channel_ids.roots(first).tolist()[0] == NO_CHANNEL
    assert channel_ids.reason_frozen(int(first[0])) == "because"
    assert channel_ids.roots(first).tolist()[1:] == channel_ids.roots(second).tolist()[1:]


def test_the_first_reason_stays_through_ties() -> None:
    channel_ids = ChannelIds()
    first, second = channel_ids.new_axis(2), channel_ids.new_axis(2)
    channel_ids.freeze(first, "first")
    channel_ids.freeze(first, "second")
    channel_ids.tie(second, first, "third")
    assert channel_ids.reason_frozen(int(second[0])) == "first"


def test_an_axis_that_meets_no_axis_is_frozen() -> None:
    channel_ids = ChannelIds()
    first = channel_ids.new_axis(2)
    assert channel_ids.tie(first, None, "alone") is None
    assert channel_ids.reason_frozen(int(first[1])) == "alone"
    assert channel_ids.tie(None, None, "") is None
    assert channel_ids.new_axis(1) is None
    partly = np.array([NO_CHANNEL, NO_CHANNEL])
    another = channel_ids.new_axis(2)
    channel_ids.tie(another, partly, "constant")
    assert channel_ids.reason_frozen(int(another[0])) == "constant"


def test_axes_of_different_lengths_cannot_be_tied() -> None:
    channel_ids = ChannelIds()
    with pytest.raises(ValueError, match="axes of equal length can be tied, got 2 and 3"):
        channel_ids.tie(channel_ids.new_axis(2), channel_ids.new_axis(3), "")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12), st.sets(st.integers(0, 9), max_size=2))
def test_labels_are_an_equivalence(pairs: list[tuple[int, int]], frozen: set[int]) -> None:
    channel_ids = ChannelIds()
    axis = channel_ids.new_axis(10)
    classes = [{index} for index in range(10)]
    for a, b in pairs:
        channel_ids.tie(axis[[a]], axis[[b]], "")
        joined = classes[a] | classes[b]
        for index in joined:
            classes[index] = joined
    for index in frozen:
        channel_ids.freeze(axis[[index]], "frozen")
    roots = channel_ids.roots(axis).tolist()
    for a in range(10):
        assert (roots[a] == NO_CHANNEL) == bool(classes[a] & frozen)
        for b in range(10):
            if roots[a] != NO_CHANNEL:
                assert (roots[a] == roots[b]) == (b in classes[a])


# Shapes


@pytest.mark.parametrize(
    ("old", "new", "factors"),
    [
        ([6, 4], [2, 12], [(0, 0, 2), (0, 1, 3), (1, 1, 4)]),
        ([24], [2, 3, 4], [(0, 0, 2), (0, 1, 3), (0, 2, 4)]),
        ([2, 3, 4], [24], [(0, 0, 2), (1, 0, 3), (2, 0, 4)]),
        ([5, 6], [5, 6], [(0, 0, 5), (1, 1, 6)]),
        ([4, 9], [6, 6], None),
        ([], [], []),
    ],
)
def test_common_factors(old: list[int], new: list[int], factors: list[tuple[int, int, int]] | None) -> None:
    assert common_factors(old, new) == factors


@given(st.lists(st.integers(2, 5), min_size=1, max_size=5), st.data())
def test_common_factors_multiply_to_both_shapes(sizes: list[int], data: st.DataObject) -> None:
    def merged(cuts: set[int]) -> list[int]:
        edges = [0, *sorted(cuts), len(sizes)]
        return [int(np.prod(sizes[a:b])) for a, b in pairwise(edges) if a < b]

    inner = st.sets(st.integers(1, len(sizes)), max_size=3)
    old, new = merged(data.draw(inner)), merged(data.draw(inner))
    factors = common_factors(old, new)
    if factors is not None:
        assert [int(np.prod([size for i, _, size in factors if i == k])) for k in range(len(old))] == old
        assert [int(np.prod([size for _, j, size in factors if j == k])) for k in range(len(new))] == new


# Tracing


def test_a_model_that_raises_while_it_is_traced() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("missing\nsecond line")

    with pytest.raises(CompressionError, match=r"cannot be traced: KeyError: 'missing") as caught:
        trace(Broken().eval(), inputs_from_example(torch.ones(1)))
    assert "\n" not in str(caught.value)


def test_tracing_leaves_the_model_alone() -> None:
    model = zoo.ResNet().eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, inputs_from_example(ZOO["resnet"].example()))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
