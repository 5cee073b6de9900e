"""Cut models compute the same as masked models, and statistics of batch norms are measured again."""

from __future__ import annotations

import copy
import pickle
from functools import cache
from typing import Any
from weakref import WeakSet

import channel_zoo as zoo
import pytest
import torch
from channel_zoo import ZOO
from torch import Tensor, nn

from nbcompress.compressors import prune
from nbcompress.compressors.attention import convert_all_attention_
from nbcompress.compressors.coupling import find_dependencies, tensors_of, trace
from nbcompress.compressors.inputs import Inputs, inputs_from_example
from nbcompress.compressors.prune.channels import cut_channels, recompute_batchnorm_
from nbcompress.compressors.record import Grid, Record, TensorRecord, attach_, record_of
from nbcompress.compressors.surgery import replay_surgery_
from nbcompress.errors import CompressionError, DataError, LayerNotFound

# What torch says of one of the models, not of ours.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")

CUTTABLE = [name for name, animal in ZOO.items() if not animal.refused]


@cache
def original(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ZOO[name].build()


@cache
def halved(name: str) -> nn.Module:
    return cut_channels(original(name), 0.5, example=ZOO[name].example())


@torch.no_grad()
def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    return tensors_of(inputs(copy.deepcopy(model).eval()))


def inputs_of(name: str) -> Inputs:
    return inputs_from_example(ZOO[name].example())


def agree(expected: list[Tensor], actual: list[Tensor]) -> None:
    assert [a.shape for a in expected] == [b.shape for b in actual]
    for a, b in zip(expected, actual, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def described(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return [(name, tuple(tensor.shape)) for name, tensor in tensors]


def numbers(model: nn.Module) -> list[tuple[str, str, int]]:
    return [(path, k, v) for path, module in model.named_modules() for k, v in vars(module).items() if type(v) is int]


# Laws that hold for every model of the zoo


@pytest.mark.parametrize("name", CUTTABLE)
def test_layers_are_cut_as_expected_or_left_out_by_name(name: str) -> None:
    animal, small = ZOO[name], halved(name)
    left_out = record_of(small).left_out
    for layer, n_left in animal.cut.items():
        held = dict(small.get_submodule(layer).named_parameters())
        assert len(held.get("weight", held.get("in_proj_weight"))) == n_left, layer
    whole = dict(original(name).named_parameters())
    for weight, reason in animal.kept.items():
        assert reason in left_out[weight]
        assert dict(small.named_parameters())[weight].shape[0] == whole[weight].shape[0]
    assert n_parameters(small) < n_parameters(original(name))


@pytest.mark.parametrize("name", CUTTABLE)
def test_every_weight_is_cut_or_named(name: str) -> None:
    small, whole = halved(name), original(name)
    for weight, parameter in small.named_parameters():
        if parameter.ndim > 1 and parameter.shape[0] == dict(whole.named_parameters())[weight].shape[0] > 1:
            owner = whole.get_submodule(weight.rpartition(".")[0])
            if weight == "table":  # of relative positions, with a column for each head
                assert parameter.shape[1] < dict(whole.named_parameters())[weight].shape[1]
            elif not isinstance(owner, (nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding, zoo.TransposedLinear)):
                assert weight in record_of(small).left_out


@pytest.mark.parametrize("name", CUTTABLE)
def test_outputs_keep_their_shapes_for_any_batch(name: str) -> None:
    first = inputs_of(name)
    assert [tensor.shape for tensor in outputs(halved(name), first)] == [
        tensor.shape for tensor in outputs(original(name), first)
    ]


@pytest.mark.parametrize("name", CUTTABLE)
def test_the_input_model_is_untouched(name: str) -> None:
    torch.manual_seed(1)
    model = ZOO[name].build().train()
    state, shapes, sizes = copy.deepcopy(model.state_dict()), described(model), numbers(model)
    objects = {key: id(parameter) for key, parameter in model.named_parameters()}
    small = cut_channels(model, 0.3, criterion="random", example=ZOO[name].example(), seed=4)
    assert described(model) == shapes
    assert numbers(model) == sizes
    assert {key: id(parameter) for key, parameter in model.named_parameters()} == objects
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert record_of(model) == Record()
    assert all(module.training for module in model.modules())
    assert all(module.training for module in small.modules())


@pytest.mark.parametrize("name", CUTTABLE)
def test_channels_that_were_zero_leave_the_outputs_as_they_are(name: str) -> None:
    """The first units of every group are set to zero by hand; magnitude then finds them, and nothing changes."""
    inputs, model = inputs_of(name), copy.deepcopy(original(name)).eval()
    convert_all_attention_(model)
    groups = find_dependencies(model, trace(model, inputs)).groups
    with torch.no_grad():
        for group in groups:
            for unit in group.units[: int(0.5 * len(group.units) + 0.5)]:
                for (tensor, dim), indices in unit.items():
                    # Without its length, a direction under weight normalization counts for nothing anyway.
                    if tensor in dict(model.named_parameters()) and not (tensor.endswith("original1") and dim == 0):
                        model.get_parameter(tensor).index_fill_(dim, torch.tensor(indices), 0.0)
    small = cut_channels(model, 0.5, example=ZOO[name].example())
    assert described(small) == described(halved(name))
    agree(outputs(small, inputs), outputs(model, inputs))


@pytest.mark.parametrize("name", CUTTABLE)
def test_surgery_replayed_on_a_fresh_instance_gives_the_same_model(name: str) -> None:
    small, fresh = halved(name), ZOO[name].build()
    for surgery in record_of(small).surgery:
        replay_surgery_(fresh, surgery)
    assert described(fresh) == described(small)
    assert numbers(fresh) == numbers(small)
    fresh.load_state_dict(small.state_dict())
    for key, buffer in fresh.named_buffers():
        buffer.copy_(dict(small.named_buffers())[key])
    agree(outputs(fresh, inputs_of(name)), outputs(small, inputs_of(name)))


@pytest.mark.parametrize("name", CUTTABLE)
def test_copies_and_pickles_are_equal(name: str) -> None:
    small, inputs = halved(name), inputs_of(name)
    expected = outputs(small, inputs)
    agree(outputs(copy.deepcopy(small), inputs), expected)
    if name != "weight norm":  # torch itself refuses to pickle parametrized modules
        agree(outputs(pickle.loads(pickle.dumps(small)), inputs), expected)


@pytest.mark.parametrize("name", CUTTABLE)
def test_a_step_of_training_works(name: str) -> None:
    model, inputs = copy.deepcopy(halved(name)).train(), inputs_of(name)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    loss = sum(tensor.square().mean() for tensor in tensors_of(inputs(model)))
    loss.backward()
    optimizer.step()
    assert any(parameter.grad is not None and bool((parameter.grad != 0).any()) for parameter in model.parameters())


@pytest.mark.parametrize("name", CUTTABLE)
def test_a_cut_model_can_be_cut_again(name: str) -> None:
    twice = cut_channels(halved(name), 0.5, example=ZOO[name].example())
    assert n_parameters(twice) < n_parameters(halved(name))
    fresh = ZOO[name].build()
    for surgery in record_of(twice).surgery:
        replay_surgery_(fresh, surgery)
    assert described(fresh) == described(twice)


@pytest.mark.parametrize("name", ["resnet", "densenet", "mobile", "grouped", "transformer", "lstm", "halves"])
@pytest.mark.parametrize("amount", [0.5, 0.9, 0.999])
def test_global_scope_leaves_every_layer_something(name: str, amount: float) -> None:
    model, inputs = original(name), inputs_of(name)
    small = cut_channels(model, amount, scope="global", example=ZOO[name].example())
    assert all(parameter.numel() for parameter in small.parameters())
    assert [tensor.shape for tensor in outputs(small, inputs)] == [tensor.shape for tensor in outputs(model, inputs)]


def test_global_scope_says_when_nothing_goes() -> None:
    with pytest.raises(CompressionError, match=r"amount=0.01 rounds to no channel of 20, so pass at least 0.025"):
        cut_channels(original("plain cnn"), 0.01, scope="global", layers="conv*", example=zoo.image()())


# Numbers worked out by hand


def chain() -> nn.Sequential:
    """Two neurons; the second matters less: 3-4-0 against 1-0-2 (weights, bias, weights that read it)."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0], [1.0]]))
        model[0].bias.copy_(torch.tensor([4.0, 0.0]))
        model[2].weight.copy_(torch.tensor([[0.0, 2.0]]))
    return model


def test_magnitude_is_over_everything_that_goes() -> None:
    # sqrt(3^2 + 4^2 + 0^2) = 5 and sqrt(1^2 + 0^2 + 2^2) = 2.24: the second goes.
    small = cut_channels(chain(), 0.5, example=torch.ones(1, 1))
    assert small[0].weight.tolist() == [[3.0]]
    assert small[0].bias.tolist() == [4.0]
    assert small[2].weight.tolist() == [[0.0]]
    assert (small[0].out_features, small[2].in_features) == (1, 1)


@pytest.mark.parametrize(("amount", "left"), [(0.3, 7), (0.25, 7), (0.5, 5), (0.949, 1), (0.99, 1), (0.05, 9)])
def test_the_share_is_rounded_to_the_nearest_and_one_stays(amount: float, left: int) -> None:
    model = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 2))
    assert cut_channels(model, amount, example=torch.ones(1, 3))[0].out_features == left


def test_random_is_seeded() -> None:
    model = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 2))
    first, same, other = (
        cut_channels(model, 0.5, criterion="random", example=torch.ones(1, 3), seed=seed)[0].weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_global_scope_takes_from_where_scores_are_lowest() -> None:
    model = nn.Sequential(
        nn.Linear(2, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Linear(8, 2, bias=False)
    )
    with torch.no_grad():
        for index in (0, 2, 3):
            model[index].weight.fill_(1.0)
        model[2].weight[:5] = 0.01
        model[3].weight[:, :5] = 0.01
    # 16 units in all, a quarter goes: four of the five small ones, all in the second layer.
    small = cut_channels(model, 0.25, scope="global", example=torch.ones(1, 2))
    assert (small[0].out_features, small[2].out_features) == (8, 4)
    assert record_of(small).left_out["0.weight"] == "all its channels rank above the removed ones"


def test_attributes_of_torch_layers_follow() -> None:
    mobile = halved("mobile")
    depthwise = mobile[1]
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (4, 4, 4)
    multiplied = mobile[7]
    assert (multiplied.in_channels, multiplied.out_channels, multiplied.groups) == (8, 16, 8)
    grouped = halved("grouped").conv2
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (8, 16, 4)
    signal = halved("signal")
    assert (signal.norm.num_channels, signal.norm.num_groups, signal.prelu.num_parameters) == (8, 2, 4)
    up = halved("decoder").up
    assert (up.in_channels, up.out_channels, up.groups) == (8, 4, 2)
    lstm = halved("lstm").rnn
    assert (lstm.input_size, lstm.hidden_size) == (4, 6)
    assert halved("packed attention").n_heads == 4
    assert halved("soft view").n_flat == 64


def test_ties_stay_ties() -> None:
    small = halved("reused")
    assert small.tied.weight is small.again.weight
    block = halved("transformer")
    assert block.head.weight is block.token.weight


def test_what_needs_no_gradient_stays_so() -> None:
    model = zoo.PlainCnn()
    model.conv1.requires_grad_(False)
    small = cut_channels(model, 0.5, example=zoo.image()())
    assert not small.conv1.weight.requires_grad
    assert small.conv2.weight.requires_grad


def test_gradients_of_the_copy_are_gone_where_it_was_cut() -> None:
    model = zoo.PlainCnn()
    model(zoo.image()()).sum().backward()
    small = cut_channels(model, 0.5, example=zoo.image()())
    assert small.conv1.weight.grad is None
    assert model.conv1.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = zoo.ResNet().to(dtype)
    example = zoo.image()().to(dtype)
    small = cut_channels(model, 0.5, example=example)
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}
    assert outputs(small, inputs_from_example(example))[0].dtype == dtype


class InsistsOnSingle(nn.Module):
    """Code that does not run in double precision, so that the comparison runs in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x + torch.ones(4, dtype=torch.float32))).float())


def test_a_model_that_insists_on_its_precision() -> None:
    assert cut_channels(InsistsOnSingle(), 0.5, example=torch.ones(2, 4)).a.out_features == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["resnet", "lstm", "transformer"])
def test_on_a_gpu(name: str) -> None:
    model, example = copy.deepcopy(original(name)).cuda(), ZOO[name].example().cuda()
    small = cut_channels(model, 0.5, example=example)
    assert described(small) == described(halved(name))
    assert all(parameter.is_cuda for parameter in small.parameters())


# Which groups


def test_layers_choose_groups_by_what_makes_their_channels() -> None:
    small = cut_channels(original("plain cnn"), 0.5, layers="conv2", example=ZOO["plain cnn"].example())
    assert (small.conv1.out_channels, small.conv2.out_channels, small.fc1.in_features) == (8, 6, 24)
    assert small.fc1.out_features == 20
    assert record_of(small).left_out == {}


def test_a_coupled_layer_goes_with_the_chosen_one() -> None:
    small = cut_channels(original("resnet"), 0.5, layers=["stem.0"], example=ZOO["resnet"].example())
    assert small.layer1.conv2.out_channels == 4
    assert small.layer1.conv1.out_channels == 8


def test_unknown_layers_are_an_error() -> None:
    with pytest.raises(LayerNotFound, match=r"layers='convv1' matches no layer of the model. Did you mean 'conv1'\?"):
        cut_channels(original("plain cnn"), 0.5, layers="convv1", example=ZOO["plain cnn"].example())


def test_layers_that_cannot_be_cut_are_an_error_that_says_why() -> None:
    with pytest.raises(CompressionError, match=r"no channel of the model can be cut \(fc2.weight: it is an output"):
        cut_channels(original("plain cnn"), 0.5, layers="fc2", example=ZOO["plain cnn"].example())


# What was promised of tensors before


def with_grid(group: str | int, n_scales: int) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False))
    grid = Grid(4, "symmetric", group, torch.arange(1.0, n_scales + 1), torch.full((n_scales,), 7, dtype=torch.int32))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            codes = torch.randint(0, 15, layer.weight.shape)
            if layer is model[0]:
                layer.weight.copy_(grid.values(codes))
    attach_(model, Record({"0.weight": TensorRecord(is_pruned=True, grid=grid)}))
    return model


@pytest.mark.parametrize(("group", "n_scales"), [("channel", 6), ("tensor", 1), (4, 12), (3, 18)])
def test_grids_lose_the_scales_of_removed_channels(group: str | int, n_scales: int) -> None:
    small = cut_channels(with_grid(group, n_scales), 0.5, example=torch.ones(1, 8))
    promise = record_of(small).tensors["0.weight"]
    assert promise.is_pruned
    assert promise.grid is not None
    weight = small[0].weight.detach()
    scale, zero = promise.grid.spread(tuple(weight.shape))
    codes = torch.round(weight / scale).int() + zero
    assert torch.equal(promise.grid.values(codes), weight)
    assert len(promise.grid.scale) == promise.grid.n_groups((3, 8))


def test_a_grid_whose_groups_are_torn_is_given_up_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 6, bias=False))
    grid = Grid(4, "symmetric", 4, torch.ones(12), torch.full((12,), 7, dtype=torch.int32))
    with torch.no_grad():
        model[2].weight.copy_(torch.randint(-7, 8, (6, 8)).float())
    attach_(model, Record({"2.weight": TensorRecord(grid=grid)}, rest="float16"))
    record = record_of(cut_channels(model, 0.5, example=torch.ones(1, 4)))
    assert "2.weight" not in record.tensors
    assert "no longer fit after the cut" in record.left_out["2.weight"]
    assert record.rest == "float16"


# Roll-back


class WrongOnPurpose(nn.Module):
    """Runs after a cut but computes something else, because it divides by the number of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = self.b(x) / x.shape[-1]
        return self.c(torch.relu(x))


def test_a_cut_that_computes_something_else_is_rolled_back() -> None:
    small = cut_channels(WrongOnPurpose(), 0.5, example=torch.ones(2, 4))
    assert (small.a.out_features, small.b.out_features) == (8, 4)
    assert "outputs differ from those of the masked model, by" in record_of(small).left_out["a.weight"]


class Auxiliary(nn.Module):
    """A further head in training mode, with channels of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.c, self.d = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = torch.relu(self.a(x))
        return (self.b(x), self.d(torch.relu(self.c(x)))) if self.training else self.b(x)


def test_a_head_of_training_mode_follows_the_cut() -> None:
    model = Auxiliary()
    kept = model.a.weight.square().sum(1) + model.a.bias.square() + model.b.weight.square().sum(0)
    kept = (kept + model.c.weight.square().sum(0)).argsort().ge(0).nonzero().flatten()  # all of them, in order
    small = cut_channels(model, 0.5, example=torch.ones(2, 4))
    assert [small.a.out_features, small.b.in_features, small.c.in_features, small.c.out_features] == [4, 4, 4, 6]
    # The same units go from the head of training mode.
    indices = [
        index for index in kept.tolist() if any(torch.equal(model.a.weight[index], row) for row in small.a.weight)
    ]
    torch.testing.assert_close(small.c.weight, model.c.weight[:, indices])
    assert [tuple(out.shape) for out in small.train()(torch.ones(5, 4))] == [(5, 2), (5, 3)]
    assert "in training mode only" in record_of(small).left_out["c.weight"]


class BranchesInTraining(nn.Module):
    """In training mode, code that cannot be traced requires the full width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.auxiliary = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.b(x) + self.auxiliary(x) if self.training and x.sum() > 0 else self.b(x)


def test_a_path_that_runs_in_training_only_is_not_broken() -> None:
    model = BranchesInTraining()
    nn.init.ones_(model.a.bias)
    with pytest.raises(CompressionError, match="fails in training mode") as caught:
        cut_channels(model, 0.5, example=torch.ones(2, 4))
    assert "auxiliary.weight: the model does not use it when it runs on the example" in str(caught.value)


class Standardized(nn.Conv2d):
    """Weight standardization: each filter has mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = torch.nn.functional.batch_norm(flat, None, None, training=True, momentum=0.0)
        return self._conv_forward(x, weight.reshape_as(self.weight), self.bias)


def test_weight_standardization_is_over_the_inputs_that_are_left() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        Standardized(3, 8, 3), nn.ReLU(), Standardized(8, 6, 3), nn.Flatten(), nn.Linear(24, 2)
    ).eval()
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(CompressionError, match=r"0.weight: batch_norm in 2 computes a mean over it.*norms='cut'"):
        cut_channels(model, 0.5, layers="0", example=x)
    small = cut_channels(model, 0.5, norms="cut", example=x)
    assert [tuple(small[k].weight.shape) for k in (0, 2, 4)] == [(4, 3, 3, 3), (3, 4, 3, 3), (2, 12)]
    kept = [index for index in range(8) if any(torch.equal(model[0].weight[index], row) for row in small[0].weight)]
    filters = model[2].weight[:, kept]
    flat = (filters - filters.mean((1, 2, 3), True)) / (
        filters.var((1, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    rows = [index for index in range(6) if any(torch.equal(filters[index], row) for row in small[2].weight)]
    hidden = torch.relu(small[0](x))
    expected = torch.nn.functional.conv2d(hidden, flat[rows], model[2].bias[rows])
    torch.testing.assert_close(small[2](hidden), expected)


def test_weights_at_zero_do_not_hide_a_mistake() -> None:
    model = WrongOnPurpose()
    nn.init.zeros_(model.c.weight)
    small = cut_channels(model, 0.5, example=torch.ones(2, 4))
    assert small.a.out_features == 8


class Pyramid(nn.Module):
    """Takes several tensors as one input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, levels: list[Tensor] | dict[str, Tensor]) -> list[Tensor]:
        first, second = levels.values() if isinstance(levels, dict) else levels
        return [self.c(self.a(first).relu()), self.c(self.b(second).relu())]


@pytest.mark.parametrize("norms", ["keep", "cut"])
@pytest.mark.parametrize("kind", ["list", "tuple", "dict", "keyword"])
def test_an_input_may_hold_several_tensors(kind: str, norms: str) -> None:
    levels = [torch.randn(5, 4), torch.randn(2, 4)]
    examples = {"list": (levels,), "tuple": (tuple(levels),), "dict": (dict(zip("xy", levels, strict=True)),)}
    small = cut_channels(Pyramid(), 0.5, norms=norms, example=examples.get(kind, {"levels": levels}))
    assert [layer.out_features for layer in (small.a, small.b, small.c)] == [4, 4, 3]


class Dividing(nn.Module):
    """Divides by the length of a weight, which is zero where a channel is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu() / (self.a.weight.norm(dim=1) + self.a.bias.abs()))  # type: ignore[no-any-return]


class Counting(nn.Module):
    """Notes the rows of each call, and how many of the copies that have run are still there."""

    def __init__(self, rows: list[int], seen: WeakSet[nn.Module], most: list[int]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        # Copies of smaller models are left to Python's collector.
        self.register_buffer("table", torch.zeros(2**20))
        self.note = lambda model, x: (rows.append(len(x)), seen.add(model), most.append(len(seen)))

    def forward(self, x: Tensor) -> Tensor:
        self.note(self, x)
        return self.b(torch.relu(self.a(x)) + self.table[0])  # type: ignore[no-any-return]


def test_the_checks_run_on_few_rows_and_hold_one_copy() -> None:
    rows: list[int] = []
    most: list[int] = []
    small = cut(Counting(rows, WeakSet(), most), example=torch.randn(64, 4))
    assert small.a.out_features == 4
    # The example, its trace, twice with other values and one row more, twice with other weights, and in training mode.
    assert rows == [2, 2, 3, 3, 2, 2, 2]
    assert max(most) == 1


def cut(model: nn.Module, **options: Any) -> Any:
    return prune(model, 0.5, granularity="channel", **options)


class NeedsAllRows(nn.Module):
    """The rows are no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)).reshape(-1, 5, 8).mean(1))  # type: ignore[no-any-return]


def test_all_rows_of_the_example_serve_where_two_do_not_run() -> None:
    assert cut(NeedsAllRows(), example=torch.randn(5, 4)).a.out_features == 4


def test_a_masked_model_that_gives_nan_is_named() -> None:
    with pytest.raises(CompressionError, match=r"a.weight: 9 of 9 outputs of the masked model are NaN or infinite"):
        cut_channels(Dividing(), 0.5, example=torch.ones(2, 4))


# Errors


def test_branches_on_data_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        CompressionError, match=r"cannot be traced: its code branches on the data \(forward, line \d+: "
    ):
        cut_channels(zoo.BranchOnData(), 0.5, example=torch.ones(3, 4))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("amount", [0, 1, 1.5, -0.1, float("nan"), "half", True, None])
def test_amounts_that_make_no_sense(amount: object) -> None:
    with pytest.raises(CompressionError, match="amount must"):
        cut_channels(zoo.PlainCnn(), amount, example=zoo.image()())


def test_an_amount_that_rounds_to_nothing_says_what_would_not() -> None:
    model = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 2))
    text = "amount=0.04 rounds to no channel in every group: the largest has 10, so pass at least 0.05"
    with pytest.raises(CompressionError, match=text):
        cut_channels(model, 0.04, example=torch.ones(1, 3))


def test_a_group_in_which_the_amount_rounds_to_nothing_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 2), nn.Linear(2, 2))
    small = cut_channels(model, 0.2, example=torch.ones(1, 3))
    assert record_of(small).left_out["2.weight"] == "amount=0.2 of its 2 channels rounds to 0"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"criterion": "magnitud"}, r"criterion must be one of magnitude, .* got 'magnitud'. Did you mean"),
        ({"scope": "lamp"}, r"scope must be one of layer, global, got 'lamp'"),
    ],
)
def test_options_that_make_no_sense(option: dict[str, object], text: str) -> None:
    with pytest.raises((CompressionError, TypeError), match=text):
        cut_channels(zoo.PlainCnn(), 0.5, example=zoo.image()(), **option)


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (None, r"an example is needed: pass example=, or data="),
        (3, r"example must be a tensor, a tuple of positional or a dict of keyword inputs, got int"),
        ((), r"got tuple"),
        (torch.ones(2, 5), r"the model does not run on the example: RuntimeError: "),
    ],
)
def test_examples_that_do_not_fit(example: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        cut_channels(zoo.PlainCnn(), 0.5, example=example)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(CompressionError, match="it has no layer with channels"):
        cut_channels(nn.Sequential(nn.ReLU()), 0.5, example=torch.ones(2))


def test_a_model_that_is_one_layer_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"weight: it is an output of the model, and outputs keep their shape"):
        cut_channels(nn.Linear(3, 4), 0.5, example=torch.ones(2, 3))


def test_the_mean_over_batches_by_hand() -> None:
    norm = nn.BatchNorm1d(1, momentum=0.5)
    batches = [(torch.tensor([[0.0], [2.0]]), torch.zeros(2)), (torch.tensor([[6.0], [10.0]]), torch.zeros(2))]
    # Means 1 and 8; variances (unbiased) 2 and 8.
    assert recompute_batchnorm_(norm, batches) == 1
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert (norm.running_mean.item(), norm.running_var.item()) == (4.5, 5.0)
    assert norm.momentum == 0.5


@pytest.mark.parametrize("is_training", [True, False])
def test_modes_come_back_and_weights_stay(is_training: bool) -> None:
    model = zoo.vgg().train(is_training)
    model[1].eval()
    modes = [module.training for module in model.modules()]
    weights = [parameter.clone() for parameter in model.parameters()]
    assert recompute_batchnorm_(model, (torch.randn(32, 3, 8, 8), torch.zeros(32).long())) == 2
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_batch_norm_the_data_is_not_read() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert recompute_batchnorm_(model, object()) == 0


def test_data_that_does_not_fit_leaves_the_statistics() -> None:
    model = zoo.vgg()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DataError, match="empty"):
        recompute_batchnorm_(model, [])
    with pytest.raises(DataError):
        recompute_batchnorm_(model, (torch.randn(4, 5, 8, 8), torch.zeros(4)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model[1].momentum == 0.1


def test_statistics_after_a_cut_are_those_of_the_data() -> None:
    torch.manual_seed(0)
    model, images = zoo.ResNet(), torch.randn(64, 3, 8, 8) * 3 + 1
    recompute_batchnorm_(model, (images, torch.zeros(64).long()))
    small = cut_channels(model, 0.5, example=images[:2])
    recompute_batchnorm_(small, [(images, torch.zeros(64).long())])
    seen: list[torch.Tensor] = []
    small.layer2.bn1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        small.eval()(images)
    # The norms before it are measured in the same pass, so they use the statistics of this one batch as well.
    mean = seen[0].mean((0, 2, 3))
    torch.testing.assert_close(small.layer2.bn1.running_mean, mean, rtol=1e-2, atol=1e-2)


def test_prune_measures_again_when_data_is_given() -> None:
    torch.manual_seed(0)
    model, images = zoo.vgg(), torch.randn(64, 3, 8, 8) + 2
    data = (images, torch.zeros(64).long())
    plain = prune(model, 0.5, granularity="channel", example=images[:2])
    fitted = prune(model, 0.5, granularity="channel", data=data)
    assert plain[1].num_features == fitted[1].num_features == 4
    assert torch.equal(plain[0].weight, fitted[0].weight)
    assert not torch.equal(plain[1].running_mean, fitted[1].running_mean)
