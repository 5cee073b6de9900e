from __future__ import annotations

import pytest
import torch
from compress_zoo import ZOO
from torch import Tensor, nn

from nbcompress.compressors.layers import select
from nbcompress.compressors.observing import input_rows, layers_of, observe
from nbcompress.errors import DataError


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
    from nbcompress.compressors import observing

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
    modes = [one.training for one in animal.model.modules()]
    before = [one.clone() for one in animal.model.state_dict().values()]
    state = torch.get_rng_state()
    seen: list[str] = []
    layers = {"8": animal.model.get_submodule("8")}
    observe(animal.model, layers, animal.data, 0, lambda name, x, y: seen.append(name))
    assert seen == ["8"]
    with pytest.raises(DataError, match="raised ZeroDivisionError"):
        observe(animal.model, layers, animal.data, 0, lambda name, x, y: seen.append(str(1 / 0)))
    assert [one.training for one in animal.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, animal.model.state_dict().values(), strict=True))
    assert not any(one._forward_hooks for one in animal.model.modules())


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
