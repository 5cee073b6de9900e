"""The search space: its parameters, which of them are active at a point, the unit cube, and the number of points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nbcompress.errors import ParameterError, PointError, SpaceError, did_you_mean, shown
from nbcompress.space.conditions import Condition, closure, simplified
from nbcompress.space.parameters import Choice, Float, Int, Parameter
from nbcompress.space.values import Point, Value, check_name, is_same, shown_point

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


VERSION = 1
KINDS: dict[str, type[Float] | type[Int] | type[Choice]] = {"Float": Float, "Int": Int, "Choice": Choice}


class Space:
    """An ordered set of parameters, some of which are active only at some values of earlier Choices.

    A parameter with `each=` is a *group*: it stands for one parameter per name, called `group[name]`. `space.names`
    and points use these flat names.

    Args:
        parameters: The parameters by name, in order. The `when=` of a parameter names Choices before it.

    Raises:
        SpaceError: There is no parameter, a name is not allowed, or a condition names no earlier Choice.

    Example:
        >>> space = Space({
        ...     "method": Choice("prune", "cluster"),
        ...     "amount": Float(0, 0.9, when={"method": "prune"}),
        ...     "clusters": Int(2, 16, when={"method": "cluster"}),
        ... })
        >>> space.active({"method": "cluster", "clusters": 8})
        ('method', 'clusters')
        >>> space.encode([{"method": "cluster", "clusters": 16}]).tolist()
        [[1.0, nan, 1.0]]
        >>> space.decode([0.0, 0.5, 0.0])
        {'method': 'prune', 'amount': 0.45}
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

    def _add(self, name: str, parameter: Float | Int | Choice, declared: Mapping[str, Parameter]) -> None:
        condition = None
        if parameter.when is not None:
            condition = self._condition(name, Condition.of(parameter.when), declared)
        flat_names = [name]
        if parameter.each is not None:
            self._groups[name] = {member: f"{name}[{member}]" for member in parameter.each}
            flat_names = list(self._groups[name].values())
        for flat in flat_names:
            self._parameters[flat] = parameter.replaced(None, None)
            if condition is not None:
                self._conditions[flat] = condition

    def _condition(self, name: str, when: Condition, declared: Mapping[str, Parameter]) -> Condition | None:
        """Check a condition against the parameters before it, and simplify it."""
        for case in when.cases:
            for parent, values in case:
                choice = self._parent(name, parent, declared)
                for value in values:
                    if not choice.contains(value):
                        near = did_you_mean(str(value), choice.options)
                        raise SpaceError(
                            f"{name!r} is to be active when {parent!r} is {shown(value)}, but that is no option of "
                            f"{parent} = {choice!r}.{near}"
                        )
        needed = closure(when.parents, self._conditions)
        choices = {parent: choice for parent, choice in self._choices().items() if parent in needed}
        condition = simplified(when.holds, choices, self._conditions)
        if condition is not None and not condition.cases:
            raise SpaceError(f"{name!r} is never active: nothing fulfils {when!r}.")
        return condition

    def _parent(self, name: str, parent: str, declared: Mapping[str, Parameter]) -> Choice:
        found = self._parameters.get(parent)
        if isinstance(found, Choice):
            return found
        start = f"{name!r} is to be active at values of {parent!r}, but"
        if found is not None:
            raise SpaceError(f"{start} that is {found!r}. A condition reads a Choice.")
        if parent in self._groups:
            inner = next(iter(self._groups[parent].values()))
            raise SpaceError(f"{start} that is a group. Name one of it, such as {inner!r}.")
        if parent in declared:
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
            KeyError: There is no parameter of that name.
        """
        return self._parameters[name]

    def __eq__(self, other: object) -> bool:
        # By text, as parameters are compared.
        return repr(self) == repr(other) if isinstance(other, Space) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The flat names of every parameter with `each=`, by the name of its declaration."""
        return {group: tuple(names.values()) for group, names in self._groups.items()}

    @property
    def conditions(self) -> dict[str, Condition]:
        """The simplified conditions of the parameters that are not always active, by flat name."""
        return dict(self._conditions)

    @property
    def has_conditions(self) -> bool:
        return bool(self._conditions)

    def parents(self, name: str) -> tuple[str, ...]:
        """Return the names of the Choices that decide whether `name` is active; empty if it always is."""
        return self._conditions[name].parents if name in self._conditions else ()

    def is_active(self, name: str, point: Mapping[str, Value]) -> bool:
        """Say whether `name` is active, given the values of its parents in `point`."""
        return name not in self._conditions or self._conditions[name].holds(point)

    def active(self, point: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the names of the parameters that are active, given the Choices in `point`, in order."""
        return tuple(name for name in self._parameters if self.is_active(name, point))

    @property
    def n_points(self) -> int | None:
        """The number of points, or None if a parameter is continuous."""
        sizes = {name: parameter.n_values for name, parameter in self._parameters.items()}
        if None in sizes.values():
            return None
        return count_points({name: size or 0 for name, size in sizes.items()}, self._choices(), self._conditions)

    def points(self) -> Iterator[Point]:
        """Iterate over all points; the last parameter changes fastest.

        Raises:
            SpaceError: A parameter is continuous.
        """
        for name, parameter in self._parameters.items():
            if parameter.is_continuous:
                raise SpaceError(f"The points cannot be listed: {name} = {parameter!r} is continuous. Give it a step.")
        return self._points_from(0, {})

    def _points_from(self, position: int, point: Point) -> Iterator[Point]:
        while position < len(self.names) and not self.is_active(self.names[position], point):
            position += 1
        if position == len(self.names):
            yield point
            return
        name = self.names[position]
        for value in self._parameters[name].values():
            yield from self._points_from(position + 1, {**point, name: value})

    def check(self, point: Mapping[str, Any]) -> Point:
        """Return `point` with plain Python scalars, in order of declaration.

        Args:
            point: The values of the active parameters, by name. A group is one dict, as a cell sees it, or its
                members under their flat names.

        Raises:
            PointError: A parameter is unknown, missing or inactive, or a value is outside its parameter.
        """
        given = self._flat(point)
        checked: Point = {}
        for name, parameter in self._parameters.items():
            if not self.is_active(name, checked):
                if name in given:
                    context = self._context(name, checked)
                    raise PointError(f"{name!r} is inactive {context}, but got {shown(given[name])}. Leave it out.")
                continue
            if name not in given:
                context = f" {self._context(name, checked)}" if name in self._conditions else ""
                raise PointError(f"The point lacks {name!r}, which is active{context}: {name} = {parameter!r}.")
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

    def _context(self, name: str, point: Point) -> str:
        return f"when {shown_point({parent: point[parent] for parent in self.parents(name) if parent in point})}"

    def encode(self, points: Iterable[Mapping[str, Value]]) -> NDArray[np.float64]:
        """Return points as rows of the unit cube.

        Args:
            points: `n` points.

        Returns:
            An array of shape `(n, d)` with the columns in the order of `names`; NaN where a parameter is inactive.

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
        """Return the point of one row of the unit cube.

        Args:
            row: Numbers of shape `(d,)`. They are clipped to [0, 1]; those of inactive parameters are ignored.

        Returns:
            The active parameters by name. Parameters with countable values take the nearest value.

        Raises:
            PointError: The row has another length, or NaN for an active parameter.
        """
        numbers = [float(number) for number in row]
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
        """Return `point` as a cell sees it: each group is one dict, and inactive parameters are absent."""
        members = {flat: (group, name) for group, names in self._groups.items() for name, flat in names.items()}
        return grouped(point, members)

    def declared(self) -> dict[str, Float | Int | Choice]:
        """Return the parameters from which an equal space can be made, with their `each=` and `when=`."""
        found: dict[str, Float | Int | Choice] = {}
        members = {flat: group for group, names in self._groups.items() for flat in names.values()}
        for flat, parameter in self._parameters.items():
            name = members.get(flat, flat)
            each = tuple(self._groups[name]) if flat in members else None
            found.setdefault(name, parameter.replaced(each, self._conditions.get(flat)))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the space as JSON data, which `from_json` reads."""
        return {
            "version": VERSION,
            "parameters": [{"name": name, **parameter.to_json()} for name, parameter in self.declared().items()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """Return the space that `to_json` wrote.

        Raises:
            SpaceError: The data has another version, or is no stored space.
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
        """Return one sentence that says how `other`, the newer space, differs; an empty string if they are equal."""
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
        """Return the declarations as in a cell; parsed again they give an equal space."""
        lines = []
        previous_condition = None
        for name, parameter in self.declared().items():
            condition = parameter.when if isinstance(parameter.when, Condition) else None
            if condition is not None and condition != previous_condition:
                lines.append(f"if {self._test(condition)}:")
            previous_condition = condition
            indent = "    " if condition is not None else ""
            lines.append(f"{indent}{name} = {parameter.replaced(parameter.each, None)!r}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Space({self.declared()!r})"

    def _test(self, condition: Condition) -> str:
        """Return a condition as a Python expression."""
        return " or ".join(
            " and ".join(self._equals(parent, values) for parent, values in case) for case in condition.cases
        )

    def _equals(self, parent: str, values: tuple[Value, ...]) -> str:
        expression = parent
        for group, names in self._groups.items():
            for name, flat in names.items():
                if flat == parent:
                    expression = f"{group}[{name!r}]"
        return f"{expression} == {values[0]!r}" if len(values) == 1 else f"{expression} in {values!r}"


def grouped(point: Mapping[str, Value], members: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Return `point` with one dict for each group.

    Args:
        point: Values by flat name.
        members: Group and name of each member of a group, by flat name.
    """
    result: dict[str, Any] = {}
    for flat, value in point.items():
        if flat in members:
            group, name = members[flat]
            result.setdefault(group, {})[name] = value
        else:
            result[flat] = value
    return result


# --- Counting the points of a finite space ----------------------------------------------------------------------------

# The part of a condition that is not decided by the choices known so far: its cases, each a list of the demands that
# are left. An empty case holds; a condition without cases never holds.
_OpenCases = list[list[tuple[str, tuple[Value, ...]]]]


def count_points(sizes: Mapping[str, int], choices: Mapping[str, Choice], conditions: Mapping[str, Condition]) -> int:
    """Return the number of points of a space, without iterating over them.

    Parameters that no open condition connects form separate components, whose counts are multiplied. Inside a
    component the count is summed over the values of its first choice, which decides conditions. So the time is linear
    in the number of layers that have a condition each.

    Args:
        sizes: The number of values of every parameter, ordered parents first.
        choices: The parameters that conditions may read.
        conditions: The conditions of the parameters that are not always active.
    """
    return _count(
        list(sizes),
        {name: [list(case) for case in condition.cases] for name, condition in conditions.items()},
        sizes,
        choices,
    )


def _count(
    names: list[str], open_cases: dict[str, _OpenCases], sizes: Mapping[str, int], choices: Mapping[str, Choice]
) -> int:
    total = 1
    for component in _components(names, open_cases):
        if len(component) == 1:
            total *= sizes[component[0]]
            continue
        # The first parameter of a component is always active: its own parents, if it has any, are known.
        first, rest = component[0], component[1:]
        total *= sum(
            _count_reachable(rest, _given(first, value, rest, open_cases), sizes, choices)
            for value in choices[first].values()
        )
    return total


def _given(name: str, value: Value, names: list[str], open_cases: Mapping[str, _OpenCases]) -> dict[str, _OpenCases]:
    """Return the open cases of `names` where `name` has `value`."""
    return {other: _decided(cases, name, value) for other, cases in open_cases.items() if other in names}


def _decided(cases: _OpenCases, name: str, value: Value) -> _OpenCases:
    """Return the cases that can still hold where `name` has `value`, without their demands on `name`."""
    left: _OpenCases = []
    for case in cases:
        allowed = [values for parent, values in case if parent == name]
        if all(any(is_same(value, option) for option in values) for values in allowed):
            left.append([demand for demand in case if demand[0] != name])
    return left


def _count_reachable(
    names: list[str], open_cases: dict[str, _OpenCases], sizes: Mapping[str, int], choices: Mapping[str, Choice]
) -> int:
    """Count without the parameters that can no longer be active, and without the cases that need these."""
    reachable: list[str] = []
    inactive: set[str] = set()
    for name in names:
        if name in open_cases:
            cases = [case for case in open_cases[name] if not any(parent in inactive for parent, _ in case)]
            if not cases:
                inactive.add(name)
                continue
            if [] in cases:
                del open_cases[name]
            else:
                open_cases[name] = cases
        reachable.append(name)
    return _count(reachable, open_cases, sizes, choices)


def _components(names: list[str], open_cases: Mapping[str, _OpenCases]) -> list[list[str]]:
    """Return the connected components of the graph of open conditions, each in the order of `names` (union-find)."""
    linked_to = {name: name for name in names}

    def root(name: str) -> str:
        while linked_to[name] != name:
            name = linked_to[name]
        return name

    for name in names:
        for parent in {parent for case in open_cases.get(name, []) for parent, _ in case}:
            linked_to[root(name)] = root(parent)
    components: dict[str, list[str]] = {}
    for name in names:
        components.setdefault(root(name), []).append(name)
    return list(components.values())
