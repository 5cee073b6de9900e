"""`explain`: integrated gradients by hand, their axioms, what is refused, and that the models stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.errors import DataError, MeasureError, NbcompressError
from nbcompress.measure import Explanation


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3))


def inputs(n: int = 10, width: int = 6) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1))


class Text(nn.Module):
    """Classes of texts of tokens, with a mask, that uses its embedding twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.mix, self.head = nn.Embedding(12, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        states = self.mix(self.table(tokens))[0] + self.table(tokens)
        return self.head((states * mask[..., None]).sum(1))


def test_a_linear_model_by_hand() -> None:
    model, small = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    small.weight.data = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
    x = torch.tensor([[2.0, 3.0], [1.0, -4.0]])
    # The original says (8, -3) and (-7, 4), so class 0 and class 1 are explained: x_i w_i of that row, in both models.
    found = nc.explain(model, small, x)
    assert found.targets is not None
    assert found.targets.tolist() == [0, 1]
    assert torch.allclose(found.before, torch.tensor([[2.0, 6.0], [0.0, 4.0]]))
    assert torch.allclose(found.after, torch.tensor([[6.0, 3.0], [0.0, -4.0]]))
    assert found.agreement.tolist() == [-1.0, -1.0]
    # Small says (9, 3) and (-1, -4): class 0 for both.
    assert found.flipped == (1,)
    moved = nc.explain(model, small, x, baseline=torch.tensor([1.0, 1.0]), target=0, steps=1)
    assert torch.allclose(moved.before, torch.tensor([[1.0, 4.0], [0.0, -10.0]]))


def test_a_product_by_hand() -> None:
    """f = a^2 b along (2s, 3s): the gradient is (12 s^2, 4 s^2), so attributions are 2 * 4 and 3 * 4/3."""

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0] ** 2 * x[:, 1]

    found = nc.explain(Product(), Product(), torch.tensor([[2.0, 3.0]]), steps=200)
    assert torch.allclose(found.before, torch.tensor([[8.0, 4.0]]), atol=1e-3)
    assert found.agreement.tolist() == [1.0]
    assert found.mean_agreement is None
    # The midpoint rule with one step: the gradient at (1, 1.5) is (3, 1), which gives 6 and 3 of 12.
    rough = nc.explain(Product(), Product(), torch.tensor([[2.0, 3.0]]), steps=1)
    assert torch.allclose(rough.before, torch.tensor([[6.0, 3.0]]))
    assert rough.gaps == pytest.approx((0.25, 0.25))
    assert "more `steps`" in rough.notes()[-1]


def total_change(model: nn.Module, found: Explanation, at_end: Tensor, at_start: Tensor) -> Tensor:
    assert found.targets is not None
    return (at_end - at_start).gather(1, found.targets[:, None])[:, 0]


def test_attributions_add_up_to_the_change_of_the_output() -> None:
    model, x = net(), inputs()
    small = nc.prune(model, amount=0.6)
    found = nc.explain(model, small, x, steps=64, batch_size=3)
    for values, one_model in ((found.before, model), (found.after, small)):
        one_model.eval()
        with torch.no_grad():
            change = total_change(one_model, found, one_model(x), one_model(torch.zeros(1, 6)))
        assert torch.allclose(values.sum(1), change, atol=2e-3)
    assert max(found.gaps) < 0.01


def test_attributions_of_tokens_add_up_and_padding_has_none() -> None:
    model = Text()
    tokens = torch.randint(1, 12, (5, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(5, 7)
    mask[:, 5:] = 0
    found = nc.explain(model, nc.quantize(model, bits=4), (tokens, mask), steps=64)
    assert found.is_tokens
    assert found.before.shape == found.after.shape == found.inputs.shape == tokens.shape
    # A GRU reads from left to right, so what is masked at the end decides nothing.
    assert bool((found.before[:, 5:] == 0).all())
    assert bool((found.before[:, :5] != 0).all())
    assert max(found.gaps) < 0.01
    by_name = nc.explain(model, model, {"tokens": tokens, "mask": mask}, steps=64, batch_size=2)
    assert torch.allclose(by_name.before, found.before, atol=1e-5)
    # From a token to itself nothing changes.
    start = nc.explain(model, model, (tokens, mask), baseline=tokens[0])
    assert bool((start.before[0] == 0).all())


def test_the_agreement_is_spearmans_with_ties() -> None:
    model, x = net(), (2 * inputs()).round()
    found = nc.explain(model, nc.quantize(model, bits=4), x)
    for before, after, agreement in zip(found.before, found.after, found.agreement, strict=True):
        assert float(agreement) == pytest.approx(spearmanr(before.numpy(), after.numpy())[0], abs=1e-6)
    mean = found.mean_agreement
    assert mean is not None
    assert mean.low < mean.value < mean.high
    assert mean.value == pytest.approx(float(found.agreement.mean()), abs=1e-6)
    assert nc.explain(model, model, x).agreement.tolist() == pytest.approx([1.0] * 10)
    assert found.mean_agreement == nc.explain(model, nc.quantize(model, bits=4), x).mean_agreement


def test_where_all_attributions_are_equal_there_is_no_correlation() -> None:
    found = nc.explain(nn.Linear(3, 2), nn.Linear(3, 2), torch.zeros(4, 3))
    assert bool(found.agreement.isnan().all())
    assert found.mean_agreement is None
    assert "-" in str(found)
    assert found.to_json()["agreement"] == [None] * 4


def test_models_and_inputs_stay_as_they_are() -> None:
    model, x = net().train(), inputs()
    small = nc.quantize(model, bits=4)
    states = [copy.deepcopy(item.state_dict()) for item in (model, small)]
    random = torch.get_rng_state()
    with torch.inference_mode():
        found = nc.explain(model, small, x)
    assert not found.before.requires_grad
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    for item, state in zip((model, small), states, strict=True):
        assert all(module.training for module in item.modules())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in item.parameters())
        assert not any(module._forward_hooks for module in item.modules())
        assert all(torch.equal(value, state[name]) for name, value in item.state_dict().items())


def test_images_one_logit_and_a_function_of_several_outputs() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, 6, 6)
    found = nc.explain(*[nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))] * 2, images)
    assert found.before.shape == images.shape
    one_logit = nn.Linear(6, 1)
    found = nc.explain(one_logit, one_logit, inputs())
    assert found.targets is None
    assert torch.allclose(found.before, inputs() * one_logit.weight, atol=1e-6)
    recurrent = nn.LSTM(6, 4, batch_first=True)
    found = nc.explain(recurrent, recurrent, torch.rand(3, 5, 6), target=lambda said: said[0][:, -1, 2])
    assert found.before.shape == (3, 5, 6)
    assert max(found.gaps) < 0.01
    double = nc.explain(net().double(), net(), inputs().double())
    assert double.agreement.tolist() == pytest.approx([1.0] * 10)


class Rounding(nn.Module):
    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.step = nn.Linear(6, 3), step

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.step(x))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nc.explain(net(), net(), inputs(), target=3), "target must be a class from 0 to 2, one for each of"),
        (lambda: nc.explain(net(), net(), inputs(), target=True), "must be a class from 0 to 2"),
        (lambda: nc.explain(net(), net(), inputs(), target=torch.zeros(4, dtype=torch.long)), r"int64 of shape \(4,\)"),
        (lambda: nc.explain(net(), net(), inputs(), target=lambda said: said.sum()), "one number for each of 10"),
        (lambda: nc.explain(net(), net(), inputs(), target=lambda said: said.nothing), "raised AttributeError"),
        (lambda: nc.explain(nn.Linear(6, 1), nn.Linear(6, 1), inputs(), target=0), "the model returns one: leave it"),
        (lambda: nc.explain(net(), nn.Linear(6, 4), inputs()), r"same shape, got \(10, 3\) and \(10, 4\)"),
        (lambda: nc.explain(net(), net(), inputs(), baseline=torch.zeros(5)), r"shape of an example, \(6,\), got"),
        (lambda: nc.explain(net(), net(), inputs(), baseline="mean"), "baseline must be a number"),
        (lambda: nc.explain(net(), net(), inputs(), steps=0), "steps"),
        (lambda: nc.explain(net(), net(), inputs().long()), "no nn.Embedding of Sequential reads them"),
        (lambda: nc.explain(net(), net(), inputs() > 0), "as numbers or tokens, got torch.bool"),
        (lambda: nc.explain(net(), net(), inputs(width=5)), "must run on the data, float32"),
        (lambda: nc.explain(net(), net(), "x"), "must be a tensor"),
        (lambda: nc.explain(net(), "small.nbz", inputs()), "only a torch.nn.Module"),  # type: ignore[arg-type]
        (
            lambda: nc.explain(*[nn.Conv1d(6, 3, 1)] * 2, torch.rand(2, 6, 4)),
            r"\(2, 3, 4\) for 2 examples: pass target=",
        ),
        (lambda: nc.explain(*[nn.LSTM(6, 3)] * 2, torch.rand(2, 4, 6), output=5), "must name a tensor"),
        (lambda: nc.explain(*[Rounding(torch.round)] * 2, inputs()), "all are zero although the output changes"),
        (lambda: nc.explain(*[Rounding(torch.detach)] * 2, inputs()), "a step of its forward is not differentiable"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_line(make: Callable[[], Any], text: str) -> None:
    with pytest.raises((MeasureError, DataError), match=text) as caught:
        make()
    assert isinstance(caught.value, NbcompressError)
    assert "\n" not in str(caught.value)


def test_its_texts() -> None:
    model = net()
    found = nc.explain(model, nc.quantize(model, bits=4), inputs())
    assert repr(found).startswith("<Explanation of 10 examples: rank correlation ")
    assert len(repr(found)) < 100
    assert str(found).splitlines()[0].split() == [
        "example",
        "explained",
        "predicted",
        "before",
        "predicted",
        "after",
        "rank",
        "correlation",
    ]
    assert found.to_json()["before"] == found.before.tolist()
