"""Mixed bits under a budget: the file is never longer, and no tensor could have had more bits."""

from __future__ import annotations

import pytest
import torch
from compress_zoo import ZOO, assert_constraints
from torch import nn

import nbcompress as nc
from nbcompress.artifact.budget import parse_budget
from nbcompress.artifact.file import bytes_text
from nbcompress.compressors import quantize as quantize_by_bits
from nbcompress.compressors import record_of
from nbcompress.errors import CompressionError, DataError


def bits_of(model: nn.Module) -> dict[str, int]:
    records = record_of(model).tensors
    grids = {name: record.grid or (record.codebook and record.codebook.grid) for name, record in records.items()}
    return {name: grid.bits for name, grid in grids.items() if grid}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 10))


@pytest.mark.parametrize(
    ("budget", "n_bytes"),
    [
        ("60kB", 60000),
        ("60 KB", 60000),
        ("60KiB", 61440),
        ("1.5MB", 1500000),
        (" .5kb ", 500),
        ("700", 700),
        ("700 B", 700),
        ("1GiB", 2**30),
        (60, 60),
        (60.9, 60),
    ],
)
def test_budgets(budget: object, n_bytes: int) -> None:
    assert parse_budget(budget) == n_bytes


@pytest.mark.parametrize("n_bytes", [1, 999, 1000, 1024, 60000, 61440, 999949, 999950, 1500000, 10**9])
def test_units_out_are_units_in(n_bytes: int) -> None:
    """A size that a card shows means the same bytes as a budget, up to the shown digit; kB is 1000 bytes in both."""
    assert parse_budget(bytes_text(n_bytes)) == pytest.approx(n_bytes, rel=0.05 if n_bytes >= 1000 else 0)


def test_units_of_texts() -> None:
    assert [bytes_text(n) for n in (999, 1000, 60000, 999949, 999950, 2 * 10**9)] == [
        *("999 B", "1.0 kB", "60.0 kB", "999.9 kB", "1.0 MB", "2.0 GB")
    ]


@pytest.mark.parametrize(
    "budget", ["", "kB", "60 TB", "-3kB", "1e3", "6 0kB", 0, 0.5, -1, True, float("nan"), float("inf")]
)
def test_budgets_refused(budget: object) -> None:
    with pytest.raises(
        CompressionError, match=r"budget must be a length such as '60kB', '60KiB', '1.5MB' or 60000, got"
    ):
        nc.quantize(network(), "auto", budget=budget)


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("options", [{}, {"scheme": "affine"}, {"granularity": "group:32"}], ids=str)
def test_within_the_budget_and_filled(share: float, options: dict[str, object]) -> None:
    model = network()
    least, most = (nc.size_bytes(nc.quantize(model, b, **options)) for b in (1 + ("scheme" in options), 8))
    budget = round(least + share * (most - least))
    small = nc.quantize(model, "auto", budget=budget, **options)
    assert_constraints(small)
    assert nc.size_bytes(small) <= budget
    bits = bits_of(small)
    for name, b in bits.items():
        if b < 8:
            more = quantize_by_bits(model, {**bits, name: b + 1}, **options)
            assert nc.size_bytes(more) > budget
    # The steps of the largest tensor are an eighth of the range.
    assert nc.size_bytes(small) >= budget - (most - least) / 7


@pytest.mark.parametrize("animal", ["recurrent", "attention", "tied", "bare", "convolutional", "bfloat16"])
def test_any_model(animal: str) -> None:
    subject = ZOO[animal]()
    least, most = (nc.size_bytes(nc.quantize(subject.model, b)) for b in (1, 8))
    before = [tensor.clone() for tensor in subject.model.state_dict().values()]
    for data in (None, subject.data):
        small = nc.quantize(subject.model, "auto", budget=(least + most) // 2, data=data)
        assert nc.size_bytes(small) <= (least + most) // 2
        again = nc.quantize(subject.model, "auto", budget=(least + most) // 2, data=data)
        assert bits_of(again) == bits_of(small)
    assert all(torch.equal(a, b) for a, b in zip(before, subject.model.state_dict().values(), strict=True))


def test_all_of_eight_where_they_fit() -> None:
    small = nc.quantize(network(), "auto", budget="1MB")
    assert bits_of(small) == {"0.weight": 8, "2.weight": 8, "4.weight": 8}


def test_bits_go_where_they_matter() -> None:
    """The inputs of the first layer are always zero, so its errors cost nothing on the data; it takes what is left."""
    model = network()
    data = (torch.zeros(64, 64), torch.randint(0, 10, (64,)))
    budget = nc.size_bytes(nc.quantize(model, 5))
    found = bits_of(nc.quantize(model, "auto", budget=budget, data=data))
    assert (found["2.weight"], found["4.weight"]) == (8, 8)
    assert 1 < found["0.weight"] < 4
    by_size = bits_of(nc.quantize(model, "auto", budget=budget))
    assert by_size["0.weight"] >= 4


def test_mixed_is_no_worse_than_equal_bits() -> None:
    """With the file length of 3 bits for all, the sum of relative errors is not larger than with 3 bits for all."""
    model = network()
    equal = nc.quantize(model, 3)
    mixed = nc.quantize(model, "auto", budget=nc.size_bytes(equal))

    def error(small: nn.Module) -> float:
        pairs = [[net.get_parameter(f"{k}.weight").detach() for net in (small, model)] for k in (0, 2, 4)]
        return sum(float((a - b).square().sum() / b.square().sum()) for a, b in pairs)

    assert error(mixed) <= error(equal)


def test_after_pruning_and_clustering() -> None:
    pruned = nc.prune(network(), amount=0.8)
    budget = (nc.size_bytes(nc.quantize(pruned, 2)) + nc.size_bytes(nc.quantize(pruned, 6))) // 2
    small = nc.quantize(pruned, "auto", budget=budget)
    assert nc.size_bytes(small) <= budget
    zeros = pruned.get_parameter("0.weight") == 0
    assert bool((small.get_parameter("0.weight")[zeros] == 0).all())
    clustered = nc.cluster(network(), 12)
    assert nc.size_bytes(nc.quantize(clustered, "auto", budget=nc.size_bytes(clustered))) <= nc.size_bytes(clustered)


def test_training_keeps_the_budget() -> None:
    model = network()
    data = (torch.randn(200, 64), torch.randint(0, 10, (200,)))
    budget = nc.size_bytes(nc.quantize(model, 3)) + 100
    small = nc.quantize(model, "auto", budget=budget, data=data, finetune=2, lr=0.02, activations="static")
    assert nc.size_bytes(small) <= budget
    assert nc.size_bytes(small) > 0.8 * budget
    assert_constraints(small)
    assert record_of(small).activations.keys() == {"0", "2", "4"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 8, "budget": "60kB"}, "budget= belongs to bits='auto', got bits=8"),
        ({"bits": "auto"}, "bits='auto' needs budget=, the length of the file, such as '60kB'"),
        (
            {"bits": "auto", "budget": 900},
            r"budget=900 bytes cannot be kept: with the fewest bits the file has \d+ bytes",
        ),
        ({"bits": "auto", "budget": "9kB", "scheme": "odd"}, "scheme must be one of symmetric, affine, got 'odd'"),
        ({"bits": "auto", "budget": "9kB", "finetune": 1}, "finetune=1 needs data"),
    ],
)
def test_options_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(CompressionError, match=text):
        nc.quantize(network(), **options)


def test_data_is_checked_first() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        nc.quantize(network(), "auto", budget="9kB", data=[])
