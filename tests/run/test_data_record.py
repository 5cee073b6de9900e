"""The record of data: shapes and hashes that change with the content and with nothing else."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

import nbcompress as nc
from nbcompress.run.data_record import HASHED_BYTES, data_facts

X, Y = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 0, 1])


class Files(Dataset[int]):
    """Reads its examples from elsewhere."""

    def __getitem__(self, place: int) -> int:
        return place


def test_shapes_types_and_a_hash() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=2, shuffle=True)
    found = data_facts({"train": loader, "pair": (X, Y), "lr": 0.1, "f": print, "net": torch.nn.Linear(3, 2)})
    assert set(found.described) == {"train", "pair"}
    assert found.hashes["train"] == found.hashes["pair"]
    text = f"float32[4, 3], int64[4], sha256 {found.hashes['pair']}"
    assert found.described == {"train": f"{text} (DataLoader of TensorDataset)", "pair": text}
    assert found.gaps == ()


@pytest.mark.parametrize(
    "value",
    [
        X,
        X.numpy(),
        {"x": X, "y": [Y]},
        Subset(TensorDataset(X, Y), [0, 1]),
        ConcatDataset([TensorDataset(X), TensorDataset(X)]),
        pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}),
        pd.Series([1, 2, 3]),
        list(range(40)),
        X.to(torch.bfloat16),
        torch.tensor(1.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_form_has_a_hash_that_stays(value: Any) -> None:
    one, two = data_facts({"data": value}), data_facts({"data": value})
    assert one == two
    assert re.search(r"sha256 [0-9a-f]{16}\b", one.described["data"])
    assert ("data" in one.hashes) == (type(value) is not list)
    assert set(one.to_json()) == {"data"}


def test_another_value_type_or_shape_is_another_hash() -> None:
    other = X.clone()
    other[3, 2] = 99
    kinds = [X, other, X.int(), X.reshape(3, 4), X.T]
    assert len({data_facts({"x": one}).hashes["x"] for one in kinds}) == len(kinds)


def test_a_transposed_view_and_its_copy_are_the_same_data() -> None:
    assert data_facts({"x": X.T}).hashes == data_facts({"x": X.T.contiguous()}).hashes


def test_of_much_data_a_sample_is_hashed_and_said_so() -> None:
    large = np.zeros((40, HASHED_BYTES // 16), dtype=np.uint8)
    found = data_facts({"x": large})
    assert "sha256 of a sample " in found.described["x"]
    large[0] = 1
    assert data_facts({"x": large}).hashes != found.hashes
    assert "sample" not in data_facts({"x": large[:16]}).described["x"]


def test_what_cannot_be_read_here_is_a_gap() -> None:
    found = data_facts(
        {"files": Files(), "loader": DataLoader(Files(), sampler=[1]), "lines": io.StringIO("a"), "stream": iter([1])}
    )
    assert found.described == {}
    assert found.gaps == (
        "content of files (Files)",
        "content of lines (StringIO)",
        "content of loader (DataLoader of Files)",
        "content of stream (list_iterator)",
    )
    assert data_facts({"io": io, "odd": torch.zeros(3, device="meta")}).gaps == ("content of odd (Tensor)",)
    assert data_facts({"conjugate": torch.zeros(3, dtype=torch.complex64).conj()}).hashes


def test_a_search_notes_what_its_function_reads_and_warns_of_other_data(tmp_path: Path, caplog: Any) -> None:
    def run(data: torch.Tensor, trials: int = 2) -> Any:
        def g(x: float) -> dict[str, float]:
            return {"y": float((data * x).sum())}

        space = {"x": nc.Float(0, 1)}
        return nc.search(g, space, maximize="y", trials=trials, sampler="sobol", study="s", storage=tmp_path / "j")

    digest = data_facts({"data": X}).hashes["data"]
    assert run(X).record["data"] == {"data": f"float32[4, 3], sha256 {digest}"}
    assert "content of data" not in caplog.text
    again = run(X + 1)
    assert "begun with another content of data" in caplog.text
    # No trial was run with it.
    assert digest in again.record["data"]["data"]
    assert digest not in run(X + 1, trials=3).record["data"]["data"]
