"""What the magics declare is what their functions take, and registering the magics imports almost nothing."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from typing import Any, Literal, get_args

import pytest
from torch import nn

import nbcompress as nc
from nbcompress.magics import LINE_MAGICS, line_magic
from nbcompress.magics.arguments import Argument, OneOf, argument, number, one_of
from nbcompress.public import HOMES, public

SHARES = ("prune", "factorize")  # their levels are shares; those of the others are whole numbers
OPTIONS = [
    pytest.param(name, declared, id=f"{name} {declared.name}")
    for name in LINE_MAGICS
    if name in HOMES
    for declared in line_magic(name).arguments
]


def parameters_of(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(public(name)).parameters)


def words_of(parameter: inspect.Parameter, name: str) -> set[str]:
    """Return the words of a `Literal`, also of one in a union."""
    annotation = eval(parameter.annotation, {"Literal": Literal, **inspect.unwrap(public(name)).__globals__})
    parts = [annotation, *get_args(annotation)]
    return {word for part in parts for word in get_args(part) if isinstance(word, str)}


@pytest.mark.parametrize(("name", "declared"), OPTIONS)
def test_words_are_those_of_the_function(name: str, declared: Argument) -> None:
    reader = declared.settings.get("type")
    parameter = parameters_of(name).get(declared.keyword)
    if not isinstance(reader, OneOf) or parameter is None or parameter.annotation == "str":
        return
    assert words_of(parameter, name) == set(reader.choices)


@pytest.mark.parametrize("compressor", ["prune", "quantize", "cluster", "factorize"])
def test_compressors_of_sensitivity(compressor: str) -> None:
    (declared,) = [option for option in line_magic("sensitivity").arguments if option.keyword == "compressor"]
    assert compressor in declared.settings["type"].choices
    model = nn.Sequential(nn.Linear(8, 8))
    found = nc.sensitivity(model, lambda _: 1.0, compressor=compressor, levels=[0.5 if compressor in SHARES else 2])
    assert len(found.rows) == 1


@pytest.mark.parametrize(("name", "declared"), OPTIONS)
def test_defaults_in_help_are_those_of_the_function(name: str, declared: Argument) -> None:
    told = re.search(r"\(([\w.-]+)\)", declared.settings.get("help", ""))
    parameter = parameters_of(name).get(declared.keyword)
    if told is None or parameter is None:
        return
    # None stands for a default that depends on other options, which the help says in words.
    assert parameter.default is None or str(parameter.default).removesuffix(".0") == told[1]


@pytest.mark.parametrize(("name", "declared"), OPTIONS)
def test_options_are_keywords_of_the_function(name: str, declared: Argument) -> None:
    """Options of the card alone, positional models, and what `%compress` does with its cell are the exceptions."""
    of_the_card = {"example", "data", "evaluate", "out", "model", "models", "run"}
    # What `%export` wrote is measured with these.
    of_the_file = {"threads", "loss", "output"} if name == "export" else set()
    # The switch `--no-progress` is `progress=False`.
    keyword = declared.keyword.removeprefix("no_")
    assert keyword in {*parameters_of(name), *of_the_card, *of_the_file}


def test_declared_arguments() -> None:
    assert argument("--trial-timeout", type=int).keyword == "trial_timeout"
    assert number("--lr", "LR", "rate").settings["metavar"] == "LR"
    declared = one_of("--rest", ("a", "b"), "dtype: {words} (a)")
    assert declared.settings["help"] == "dtype: a, b (a)"
    assert declared.with_help("other").settings == {**declared.settings, "help": "other"}


def modules_after(code: str) -> set[str]:
    script = f"""
from IPython.testing.globalipapp import start_ipython
shell = start_ipython()
import sys
before = set(sys.modules)
{code}
print(*(name for name in set(sys.modules) - before if name.split(".")[0] in ("nbcompress", "numpy", "torch")))
"""
    done: Any = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_load_ext_imports_the_registration_alone() -> None:
    names = {"nbcompress", "nbcompress._version", "nbcompress.public", "nbcompress.magics"}
    assert modules_after("shell.run_line_magic('load_ext', 'nbcompress')") == names


def test_help_does_not_import_torch() -> None:
    helps = "; ".join(f"shell.find_line_magic({name!r}).getdoc()" for name in LINE_MAGICS)
    assert "torch" not in modules_after(f"shell.run_line_magic('load_ext', 'nbcompress'); {helps}")
