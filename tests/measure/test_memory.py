"""Peak memory by hand: what is alive at once, and not what was alive before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nbcompress.measure import compare, footprint
from nbcompress.measure.inputs import ModelInputs
from nbcompress.measure.memory import measure_memory

FLOAT = 4
X = torch.zeros(8, 100)


def test_a_chain_holds_two_results_at_once() -> None:
    chain = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
    found = measure_memory(chain, ModelInputs((X,)))
    assert found.weight_bytes == FLOAT * sum(weight.numel() for weight in chain.parameters())
    # The fullest moment: the input, and the 50 numbers of each example before and after the activation.
    assert found.call_bytes == FLOAT * 8 * (100 + 50 + 50)
    assert found.total_bytes == found.weight_bytes + found.call_bytes
    assert found.method == "tensors"


def test_in_place_and_views_add_nothing() -> None:
    chain = nn.Sequential(nn.Linear(100, 50), nn.ReLU(inplace=True), nn.Unflatten(1, (5, 10)), nn.Flatten())
    assert measure_memory(chain, ModelInputs((X,))).call_bytes == FLOAT * 8 * (100 + 50)


class Keeps(nn.Module):
    """Keeps every result until the end."""

    def forward(self, x: Tensor) -> Tensor:
        kept = [x + step for step in range(5)]
        return torch.stack(kept).sum(0)


def test_what_is_kept_adds_up() -> None:
    # Five sums, their stack, and the total.
    assert measure_memory(Keeps(), ModelInputs((X,))).call_bytes == FLOAT * 8 * 100 * (1 + 5 + 5 + 1)


def test_a_slice_of_much_data_counts_as_long_as_it_is() -> None:
    found = measure_memory(nn.Identity(), ModelInputs((torch.zeros(1000, 100)[:8],)))
    assert (found.weight_bytes, found.call_bytes) == (0, FLOAT * 8 * 100)


def test_tied_weights_count_once() -> None:
    layer = nn.Linear(100, 100, bias=False)
    assert measure_memory(nn.Sequential(layer, layer), ModelInputs((X,))).weight_bytes == FLOAT * 100 * 100


def test_footprints_tell_it() -> None:
    wide, narrow = nn.Linear(100, 90), nn.Linear(100, 9)
    found = compare(wide, narrow, X, repeats=0)
    assert found.before.memory_bytes == FLOAT * (9090 + 8 * 190)
    assert found.after.memory_bytes == FLOAT * (909 + 8 * 109)
    assert ["peak memory", "42.4 kB", "7.1 kB", "5.96x"] in found.rows()
    assert footprint(wide).memory_bytes is None
    assert footprint(wide, X, repeats=0).to_json()["memory"]["method"] == "tensors"
