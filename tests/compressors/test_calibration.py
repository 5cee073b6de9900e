from __future__ import annotations

import pytest
import torch
from compress_zoo import ZOO
from torch import Tensor, nn

from nbcompress.compressors import ActivationRange, cluster, factorize, finetune, prune, quantize, record_of
from nbcompress.compressors.calibration import input_rows, layers_of, measure_activation_ranges, observe
from nbcompress.compressors.layers import select
from nbcompress.errors import DataError


def test_a_range_by_hand() -> None:
    """Inputs 0 to 2.55 in steps of 0.01 lie on 256 codes as they are; nothing is worth clipping."""
    model = nn.Sequential(nn.Linear(1, 1))
    data = (torch.arange(256.0)[:, None] / 100, torch.zeros(256, 1))
    found = measure_activation_ranges(model, ["0"], data, 0)
    assert found["0"] == ActivationRange(0.0, float(torch.tensor(2.55)))


def test_outliers_are_clipped() -> None:
    """Where that costs less than it gains: not one value of 3 among 10,000 below 1, but a heavy tail."""
    x = torch.rand(10000, 1, generator=torch.Generator().manual_seed(0))
    x[0] = 3.0
    found = measure_activation_ranges(nn.Sequential(nn.Linear(1, 1)), ["0"], (x, torch.zeros(10000, 1)), 0)["0"]
    # A step of 3/255 costs each 1e-5, .1 in all; to clip the one would cost 4.
    assert found.high == 3.0
    heavy = torch.randn(200000, 1, generator=torch.Generator().manual_seed(0)) ** 3
    data = (heavy, torch.zeros(len(heavy), 1))
    found = measure_activation_ranges(nn.Sequential(nn.Linear(1, 1)), ["0"], data, 0)["0"]
    assert found.high < 0.9 * float(heavy.max())
    assert found.low > 0.9 * float(heavy.min())


def test_static_ranges_of_every_layer() -> None:
    animal = ZOO["convolutional"]()
    small = quantize(animal.model, 8, activations="static", data=animal.data)
    found = record_of(small).activations
    assert list(found) == ["0", "3", "4", "8"]
    # Behind a ReLU nothing is negative.
    assert all(isinstance(item, ActivationRange) for item in found.values())
    assert isinstance(found["3"], ActivationRange)
    assert found["3"].low == 0 < found["3"].high
    # What the model computes is not changed by it.
    assert torch.equal(animal.output(small), animal.output(quantize(animal.model, 8)))


def test_dynamic_is_a_mark() -> None:
    small = quantize(ZOO["recurrent"]().model, 8, activations="dynamic")
    record = record_of(small)
    assert record.activations == {"head": "dynamic"}
    reason = "its inputs stay in floating point: not the weight of a linear layer or a convolution (GRU)"
    assert record.left_out == {"gru.weight_ih_l0": reason, "gru.weight_hh_l0": reason}


def test_only_chosen_layers_and_back() -> None:
    animal = ZOO["perceptron"]()
    first = quantize(animal.model, 8, activations="dynamic", layers=["0", "2"])
    both = quantize(first, 8, activations="static", layers="2", data=animal.data)
    assert record_of(both).activations["0"] == "dynamic"
    assert isinstance(record_of(both).activations["2"], ActivationRange)
    assert record_of(quantize(both, 8)).activations == {}


def test_a_layer_that_is_not_called() -> None:
    animal = ZOO["attention"]()
    record = record_of(quantize(animal.model, 8, activations="static", data=animal.data))
    assert list(record.activations) == ["head"]
    assert record.left_out["attention.out_proj"] == "the model does not call its layer on the data"


def test_training_measures_again() -> None:
    animal = ZOO["perceptron"]()
    small = quantize(animal.model, 8, activations="static", data=animal.data)
    before = record_of(small).activations
    finetune(small, animal.data, epochs=3, lr=0.02)
    after = record_of(small).activations
    assert after["0"] == before["0"]
    assert after["2"] != before["2"]
    assert after == measure_activation_ranges(small, list(after), animal.data, 0)
    tuned = quantize(animal.model, 8, activations="static", data=animal.data, finetune=2)
    assert record_of(tuned).activations == measure_activation_ranges(tuned, ["0", "2", "4"], animal.data, 0)


@pytest.mark.parametrize("change", [lambda m, **k: prune(m, 0.5, **k), lambda m, **k: cluster(m, 4, **k)])
def test_other_weights_need_other_ranges(change) -> None:  # type: ignore[no-untyped-def]
    animal = ZOO["perceptron"]()
    small = quantize(animal.model, 8, activations="static", data=animal.data)
    assert record_of(change(small, data=animal.data)).activations.keys() == {"0", "2", "4"}
    record = record_of(change(small))
    assert record.activations == {}
    assert record.left_out["0"].startswith("its activation range was given up, because weights changed")
    kept = record_of(change(quantize(animal.model, 8, activations="dynamic")))
    assert kept.activations == dict.fromkeys(["0", "2", "4"], "dynamic")


def test_cut_and_factorized_layers() -> None:
    animal = ZOO["perceptron"]()
    small = quantize(animal.model, 8, activations="static", data=animal.data)
    cut = prune(small, 0.5, granularity="channel", data=animal.data)
    assert record_of(cut).activations == measure_activation_ranges(cut, ["0", "2", "4"], animal.data, 0)
    assert record_of(prune(small, 0.5, granularity="channel", example=animal.example)).activations == {}
    thin = factorize(quantize(animal.model, 8, activations="dynamic"), 0.2, layers="2")
    assert record_of(thin).activations == {"0": "dynamic", "4": "dynamic"}


def test_inputs_must_be_finite() -> None:
    animal = ZOO["perceptron"]()
    x = animal.data[0].clone()
    x[0, 0] = torch.nan
    with pytest.raises(DataError, match="inputs must be finite, but those of '0' hold NaN or infinity on the data"):
        quantize(animal.model, 8, activations="static", data=(x, animal.data[1]))


def test_bits_by_name() -> None:
    model = ZOO["perceptron"]().model
    bits = {"0.weight": 2, "2.weight": 8, "4.weight": 5}
    grids = {name: tensor.grid for name, tensor in record_of(quantize(model, bits)).tensors.items()}
    assert {name: grid.bits for name, grid in grids.items() if grid is not None} == bits


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 3), (4, 5)),
        (nn.Linear(5, 3), (4, 2, 5)),
        (nn.Linear(5, 3), (5,)),
        (nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 4, 11)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (4, 4, 9, 8)),
        (nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular", groups=2), (4, 4, 9, 8)),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 7, 7)),
        (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 3, 5)),
    ],
    ids=str,
)
@pytest.mark.parametrize("most", [1 << 24, 100])
def test_weight_times_rows_is_the_output(
    layer: nn.Module, shape: tuple[int, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbcompress.compressors import calibration as observing

    monkeypatch.setattr(observing, "_MOST_NUMBERS", most)
    x = torch.randn(*shape)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    parts = list(input_rows(layer, x))
    groups = parts[0].shape[0]
    rows = torch.cat(parts, dim=1)
    out = torch.einsum("grc,goc->rgo", rows, weight.reshape(groups, -1, rows.shape[-1])).flatten(1)
    with torch.no_grad():
        told = layer(x) - layer(torch.zeros_like(x))
    if not isinstance(layer, nn.Linear):
        told = told.reshape(-1, *told.shape[-len(layer.kernel_size) - 1 :]).movedim(1, -1)  # type: ignore[arg-type]
    torch.testing.assert_close(out, told.reshape(-1, weight.shape[0]), rtol=1e-4, atol=1e-5)


def test_the_model_comes_back_as_it_was() -> None:
    animal = ZOO["convolutional"]()
    modes = [module.training for module in animal.model.modules()]
    before = [tensor.clone() for tensor in animal.model.state_dict().values()]
    state = torch.get_rng_state()
    seen: list[str] = []
    layers = {"8": animal.model.get_submodule("8")}
    observe(animal.model, layers, animal.data, 0, lambda name, x, y: seen.append(name))
    assert seen == ["8"]
    with pytest.raises(DataError, match="raised ZeroDivisionError"):
        observe(animal.model, layers, animal.data, 0, lambda name, x, y: seen.append(str(1 / 0)))
    assert [module.training for module in animal.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, animal.model.state_dict().values(), strict=True))
    assert not any(module._forward_hooks for module in animal.model.modules())


def test_a_tied_weight_is_seen_in_its_linear_layer() -> None:
    model = ZOO["tied"]().model
    assert list(layers_of(model, select(model).targets[0])) == ["head"]


class ByKeyword(nn.Module):
    """Calls its layer with a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(input=x)


def test_inputs_by_keyword() -> None:
    model = ByKeyword()
    seen: list[tuple[int, ...]] = []
    observe(model, {"fc": model.fc}, (torch.ones(3, 2), torch.zeros(3)), 0, lambda _, x, y: seen.append(tuple(x.shape)))
    assert seen == [(3, 2)]
