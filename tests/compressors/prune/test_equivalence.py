"""`norms="cut"`: a width that norms average over is cut, and compared with norms over the kept channels."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from math import sqrt
from pathlib import Path

import channel_zoo as zoo
import onnxruntime
import pytest
import torch
from channel_zoo import ZOO
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import nbcompress as nc
from nbcompress.compressors.attention import convert_all_attention_
from nbcompress.compressors.coupling import ChannelGroup, find_dependencies, tensors_of, trace
from nbcompress.compressors.inputs import inputs_from_example
from nbcompress.compressors.prune.channel_scores import magnitude_scores
from nbcompress.compressors.prune.channels import cut_channels
from nbcompress.compressors.prune.cutting import RemovalPlan, cut_
from nbcompress.compressors.prune.equivalence import EquivalenceCheck, MaskedReference, equivalence_check
from nbcompress.compressors.prune.valid_plan import GroupRemoval, plan_of_removals
from nbcompress.compressors.record import record_of
from nbcompress.compressors.surgery import replay_surgery_
from nbcompress.errors import CompressionError


class Normed(nn.Module):
    """Four channels (a, b and two that are nearly zero) of one number, a norm, and a sum of them."""

    def __init__(self, norm: Callable[[Tensor], Tensor], a: float, b: float, leave: tuple[float, float]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(1, 4, bias=False), nn.Linear(4, 1, bias=False)
        self.norm = norm
        self.enter.weight.data = torch.tensor([[a], [1e-3], [b], [1e-3]])
        self.leave.weight.data = torch.tensor([[leave[0], 1e-3, leave[1], 1e-3]])

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.norm(self.enter(x)))


class MeanSquare(nn.Module):
    """An RMS norm by hand, as in many language models."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)))


class ByHand(nn.Module):
    """A layer norm by hand, from mean and variance, in single precision."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return ((y - y.mean(-1, keepdim=True)) / y.var(-1, unbiased=False, keepdim=True).sqrt()).to(x.dtype)


class Functional(nn.Module):
    """A layer norm whose width is a number of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), eps=0.0)


class OneGroup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 4, eps=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Frozen(nn.Module):
    """A norm that runs without gradients, which the tracer puts into a subgraph."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4, eps=0.0)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.norm(x)
        return y.clone()


LAYER_NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.LayerNorm(4, eps=0.0),
    "without weights": lambda: nn.LayerNorm(4, eps=0.0, elementwise_affine=False),
    "by hand": ByHand,
    "functional": Functional,
    "one group": OneGroup,
    "without gradients": Frozen,
}
RMS_NORMS: dict[str, Callable[[], nn.Module]] = {
    "rms norm": lambda: nn.RMSNorm(4, eps=0.0),
    "by hand": MeanSquare,
}


@torch.no_grad()
def output(model: nn.Module, example: object) -> Tensor:
    return tensors_of(inputs_from_example(example)(copy.deepcopy(model).eval()))[0]


# Figures by hand


@pytest.mark.parametrize("name", LAYER_NORMS)
def test_a_layer_norm_averages_over_the_channels_that_are_left(name: str) -> None:
    """1 and 3 have mean 2 and deviation 1, so they become -1 and 1; their sum by 1 and 2 is 1."""
    model = Normed(LAYER_NORMS[name](), 1.0, 3.0, (1.0, 2.0))
    small = cut_channels(model, 0.5, norms="cut", example=torch.ones(2, 1))
    assert small.enter.weight.flatten().tolist() == [1.0, 3.0]
    assert output(small, torch.ones(2, 1)).flatten().tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    # With the others at zero they have mean 1 and variance 1.5: 2 times 2 over the root of it.
    assert output(model, torch.ones(1, 1)).item() == pytest.approx(4 / sqrt(1.5), abs=1e-2)


@pytest.mark.parametrize("name", RMS_NORMS)
def test_an_rms_norm_averages_over_the_channels_that_are_left(name: str) -> None:
    """3 and 4 have a mean square of 12.5."""
    model = Normed(RMS_NORMS[name](), 3.0, 4.0, (1.0, 1.0))
    small = cut_channels(model, 0.5, norms="cut", example=torch.ones(2, 1))
    assert small.enter.weight.flatten().tolist() == [3.0, 4.0]
    assert output(small, torch.ones(1, 1)).item() == pytest.approx(7 / sqrt(12.5), abs=1e-5)
    assert output(model, torch.ones(1, 1)).item() == pytest.approx(7 / sqrt(6.25), abs=1e-2)


class Residual(nn.Module):
    """Two residual blocks, each after a norm."""

    def __init__(self, width: int = 12, inner: int = 10) -> None:
        super().__init__()
        self.enter, self.place = nn.Linear(5, width), nn.Parameter(torch.randn(1, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.RMSNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.leave = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x) + self.place
        return self.leave(self.norm2(x + self.down(torch.relu(self.up(self.norm1(x))))))


@cache
def residual() -> tuple[nn.Module, ChannelGroup, EquivalenceCheck]:
    """A network with random weights, the group that its norms average over, and a check of plans."""
    torch.manual_seed(0)
    model = Residual()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape)
    return model, *widest(model, torch.randn(3, 5))


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 11), min_size=2, max_size=11))
def test_the_cut_model_is_the_narrower_network_with_the_weights_that_are_left(kept: set[int]) -> None:
    original, group, check = residual()
    model, rows = copy.deepcopy(original), sorted(kept)
    narrow = Residual(len(rows))
    for name, parameter in narrow.named_parameters():
        whole = model.get_parameter(name).data
        for dim, size in enumerate(parameter.shape):
            whole = whole.index_select(dim, torch.tensor(rows)) if size != whole.shape[dim] else whole
        parameter.data = whole
    plan = plan_of_removals([GroupRemoval(group, tuple(unit for unit in range(12) if unit not in kept))])
    assert check.objection(plan) is None
    cut_(model, plan)
    x = torch.randn(4, 5)
    torch.testing.assert_close(output(model, x), output(narrow, x))


def widest(model: nn.Module, example: object) -> tuple[ChannelGroup, EquivalenceCheck]:
    """The group that norms average over, and a check that accepts plans for it."""
    check, followed = equivalence_check(model, inputs_from_example(example))
    convert_all_attention_(followed)
    traced = trace(followed, check.inputs[0])
    coupling = find_dependencies(followed, traced, cut_norms=True)
    (group,) = [group for group in coupling.groups if group.averages]
    check.follow_averages_(traced, coupling.averages)
    return group, check


def test_everything_follows_the_width() -> None:
    torch.manual_seed(0)
    small = cut_channels(Residual(), 0.5, norms="cut", example=torch.ones(2, 5))
    shapes = {name: tuple(parameter.shape) for name, parameter in small.named_parameters() if parameter.ndim > 1}
    assert shapes == {
        "place": (1, 6),
        "enter.weight": (6, 5),
        "up.weight": (5, 6),
        "down.weight": (6, 5),
        "leave.weight": (3, 6),
    }
    assert small.norm1.normalized_shape == small.norm2.normalized_shape == (6,)
    assert (small.enter.out_features, small.up.in_features, small.leave.in_features) == (6, 6, 6)
    assert dict(record_of(small).left_out) == {
        "leave.weight": "it is an output of the model, and outputs keep their shape"
    }


def test_the_width_stays_unless_it_is_asked_for() -> None:
    small = cut_channels(Residual(), 0.5, example=torch.ones(2, 5))
    assert (small.enter.out_features, small.up.out_features) == (12, 5)
    assert record_of(small).left_out["enter.weight"] == "layer_norm in norm1 computes a mean over it"


def test_two_channels_stay_at_least() -> None:
    small = cut_channels(Residual(), 0.99, norms="cut", example=torch.ones(2, 5))
    assert (small.enter.out_features, small.up.out_features) == (2, 1)
    small = cut_channels(Residual(), 0.99, norms="cut", scope="global", example=torch.ones(2, 5))
    assert (small.enter.out_features, small.up.out_features) == (2, 1)
    small = cut_channels(Residual(width=2), 0.5, norms="cut", example=torch.ones(2, 5))
    assert record_of(small).left_out["enter.weight"] == "a norm needs at least two channels, and it has no more"


# The comparison finds out what is wrong


@pytest.mark.parametrize("name", ["enter.weight", "place", "norm1.weight", "up.weight", "down.bias", "leave.weight"])
def test_a_place_that_loses_other_channels_is_found_out(name: str) -> None:
    _, group, check = residual()
    right = plan_of_removals([GroupRemoval(group, (0, 1, 2))])
    assert check.objection(right) is None
    (place,) = [axis for axis in right.removed if axis[0] == name]
    wrong = {**right.removed, place: frozenset({0, 1, 3})}
    problem = check.objection(RemovalPlan(wrong, right.attributes, right.averages))
    assert problem is not None
    assert problem.startswith("outputs differ from those of the masked model, by ")


def test_without_norms_over_what_is_left_the_masked_model_is_another_one() -> None:
    _, group, check = residual()
    right = plan_of_removals([GroupRemoval(group, (0, 1, 2))])
    assert "outputs differ" in str(check.objection(RemovalPlan(right.removed, right.attributes | widths(9))))


def widths(n: int) -> dict[tuple[str, str], int]:
    return {("norm1", "normalized_shape[0]"): n, ("norm2", "normalized_shape[0]"): n}


class ReadsItsWidth(Residual):
    """The output depends on the width itself."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x) + self.place
        return self.leave(self.norm1(x) * x.shape[-1] ** 0.5 + self.down(torch.relu(self.up(x))))


class MeanByItsWidth(nn.Module):
    """An RMS norm that divides a sum by a number which the tracer takes for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) / x.shape[-1])


def test_a_model_that_computes_something_else_when_cut_is_rolled_back() -> None:
    torch.manual_seed(0)
    small = cut_channels(ReadsItsWidth(), 0.5, norms="cut", example=torch.ones(2, 5))
    assert (small.enter.out_features, small.up.out_features) == (12, 5)
    assert "outputs differ from those of the masked model, by" in record_of(small).left_out["enter.weight"]


def test_a_mean_that_the_graph_does_not_show_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"enter\.weight: outputs differ from those of the masked model"):
        cut_channels(Normed(MeanByItsWidth(), 1.0, 3.0, (1.0, 2.0)), 0.5, norms="cut", example=torch.ones(2, 1))


class TracedDifferently(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return 2 * y if torch.compiler.is_exporting() else y


def test_a_graph_that_computes_something_else_is_refused() -> None:
    with pytest.raises(CompressionError, match="this graph does not compute what the model computes: use norms='keep'"):
        cut_channels(TracedDifferently(), 0.5, norms="cut", example=torch.ones(2, 5))
    example = torch.ones(2, 5)
    assert cut_channels(TracedDifferently(), 0.5, example=example).up.out_features == 5
    assert cut_channels(TracedDifferently(), 0.5, norms="cut", layers="up", example=example).up.out_features == 5


def test_the_reference_averages_over_what_is_left_and_gives_zero_elsewhere() -> None:
    """Values 1, 2, 3, 6; the last is removed: mean 2, variance 2 / 3."""
    norm = nn.LayerNorm(4, eps=0.0).double()
    model = nn.Sequential(nn.Linear(4, 4, bias=False), norm, nn.Linear(4, 4, bias=False)).double().eval()
    for layer in (model[0], model[2]):
        nn.init.eye_(layer.weight)
    x = torch.tensor([[1.0, 2.0, 3.0, 6.0]], dtype=torch.float64)
    traced = trace(model, inputs_from_example(x))
    coupling = find_dependencies(model, traced, cut_norms=True)
    (group,) = [group for group in coupling.groups if group.averages]
    plan = plan_of_removals([GroupRemoval(group, (3,))])
    with torch.no_grad():
        (found,) = MaskedReference(model, traced, coupling.averages, plan)(x)
    assert found[0].tolist() == pytest.approx([-sqrt(1.5), 0.0, sqrt(1.5), 0.0])


# What else the option meets

NORMED = ["transformer", "multihead", "convnext"]


@pytest.mark.parametrize("name", NORMED)
def test_models_with_norms_lose_three_quarters_and_are_made_again(name: str) -> None:
    torch.manual_seed(0)
    model, example = ZOO[name].build(), ZOO[name].example()
    small = cut_channels(model, 0.5, norms="cut", example=example)
    sizes = [sum(parameter.numel() for parameter in net.parameters()) for net in (model, small)]
    assert sizes[1] < 0.4 * sizes[0]
    fresh = ZOO[name].build()
    for surgery in record_of(small).surgery:
        replay_surgery_(fresh, surgery)
    fresh.load_state_dict(small.state_dict())
    torch.testing.assert_close(output(fresh, example), output(small, example))
    twice = cut_channels(small, 0.5, norms="cut", example=example)
    assert sum(parameter.numel() for parameter in twice.parameters()) < 0.6 * sizes[1]


def test_scores_are_over_every_place_of_the_width() -> None:
    """The square of a unit's score is the sum of the squares of all its weights."""
    model = Residual()
    group, _ = widest(model, torch.ones(3, 5))
    for number, parameter in enumerate(model.parameters(), 1):
        parameter.data = torch.full(parameter.shape, float(number))
    # enter.weight has 5 numbers for a channel, down.weight and up.weight 10, leave.weight 3, all others 1.
    counts = {"enter.weight": 5, "up.weight": 10, "down.weight": 10, "leave.weight": 3}
    outside = ("up.bias", "leave.bias")
    square = sum(
        number**2 * counts.get(name, 1)
        for number, (name, _) in enumerate(model.named_parameters(), 1)
        if name not in outside
    )
    assert magnitude_scores(model, [group])[0].tolist() == pytest.approx([sqrt(square)] * 12)


@pytest.mark.parametrize("criterion", ["magnitude", "random", "gradient", "activation", "mutual-information"])
def test_every_criterion_scores_the_width(criterion: str) -> None:
    torch.manual_seed(0)
    data = (torch.randn(30, 5), torch.arange(30) % 3)
    small = nc.prune(Residual(), 0.5, granularity="channel", criterion=criterion, norms="cut", data=data)
    assert small.enter.out_features == 6


class Behind(nn.Module):
    """A norm over channels and a constant that is concatenated to them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 6), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.enter(x), torch.ones(len(x), 2)], dim=1)
        return self.leave((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))


def test_what_is_beside_the_channels_stays_in_the_average() -> None:
    torch.manual_seed(0)
    small = cut_channels(Behind(), 0.5, norms="cut", example=torch.ones(2, 3))
    assert (small.enter.out_features, small.leave.in_features) == (3, 5)


class Planes(nn.Module):
    """A norm over channels and positions at once."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Conv2d(2, 6, 3), nn.LayerNorm((6, 4, 4)), nn.Conv2d(6, 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.norm(self.enter(x)))


def test_a_norm_over_channels_and_positions_loses_channels() -> None:
    small = cut_channels(Planes(), 0.5, norms="cut", example=zoo.image(2, 6)())
    assert (small.enter.out_channels, small.norm.normalized_shape) == (3, (3, 4, 4))


class Patches(nn.Module):
    """Attention over patches; the code reads the width and the number of heads, and has a side of 4 and 4 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.n_heads, self.side = 16, 4, 4
        self.enter, self.norm, self.leave = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16), nn.Linear(16, 3)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).reshape(len(x), self.width, -1).transpose(1, 2)
        q, k, v = (
            layer(self.norm(x)).view(*x.shape[:2], self.n_heads, 4).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.leave((x + self.o(y.flatten(2)))[:, 0])


def test_numbers_that_the_code_reads_follow_and_equal_ones_stay() -> None:
    torch.manual_seed(0)
    small = cut_channels(Patches(), 0.5, norms="cut", example=zoo.image(3, 8)())
    assert (small.width, small.n_heads, small.side) == (8, 2, 4)
    assert (small.q.in_features, small.q.out_features) == (8, 8)


def test_without_norms_the_option_changes_nothing() -> None:
    torch.manual_seed(0)
    model, example = ZOO["resnet"].build(), ZOO["resnet"].example()
    kept, cut = (cut_channels(model, 0.5, norms=norms, example=example) for norms in ("keep", "cut"))
    assert torch.equal(output(kept, example), output(cut, example))
    assert record_of(kept) == record_of(cut)


def test_a_file_loads_in_a_clean_process(tmp_path: Path) -> None:
    example = ZOO["transformer"].example()
    small = cut_channels(ZOO["transformer"].build(), 0.5, norms="cut", example=example)
    path = nc.save(small, tmp_path / "small.nbz")
    torch.save((example, output(small, example)), tmp_path / "expected.pt")
    script = (
        "import sys, torch, nbcompress as nc\n"
        "from channel_zoo import TransformerBlock\n"
        "x, y = torch.load(sys.argv[2])\n"
        "model = nc.load(sys.argv[1], TransformerBlock()).eval()\n"
        "assert model.norm3.normalized_shape == (8,)\n"
        "assert torch.equal(model(x), y)\n"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script, str(path), str(tmp_path / "expected.pt")], check=True, env=here)


def test_an_export_computes_what_the_cut_model_computes(tmp_path: Path) -> None:
    example = ZOO["multihead"].example()
    small = cut_channels(ZOO["multihead"].build(), 0.5, norms="cut", example=example).eval()
    session = onnxruntime.InferenceSession(nc.export(small, tmp_path / "small.onnx", example=example))
    (found,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    assert found == pytest.approx(output(small, example).numpy(), abs=1e-5)


# Errors


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"norms": "all", "granularity": "channel"}, "norms must be one of keep, cut, got 'all'"),
        ({"norms": True, "granularity": "channel"}, "norms must be one of keep, cut, got True"),
        ({"norms": "cut"}, "norms='cut' concerns the width of channels: pass granularity='channel'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], text: str) -> None:
    with pytest.raises(CompressionError, match=text):
        nc.prune(Residual(), 0.5, example=torch.ones(2, 5), **options)
