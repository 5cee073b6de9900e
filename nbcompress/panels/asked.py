"""What somebody put together on the page, a point or limits, as the search's space knows it."""

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


def asked_limits(values: Any, space: Space) -> dict[str, list[Any]]:
    """Return the limits of a message, by parameter.

    Args:
        values: A list with an entry for each parameter of the space, in its order: None where it is not limited, the
            lowest and the highest value of a number, or the places of the options of a choice that are left.

    Raises:
        PointError: It is no such list. Whether the values fit their parameters is for who takes them to say.
    """
    if not isinstance(values, list) or len(values) != len(space):
        raise PointError(f"Limits are {len(space)} entries, one for each parameter, but got {values!r}.")
    limits: dict[str, list[Any]] = {}
    for name, entry in zip(space.names, values, strict=True):
        if entry is not None:
            if not isinstance(entry, list):
                raise PointError(f"The limits of {name!r} are a list, but got {entry!r}.")
            parameter = space[name]
            limits[name] = [_option(parameter, one) for one in entry] if isinstance(parameter, Choice) else entry
    return limits


def _option(choice: Any, place: Any) -> Any:
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(choice.options):
        raise PointError(f"{choice!r} has {len(choice.options)} options, but got the place {place!r}.")
    return choice.options[place]
