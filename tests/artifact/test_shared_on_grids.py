"""Codebooks whose values lie on a grid, in tensors of every dtype: few bits in the file, and the same record after."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from packed_zoo import Perceptron

from nbcompress.artifact import load, save, size_bytes
from nbcompress.compressors import cluster, finetune, prune, quantize, record_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(("bits", "scheme"), [(3, "symmetric"), (8, "affine")])
def test_the_grid_of_shared_values_is_kept(dtype: torch.dtype, bits: int, scheme: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shared = cluster(prune(Perceptron().to(dtype), amount=0.5), clusters=12)
    small = quantize(shared, bits=bits, scheme=scheme)  # type: ignore[arg-type]
    data = torch.randn(20, 24, dtype=dtype), torch.arange(20) % 10
    with warnings.catch_warnings():
        # A codebook that left its grid would warn.
        warnings.simplefilter("error")
        path = save(small, tmp_path / "small.nbz")
        finetune(small, data, epochs=1)
        trained = save(small, tmp_path / "trained.nbz")
    loaded = load(trained, Perceptron().to(dtype))
    assert dict(record_of(loaded).tensors) == dict(record_of(small).tensors)
    assert all(record.codebook and record.codebook.grid for record in record_of(loaded).tensors.values())
    assert torch.equal(loaded(data[0]), small(data[0]))
    assert path.stat().st_size <= size_bytes(shared)
