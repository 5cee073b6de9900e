"""What a surrogate tells about a study: the values that go from who asks it to every view, and their form there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbcompress.panels.limits import Limits
from nbcompress.panels.text import finite, scalar


@dataclass(frozen=True)
class Expectations:
    """What a surrogate tells about a study. What is not known, or not new, is left empty.

    Attributes:
        slices: Through the best point, one for each parameter, as `slice_data` returns them.
        importance: The parameters' shares in the first objective.
        calibration: How well each trial is foretold from the others, as `calibration_data` returns it.
        surrogate: The fitted processes, as `surrogate_data` returns them.
        remark: A sentence for the reader where the surrogate could not be asked, or an empty string.
    """

    slices: Sequence[Mapping[str, Any]] = field(default_factory=list)
    importance: Mapping[str, float] | None = None
    calibration: Mapping[str, Any] | None = None
    surrogate: Mapping[str, Any] | None = None
    remark: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.slices or self.importance or self.calibration or self.surrogate or self.remark)


NOTHING = Expectations()


def expected_data(expected: Expectations, name: Callable[[str], str], limits: Limits) -> dict[str, Any]:
    """Return the fields of a view that tell it; a calibration or surrogate not known is left out.

    Args:
        expected: What is told.
        name: Gives the short names.
        limits: How much of the texts.
    """
    importance, calibration, surrogate = expected.importance, expected.calibration, expected.surrogate
    data: dict[str, Any] = {
        "slices": [_slice_cut(one, name, limits) for one in expected.slices],
        "importance": {name(key): finite(value) for key, value in importance.items()} if importance else None,
    }
    if calibration:
        data["calibration"] = {**calibration, "metric": name(calibration["metric"])}
    if surrogate:
        processes = [{**one, "metric": one["metric"] and name(one["metric"])} for one in surrogate["processes"]]
        data["surrogate"] = {**surrogate, "processes": processes}
    return data


def _slice_cut(data: Mapping[str, Any], name: Callable[[str], str], limits: Limits) -> dict[str, Any]:
    return {
        **data,
        "parameter": name(data["parameter"]),
        "values": [scalar(one, limits.value) for one in data["values"]],
        "metrics": [{**one, "metric": name(one["metric"])} for one in data["metrics"]],
        "at": scalar(data["at"], limits.value),
        "next": scalar(data["next"], limits.value),
    }
