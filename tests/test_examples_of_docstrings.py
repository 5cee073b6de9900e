"""The examples in docstrings run: each public name has one that a user can paste, and none of the others is stale."""

from __future__ import annotations

import doctest
import random
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nbcompress
from nbcompress.public import HOMES, MODULES

PACKAGE = Path(__file__).parents[1] / "nbcompress"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
OF_MODULES = [(module, name) for module in MODULES for name in import_module(f"nbcompress.{module}").__all__]


def with_examples() -> list[str]:
    """Return the names of all modules of the package with an example in a docstring."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
    parts = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in paths]
    return [".".join(part for part in path if part != "__init__") for path in parts]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each example starts in an empty folder and with the same seeds, and leaves the generators as they were."""
    monkeypatch.chdir(tmp_path)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])


def for_users() -> dict[str, Any]:
    """Return the names that an example of a public name may use without an import of its own."""
    names = {name: getattr(nbcompress, name) for name in HOMES}
    return {**names, "nc": nbcompress, "torch": torch, "nn": torch.nn}


def examples_of(value: object, names: dict[str, Any]) -> list[doctest.DocTest]:
    """Return the docstrings with examples of a module, of a function, or of a class and its methods."""
    found = doctest.DocTestFinder(exclude_empty=True).find(value, value.__name__, globs=names)  # type: ignore[attr-defined]
    return [test for test in found if test.examples]


def check(test: doctest.DocTest) -> None:
    """Run the examples of one docstring.

    Raises:
        AssertionError: One of them gives something else than it says; the text shows both.
    """
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append)
    assert result.failed == 0, "".join(said)


@pytest.mark.parametrize("name", sorted(HOMES))
def test_a_public_name_has_an_example_that_runs(name: str) -> None:
    tests = examples_of(getattr(nbcompress, name), for_users())
    assert tests, f"the docstring of nc.{name} has no example: write `Example:` and lines of `>>>`"
    for test in tests:
        check(test)


@pytest.mark.parametrize(("module", "name"), OF_MODULES, ids=lambda name: name)
def test_a_name_of_another_library_has_an_example_that_runs(module: str, name: str) -> None:
    home = import_module(f"nbcompress.{module}")
    value = getattr(home, name)
    if callable(value):
        tests = examples_of(value, {**for_users(), **{other: getattr(home, other) for other in home.__all__}})
        assert tests, f"the docstring of nbcompress.{module}.{name} has no example: write `Example:` and lines of `>>>`"
        for test in tests:
            check(test)


@pytest.mark.parametrize("module", with_examples())
def test_every_other_example_runs(module: str) -> None:
    """These may use the names of their module. Those of public names ran above, with the names that a user has."""
    home = import_module(module)
    tried = {id(getattr(nbcompress, name)) for name in HOMES}
    tried |= {id(getattr(import_module(f"nbcompress.{other}"), name)) for other, name in OF_MODULES}
    for test in examples_of(home, {**for_users(), **vars(home)}):
        owner = test.name.removeprefix(module).strip(".").partition(".")[0]
        if id(vars(home).get(owner)) not in tried:
            check(test)
