"""The space of a search: all parameters, and which of them are active at which point.

How many points a finite conditional space has, without walking through them.
"""

from __future__ import annotations

import keyword
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nbcompress.errors import ParameterError, PointError, SpaceError, did_you_mean
from nbcompress.space.conditions import Condition, closure, simplest
from nbcompress.space.parameters import Choice, Float, Int, Parameter
from nbcompress.space.values import Point, Value, is_same, shown, shown_point

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# What is left of a condition when some choices are known: its cases, each a list of demands still open.
# An empty case is fulfilled; no case is out of reach.
_Open = list[list[tuple[str, tuple[Value, ...]]]]


def count_points(sizes: Mapping[str, int], choices: Mapping[str, Choice], conditions: Mapping[str, Condition]) -> int:
    """Return the number of points.

    Parts of the space that share no open condition are counted apart and multiplied; inside a part the first choice
    takes its values one after the other, which closes conditions. So a hundred layers with a condition each are quick.

    Args:
        sizes: The number of values of every parameter, parents first.
        choices: The parameters that conditions may read.
        conditions: Those of the parameters that are not always active.
    """
    return _count(
        list(sizes),
        {name: [list(case) for case in condition.cases] for name, condition in conditions.items()},
        sizes,
        choices,
    )


def _count(names: list[str], open_: dict[str, _Open], sizes: Mapping[str, int], choices: Mapping[str, Choice]) -> int:
    total = 1
    for part in _parts(names, open_):
        if len(part) == 1:
            total *= sizes[part[0]]
            continue
        # The first of a part is always active: its own parents, if any, are known.
        first, rest = part[0], part[1:]
        counted = 0
        for value in choices[first].values():
            counted += _after(first, value, rest, open_, sizes, choices)
        total *= counted
    return total


def _after(
    name: str,
    value: Value,
    rest: list[str],
    open_: dict[str, _Open],
    sizes: Mapping[str, int],
    choices: Mapping[str, Choice],
) -> int:
    """Count the points of `rest` where `name` has `value`."""
    left = {other: _close(cases, name, value) for other, cases in open_.items() if other in rest}
    return _count_reachable(rest, left, sizes, choices)


def _count_reachable(
    names: list[str], open_: dict[str, _Open], sizes: Mapping[str, int], choices: Mapping[str, Choice]
) -> int:
    """Drop what is out of reach, and what demands a value of it, then count the others."""
    kept: list[str] = []
    gone: set[str] = set()
    for name in names:
        if name in open_:
            cases = [case for case in open_[name] if not any(parent in gone for parent, _ in case)]
            if not cases:
                gone.add(name)
                continue
            if [] in cases:
                del open_[name]
            else:
                open_[name] = cases
        kept.append(name)
    return _count(kept, open_, sizes, choices)


def _close(cases: _Open, name: str, value: Value) -> _Open:
    """Return what is left of `cases` when `name` has `value`."""
    left: _Open = []
    for case in cases:
        wanted = [values for parent, values in case if parent == name]
        if all(any(is_same(value, one) for one in values) for values in wanted):
            left.append([demand for demand in case if demand[0] != name])
    return left


def _parts(names: list[str], open_: dict[str, _Open]) -> list[list[str]]:
    """Split names into parts that no open condition joins, each in the order of `names`."""
    leader = {name: name for name in names}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for name in names:
        for parent in {parent for case in open_.get(name, []) for parent, _ in case}:
            leader[find(name)] = find(parent)
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(find(name), []).append(name)
    return list(parts.values())


VERSION = 1
# These are columns of `study.trials`, beside the parameters.
TAKEN = frozenset({"number", "state", "seconds"})
KINDS = {"Float": Float, "Int": Int, "Choice": Choice}


class Space:
    """An ordered set of parameters, some of them active only at some values of earlier choices.

    A parameter with `each=` is a *group*: it stands for one parameter a name, called `group[name]`. `space.names` and
    points use these flat names.

    Args:
        parameters: The parameters by name, in order. A parameter's `when=` names earlier choices.

    Raises:
        SpaceError: A name or a condition is refused.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        if not isinstance(parameters, Mapping):
            raise SpaceError(f"A space is made from a dict of parameters by name, but got {shown(parameters)}.")
        if not parameters:
            raise SpaceError(
                "A space has at least one parameter. Write for example {'lr': Float(1e-4, 1e-1, log=True)}."
            )
        self._parameters: dict[str, Float | Int | Choice] = {}
        self._conditions: dict[str, Condition] = {}
        self._groups: dict[str, dict[str, str]] = {}
        for name, parameter in parameters.items():
            check_name(name)
            if not isinstance(parameter, (Float, Int, Choice)):
                raise SpaceError(f"{name!r} is a Float, an Int or a Choice, but got {shown(parameter)}.")
            self._add(name, parameter, parameters)
        self.names: tuple[str, ...] = tuple(self._parameters)

    def _add(self, name: str, parameter: Float | Int | Choice, everything: Mapping[str, Parameter]) -> None:
        condition = None
        if parameter.when is not None:
            condition = self._condition(name, Condition.of(parameter.when), everything)
        flat_names = [name]
        if parameter.each is not None:
            self._groups[name] = {one: f"{name}[{one}]" for one in parameter.each}
            flat_names = list(self._groups[name].values())
        for flat in flat_names:
            self._parameters[flat] = parameter.alone()
            if condition is not None:
                self._conditions[flat] = condition

    def _condition(self, name: str, when: Condition, everything: Mapping[str, Parameter]) -> Condition | None:
        """Check a condition against the parameters so far and bring it to its simplest form."""
        for case in when.cases:
            for parent, values in case:
                choice = self._parent(name, parent, everything)
                for value in values:
                    if not choice.contains(value):
                        near = did_you_mean(str(value), choice.options)
                        raise SpaceError(
                            f"{name!r} is to be active when {parent!r} is {shown(value)}, but that is no option of "
                            f"{parent} = {choice!r}.{near}"
                        )
        needed = closure(when.parents, self._conditions)
        choices = {one: choice for one, choice in self._choices().items() if one in needed}
        condition = simplest(when.holds, choices, self._conditions)
        if condition is not None and not condition.cases:
            raise SpaceError(f"{name!r} is never active: nothing fulfils {when!r}.")
        return condition

    def _parent(self, name: str, parent: str, everything: Mapping[str, Parameter]) -> Choice:
        found = self._parameters.get(parent)
        if isinstance(found, Choice):
            return found
        start = f"{name!r} is to be active at values of {parent!r}, but"
        if found is not None:
            raise SpaceError(f"{start} that is {found!r}. A condition reads a Choice.")
        if parent in self._groups:
            inner = next(iter(self._groups[parent].values()))
            raise SpaceError(f"{start} that is a group. Name one of it, such as {inner!r}.")
        if parent in everything:
            raise SpaceError(f"{start} that is declared later. Declare {parent!r} before {name!r}.")
        raise SpaceError(f"{start} there is no such parameter.{did_you_mean(parent, self._choices())}")

    def _choices(self) -> dict[str, Choice]:
        return {name: parameter for name, parameter in self._parameters.items() if isinstance(parameter, Choice)}

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def __getitem__(self, name: str) -> Float | Int | Choice:
        """Return the parameter of a flat name, without `each` and `when`.

        Raises:
            KeyError: There is none of that name.
        """
        return self._parameters[name]

    def __eq__(self, other: object) -> bool:
        # By text, as parameters are.
        return repr(self) == repr(other) if isinstance(other, Space) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The flat names of every parameter with `each=`, by the name of its declaration."""
        return {group: tuple(names.values()) for group, names in self._groups.items()}

    @property
    def conditions(self) -> dict[str, Condition]:
        """The conditions by flat name, in their simplest form, of the parameters that are not always active."""
        return dict(self._conditions)

    @property
    def has_conditions(self) -> bool:
        return bool(self._conditions)

    def parents(self, name: str) -> tuple[str, ...]:
        """Return the choices that decide whether `name` is active; empty if it always is."""
        return self._conditions[name].parents if name in self._conditions else ()

    def is_active(self, name: str, point: Mapping[str, Value]) -> bool:
        """Say whether `name` is active where the choices are those of `point`."""
        return name not in self._conditions or self._conditions[name].holds(point)

    def active(self, point: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the names that are active where the choices are those of `point`, in order."""
        return tuple(name for name in self._parameters if self.is_active(name, point))

    @property
    def n_points(self) -> int | None:
        """How many points there are, or None if they cannot be counted."""
        sizes = {name: parameter.n_values for name, parameter in self._parameters.items()}
        if None in sizes.values():
            return None
        return count_points({name: size or 0 for name, size in sizes.items()}, self._choices(), self._conditions)

    def points(self) -> Iterator[Point]:
        """Walk through every point; the last parameter changes fastest.

        Raises:
            SpaceError: A parameter is continuous, so that the points cannot be counted.
        """
        for name, parameter in self._parameters.items():
            if parameter.is_continuous:
                raise SpaceError(f"The points cannot be listed: {name} = {parameter!r} is continuous. Give it a step.")
        return self._walk(0, {})

    def _walk(self, position: int, point: Point) -> Iterator[Point]:
        while position < len(self.names) and not self.is_active(self.names[position], point):
            position += 1
        if position == len(self.names):
            yield point
            return
        name = self.names[position]
        for value in self._parameters[name].values():
            yield from self._walk(position + 1, {**point, name: value})

    def check(self, point: Mapping[str, Any]) -> Point:
        """Return `point` with plain Python scalars, in order of declaration.

        A group may come as one dict, as a cell sees it, or under its flat names.

        Raises:
            PointError: A parameter is unknown, missing, inactive, or its value outside.
        """
        given = self._flat(point)
        checked: Point = {}
        for name, parameter in self._parameters.items():
            if not self.is_active(name, checked):
                if name in given:
                    where = self._where(name, checked)
                    raise PointError(f"{name!r} is inactive {where}, but got {shown(given[name])}. Leave it out.")
                continue
            if name not in given:
                where = f" {self._where(name, checked)}" if name in self._conditions else ""
                raise PointError(f"The point lacks {name!r}, which is active{where}: {name} = {parameter!r}.")
            try:
                checked[name] = parameter.check(given[name])
            except PointError as err:
                raise PointError(f"{name!r} is outside its parameter: {err}") from err
        return checked

    def _flat(self, point: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(point, Mapping):
            raise PointError(f"A point is a dict of values by name, but got {shown(point)}.")
        flat: dict[str, Any] = {}
        for name, value in point.items():
            if name in self._groups:
                flat |= self._members(name, value)
            elif name in self._parameters:
                flat[name] = value
            else:
                near = did_you_mean(str(name), [*self._parameters, *self._groups])
                raise PointError(f"There is no parameter {shown(name)}.{near} The space has {', '.join(self.names)}.")
        return flat

    def _members(self, group: str, values: Any) -> dict[str, Any]:
        names = self._groups[group]
        if not isinstance(values, Mapping):
            raise PointError(
                f"{group!r} has one value for each of {', '.join(names)}: a dict, but got {shown(values)}."
            )
        for name in values:
            if name not in names:
                raise PointError(f"{group!r} has no {shown(name)}.{did_you_mean(str(name), names)}")
        return {names[name]: value for name, value in values.items()}

    def _where(self, name: str, point: Point) -> str:
        return f"when {shown_point({parent: point[parent] for parent in self.parents(name) if parent in point})}"

    def encode(self, points: Iterable[Mapping[str, Value]]) -> NDArray[np.float64]:
        """Return points as rows of the unit cube, shape `(n, d)`, columns in order of `names`; inactive ones are NaN.

        Raises:
            PointError: A value is outside its parameter, or an active parameter is missing.
        """
        import numpy as np

        rows = [
            [self._encoded(name, parameter, point) for name, parameter in self._parameters.items()] for point in points
        ]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self))

    def _encoded(self, name: str, parameter: Parameter, point: Mapping[str, Value]) -> float:
        if not self.is_active(name, point):
            return math.nan
        if name not in point:
            raise PointError(f"The point lacks {name!r}: {name} = {parameter!r}.")
        return parameter.to_unit(point[name])

    def decode(self, row: Iterable[float]) -> Point:
        """Return the point of one row of the unit cube, shape `(d,)`.

        Which parameters are active follows from the row's choices; what stands in the columns of others is ignored.
        Parameters with countable values take the nearest one.

        Raises:
            PointError: The row has another length, or NaN for an active parameter.
        """
        numbers = [float(cell) for cell in row]
        if len(numbers) != len(self):
            raise PointError(f"A row has one number a parameter, that is {len(self)}, but got {len(numbers)}.")
        point: Point = {}
        for (name, parameter), number in zip(self._parameters.items(), numbers, strict=True):
            if self.is_active(name, point):
                if math.isnan(number):
                    raise PointError(f"The row has NaN for {name!r}, which is active: {name} = {parameter!r}.")
                point[name] = parameter.from_unit(number)
        return point

    def grouped(self, point: Mapping[str, Value]) -> dict[str, Any]:
        """Return `point` as a cell sees it: each group as one dict; what is inactive is absent."""
        members = {flat: (group, name) for group, names in self._groups.items() for name, flat in names.items()}
        result: dict[str, Any] = {}
        for flat, value in point.items():
            if flat in members:
                group, name = members[flat]
                result.setdefault(group, {})[name] = value
            else:
                result[flat] = value
        return result

    def declared(self) -> dict[str, Float | Int | Choice]:
        """Return the declarations that make an equal space: groups with `each=`, conditions with `when=`."""
        found: dict[str, Float | Int | Choice] = {}
        members = {flat: group for group, names in self._groups.items() for flat in names.values()}
        for flat, parameter in self._parameters.items():
            name = members.get(flat, flat)
            each = tuple(self._groups[name]) if flat in members else None
            found.setdefault(name, parameter.alone_with(each, self._conditions.get(flat)))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the space as JSON data, which `from_json` reads."""
        return {
            "version": VERSION,
            "parameters": [{"name": name, **one.to_json()} for name, one in self.declared().items()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """Return the space that `to_json` wrote.

        Raises:
            SpaceError: The data is of a newer version, or no space.
        """
        if not isinstance(data, Mapping) or "version" not in data:
            raise SpaceError(f"A stored space is a dict with a version, but got {shown(data)}.")
        if data["version"] != VERSION:
            raise SpaceError(
                f"This space was stored in version {shown(data['version'])}; this nbcompress reads {VERSION}."
            )
        parameters = {}
        try:
            for parameter in data["parameters"]:
                arguments = {key: value for key, value in parameter.items() if key not in ("name", "kind", "options")}
                parameters[parameter["name"]] = KINDS[parameter["kind"]](*parameter.get("options", ()), **arguments)
        except ParameterError:
            raise
        except (KeyError, TypeError, AttributeError) as err:
            raise SpaceError(f"The stored space cannot be read: {type(err).__name__}: {err}.") from err
        return cls(parameters)

    def difference(self, other: Space) -> str:
        """Say in one sentence how `other`, the newer one, differs from this space; empty if they are equal."""
        old, new = self.declared(), other.declared()
        found = [f"{name!r} was {old[name]!r} and is gone" for name in old if name not in new]
        found += [f"{name!r} = {new[name]!r} is new" for name in new if name not in old]
        found += [
            f"{name!r} was {old[name]!r} and is {new[name]!r}" for name in old if name in new and old[name] != new[name]
        ]
        if found:
            more = len(found) - 1
            rest = f" ({more} more {'differs' if more == 1 else 'differ'})" if more else ""
            return f"The parameter {found[0]}{rest}."
        if list(old) != list(new):
            return f"The order of the parameters was {', '.join(old)} and is {', '.join(new)}."
        return ""

    def __str__(self) -> str:
        """Return the declarations as a cell has them; read again they give an equal space."""
        lines = []
        shown_condition = None
        for name, parameter in self.declared().items():
            condition = parameter.when if isinstance(parameter.when, Condition) else None
            if condition is not None and condition != shown_condition:
                lines.append(f"if {self._test(condition)}:")
            shown_condition = condition
            indent = "    " if condition is not None else ""
            lines.append(f"{indent}{name} = {parameter.alone_with(parameter.each, None)!r}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Space({self.declared()!r})"

    def _test(self, condition: Condition) -> str:
        """Return a condition as a Python expression, parents before what they make active."""
        return " or ".join(
            " and ".join(self._equals(parent, values) for parent, values in case) for case in condition.cases
        )

    def _equals(self, parent: str, values: tuple[Value, ...]) -> str:
        read = parent
        for group, names in self._groups.items():
            for name, flat in names.items():
                if flat == parent:
                    read = f"{group}[{name!r}]"
        return f"{read} == {values[0]!r}" if len(values) == 1 else f"{read} in {values!r}"


def check_name(name: object) -> None:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise SpaceError(f"A parameter is named by a Python identifier, but got {shown(name)}.")
    plain = unicodedata.normalize("NFKC", name)
    if plain != name:
        raise SpaceError(f"Python reads the name {name!r} as {plain!r}. Write {plain!r}.")
    if name in TAKEN:
        raise SpaceError(f"The name {name!r} is taken by a column of the trials; choose another.")
