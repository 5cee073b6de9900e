"""Which of the intended cuts can be carried out: those after which the model still does what it did."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from torch import nn

from nbcompress.compress.coupling import Group
from nbcompress.compress.prune.checking import Check
from nbcompress.compress.prune.cutting import Plan, plan_of
from nbcompress.compress.prune.repairs import Attributes, repairs_of


@dataclass(frozen=True)
class Removal:
    """What is to go from one group, and which numbers of modules change with it."""

    group: Group
    units: tuple[int, ...]
    attributes: Attributes = field(default_factory=dict)


def plan_for(removals: Sequence[Removal]) -> Plan:
    """The plan that carries out all of `removals`."""
    attributes: dict[tuple[str, str], int] = {}
    for one in removals:
        attributes |= one.attributes
    units = (one.group.units[unit] for one in removals for unit in one.units)
    return plan_of(units, attributes, (average for one in removals for average in one.group.averages))


def named(group: Group, why: str) -> dict[str, str]:
    """The reason `why` nothing of `group` goes, by the names of its weights."""
    return dict.fromkeys(group.makers or (group.places[0][0],), why)


def agreed(model: nn.Module, check: Check, removals: list[Removal]) -> tuple[list[Removal], dict[str, str]]:
    """The removals that the comparison allows, together, and why the others are refused.

    If all together do not pass, and not with other numbers of heads either, layers of one kind (whose names differ in
    numbers only) are tried together, then one by one.
    """
    if check.objection(plan_for(removals)) is None:
        return removals, {}
    repaired = _repaired(model, check, removals, most=2)
    if repaired is not None:
        return repaired, {}
    kinds: dict[str, list[Removal]] = {}
    for one in removals:
        kinds.setdefault(re.sub(r"\d+", "#", one.group.name), []).append(one)
    refused: dict[str, str] = {}
    allowed = [_allowed(model, check, kind, refused) for kind in kinds.values()]
    kept = [one for kind in allowed for one in kind]
    if not kept or check.objection(plan_for(kept)) is None:
        return kept, refused
    # Each part is right alone, but not all together.
    together: list[Removal] = []
    for kind in allowed:
        if check.objection(plan_for([*together, *kind])) is None:
            together += kind
            continue
        for one in kind:
            why = check.objection(plan_for([*together, one]))
            if why is None:
                together.append(one)
            else:
                refused |= named(one.group, f"together with other cuts, {why}")
    return together, refused


def _allowed(model: nn.Module, check: Check, kind: list[Removal], refused: dict[str, str]) -> list[Removal]:
    """What may go of layers of one kind: of all of them, or of each for itself."""
    why = check.objection(plan_for(kind))
    if why is None:
        return kind
    repaired = _repaired(model, check, kind)
    if repaired is not None:
        return repaired
    if len(kind) > 1:
        return [one for each in kind for one in _allowed(model, check, [each], refused)]
    refused |= named(kind[0].group, why)
    return []


def _repaired(model: nn.Module, check: Check, kind: list[Removal], most: int | None = None) -> list[Removal] | None:
    for attributes in islice(repairs_of(model, [one.group for one in kind], plan_for(kind)), most):
        attempt = [Removal(one.group, one.units, attributes) for one in kind]
        if check.objection(plan_for(attempt)) is None:
            return attempt
    return None


__all__ = ["Removal", "agreed", "named", "plan_for"]
