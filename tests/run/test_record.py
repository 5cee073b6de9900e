"""The record of data: shapes and hashes that change with the content and with nothing else.

Digits of what a search reads beside data: they change with it and with nothing else.

The record of versions and machine."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import re
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

import nbcompress as nc
from nbcompress.run.record import (
    HASHED_BYTES,
    code_and_models,
    code_digits,
    data_facts,
    fingerprints,
    lambda_source,
    provenance,
)

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
    assert len({data_facts({"x": value}).hashes["x"] for value in kinds}) == len(kinds)


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


def function_of(text: str, name: str = "score") -> Any:
    """Define a function as a notebook does."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(text, namespace)
    return namespace[name]


@pytest.mark.parametrize(
    ("value", "other"), [(3, 5), (0.1, 0.2), ("a", "b"), (None, 1), ((1, "a"), (1, "b")), (1, True)]
)
def test_numbers_and_texts(value: object, other: object) -> None:
    assert fingerprints({"k": value}) == fingerprints({"k": copy.copy(value)})
    assert fingerprints({"k": value}) != fingerprints({"k": other})
    assert set(fingerprints({"k": value})) == {"value of k"}


def test_models_by_their_parameters_and_buffers() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = fingerprints({"net": net})
    assert set(before) == {"content of net"}
    assert fingerprints({"net": copy.deepcopy(net).eval()}) == before
    changed = copy.deepcopy(net)
    changed(torch.rand(8, 3))  # moves the statistics of the normalisation
    assert fingerprints({"net": changed}) != before
    with torch.no_grad():
        net[0].weight[0, 0] += 1
    assert fingerprints({"net": net}) != before


def test_functions_of_the_notebook() -> None:
    assert set(fingerprints({"score": function_of("def score(x): return x")})) == {"version of score"}
    assert code_digits(test_functions_of_the_notebook) != code_digits(function_of)


# fmt: off
LAMBDAS: list[Any] = [
    (lambda x: x, lambda x: -x), lambda: 1, lambda: 1.0, lambda x: (lambda y: y + x),
    lambda é="ö": é, lambda z: z if z > 1 else
    (z, 2), lambda a=lambda: 3: a(),
]
# fmt: on


def test_a_lambda_is_its_own_source_and_not_the_line_around_it() -> None:
    (same, negative), *others = LAMBDAS
    found = [lambda_source(function.__code__) for function in (same, negative, *others, others[2](1))]
    assert found == [
        "lambda x: x", "lambda x: -x", "lambda: 1", "lambda: 1.0", "lambda x: lambda y: y + x", "lambda é='ö': é",
        "lambda z: z if z > 1 else (z, 2)", "lambda a=lambda: 3: a()", "lambda y: y + x",
    ]  # fmt: skip
    assert code_digits(same) == code_digits(lambda x: x)
    assert lambda_source(eval("lambda: 1").__code__) is None


MODULE = """
import math
LIMIT = 3
def reached(x):
    return x * {factor}
def h(x):
    return reached(x)
def other(x):
    return x + {term}
class Net:
    def forward(self, x):
        return h(x)
"""


def module_of(name: str, **values: int) -> ModuleType:
    module = ModuleType(name)
    exec(MODULE.format(**{"factor": 2, "term": 1, **values}), module.__dict__)
    return module


def test_functions_and_classes_of_modules_that_are_not_installed() -> None:
    def found(**values: int) -> list[Any]:
        module = module_of("helper_of_a_person", **values)
        return list(fingerprints({"helper": module, "h": module.h, "Net": module.Net}).items())

    before = found()
    assert [name for name, _ in before] == ["version of helper", "version of h", "version of Net"]
    assert found() == before
    # Another term changes the module alone; another factor also what reaches that function.
    assert [a == b for a, b in zip(before, found(term=5), strict=True)] == [False, True, True]
    assert [a == b for a, b in zip(before, found(factor=5), strict=True)] == [False, False, False]


def test_an_imported_function_that_is_loaded_anew_is_noticed(tmp_path: Path, caplog: Any, monkeypatch: Any) -> None:
    def search(trials: int) -> nc.Study:
        def body(x: float) -> dict[str, float]:
            import helper_of_a_person  # type: ignore[import-not-found]

            return {"loss": helper_of_a_person.h(x)}

        space = {"x": nc.Float(0, 1)}
        return nc.search(
            body, space, minimize="loss", trials=trials, sampler="random", study="s", storage=tmp_path / "j"
        )

    monkeypatch.setitem(sys.modules, "helper_of_a_person", module_of("helper_of_a_person"))
    search(1)
    search(2)
    assert caplog.text == ""
    monkeypatch.setitem(sys.modules, "helper_of_a_person", module_of("helper_of_a_person", factor=3))
    search(3)
    assert "Study 's' was begun with another version of helper_of_a_person; its earlier trials" in caplog.text


def test_what_is_not_the_notebook_s_or_may_grow_has_none() -> None:
    assert fingerprints({"sqrt": math.sqrt, "f": function_of.__call__, "m": math, "log": [1, 2], "c": {"a": 1}}) == {}
    assert fingerprints({"digits": code_digits, "empty": nn.ReLU()}) == {}
    assert fingerprints({"lazy": nn.LazyLinear(3), "meta": nn.Linear(2, 3, device="meta")}) == {}


def test_it_is_json_and_names_no_person() -> None:
    found = provenance()
    text = json.dumps(found)
    assert found["versions"]["python"].count(".") == 2
    assert found["machine"]["cores"] == os.cpu_count()
    assert os.path.expanduser("~") not in text


def test_the_record_names_models_and_functions_of_the_notebook() -> None:
    net = torch.nn.Linear(3, 2)
    here = FunctionType((lambda model: 1.0).__code__, {"__name__": "__main__"}, "evaluate")
    found = code_and_models({"net": net, "evaluate": here, "lr": 0.1, "x": X, "print": print})
    assert set(found) == {"models", "functions"}
    assert re.fullmatch(r"Linear, 8 parameters, sha256 [0-9a-f]{16}", found["models"]["net"])
    assert re.fullmatch(r"sha256 of its source [0-9a-f]{16}", found["functions"]["evaluate"])
    with torch.no_grad():
        net.weight += 1
    assert code_and_models({"net": net})["models"] != {"net": found["models"]["net"]}
    assert code_and_models({"lr": 0.1}) == {}


class Unreadable(torch.nn.Module):
    def parameters(self, recurse: bool = True) -> Any:
        raise RuntimeError("not yet")


def test_a_model_that_cannot_be_read_is_named_all_the_same() -> None:
    found = code_and_models({"net": Unreadable()})["models"]["net"]
    assert found.startswith("Unreadable, an unknown number of parameters")


def test_a_search_stores_them() -> None:
    net = torch.nn.Linear(3, 2)
    study = nc.search(lambda x: {"loss": x + net.weight.numel()}, {"x": nc.Float(0, 1)}, minimize="loss", trials=1)
    assert study.record["models"]["net"].startswith("Linear, 8 parameters")
