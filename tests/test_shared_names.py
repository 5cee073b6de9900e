"""Names that Python, the parsers of magics, the JSON schema and the front end share are the same everywhere."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import nbcompress as nc
from nbcompress.choices import ACQUISITIONS
from nbcompress.magics import parser_of
from nbcompress.optimize.proposers import SAMPLERS
from nbcompress.optimize.surrogates.closed_form import KERNELS
from nbcompress.panels import document, figures, messages, view
from nbcompress.panels.surrogate_data import PAGE_ACQUISITIONS
from nbcompress.run.callbacks import Command
from nbcompress.study import State

SOURCES = Path(__file__).parents[1] / "labextension" / "src"


def front_end_names(constant: str) -> list[Any]:
    """Return a list of names in the generated schema.ts."""
    found = re.search(rf"export const {constant} = (\[.*?\]) as const;", (SOURCES / "schema.ts").read_text("utf-8"))
    assert found is not None
    names: list[Any] = json.loads(found[1])
    return names


def choices(parser: argparse.ArgumentParser, option: str) -> tuple[str, ...]:
    """Return the words that an option of a magic accepts or suggests."""
    (action,) = [action for action in parser._actions if option in action.option_strings]
    words: tuple[str, ...] = action.type.choices  # type: ignore[union-attr]
    return words


@pytest.mark.parametrize(
    ("constant", "definition"), [("STATES", "state"), ("KERNELS", "kernel"), ("ACQUISITIONS", "acquisition")]
)
def test_the_front_end_has_the_names_of_the_schema(constant: str, definition: str) -> None:
    assert front_end_names(constant) == view.schema()["$defs"][definition]["enum"]


def test_states() -> None:
    states = [state.value for state in view.STATES]
    assert view.schema()["$defs"]["state"]["enum"] == states
    assert set(states) == {state.value for state in State}
    assert set(document.STATE_SYMBOLS) == set(figures.STATE_STYLES) == set(states)
    styles = (SOURCES / "styles.ts").read_text("utf-8")
    assert [state for state in states if f".nbc-{state} " not in styles] == []


def test_samplers() -> None:
    assert choices(parser_of("bo_search"), "--sampler") == SAMPLERS


def test_kernels() -> None:
    assert choices(parser_of("bo_search"), "--kernel") == KERNELS
    assert view.schema()["$defs"]["kernel"]["enum"] == list(KERNELS)


def test_acquisitions() -> None:
    assert set(choices(parser_of("bo_search"), "--acquisition")) == set(ACQUISITIONS)
    # The page evaluates `qlogei` with the means of pending trials, and `logei` of two objectives as a hypervolume.
    assert set(PAGE_ACQUISITIONS) < set(ACQUISITIONS)
    on_page = {*PAGE_ACQUISITIONS, "hypervolume", None}
    assert set(view.schema()["$defs"]["acquisition"]["enum"]) == on_page


def test_criteria_of_pruning() -> None:
    assert choices(parser_of("prune"), "--criterion") == get_args(get_type_hints(nc.prune)["criterion"])


def test_commands_of_the_page() -> None:
    found = re.search(r"export type Control = ([^;]+);", (SOURCES / "messages.ts").read_text("utf-8"))
    assert found is not None
    controls = set(re.findall(r'"(\w+)"', found[1]))
    assert controls == set(get_args(Command)) | {messages.QUEUE, messages.NARROW}
