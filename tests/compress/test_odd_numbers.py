"""Complex, sparse and expanded tensors: trained, saved and loaded, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from odd_nets import Expanded, Graph, SparseWeight, Spectral
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compress.record import record_of
from nbcompress.errors import ArtifactError, CompressionError

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
DATA = [(X, torch.tensor([0, 1, 2, 1, 0]))] * 3

MODELS: dict[str, Callable[[], nn.Module]] = {
    "complex": Spectral,
    "expanded": Expanded,
    "expanded, not stored": lambda: Expanded(is_stored=False),
    "sparse, not stored": lambda: Graph(is_stored=False),
}
STEPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "quantize": lambda m: nc.quantize(m, 4, data=DATA, finetune=2),
    "cluster": lambda m: nc.cluster(m, 4, data=DATA, finetune=2),
    "prune": lambda m: nc.prune(m, 0.5, data=DATA, finetune=2),
    "prune by gradient": lambda m: nc.prune(m, 0.5, criterion="gradient", data=DATA),
    "factorize": lambda m: nc.factorize(m, 0.3, data=DATA, finetune=2),
    "finetune": lambda m: nc.finetune(copy.deepcopy(m), DATA, epochs=2, lr=0.01),
    "sgd": lambda m: nc.finetune(copy.deepcopy(m), DATA, epochs=2, optimizer="sgd", weight_decay=0.01),
    "patience": lambda m: nc.finetune(copy.deepcopy(m), DATA, epochs=3, valid=DATA, patience=1),
    "distill": lambda m: nc.distill(m, copy.deepcopy(m), DATA, epochs=1),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", MODELS)
def test_trained_saved_and_loaded(name: str, step: str, tmp_path: Path) -> None:
    model = made(name)
    before = [one.detach().clone() for one in (*model.parameters(), *model.buffers())]
    small = STEPS[step](model)
    for one, values in zip((*model.parameters(), *model.buffers()), before, strict=True):
        assert torch.equal(one.to_dense(), values.to_dense())
    assert small(X).isfinite().all()
    path = nc.save(small, tmp_path / "small.nbz")
    assert path.stat().st_size == nc.size_bytes(small)
    loaded = nc.load(path, made(name))
    assert torch.equal(loaded(X), small(X))


def test_complex_weights_are_trained_in_full_precision() -> None:
    small = nc.quantize(made("complex"), 4, data=DATA, finetune=2)
    assert record_of(small).left_out["mix"] == "its dtype is complex64"
    for name in ("mix", "tilt"):
        trained = small.get_parameter(name).detach()
        assert trained.dtype == torch.complex64
        assert not torch.equal(trained, made("complex").get_parameter(name))
        assert not torch.equal(trained.real, trained.real.half().float())


def test_complex_weights_that_diverge_are_named() -> None:
    model = made("complex")
    with torch.no_grad():
        model.get_parameter("tilt")[0] = complex(0.0, float("nan"))
    with pytest.raises(CompressionError, match="weights must be finite, but 1 of 5 in 'tilt' are NaN or infinite"):
        nc.quantize(model, 4)
    with pytest.raises(CompressionError, match="diverged"):
        nc.finetune(made("complex"), DATA, lr=1e30, optimizer="sgd")


def test_a_cut_around_complex_numbers_keeps_their_imaginary_parts() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave, self.waves = nn.Linear(6, 10), nn.Linear(10, 6), Spectral()

        def forward(self, x: Tensor) -> Tensor:
            return self.waves(self.leave(self.enter(x).relu()))

    torch.manual_seed(0)
    small = nc.prune(Beside(), 0.5, granularity="channel", example=X)
    assert small.get_submodule("enter").out_features == 5


def test_an_expanded_buffer_is_copied() -> None:
    model = made("expanded")
    small = nc.quantize(model, 4)
    assert model.get_buffer("weigh").stride() == (0,)
    assert small.get_buffer("weigh").stride() == (1,)
    assert torch.equal(small.get_buffer("weigh"), torch.full((12,), 0.3).half().float())
    assert small.get_buffer("weigh") is small.get_buffer("again")


def test_a_file_fills_an_expanded_buffer_with_other_values(tmp_path: Path) -> None:
    model = nc.quantize(made("expanded"), 8)
    model.get_buffer("window")[2] = 7.0
    loaded = nc.load(nc.save(model, tmp_path / "model.nbz"), made("expanded"))
    assert torch.equal(loaded.get_buffer("window"), model.get_buffer("window"))


@pytest.mark.parametrize("step", [one for one in STEPS if one not in ("finetune", "sgd", "patience", "distill")])
def test_a_sparse_parameter_is_refused_by_name(step: str) -> None:
    with pytest.raises(CompressionError, match=r"weights must be dense, but parameter 'mix' is torch.sparse_coo"):
        STEPS[step](SparseWeight())


@pytest.mark.parametrize("call", [lambda m: nc.finetune(m, DATA), lambda m: nc.distill(made("complex"), m, DATA)])
def test_a_sparse_parameter_is_not_trained(call: Callable[[nn.Module], object]) -> None:
    with pytest.raises(CompressionError, match=r"weights must be dense, but parameter 'mix' is torch.sparse_coo"):
        call(SparseWeight())


def test_an_expanded_parameter_is_refused_by_name() -> None:
    model = nn.Linear(3, 4)
    model.weight = nn.Parameter(torch.randn(1, 3).expand(4, 3))
    with pytest.raises(CompressionError, match="but 'weight' is expanded: make it a tensor of its own with clone"):
        nc.quantize(model, 4)


def test_a_sparse_buffer_is_left_alone_and_refused_by_a_file(tmp_path: Path) -> None:
    small = nc.quantize(Graph(is_stored=True), 4)
    assert small(X).shape == (5, 3)
    with pytest.raises(ArtifactError, match=r"'near' is torch.sparse_coo, which the file cannot hold"):
        nc.save(small, tmp_path / "small.nbz")
    # Tracing it is no trouble, though nothing of this one can be cut.
    with pytest.raises(CompressionError, match="_sparse_mm is an operator that channels cannot be followed through"):
        nc.prune(small, 0.5, granularity="channel", example=X)
