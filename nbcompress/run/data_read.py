"""Which examples code reads, and whether what is measured reads the examples that training reads.

Code is read, not run. `x[:800]` reads the first 800 rows of `x`, a loader those of its data set that its sampler draws,
a `Subset` those of its indices. Where the rows cannot be told without running the code, nothing is said.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from operator import add, floordiv, mul, sub
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbcompress.run.reads import (
    assigned_expressions,
    global_names,
    is_a,
    is_of_loaded,
    items_of,
    own_attributes,
    unwrapped,
    values_read,
)
from nbcompress.run.record import is_array, share_memory

# How deep a value is searched: a loader, its subset, the data set behind it, a list in that.
_DEPTH = 5
# Of numbers in an index.
_Operation = Callable[[int, int], int]
_SIGNS: dict[type[ast.operator], _Operation] = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.FloorDiv: floordiv}
# How deep calls of functions are followed.
_MAX_CALLS = 6
# Of our functions, those that train, with the place of their data; the others train if `finetune` is given.
_TRAINERS = {"finetune": 1, "distill": 2}
_COMPRESSORS = frozenset({"prune", "quantize", "cluster", "factorize", *_TRAINERS})
# These attributes tell the form of data, not what is in it.
_FORM = frozenset({"shape", "dtype", "device", "ndim", "size"})
# Calls whose result holds rows of their arguments that are not known here, or none.
_OPAQUE = frozenset({"len", "random_split", "train_test_split"})

Indices = NDArray[np.int64]


# ---- Values ----


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a tensor, an array, a frame or a data set.

    Attributes:
        root: What holds them.
        chosen: Their indices; all if None.
        is_known: Whether the code says which ones; otherwise they are some of `chosen`.
    """

    root: Any
    chosen: Indices | None = None
    is_known: bool = True

    @property
    def n(self) -> int:
        """How many; 0 if that cannot be told."""
        if self.chosen is not None:
            return len(self.chosen)
        try:
            return len(self.root)
        except Exception:  # noqa: BLE001 - a scalar, or a data set of the person's without a length
            return 0

    def at(self, index: Any) -> Rows:
        """Return the rows at an index of these: a slice, a number, a list or an array of numbers, or None (unknown)."""
        places = None if index is None else _places(index, self.n)
        if places is None or not self.is_known:
            return replace(self, is_known=False)
        return Rows(self.root, places if self.chosen is None else self.chosen[places])

    def overlap(self, other: Rows) -> bool:
        """Return whether some rows are surely the same ones in memory."""
        if not (self.is_known and other.is_known):
            known, unknown = (self, other) if self.is_known else (other, self)
            return known.is_known and known.chosen is None and known.holds(unknown)
        if self.root is other.root:
            return self.chosen is None or other.chosen is None or bool(np.isin(self.chosen, other.chosen).any())
        if self.chosen is None and other.chosen is None:
            return _share_memory(self.root, other.root)
        mine, theirs = _addresses(self), _addresses(other)
        return mine is not None and theirs is not None and bool(np.isin(mine, theirs).any())

    def holds(self, other: Rows) -> bool:
        """Return whether all rows of the other array are surely among these, all of this one."""
        if self.root is other.root:
            return True
        mine, theirs = _addresses(self), _addresses(replace(other, chosen=None))
        return mine is not None and theirs is not None and bool(np.isin(theirs, mine).all())


def _share_memory(left: Any, right: Any) -> bool:
    return is_array(left) and is_array(right) and share_memory(left, right)


def _places(index: Any, n: int) -> Indices | None:
    if is_a(index, bool):
        return None
    if is_a(index, int):
        return np.arange(n)[index : index + 1 or None]
    if is_a(index, slice, range):
        cut: slice[Any, Any, Any] = index if is_a(index, slice) else slice(index.start, index.stop, index.step)
        return np.arange(n)[cut]
    try:
        found = np.asarray(index)
    except Exception:  # noqa: BLE001 - whatever the person indexes with
        return None
    if found.ndim != 1 or found.dtype.kind not in "iub" or (found.dtype.kind == "b" and len(found) != n):
        return None
    places: Indices = np.flatnonzero(found) if found.dtype.kind == "b" else found.astype(np.int64)
    is_inside = not len(places) or (places.max() < n and places.min() >= -n)
    return np.where(places < 0, places + n, places) if is_inside else None


def _addresses(rows: Rows) -> Indices | None:
    """Return where rows begin in memory, for rows that are at equal distances; None where it is not known."""
    root = rows.root
    if is_of_loaded(root, "torch", "Tensor"):
        start, step = root.data_ptr(), root.stride(0) * root.element_size() if root.ndim else 0
    elif is_a(root, np.ndarray):
        start, step = root.ctypes.data, root.strides[0] if root.ndim else 0
    else:
        return None
    chosen = np.arange(rows.n) if rows.chosen is None else rows.chosen
    return np.asarray(start + chosen * step, dtype=np.int64) if step else None


def rows_of(value: Any) -> list[Rows]:
    """Return the rows that a value holds: of arrays, data sets and loaders, also in lists and dicts."""
    try:
        return list(_rows_of(value))
    except Exception:  # noqa: BLE001 - an object of the person's that cannot be read
        return []


def _rows_of(value: Any, chosen: Indices | None = None, depth: int = _DEPTH) -> Iterator[Rows]:
    """Yield the rows of a value: the chosen ones of a data set, a loader or an array."""
    if is_array(value):
        yield Rows(value, chosen)
    elif depth and is_of_loaded(value, "torch.utils.data", "DataLoader"):
        drawn = _drawn(value)
        if drawn is not None and chosen is None:
            chosen = drawn
        yield from _rows_of(value.dataset, chosen, depth - 1)
    elif depth and is_of_loaded(value, "torch.utils.data", "Subset"):
        inside = Rows(value.dataset, np.asarray(value.indices, dtype=np.int64))
        yield from _rows_of(value.dataset, (inside if chosen is None else inside.at(chosen)).chosen, depth - 1)
    elif depth and is_of_loaded(value, "torch.utils.data", "Dataset"):
        yield from _rows_of_data_set(value, chosen, depth)
    elif type(value).__module__.startswith("datasets."):
        yield Rows(value, chosen)
    elif depth and is_a(value, list, tuple, dict):
        for item in items_of(value):
            yield from _rows_of(item, None, depth - 1)


def _rows_of_data_set(value: Any, chosen: Indices | None, depth: int) -> Iterator[Rows]:
    yield Rows(value, chosen)
    n = Rows(value).n
    for attribute in own_attributes(value).values():
        for rows in _rows_of(attribute, None, depth - 1):
            if chosen is None:
                yield rows
            elif rows.n == n:  # rows of another number are no examples of this data set, or not in its order
                yield rows.at(chosen)


def _drawn(loader: Any) -> Indices | None:
    """Return the indices that the sampler of a loader draws from; None if it draws from all."""
    for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
        indices = own_attributes(sampler).get("indices")
        if indices is not None:
            return np.asarray(indices, dtype=np.int64)
    return None


# ---- Code ----


@dataclass(frozen=True, eq=False)
class Read:
    """Rows that code reads.

    Attributes:
        name: What the code calls them.
        rows: The rows.
        by: The function that reads them; empty if a cell does.
    """

    name: str
    rows: Rows
    by: str = ""


@dataclass(frozen=True, eq=False)
class Code:
    """A cell or a function, with the values of the names that it looks up outside.

    Attributes:
        tree: The statements, or the expression of a lambda.
        names: Values by name.
        by: The function; empty for a cell.
        given: For the parameters of a called function the calling code and its expression.
        depth: How many calls lead here.
    """

    tree: ast.AST
    names: Mapping[str, Any]
    by: str = ""
    given: Mapping[str, tuple[Code, ast.expr]] = field(default_factory=dict)
    depth: int = 0

    @property
    def _assigned(self) -> Mapping[str, Sequence[ast.expr]]:
        return assigned_expressions(self.tree)

    @classmethod
    def of(cls, function: Any, call: ast.Call | None = None, caller: Code | None = None) -> Code | None:
        """Return the code of a function of the person's, or None if its source is not known.

        Args:
            function: The function, a method or a partial of one.
            call: Where it is called, to follow the arguments.
            caller: The code of that call.
        """
        bound: dict[str, Any] = {}
        given: dict[str, tuple[Code, ast.expr]] = {}
        n_bound = 0
        while is_a(function, partial):
            bound |= function.keywords
            bound |= {f"argument {place}": value for place, value in enumerate(function.args, 1)}
            n_bound += len(function.args)
            function = function.func
        owner = None
        if type(function) not in (FunctionType, MethodType):
            method = _call_of(function)
            if method is None:
                return None
            function = MethodType(method, function)
        if type(function) is MethodType:
            owner, function = function.__self__, function.__func__
        inner = unwrapped(function)
        tree = _tree_of(inner.__code__) if caller is None or caller.depth < _MAX_CALLS else None
        if tree is None:
            return None
        parameters = list(inner.__code__.co_varnames[: inner.__code__.co_argcount])
        if owner is not None and parameters:
            bound[parameters.pop(0)] = owner
        for place, name in enumerate(parameters[:n_bound], 1):
            bound[name] = bound.pop(f"argument {place}")
        if call is not None and caller is not None:
            pairs = [
                *zip(parameters[n_bound:], call.args, strict=False),
                *((key.arg, key.value) for key in call.keywords),
            ]
            given = {name: (caller, value) for name, value in pairs if name is not None}
        names = {**_outer_values(inner), **bound}
        return cls(tree, names, inner.__name__, given, 0 if caller is None else caller.depth + 1)

    # ---- What it reads ----

    def reads(self) -> Iterator[Read]:
        """Yield what the code reads, also through functions of the person's that it calls."""
        yield from self._reads_of(self.tree, set())

    def _reads_of(self, node: ast.AST, seen: set[object], *, without_models: bool = False) -> Iterator[Read]:
        """Yield what a part of the code reads, through variables and functions.

        Args:
            node: The part.
            seen: What was followed before.
            without_models: Leave out calls that compress or train.
        """
        follow = partial(self._reads_of, seen=seen, without_models=without_models)
        if (isinstance(node, ast.Attribute) and node.attr in _FORM) or _is_opaque(node):
            return
        if isinstance(node, ast.Call):
            if without_models and self._is_ours(node):
                return
            if _last_name(node.func) == "Subset" and len(node.args) == 2:
                yield from self._reads_at(node.args[0], node.args[1])
                return
            called = self._called(node)
            if called is not None:
                yield from self._reads_of_call(node, called, seen, without_models=without_models)
                return
        if isinstance(node, ast.Subscript) and self._value(node.value) is not None:
            yield from self._reads_at(node.value, node.slice)
            return
        value = self._value(node)
        if value is not None:
            if is_followed(value):
                yield from reads_of(value, self, seen)
            yield from (Read(ast.unparse(node), rows, self.by) for rows in rows_of(value))
            return
        parts = self._sources(node) if isinstance(node, ast.Name) else []
        for code, expression in parts:
            if (id(code.tree), id(expression)) not in seen:
                seen.add((id(code.tree), id(expression)))
                yield from code._reads_of(expression, seen, without_models=without_models)
        for child in ast.iter_child_nodes(node):
            yield from follow(child)

    def _sources(self, name: ast.Name) -> list[tuple[Code, ast.expr]]:
        """Return what a variable of the code, or a parameter, gets its values from."""
        passed = [self.given[name.id]] if name.id in self.given else []
        return [*passed, *((self, expression) for expression in self._assigned.get(name.id, ()))]

    def _reads_of_call(
        self, call: ast.Call, called: Code, seen: set[object], *, without_models: bool
    ) -> Iterator[Read]:
        """Yield what a function of the person's reads, and what it is given."""
        if id(call) in seen:
            return
        seen.add(id(call))
        if without_models and called.trains():
            yield from called.measured_on((), seen)
            return
        yield from called._reads_of(called.tree, seen, without_models=without_models)
        for part in _arguments(call):
            yield from self._reads_of(part, seen, without_models=without_models)

    def _reads_at(self, base: ast.expr, index: ast.expr) -> Iterator[Read]:
        """Yield the rows of a value at an index, or the item of a list or a dict."""
        value = self._value(base)
        place = self._index(index.elts[0] if isinstance(index, ast.Tuple) and index.elts else index)
        if is_a(value, list, tuple, dict):
            found = list(rows_of(self._value(ast.Subscript(base, index, ast.Load()))))
        else:
            found = [rows.at(place) for rows in rows_of(value)]
        name = f"{ast.unparse(base)}[{ast.unparse(index)}]"
        yield from (Read(name, rows, self.by) for rows in found)

    def _value(self, node: ast.AST) -> Any:
        """Return the value of a name, an attribute or an item of one; None if it is not known without running code."""
        if isinstance(node, ast.Subscript):
            holder, place = self._value(node.value), self._index(node.slice)
            with suppress(Exception):  # an index that is not known here, or a mistake that the run will show
                if is_a(holder, dict):
                    return dict.get(holder, place)  # `[]` would make a missing item of a defaultdict
                return holder[place] if is_a(holder, list, tuple) else None
        if isinstance(node, ast.Name):
            is_own = node.id in self._assigned or node.id in self.given
            return self.names.get(node.id) if isinstance(node.ctx, ast.Load) and not is_own else None
        if not isinstance(node, ast.Attribute):
            return None
        owner = self._value(node.value)
        if owner is None:
            return None
        if is_a(owner, ModuleType):
            return vars(owner).get(node.attr)
        method = next((vars(kind)[node.attr] for kind in type(owner).__mro__ if node.attr in vars(kind)), None)
        if type(method) is FunctionType:
            return MethodType(method, owner)
        return own_attributes(owner).get(node.attr)

    def _index(self, node: ast.AST) -> Any:
        """Return the value of an index; None if it is not known without running code."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Slice):
            given = [part for part in (node.lower, node.upper, node.step) if part is not None]
            if not all(type(self._index(part)) is int for part in given):
                return None
            return slice(*(None if part is None else self._index(part) for part in (node.lower, node.upper, node.step)))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            number = self._index(node.operand)
            return -number if type(number) is int else None
        if isinstance(node, ast.Call) and _last_name(node.func) == "len" and len(node.args) == 1:
            return next((rows.n for rows in rows_of(self._value(node.args[0]))), None)
        if isinstance(node, ast.BinOp):
            left, right, sign = self._index(node.left), self._index(node.right), _SIGNS.get(type(node.op))
            is_known = type(left) is int and type(right) is int and sign is not None
            return sign(left, right) if is_known and sign is not None and (right or sign is not floordiv) else None
        if isinstance(node, ast.Name) and node.id in self._assigned:
            found = self._assigned[node.id]
            return self._index(found[0]) if len(found) == 1 and not isinstance(found[0], ast.Name) else None
        return self._value(node)

    # ---- What it trains and measures ----

    def _is_ours(self, call: ast.Call) -> bool:
        """Whether the call is of a function of nbcompress that compresses or trains."""
        if _last_name(call.func) not in _COMPRESSORS:
            return False
        value = self._value(call.func)
        return value is None or str(getattr(value, "__module__", "")).startswith("nbcompress.")

    def _called(self, call: ast.Call) -> Code | None:
        value = self._value(call.func)
        return Code.of(value, call, self) if value is not None and is_followed(value) else None

    def _calls(self) -> Iterator[ast.Call]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def trains(self, seen: set[object] | None = None) -> bool:
        """Return whether the code, or a function that it calls, trains a model."""
        seen = set() if seen is None else seen
        for call in self._calls():
            if _last_name(call.func) == "backward" or (self._is_ours(call) and self._data_of(call) is not None):
                return True
            called = self._called(call)
            if called is not None and id(called.tree) not in seen:
                seen.add(id(called.tree))
                if called.trains(seen):
                    return True
        return False

    def _data_of(self, call: ast.Call) -> ast.expr | None:
        """Return the data that a function of nbcompress trains on; None if it does not train."""
        keywords = {key.arg: key.value for key in call.keywords}
        place = _TRAINERS.get(_last_name(call.func))
        if place is None:
            return keywords.get("data") if "finetune" in keywords else None
        return keywords.get("data") or (call.args[place] if len(call.args) > place else None)

    def trained_on(self, seen: set[object] | None = None) -> Iterator[Read]:
        """Yield what models are trained on: by our functions, or in a loop that calls `backward`."""
        seen = set() if seen is None else seen
        for call in self._calls():
            if self._is_ours(call):
                data = self._data_of(call)
                parts: list[ast.expr] = [] if data is None else [data]
            elif isinstance(call.func, ast.Attribute) and call.func.attr == "backward":
                parts = [call.func.value, *_arguments(call)]
            else:
                called = self._called(call)
                if called is not None and id(call) not in seen and called.trains():
                    seen.add(id(call))
                    yield from called.trained_on(seen)
                continue
            for part in parts:
                yield from self._reads_of(part, set())

    def measured_on(self, metrics: Collection[str], seen: set[object] | None = None) -> Iterator[Read]:
        """Yield what metrics are computed from, without what models are trained on.

        Args:
            metrics: Names that the code assigns; of a function also what it returns.
            seen: What was followed before.
        """
        seen = set() if seen is None else seen
        results = [expression for name in metrics for expression in self._assigned.get(name, ())]
        if self.by:
            results += [node.value for node in ast.walk(self.tree) if isinstance(node, ast.Return) and node.value]
            results += [self.tree] if isinstance(self.tree, ast.expr) else []
        for expression in results:
            yield from self._reads_of(expression, seen, without_models=True)


def is_followed(value: Any) -> bool:
    """Return whether a value is a function of the person's, also as a method or in a partial, or an object of theirs
    that can be called."""
    while is_a(value, partial):
        value = value.func
    inner = unwrapped(value.__func__ if type(value) is MethodType else value)
    if type(inner) is not FunctionType:
        method = None if is_a(value, type) else _call_of(value)
        return method is not None and _is_of_person(method)
    return _is_of_person(inner)


def _is_of_person(function: FunctionType) -> bool:
    """Whether a function is of the notebook, or of a module that is not installed."""
    top = str(function.__module__).partition(".")[0]
    is_installed = "site-packages" in function.__code__.co_filename or top in ("nbcompress", "torch")
    return not is_installed and top not in sys.stdlib_module_names


def _call_of(value: Any) -> FunctionType | None:
    found = next((vars(kind)["__call__"] for kind in type(value).__mro__ if "__call__" in vars(kind)), None)
    return found if type(found) is FunctionType else None


@lru_cache(maxsize=256)
def _tree_of(code: CodeType) -> ast.AST | None:
    """Return the body of a function, or None if its source is not known. Equal code gives the same object."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)).strip().rstrip(","))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    if code.co_name == "<lambda>":
        found = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
        return found[0].body if len(found) == 1 else None
    first = tree.body[0] if tree.body else None
    return ast.Module(first.body, []) if isinstance(first, (ast.FunctionDef, ast.AsyncFunctionDef)) else None


def _outer_values(function: FunctionType) -> dict[str, Any]:
    """Return the globals and the closure of a function, by name."""
    scope = function.__globals__
    found = {name: scope[name] for name in global_names(function.__code__) if name in scope}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # an empty cell
            continue
    return found


def _is_opaque(node: ast.AST) -> bool:
    """Whether a call gives rows of its arguments that are not known here, or none."""
    if not isinstance(node, ast.Call):
        return False
    return _last_name(node.func) in _OPAQUE or any(key.arg in ("sampler", "batch_sampler") for key in node.keywords)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(key.value for key in call.keywords)]


# ---- What is shared ----


def examples(reads: Iterable[Read]) -> list[Read]:
    """Return what may be examples, without constants such as the mean of each feature or the weight of each class."""
    found = list(reads)
    most = max((read.rows.n for read in found), default=0)
    return [read for read in found if read.rows.n > 1 and (read.rows.n == most or not _is_vector(read.rows.root))]


def _is_vector(value: Any) -> bool:
    return is_array(value) and len(value.shape) < 2


def shared(left: Iterable[Read], right: Iterable[Read]) -> tuple[Read, Read] | None:
    """Return the first two reads, one of each, that have examples in common, or None."""
    others = list(right)
    for mine in examples(left):
        for theirs in others:
            if mine.rows.overlap(theirs.rows):
                return mine, theirs
    return None


def measured_in_training(code: Code, metrics: Collection[str]) -> str:
    """Return a sentence if metrics are measured on examples that models are trained on; empty if not, or not known.

    Args:
        code: The cell, or the function of the search.
        metrics: Names that a cell assigns.
    """
    try:
        pair = shared(code.measured_on(metrics), code.trained_on())
    except Exception:  # noqa: BLE001 - objects of the person's may raise anything; a warning is no reason to stop
        return ""
    if pair is None:
        return ""
    measured, trained = pair
    who = f"{measured.by!r} reads" if measured.by else "The metrics read"
    what = "" if measured.name == trained.name else f", which shares examples with {trained.name!r}"
    return (
        f"{who} {measured.name!r}{what}, and models are trained on it: on other data they are worse than the search "
        "says. Measure on examples that training does not read."
    )


def reads_of(function: Any, caller: Code | None = None, seen: set[object] | None = None) -> Iterator[Read]:
    """Yield what a function reads. Without its source these are some rows of each value that it looks up.

    Args:
        function: The function, a method, a partial, or an object that can be called.
        caller: The code that names it.
        seen: What was followed before.
    """
    seen = set() if seen is None else seen
    code = Code.of(function, None, caller)
    if code is None and (caller is None or caller.depth < _MAX_CALLS):
        for name, value in values_read(function).items():
            yield from (Read(name, rows.at(None)) for rows in rows_of(value))
    if code is not None and id(code.tree) not in seen:
        seen.add(id(code.tree))
        yield from code._reads_of(code.tree, seen)


def training_data_read(function: Any, data: Any, name: str) -> str:
    """Return what a function calls the examples of `data`, a value that the person calls `name`; empty if none."""
    reads = list(reads_of(function)) if is_followed(function) else []
    pair = shared(reads, [Read(name, rows) for rows in rows_of(data)])
    return "" if pair is None else pair[0].name
