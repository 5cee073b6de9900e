"""Data-aware rounding against a slow direct implementation, on every kind of layer, and what it keeps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from compress_zoo import ZOO, assert_constraints
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import nbcompress as nc
from nbcompress.compressors import TensorRecord, codes_of, quantize, record_of
from nbcompress.compressors.grids import GridSpec, fit_grid, grids_by_range, round_to_grid
from nbcompress.compressors.layers import select
from nbcompress.compressors.rounding import (
    _recurrent_rows,
    _scales_of_least_error,
    moments_of,
    readers_of,
    round_by_inputs,
    round_on_best,
)
from nbcompress.errors import CompressionError, DataError


def moments(n: int, seed: int = 0) -> Tensor:
    """Second moments of inputs that depend on each other."""
    x = torch.randn(200, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x @ torch.randn(n, n, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return x.T @ x


def reference(w: Tensor, scale: Tensor, n_below: int, n_above: int, h: Tensor) -> Tensor:
    """Optimal brain quantization in a fixed order (Frantar et al. 2023, equations 2 and 3), an inverse at each step."""
    h = h + 0.01 * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    left = sorted(range(len(h)), key=lambda k: -float(h[k, k]))
    w = w.double().clone()
    while left:
        inverse = torch.linalg.inv(h[left][:, left])
        k = left[0]
        steps = (w[:, k].float() / scale).round().clamp(-n_below, n_above)
        rounded = (steps * scale).double()
        error = (w[:, k] - rounded) / inverse[0, 0]
        w[:, left] -= error[:, None] * inverse[0][None]
        w[:, k] = rounded
        left = left[1:]
    return w


def output_error(w: Tensor, rounded: Tensor, h: Tensor) -> Tensor:
    return (((w - rounded).double() @ h) * (w - rounded).double()).sum(1)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_is_optimal_brain_quantization_in_order_of_activation(bits: int) -> None:
    w, h = torch.randn(7, 150, generator=torch.Generator().manual_seed(bits)), moments(150)
    grid = fit_grid(w, GridSpec(bits, group="tensor"))
    found = round_by_inputs(w, grid, h[None])
    n_below, n_above = int(grid.zero[0]), grid.n_codes - 1 - int(grid.zero[0])
    expected = reference(w, grid.scale[0], n_below, n_above, h)
    nearest = round_to_grid(w, grid)
    carried = output_error(w, expected, h) < output_error(w, nearest, h)
    assert int(carried.sum()) >= 6
    assert torch.equal(found[carried], expected[carried].float())
    assert torch.equal(found[~carried], nearest[~carried])
    assert float(output_error(w, found, h).sum()) < 0.5 * float(output_error(w, nearest, h).sum())


def test_two_weights_by_hand() -> None:
    """Equal inputs: 0.4 becomes 0, and the second weight takes its error over: 0.3 + 0.4 becomes 1, not 0.

    With damping the second input is a little more alone, and the error that is carried a little smaller.
    """
    w = torch.tensor([[0.4, 0.3]])
    grid = fit_grid(torch.tensor([[1.0, 1.0]]), GridSpec(8, scale=1.0))
    h = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
    assert round_by_inputs(w, grid, h).tolist() == [[0.0, 1.0]]
    # Inputs that have nothing to do with each other carry nothing.
    assert round_by_inputs(w, grid, torch.eye(2, dtype=torch.float64)[None]).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("group", ["tensor", "channel", 5])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_values_lie_on_the_grid_and_outputs_never_change_more(bits: int, group: Any, scheme: Any) -> None:
    if bits == 1 and scheme == "affine":
        return
    w, h = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(1)), torch.stack([moments(12), moments(12, 5)])
    w[0, 0], w[1] = 0.0, 0.0
    for is_pruned, share in ((False, 1.0), (True, 1.0), (False, 0.8)):
        grid = fit_grid(w, GridSpec(bits, scheme, group, share=share), is_pruned=is_pruned)
        found = round_by_inputs(w, grid, h, is_pruned=is_pruned)
        codes_of(found, TensorRecord(is_pruned, grid=grid))
        nearest = round_to_grid(w, grid, is_pruned=is_pruned)
        for k in range(2):
            rows, near, before = (item.reshape(2, 3, 12)[k] for item in (found, nearest, w))
            assert bool((output_error(before, rows, h[k]) <= output_error(before, near, h[k]) * (1 + 1e-9)).all())
        if is_pruned:
            assert torch.equal(found == 0, (found == 0) | (w == 0))
        if grid.in_half is not None:
            assert torch.equal(found.flatten()[grid.in_half], w.flatten()[grid.in_half].half().float())


@pytest.mark.parametrize("name", ["convolutional", "recurrent", "attention", "tied", "perceptron", "bare"])
def test_every_kind_of_model(name: str) -> None:
    animal = ZOO[name]()
    near = quantize(animal.model, 3, scale="absmax")
    small = quantize(animal.model, 3, rounding="gptq", scale="absmax", data=animal.data[0])
    assert_constraints(quantize(animal.model, 3, rounding="gptq", data=animal.data[0]))
    assert_constraints(small)
    record = record_of(small)
    assert record.tensors == record_of(near).tensors
    by_data = [key for key in record.tensors if "rounded to the nearest" not in record.left_out.get(key, "")]
    if name == "bare":
        assert not by_data
        assert "not the weight of a linear layer" in record.left_out["first"]
        return
    assert by_data
    assert animal.model.training == small.training
    again = quantize(animal.model, 3, rounding="gptq", scale="absmax", data=animal.data[0])
    assert all(map(torch.equal, small.state_dict().values(), again.state_dict().values()))


def causal() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    return model, torch.randn(256, 16) @ torch.randn(16, 16)


@pytest.mark.parametrize("bits", [2, 4])
def test_outputs_of_the_model_change_less(bits: int) -> None:
    model, x = causal()
    with torch.no_grad():
        wanted = model(x)
        errors = [
            float((quantize(model, bits, rounding=rounding, data=x)(x) - wanted).square().sum())
            for rounding in ("nearest", "gptq")
        ]
    assert errors[1] < 0.6 * errors[0]


def test_layers_see_the_rounded_layers_before_them() -> None:
    model, x = causal()
    options: dict[str, Any] = {"rounding": "gptq", "scale": "absmax", "data": x, "rest": "float32"}
    small, first = quantize(model, 2, **options), quantize(model, 2, layers="0", **options)
    seen = torch.relu(first[0](x)).detach().double()
    grid = record_of(small).tensors["2.weight"].grid
    assert grid is not None
    weight = model.get_parameter("2.weight")
    assert torch.equal(small.get_parameter("2.weight"), round_by_inputs(weight, grid, (seen.T @ seen)[None]))


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("group", ["channel", 5])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_each_output_takes_its_best_grid_with_fitted_scales(bits: int, group: Any, scheme: Any) -> None:
    w, h = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(1)), torch.stack([moments(12), moments(12, 5)])
    w[0, 0], w[1] = 0.0, 0.0
    spec = GridSpec(bits, scheme, group)
    grids = [fit_grid(w, spec), *grids_by_range(w, spec)]
    assert len(grids) == 4
    found, grid = round_on_best(w, grids, h)
    codes_of(found, TensorRecord(grid=grid))
    assert torch.equal(grid.scale, grid.scale.half().float())

    def errors(values: Tensor) -> Tensor:
        parts = [item.reshape(2, 3, 12) for item in (w, values)]
        return torch.cat([output_error(parts[0][k], parts[1][k], h[k]) for k in range(2)])

    tried = torch.stack([errors(round_by_inputs(w, other, h)) for other in grids])
    assert bool((errors(found) <= tried.amin(0) * (1 + 1e-9)).all())
    assert float(errors(found).sum()) < 0.99 * float(tried.amin(0).sum())
    assert round_on_best(w, grids[:1], h)[1] is grids[0]


def test_ends_of_grids_by_hand() -> None:
    """A group of three values with four codes: the affine grid ends at its ends, the symmetric one has 1.5 steps."""
    w = torch.tensor([[-1.5, 0.0, 1.0]])
    affine, symmetric = (grids_by_range(w, GridSpec(2, scheme, 3)) for scheme in ("affine", "symmetric"))
    half = torch.tensor([2.5 / 3, 2.5 * 0.85 / 3, 2.5 * 0.7 / 3]).half().float()
    assert torch.equal(torch.cat([grid.scale for grid in affine]), half)
    assert [int(grid.zero) for grid in (*affine, *symmetric)] == [2] * 6
    assert torch.equal(torch.cat([grid.scale for grid in symmetric]), torch.tensor([1.0, 0.85, 0.7]).half().float())
    assert not grids_by_range(w, GridSpec(8, group=3))


def test_scales_are_those_of_least_squares() -> None:
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = torch.randn(1, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    codes = w.round().reshape(1, 3, 4)
    columns = torch.block_diag(*codes[0]).T
    expected = torch.linalg.lstsq(x @ columns, x @ w.T).solution.T
    torch.testing.assert_close(_scales_of_least_error(codes, w, x.T @ x), expected, rtol=1e-3, atol=1e-3)


class Stack(nn.Module):
    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.body = kind(3, 4, num_layers=2, bidirectional=True, **options)

    def forward(self, x: Any) -> Any:
        return self.body(x)[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("form", ["steps first", "batch first", "packed", "alone", "state"])
def test_inputs_of_recurrent_layers(kind: Any, form: str) -> None:
    """Against one step after the other with cells."""
    torch.manual_seed(2)
    body = kind(3, 4, num_layers=2, bidirectional=True, batch_first=form == "batch first").eval()
    x, lengths = torch.randn(5, 2, 3), [5, 5]
    args: tuple[Any, ...] = (x,)
    if form == "batch first":
        args = (x.transpose(0, 1),)
    elif form == "packed":
        lengths = [3, 5]
        args = (pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False),)
    elif form == "alone":
        x, lengths = x[:, :1], [5]
        args = (x[:, 0],)
    h = torch.zeros(4, len(lengths), 4)
    c = torch.zeros_like(h)
    if form == "state":
        h, c = torch.randn(4, 2, 4), torch.randn(4, 2, 4)
        args = (x, (h, c) if kind is nn.LSTM else h)
    cell_kind: Any = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}[kind]
    expected: dict[str, list[Tensor]] = {}
    for column, length in enumerate(lengths):
        inputs = list(x[:length, column])
        for depth in range(2):
            outputs: list[list[Tensor]] = [[], []]
            for way, suffix in enumerate(("", "_reverse")):
                cell = cell_kind(len(inputs[0]), 4)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    setattr(cell, name, nn.Parameter(getattr(body, f"{name}_l{depth}{suffix}").detach()))
                state: Any = h[2 * depth + way, column]
                cells = c[2 * depth + way, column]
                for item in inputs if not way else reversed(inputs):
                    expected.setdefault(f"weight_ih_l{depth}{suffix}", []).append(item)
                    expected.setdefault(f"weight_hh_l{depth}{suffix}", []).append(state)
                    if kind is nn.LSTM:
                        state, cells = cell(item, (state, cells))
                    else:
                        state = cell(item, state)
                    outputs[way].append(state)
            inputs = [torch.cat(pair) for pair in zip(outputs[0], reversed(outputs[1]), strict=True)]
    for name, rows in expected.items():
        (found,) = _recurrent_rows(body, name)(args, {})
        matrix = torch.stack(rows).detach()
        torch.testing.assert_close(found[0].detach().mT @ found[0].detach(), matrix.T @ matrix, rtol=1e-4, atol=1e-5)
        assert found.shape[1] == len(rows)
    assert isinstance(args[0], (Tensor, PackedSequence))


def test_an_embedding_has_nothing_to_carry() -> None:
    """The nearest values are the best; of one that is the head, too, the inputs of the head count."""
    animal = ZOO["tied"]()
    small = quantize(animal.model, 3, rounding="gptq", data=animal.data[0])
    target = select(animal.model).targets[0]
    readers = readers_of(animal.model, target)
    assert not isinstance(readers, str)
    statistics = moments_of(animal.model, target, readers, animal.data[0], 0)
    assert statistics is not None
    assert statistics.squares.shape == (1, 12)
    assert small.get_parameter("head.weight") is small.get_parameter("embedding.weight")
    plain = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 3))
    tokens = torch.arange(18).reshape(2, 9) % 9
    both = [quantize(plain, 3, rounding=how, data=tokens) for how in ("nearest", "gptq")]
    assert torch.equal(both[0].get_parameter("0.weight"), both[1].get_parameter("0.weight"))
    assert "0.weight" not in record_of(both[1]).left_out


def test_training_starts_at_the_rounded_weights() -> None:
    model, x = causal()
    data = (x, torch.arange(256) % 8)
    small = quantize(model, 2, rounding="gptq", data=data, finetune=1, lr=1e-9)
    plain = quantize(model, 2, rounding="gptq", data=data)
    assert torch.equal(small.get_parameter("2.weight"), plain.get_parameter("2.weight"))


def test_files_budgets_and_what_is_refused(tmp_path: Any) -> None:
    model, x = causal()
    small = quantize(model, 3, rounding="gptq", data=x)
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), copy.deepcopy(model))
    assert all(map(torch.equal, small.state_dict().values(), loaded.state_dict().values()))
    budget = nc.quantize(model, "auto", budget="2.5kB", rounding="gptq", data=(x, torch.arange(256) % 8))
    assert nc.size_bytes(budget) <= 2500
    with pytest.raises(DataError, match="rounding='gptq' needs the inputs of each layer: pass data="):
        quantize(model, 3, rounding="gptq")
    with pytest.raises(CompressionError, match="rounding must be one of nearest, gptq, got 'gtpq'"):
        quantize(model, 3, rounding="gtpq", data=x)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"inputs must be finite, but those of '0\.weight' hold NaN or infinity"):
        quantize(model, 3, rounding="gptq", data=x * torch.inf)
