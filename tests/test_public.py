"""The public names."""

from __future__ import annotations

import pytest

import nbcompress
from nbcompress.public import HOMES


@pytest.mark.parametrize("name", sorted(HOMES))
def test_every_public_name_loads_and_says_what_it_is(name: str) -> None:
    value = getattr(nbcompress, name)
    assert callable(value)
    assert value.__doc__
    assert name in dir(nbcompress)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'nbcompress' has no attribute 'prun'"):
        nbcompress.prun  # noqa: B018
