"""`enforce`: loops of one's own keep masks, grids and codebooks, at every step and in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compressors.grids import round_to_grid
from nbcompress.errors import CompressionError, NbcompressError

X = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (64,), generator=torch.Generator().manual_seed(1))


def net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))


SMALL: dict[str, Callable[[], nn.Module]] = {
    "pruned": lambda: nc.prune(net(), 0.7),
    "quantized": lambda: nc.quantize(net(), 3, granularity="group:8"),
    "clustered": lambda: nc.cluster(net(), 5),
    "pruned-quantized": lambda: nc.quantize(nc.prune(net(), 0.5), 4, scheme="affine"),
    "clustered-quantized": lambda: nc.quantize(nc.cluster(nc.prune(net(), 0.5), 6), 4),
    "float32-rest": lambda: nc.quantize(net(), 2, rest="float32"),
}


def check(model: nn.Module, before: nn.Module) -> None:
    """The weights satisfy the record, which says what it said before, and a file gives the same model."""
    record = nc.record_of(model)
    assert record.tensors.keys() == nc.record_of(before).tensors.keys()
    for name, constraint in record.tensors.items():
        weight, old = model.get_parameter(name).detach(), before.get_parameter(name).detach()
        if constraint.is_pruned:
            assert bool((weight[old == 0] == 0).all())
        if constraint.grid is not None:
            torch.testing.assert_close(round_to_grid(weight, constraint.grid, is_pruned=False), weight)
        if constraint.codebook is not None:
            assert set(weight.unique().tolist()) <= set(constraint.codebook.values.tolist())
    if record.rest == "float16":
        assert all(torch.equal(tensor.half().float(), tensor) for tensor in (model[0].bias, model[1].running_var))


def loss_of(model: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(model(X), Y)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda parameters: torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("name", SMALL)
def test_a_plain_loop(name: str, optimizer_name: str, tmp_path: Any) -> None:
    model, before = SMALL[name](), SMALL[name]()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    names = nc.record_of(before).tensors
    losses, n_values = [], {name: before.get_parameter(name).unique().numel() for name in names}
    with nc.enforce(model, optimizer):
        for _ in range(40):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if "clustered" in name:
                assert all(model.get_parameter(key).unique().numel() <= n for key, n in n_values.items())
    assert losses[-1] < 0.92 * losses[0]
    check(model, before)
    loaded = nc.load(nc.save(model, tmp_path / "m.nbz"), net())
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_without_it_constraints_break() -> None:
    model, before = SMALL["pruned"](), SMALL["pruned"]()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    loss_of(model).backward()
    optimizer.step()
    with pytest.raises(AssertionError):
        check(model, before)


def test_a_mask_by_hand() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1, 2.0]]))
    small = nc.prune(layer, 0.5)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.5)
    with nc.enforce(small, optimizer):
        small(torch.tensor([[3.0, 1.0]])).sum().backward()
        optimizer.step()
    assert small.weight.tolist() == [[0.0, 1.5]]


def test_small_steps_add_up_on_a_grid() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.25]]))
    small = nc.quantize(layer, 3, scale="absmax", rest="float32")
    step = float(nc.record_of(small).tensors["weight"].grid.scale)  # type: ignore[union-attr]
    optimizer = torch.optim.SGD(small.parameters(), lr=1.0)
    start = float(small.weight[0, 1].detach())
    with nc.enforce(small, optimizer):
        for _ in range(6):  # a tenth of a step of the grid at a time
            optimizer.zero_grad()
            (small.weight[0, 1] * step / 10).backward()
            optimizer.step()
    assert float(small.weight[0, 1].detach()) == pytest.approx(start - step)


def test_it_is_finetune() -> None:
    """The same steps as `finetune`, from the same start, give the same weights."""
    ours, theirs = SMALL["pruned-quantized"](), SMALL["pruned-quantized"]()
    batches = [(X[:32], Y[:32]), (X[32:], Y[32:])]
    nc.finetune(theirs, batches, epochs=3, lr=0.01)
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.01)
    ours.train()
    with nc.enforce(ours, optimizer):
        for _ in range(3):
            for x, y in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(ours(x), y).backward()
                optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_optimizer_may_be_left_out_and_a_handle_removed() -> None:
    model, before = SMALL["pruned-quantized"](), SMALL["pruned-quantized"]()
    handle = nc.enforce(model)
    other = nn.Linear(2, 2)
    foreign = torch.optim.SGD(other.parameters(), lr=1.0)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    for _ in range(3):
        loss_of(model).backward()
        optimizer.step()
        other(torch.ones(1, 2)).sum().backward()
        foreign.step()
    handle.remove()
    handle.remove()
    assert repr(handle) == "<Enforcement does not watch the training of Sequential>"
    check(model, before)
    # What is removed watches no longer.
    loss_of(model).backward()
    optimizer.step()
    with pytest.raises(AssertionError):
        check(model, before)


@pytest.mark.parametrize("as_keyword", [True, False])
@pytest.mark.parametrize("kind", ["adam", "lbfgs"])
def test_a_closure_runs_the_projected_model(kind: str, as_keyword: bool) -> None:
    model, before = SMALL["pruned-quantized"](), SMALL["pruned-quantized"]()
    parameters = list(model.parameters())
    optimizer: Any = (
        torch.optim.LBFGS(parameters, lr=0.1, max_iter=3) if kind == "lbfgs" else torch.optim.Adam(parameters, 0.05)
    )

    def closure() -> Tensor:
        assert bool((model[0].weight[before[0].weight == 0] == 0).all())
        assert model[0].weight[0].unique().numel() <= 16
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    with nc.enforce(model, optimizer):
        for _ in range(4):
            optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
    assert not torch.equal(model[0].weight, before[0].weight)
    check(model, before)


def test_an_interrupted_step_leaves_the_constraints() -> None:
    model, before = SMALL["pruned-quantized"](), SMALL["pruned-quantized"]()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)

    def closure() -> float:
        loss_of(model).backward()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), nc.enforce(model, optimizer):
        optimizer.step(closure)
    check(model, before)


def test_what_makes_no_sense_is_refused() -> None:
    model = SMALL["pruned"]()
    with pytest.raises(CompressionError, match="holds none of this Sequential: make it with"):
        nc.enforce(model, torch.optim.SGD(net().parameters(), lr=0.1))
    with pytest.raises(CompressionError, match="optimizer must be an optimizer of torch, got str"):
        nc.enforce(model, "adam")  # type: ignore[arg-type]
    with pytest.raises(NbcompressError, match="Module"):
        nc.enforce("model")  # type: ignore[arg-type]


def test_the_trainer_of_transformers(tmp_path: Any) -> None:
    pytest.importorskip("accelerate", reason="transformers.Trainer needs it")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50, num_labels=2
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    small = nc.quantize(nc.prune(model, 0.5), 4, granularity="group:16")
    before = nc.quantize(nc.prune(model, 0.5), 4, granularity="group:16")
    data = [{"input_ids": torch.arange(8) + i, "labels": torch.tensor(i % 2)} for i in range(32)]
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        num_train_epochs=3,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    with nc.enforce(small):
        transformers.Trainer(small, arguments, train_dataset=data).train()
    weight, old = small.bert.encoder.layer[0].output.dense.weight, before.bert.encoder.layer[0].output.dense.weight
    assert not torch.equal(weight, old)
    assert bool((weight[old == 0] == 0).all())
    nc.load(nc.save(small, tmp_path / "m.nbz"), transformers.BertForSequenceClassification(config))
    for name, constraint in nc.record_of(small).tensors.items():
        values = small.get_parameter(name).detach()
        assert constraint.grid is not None
        torch.testing.assert_close(round_to_grid(values, constraint.grid, is_pruned=False), values)
