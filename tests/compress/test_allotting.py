from __future__ import annotations

from itertools import product

import pytest
import torch
from compress_zoo import ZOO
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nbcompress.compress.layers import select
from nbcompress.compress.losses import LossSpec
from nbcompress.compress.quantize.allotting import Cost, Costs, allotted, importances, steps_up


def test_choices_by_hand() -> None:
    """Over the least 3 bytes, `a` saves 6 for 2 more and 1 for another 2, `b` 2 for 1 more."""
    costs: Costs = {
        "a": {1: Cost(2, 8.0), 2: Cost(4, 2.0), 3: Cost(6, 1.0)},
        "b": {1: Cost(1, 3.0), 2: Cost(2, 1.0)},
    }
    assert allotted(costs, 2) is None
    assert allotted(costs, 3) == {"a": 1, "b": 1}
    assert allotted(costs, 5) == {"a": 2, "b": 1}
    assert allotted(costs, 6) == {"a": 2, "b": 2}
    assert allotted(costs, 7) == {"a": 2, "b": 2}
    assert allotted(costs, 8) == {"a": 3, "b": 2}


def test_what_costs_nothing_comes_first() -> None:
    costs: Costs = {"a": {1: Cost(5, 3.0), 2: Cost(5, 1.0), 3: Cost(9, 0.0)}}
    assert allotted(costs, 5) == {"a": 2}


COST = st.builds(Cost, st.integers(1, 20), st.floats(0, 10))


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.lists(COST, min_size=1, max_size=4), min_size=1, max_size=4), room=st.integers(0, 80))
def test_within_the_room_and_not_to_be_improved(rows: list[list[Cost]], room: int) -> None:
    costs: Costs = {str(k): dict(enumerate(row, start=1)) for k, row in enumerate(rows)}
    bits = allotted(costs, room)
    least = sum(min(one.n_bytes for one in row) for row in rows)
    assert (bits is None) == (least > room)
    if bits is None:
        return
    used = sum(costs[name][b].n_bytes for name, b in bits.items())
    assert used <= room
    assert all(step.n_bytes > room - used for step in steps_up(costs, bits))


@pytest.mark.parametrize("most", [1 << 15, 20])
def test_the_best_of_all(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all 4^5 choices; nearly so where sums of bytes are merged."""
    from nbcompress.compress.quantize import allotting

    monkeypatch.setattr(allotting, "_MOST_SUMS", most)
    sizes, scales = [40, 7, 100, 23, 11], [1.0, 30.0, 0.5, 4.0, 9.0]
    costs: Costs = {
        str(k): {b: Cost(n * b, scale * 4.0**-b) for b in (1, 2, 3, 4)}
        for k, (n, scale) in enumerate(zip(sizes, scales, strict=True))
    }
    for room in (181, 250, 400, 600, 724):
        bits = allotted(costs, room)
        assert bits is not None
        fitting = [
            sum(costs[str(k)][b].error for k, b in enumerate(choice))
            for choice in product((1, 2, 3, 4), repeat=5)
            if sum(costs[str(k)][b].n_bytes for k, b in enumerate(choice)) <= room
        ]
        found = sum(costs[name][b].error for name, b in bits.items())
        assert found == pytest.approx(min(fitting), rel=1e-9 if most > 20 else 0.3)


def test_importance_by_hand() -> None:
    """One weight, two batches: gradients of (w - y)^2 at w = 2 are 2 (2 - y) = 4 and -2, so their squares sum to 20.

    Times w^2 that is 80, which is scaled to 1: 1/4. Without data it is 1 / w^2, of which a millionth is added.
    """
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    loader = [(torch.ones(1, 1), torch.zeros(1, 1)), (torch.ones(1, 1), torch.full((1, 1), 3.0))]
    targets = select(model).targets
    assert importances(model, targets, loader, 0, LossSpec(nn.functional.mse_loss))[0].tolist() == [
        [pytest.approx(0.25 + 0.25e-6)]
    ]
    assert importances(model, targets, None, 0)[0].tolist() == [[0.25]]


def test_importances_leave_the_model() -> None:
    animal = ZOO["recurrent"]()
    targets = select(animal.model).targets
    found = importances(animal.model, targets, animal.data, 0)
    assert [one.shape for one in found] == [one.parameter.shape for one in targets]
    assert all(one.grad is None for one in animal.model.parameters())
    assert animal.model.training
    assert pytest.approx(0) != float(found[0].sum())
