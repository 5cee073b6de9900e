"""Digits of what a search reads beside data: they change with it and with nothing else."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from nbcompress.run.fingerprints import code_digits, fingerprints


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


def test_what_is_not_the_notebook_s_or_may_grow_has_none() -> None:
    assert fingerprints({"sqrt": math.sqrt, "f": function_of.__call__, "m": math, "log": [1, 2], "c": {"a": 1}}) == {}
    assert fingerprints({"digits": code_digits, "empty": nn.ReLU()}) == {}
    assert fingerprints({"lazy": nn.LazyLinear(3), "meta": nn.Linear(2, 3, device="meta")}) == {}
