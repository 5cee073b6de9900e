"""A point that somebody put together on the page, as the search's space knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbcompress.errors import PointError
from nbcompress.space import Choice

if TYPE_CHECKING:
    from nbcompress.space import Point, Space


def asked_point(values: Any, space: Space) -> Point:
    """Return the point of a message.

    Args:
        values: A list with an entry for each parameter of the space, in its order: a number, or the place of the
            option among a choice's options, or None where the parameter is not active. Names and options do not
            travel, since a page may have them cut.

    Raises:
        PointError: It is no point of the space.
    """
    if not isinstance(values, list) or len(values) != len(space):
        raise PointError(f"A point has {len(space)} values, one for each parameter, but got {values!r}.")
    point: dict[str, Any] = {}
    for name, value in zip(space.names, values, strict=True):
        if value is not None:
            point[name] = _option(space[name], value) if isinstance(space[name], Choice) else value
    return space.check(point)


def _option(choice: Any, place: Any) -> Any:
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(choice.options):
        raise PointError(f"{choice!r} has {len(choice.options)} options, but got the place {place!r}.")
    return choice.options[place]
