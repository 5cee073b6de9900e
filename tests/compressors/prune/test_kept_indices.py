"""Which units a cut kept: `record_of(small).kept_indices`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from channel_zoo import ZOO as CASES
from torch import nn

import nbcompress as nc
from nbcompress.compressors.blocks import name_after_removal, name_before_removal, packed_indices, unpacked_indices
from nbcompress.compressors.record import Record, Surgery, unit_axis
from nbcompress.errors import ArtifactError


def chain() -> nn.Sequential:
    """Units of the first layer have norms 3, 1, 4, 2; of the second 2, 1, 3."""
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[0].weight[:, 0] = torch.tensor([3.0, 1.0, 4.0, 2.0])
        model[2].bias[:] = torch.tensor([2.0, 1.0, 3.0])
    return model


def test_kept_units_by_hand(tmp_path: Path) -> None:
    model = chain()
    small = nc.prune(model, 0.5, granularity="channel", example=torch.zeros(1, 2))
    kept = nc.record_of(small).kept_indices
    # Half of three is two, so one stays: the units of norm 3.
    assert {name: indices.tolist() for name, indices in kept.items()} == {"0": [0, 2], "2": [2], "4": [0, 1]}
    assert kept["0"].dtype == torch.int64
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), chain())
    assert {name: indices.tolist() for name, indices in nc.record_of(loaded).kept_indices.items()} == {
        name: indices.tolist() for name, indices in kept.items()
    }
    assert nc.record_of(model).kept_indices == {}


def test_two_cuts_count_from_the_original() -> None:
    small = nc.prune(chain(), 0.25, granularity="channel", example=torch.zeros(1, 2))
    assert nc.record_of(small).kept_indices["0"].tolist() == [0, 2, 3]
    smaller = nc.prune(small, 0.34, granularity="channel", example=torch.zeros(1, 2))
    assert nc.record_of(smaller).kept_indices["0"].tolist() == [0, 2]
    part = nn.ModuleDict({"body": smaller})
    assert nc.record_of(part).kept_indices["body.0"].tolist() == [0, 2]
    assert nc.record_of(smaller[0]).kept_indices[""].tolist() == [0, 2]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.refused])
def test_the_small_weights_are_those_of_the_kept_units(name: str) -> None:
    """`W[S]`, and then only inputs are missing. The values are those of the original, so a wrong set shows."""
    case = CASES[name]
    torch.manual_seed(0)
    model = case.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    small = nc.prune(model, 0.5, granularity="channel", example=case.example())
    kept = nc.record_of(small).kept_indices
    cut = {
        key
        for key, value in small.named_parameters()
        if value.ndim > 1 and value.shape != model.get_parameter(key).shape
    }
    assert kept
    seen = set()
    for key, indices in kept.items():
        full = next(
            full
            for full in (f"{key}.weight", key, f"{key}.parametrizations.weight.original1", f"{key}.weight_v")
            if full.removeprefix(".") in dict(small.named_parameters())
        ).removeprefix(".")
        seen.add(full)
        axis = unit_axis(small.get_submodule(full.rpartition(".")[0]))
        rows = model.get_parameter(full).index_select(axis, indices).movedim(axis, 0)
        after = small.get_parameter(full).movedim(axis, 0)
        for row, short in zip(rows.flatten(1), after.flatten(1), strict=True):
            assert bool(torch.isin(short, row).all())
    assert {key for key in cut if not key.endswith("original0") and not key.endswith("weight_g")} <= seen


@pytest.mark.parametrize("indices", [(), (0, 1, 2), (1,), (0, 3, 8, 9, 200)])
def test_packed(indices: tuple[int, ...]) -> None:
    assert unpacked_indices(packed_indices(indices)) == indices


def test_names_after_a_removal() -> None:
    assert name_after_removal("h.3.fc", "h", (0, 3)) == "h.1.fc"
    assert name_after_removal("h.2.fc", "h", (0, 3)) is None
    assert name_after_removal("head", "h", (0, 3)) == "head"
    assert name_after_removal("3", "", (0, 3)) == "1"
    assert name_before_removal("h.1.fc", "h", (0, 3)) == "h.3.fc"
    steps = (
        Surgery("cut", "h.3", kept={"weight": packed_indices([1, 4])}),
        Surgery("remove", "h", kept={"": packed_indices([0, 3])}),
    )
    kept = Record(surgery=steps).kept_indices
    assert {name: item.tolist() for name, item in kept.items()} == {"h.1": [1, 4], "h": [0, 3]}


@pytest.mark.parametrize("kept", [5, b"\xff", b"\x01", packed_indices([0, 9])])
def test_kept_units_that_do_not_fit_are_refused(kept: int | bytes, tmp_path: Path) -> None:
    small = nc.prune(chain(), 0.5, granularity="channel", example=torch.zeros(1, 2))
    record = nc.record_of(small)
    step = record.surgery[0]
    from dataclasses import replace

    from nbcompress.compressors.record import attach_

    attach_(small, replace(record, surgery=(replace(step, kept={"weight": kept}), *record.surgery[1:])))
    path = nc.save(small, tmp_path / "small.nbz")
    with pytest.raises(ArtifactError, match="the kept units of 'weight' in module '0' do not fit its shape"):
        nc.load(path, chain())
