"""`prune` of single weights: masks, criteria, schedules, and refused options."""

from __future__ import annotations

import pytest
import torch
from compress_zoo import ZOO, assert_constraints
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nbcompress.compressors import cluster, prune, quantize, record_of
from nbcompress.compressors.layers import select
from nbcompress.compressors.losses import LossSpec
from nbcompress.compressors.prune.weight_scores import (
    keep_masks,
    keep_masks_by_magnitude,
    lamp_scores,
    lowest,
    scores_of,
)
from nbcompress.errors import CompressionError, DataError


def two_layers() -> nn.Sequential:
    """Ten weights: 1 ... 6 (signs in turn) and 10, 20, 30, 40."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]]))
        model[1].weight.copy_(torch.tensor([[10.0, -20.0], [30.0, -40.0]]))
    return model


def weights(model: nn.Module) -> list[list[float]]:
    return [model.get_parameter(f"{k}.weight").flatten().tolist() for k in (0, 1)]


def n_zeros(model: nn.Module) -> int:
    return sum(int((target.parameter == 0).sum()) for target in select(model).targets)


def test_global_takes_the_smallest_of_all() -> None:
    assert weights(prune(two_layers(), 0.4)) == [[0, 0, 0, 0, 5, -6], [10, -20, 30, -40]]


def test_layer_takes_the_share_from_each() -> None:
    assert weights(prune(two_layers(), 0.5, scope="layer")) == [[0, 0, 0, -4, 5, -6], [0, 0, 30, -40]]


def test_threshold_takes_what_is_below() -> None:
    assert weights(prune(two_layers(), threshold=4.0)) == [[0, 0, 0, -4, 5, -6], [10, -20, 30, -40]]


def test_lamp_by_hand() -> None:
    """Scores 1, 2, 2: 1/9, 4/8 (first of equals), 4/4."""
    assert lamp_scores([torch.tensor([2.0, 1.0, 2.0])])[0].tolist() == pytest.approx([0.5, 1 / 9, 1.0])
    # Layer 0 has squares 1 4 9 16 25 36, layer 1 100 400 900 1600: the first of each goes, then 4/90, 9/86.
    assert weights(prune(two_layers(), 0.4, scope="lamp")) == [[0, 0, 0, -4, 5, -6], [0, -20, 30, -40]]


def test_gradient_by_hand() -> None:
    """Output w x for squared error: the gradient of weight i is 2 (w x - y) x_i, here 2 * 5 * (1, 2, 0)."""
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, 9.0]]))
    x, y = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.0]])
    scores = scores_of(model, select(model).targets, "gradient", (x, y), 0, spec=LossSpec(nn.functional.mse_loss))[0]
    assert scores.tolist() == [[10.0, 40.0, pytest.approx(0.0, abs=1e-300)]]
    assert float(scores[0, 2]) > 0
    # The input of the largest weight is always zero, so it goes first.
    assert prune(model, 1 / 3, criterion="gradient", data=(x, y)).get_parameter("weight").tolist() == [[1.0, 2.0, 0.0]]
    assert model.weight.grad is None


def test_activation_by_hand() -> None:
    """Inputs (3, 1, 0) and (4, 0, 0) have norms 5, 1 and 0. Scores 5 2 0 and 10 7 0: a third goes from each output."""
    model = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 9.0], [2.0, 7.0, 8.0]]))
    data = (torch.tensor([[3.0, 1.0, 0.0], [4.0, 0.0, 0.0]]), torch.tensor([0, 1]))
    scores = scores_of(model, select(model).targets, "activation", data, 0)[0]
    assert scores.flatten().tolist() == pytest.approx([5, 2, 0, 10, 7, 0], abs=1e-300)
    third = prune(model, 1 / 3, criterion="activation", data=data)
    assert third.get_parameter("weight").tolist() == [[1.0, -2.0, 0.0], [2.0, 7.0, 0.0]]
    # By the whole layer, the first output loses three of the four that go.
    layer = prune(model, 2 / 3, criterion="activation", data=data, scope="layer")
    assert layer.get_parameter("weight").tolist() == [[0.0, 0.0, 0.0], [2.0, 7.0, 0.0]]


def test_what_has_no_input_is_left_out() -> None:
    animal = ZOO["attention"]()
    small = prune(animal.model, 0.5, criterion="activation", data=animal.data)
    assert set(record_of(small).tensors) == {"head.weight"}
    assert record_of(small).left_out == {
        "attention.in_proj_weight": "not the weight of a linear layer or a convolution (MultiheadAttention)",
        "attention.out_proj.weight": "the model does not call its layer on the data",
    }
    with pytest.raises(CompressionError, match=r"'activation' can prune no chosen weight \(attention.in_proj_weight: "):
        prune(animal.model, 0.5, criterion="activation", data=animal.data, layers="attention")
    # A tensor that is left out has no promise, and none of its own is lost.
    before = quantize(animal.model, 4)
    after = record_of(prune(before, 0.5, criterion="activation", data=animal.data))
    name = "attention.in_proj_weight"
    assert after.tensors[name] == record_of(before).tensors[name]


def test_inputs_must_be_finite() -> None:
    x, y = ZOO["perceptron"]().data
    x = x.clone()
    x[0, 0] = torch.inf
    with pytest.raises(DataError, match=r"inputs must be finite, but those of '0.weight' hold NaN or infinity"):
        prune(ZOO["perceptron"]().model, 0.5, criterion="activation", data=(x, y))


def test_two_of_four_by_hand() -> None:
    model = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -3.0, 2.0, 4.0, 5.0, 5.0, 5.0, 0.0]]))
    small = prune(model, granularity="2:4")
    assert small.get_parameter("weight").tolist() == [[0.0, -3.0, 0.0, 4.0, 0.0, 5.0, 5.0, 0.0]]
    assert torch.equal(prune(model, 0.5, granularity="2:4").get_parameter("weight"), small.get_parameter("weight"))


@pytest.mark.parametrize("criterion", ["magnitude", "random", "gradient", "activation", "hessian"])
def test_two_of_four_everywhere(criterion: str) -> None:
    animal = ZOO["convolutional"]()
    small = prune(animal.model, granularity="2:4", criterion=criterion, data=animal.data)  # type: ignore[arg-type]
    assert set(record_of(small).tensors) == {"4.weight", "8.weight"}
    for name in ("4.weight", "8.weight"):
        fours = small.get_parameter(name).detach().reshape(-1, 4)
        assert bool(((fours != 0).sum(1) == 2).all())
    reasons = [record_of(small).left_out[name] for name in ("0.weight", "3.weight")]
    assert reasons == ["its 18 inputs do not divide by 4", "its 9 inputs do not divide by 4"]


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("criterion", ["activation", "hessian"])
def test_counts_of_criteria_with_data(criterion: str, amount: float) -> None:
    animal = ZOO["perceptron"]()
    options = {"criterion": criterion, "data": animal.data, "scope": "layer" if criterion == "hessian" else None}
    small = prune(animal.model, amount, **options)  # type: ignore[arg-type]
    for name in ("0.weight", "2.weight", "4.weight"):
        zeros = small.get_parameter(name) == 0
        if criterion == "hessian":
            assert int(zeros.sum()) == round(amount * zeros.numel())
        else:
            assert set(zeros.sum(1).tolist()) == {min(round(amount * zeros.shape[1]), zeros.shape[1] - 1)}
    # What is zero already counts and stays.
    before = prune(animal.model, 0.5, scope="layer")
    after = prune(before, amount, **options)  # type: ignore[arg-type]
    for name in ("0.weight", "2.weight", "4.weight"):
        was, now = before.get_parameter(name) == 0, after.get_parameter(name) == 0
        assert bool(now[was].all())
        if criterion == "hessian":
            assert int(now.sum()) == max(int(was.sum()), round(amount * was.numel()))


@pytest.mark.parametrize("scope", ["global", "lamp", "layer"])
def test_the_surgeon_divides_by_magnitude(scope: str) -> None:
    animal = ZOO["convolutional"]()
    plain = prune(animal.model, 0.6, scope=scope)  # type: ignore[arg-type]
    surgeon = prune(animal.model, 0.6, scope=scope, criterion="hessian", data=animal.data)  # type: ignore[arg-type]
    counts = [[int((target.parameter == 0).sum()) for target in select(model).targets] for model in (plain, surgeon)]
    assert counts[0] == counts[1]
    assert weights_differ(plain, surgeon)


def weights_differ(first: nn.Module, second: nn.Module) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_gradually_by_activation() -> None:
    animal = ZOO["perceptron"]()
    small = prune(animal.model, 0.5, schedule="gradual", criterion="activation", data=animal.data, finetune=3)
    assert (small.get_parameter("2.weight") == 0).sum(1).tolist() == [8] * 12


def test_random_depends_on_the_seed_alone() -> None:
    model = ZOO["perceptron"]().model
    first, same, other = (
        prune(model, 0.5, criterion="random", seed=seed).get_parameter("0.weight") for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    magnitude = prune(model, 0.5).get_parameter("0.weight")
    assert not torch.equal(first, magnitude)


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), min_size=1, max_size=30),
    data=st.data(),
)
def test_exact_counts_with_ties(scores: list[float], data: st.DataObject) -> None:
    values = torch.tensor(scores, dtype=torch.float64)
    count = data.draw(st.integers(0, len(scores)))
    marked = lowest(values, count)
    # Python's sort is stable: equal scores go in order of position.
    expected = sorted(range(len(scores)), key=lambda k: scores[k])[:count]
    assert torch.nonzero(marked).flatten().tolist() == sorted(expected)


@settings(max_examples=100, deadline=None)
@given(amount=st.floats(0, 1), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), is_global=st.booleans())
def test_no_layer_loses_its_last_weight(amount: float, sizes: list[int], is_global: bool) -> None:
    scores = [torch.arange(1.0, size + 1) * 10**k for k, size in enumerate(sizes)]
    masks = keep_masks(scores, amount, is_global=is_global)
    if amount == 1:
        assert not any(bool(mask.any()) for mask in masks)
        return
    assert all(bool(mask[-1]) for mask in masks)
    n, gone = sum(sizes), sum(int((~mask).sum()) for mask in masks)
    if is_global:
        assert gone == min(round(amount * n), n - len(sizes))
    else:
        assert gone == sum(min(round(amount * size), size - 1) for size in sizes)


@pytest.mark.parametrize("amount", [0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("animal", ZOO)
def test_amount_is_a_share_of_all_weights(animal: str, amount: float) -> None:
    model = ZOO[animal]().model
    small = prune(model, amount)
    n = sum(target.parameter.numel() for target in select(model).targets)
    before = n_zeros(model)
    assert n_zeros(small) == max(before, round(amount * n))
    assert all(record.is_pruned for record in record_of(small).tensors.values())


def test_zeros_count_and_go_first() -> None:
    once = prune(ZOO["perceptron"]().model, 0.5)
    assert n_zeros(once) == round(0.5 * 324)
    further = prune(once, 0.75)
    assert n_zeros(further) == round(0.75 * 324)
    assert all(bool((b == 0)[a == 0].all()) for a, b in zip(once.parameters(), further.parameters(), strict=True))
    back = prune(further, 0.25)
    assert all(torch.equal(a, b) for a, b in zip(further.parameters(), back.parameters(), strict=True))
    # Whatever the criterion: what is zero already goes before anything else.
    assert n_zeros(prune(once, 0.5, criterion="random")) == round(0.5 * 324)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_grid_outlives_pruning(bits: int) -> None:
    before = quantize(ZOO["perceptron"]().model, bits)
    after = prune(before, 0.7)
    assert n_zeros(after) == max(n_zeros(before), round(0.7 * 324))
    for name, promise in record_of(after).tensors.items():
        assert promise.is_pruned
        assert promise.grid == record_of(before).tensors[name].grid


def test_a_codebook_gets_zero() -> None:
    before = cluster(ZOO["perceptron"]().model, 4)
    after = prune(before, 0.7)
    for name, promise in record_of(after).tensors.items():
        assert promise.codebook is not None
        earlier = record_of(before).tensors[name].codebook
        assert earlier is not None
        assert promise.codebook.values.tolist() == sorted([*earlier.values.tolist(), 0.0])


def test_gradually_arrives_at_the_amount() -> None:
    animal = ZOO["perceptron"]()
    small = prune(animal.model, 0.8, schedule="gradual", data=animal.data, finetune=4)
    assert n_zeros(small) == round(0.8 * 324)
    small = prune(animal.model, 0.8, schedule="gradual", data=animal.data, finetune=1)
    assert n_zeros(small) == round(0.8 * 324)


def test_gradually_is_cubic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of eight epochs prune: shares 1 - (1 - t)^3 of 0.6, t = 1/6 ... 1."""
    from nbcompress.compressors.training import Trainer

    seen: list[int] = []
    update_record = Trainer.update_record

    def noted(self: Trainer) -> None:
        seen.append(n_zeros(self.model))
        update_record(self)

    monkeypatch.setattr(Trainer, "update_record", noted)
    animal = ZOO["perceptron"]()
    prune(animal.model, 0.6, schedule="gradual", data=animal.data, finetune=8)
    shares = [0.6 * (1 - (1 - min(k / 6, 1)) ** 3) for k in range(1, 9)]
    assert seen == [round(share * 324) for share in shares]


@pytest.mark.parametrize("amount", [-0.1, 1.01, True, "0.5", float("nan"), float("inf")])
def test_amount_refused(amount: object) -> None:
    with pytest.raises(CompressionError, match="amount must be a number from 0 to 1, got"):
        prune(two_layers(), amount)  # type: ignore[arg-type]


DATA = (torch.randn(8, 3), torch.randint(0, 2, (8,)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "prune needs amount=, a share from 0 to 1, or threshold=, a magnitude, and not both"),
        ({"amount": 0.5, "threshold": 0.1}, "and not both"),
        ({"threshold": -1}, "threshold must be a number from 0, got -1"),
        ({"threshold": 0.1, "criterion": "random"}, "threshold= is a magnitude for every weight"),
        ({"threshold": 0.1, "scope": "layer"}, "threshold= is a magnitude for every weight"),
        (
            {"amount": 0.5, "criterion": "magnitud"},
            "criterion must be one of .* got 'magnitud'. Did you mean 'magnitude'",
        ),
        ({"amount": 0.5, "criterion": "gradient"}, "criterion='gradient' needs data"),
        ({"amount": 0.5, "criterion": "activation"}, "criterion='activation' needs data"),
        ({"amount": 0.5, "criterion": "hessian"}, "criterion='hessian' needs data"),
        ({"amount": 0.5, "criterion": "mutual-information", "granularity": "channel"}, "information' needs data"),
        (
            {"amount": 0.5, "criterion": "mutual-information", "data": DATA},
            "scores the activations of channels and neurons: pass granularity='channel', or another criterion",
        ),
        (
            {"amount": 0.5, "criterion": "hessian", "data": DATA, "schedule": "gradual", "finetune": 1},
            "updates the other weights at once: use schedule='one-shot'",
        ),
        ({"amount": 0.6, "granularity": "2:4"}, r"keeps two of four: leave out .* and threshold=, got amount=0.6"),
        ({"threshold": 0.6, "granularity": "2:4"}, r"keeps two of four: .*, got threshold=0.6"),
        ({"scope": "layer", "granularity": "2:4"}, r"ranks within every four weights: leave out scope=, got 'layer'"),
        ({"schedule": "gradual", "granularity": "2:4"}, "has no smaller share to start with"),
        (
            {"granularity": "2:4"},
            r"can prune no chosen weight \(0.weight: its 3 inputs do not divide by 4; 1.weight: its 2",
        ),
        ({"amount": 0.5, "scope": "all"}, "scope must be one of global, layer, lamp, got 'all'"),
        ({"amount": 0.5, "schedule": "gradual"}, "schedule='gradual' prunes between epochs: pass finetune=EPOCHS"),
        ({"threshold": 1.0, "schedule": "gradual", "data": DATA, "finetune": 1}, "'gradual' needs amount="),
        ({"amount": 0.5, "granularity": "channel"}, "runs the model once: pass example="),
        ({"amount": 0.5, "granularity": "channel", "schedule": "gradual"}, "'gradual' prunes between epochs: pass"),
        ({"threshold": 0.5, "granularity": "channel"}, "granularity='channel' removes a share: pass amount="),
        (
            {"amount": 0.5, "granularity": "channel", "criterion": "hessian", "data": DATA},
            "prunes single weights: granularity='channel' takes magnitude, random, gradient, activation, energy",
        ),
        ({"amount": 0.5, "granularity": "channel", "scope": "lamp"}, "takes scope layer or global, got scope='lamp'"),
        ({"amount": 0.5, "finetune": -1}, "finetune is an integer of at least 0, but got -1"),
        ({"amount": 0.5, "lr": 0}, "lr must be a number above 0, got 0"),
        ({"amount": 0.5, "seed": 1.5}, "seed is an integer from 0 to 9223372036854775807, but got 1.5"),
    ],
)
def test_options_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(CompressionError, match=text):
        prune(two_layers(), **options)  # type: ignore[arg-type]


def test_missing_data_is_a_data_error() -> None:
    with pytest.raises(DataError):
        prune(two_layers(), 0.5, criterion="gradient")


def test_gradual_comes_before_grids() -> None:
    model = quantize(nn.Sequential(nn.Linear(3, 2)), 4)
    with pytest.raises(CompressionError, match=r"comes before quantizing and clustering, but '0.weight' has a grid"):
        prune(model, 0.5, schedule="gradual", data=DATA, finetune=1)


def test_scoring_leaves_the_model_alone() -> None:
    animal = ZOO["convolutional"]()
    targets = select(animal.model).targets
    targets[0].parameter.requires_grad_(False)
    before: list[Tensor] = [tensor.clone() for tensor in animal.model.state_dict().values()]
    scores_of(animal.model, targets, "gradient", animal.data, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, animal.model.state_dict().values(), strict=True))
    assert animal.model.training
    assert not targets[0].parameter.requires_grad


def test_channels_with_data() -> None:
    """The first batch is the example, batch norms are measured again, and training keeps earlier constraints."""
    animal = ZOO["convolutional"]()
    with torch.no_grad():
        animal.model[1].running_mean.fill_(7.0)
    model = quantize(animal.model, 4)
    before, state = [tensor.clone() for tensor in model.state_dict().values()], torch.get_rng_state()
    small = prune(model, 0.5, granularity="channel", data=animal.data)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert small.get_parameter("0.weight").shape == (4, 2, 3, 3)
    assert bool((small.get_buffer("1.running_mean") < 1).all())
    assert_constraints(small)
    assert animal.output(small).shape == (40, 3)
    # Few steps, so large ones: a weight starts in the middle of its 4-bit step.
    tuned = prune(model, 0.5, granularity="channel", data=animal.data, finetune=4, lr=1e-2)
    assert_constraints(tuned)
    assert not torch.equal(tuned.get_parameter("0.weight"), small.get_parameter("0.weight"))


def test_no_channels() -> None:
    animal = ZOO["convolutional"]()
    copy = prune(animal.model, 0, granularity="channel", example=animal.example)
    assert copy is not animal.model
    assert record_of(copy).surgery == ()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 0.5, -0.5, 1.0, 1.5, -2.0, 3e38]), min_size=1, max_size=9),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([0.0, 0.2, 0.34, 0.5, 0.8, 0.99, 1.0]),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_magnitude_layer_by_layer_is_magnitude(
    values: list[list[float]], amount: float, is_global: bool, dtype: torch.dtype
) -> None:
    """Equal numbers, zeros of both signs and the smallest numbers rank as they do in double precision."""
    weights = [torch.tensor(row).clamp(-6e4, 6e4).to(dtype) for row in values]
    scores = [weight.double().abs() for weight in weights]
    expected = keep_masks(scores, amount, is_global=is_global)
    actual = keep_masks_by_magnitude(weights, amount, is_global=is_global)
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))
