"""The public names."""

from __future__ import annotations

import pytest

import nbcompress
from nbcompress.public import HOMES, MODULES


@pytest.mark.parametrize("name", sorted(HOMES))
def test_every_public_name_loads_and_says_what_it_is(name: str) -> None:
    value = getattr(nbcompress, name)
    assert callable(value)
    assert value.__doc__
    assert name in dir(nbcompress)


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_reached_as_attributes_and_not_by_a_star(name: str) -> None:
    assert getattr(nbcompress, name).__name__ == f"nbcompress.{name}"
    assert name in dir(nbcompress)
    assert name not in nbcompress.__all__


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'nbcompress' has no attribute 'prun'"):
        nbcompress.prun  # noqa: B018
