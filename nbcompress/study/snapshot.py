"""What a search reads beside its parameters, as JSON, and the differences between two searches.

A study is continued only if the values that its code reads are those that it was begun with. `nbcompress.run` takes the
snapshot; this module compares two of them.

A snapshot holds a tree for each name. A plain value stands for itself; other values are a list, or an object with one
of these keys:

| key | value |
| --- | --- |
| `items` | a dict: trees by key |
| `fields` | an object, or what a function holds: trees by name |
| `set` | a set, in a fixed order |
| `float`, `complex`, `bytes`, `digest` | a value that JSON cannot hold, or a long one, as text or hash |
| `code`, `content` | hash of a function's code (beside its `fields`); hash of an array, a data frame or a model |
| `other` | the class of any other object, which is not compared |
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nbcompress.space import is_number

KeyPath = tuple[str, ...]
"""A place in a snapshot: a name, then keys."""

# Floats with a smaller relative difference are close: such a value is often measured again at each start.
TOLERANCE = 0.01
_CONTAINERS = ("items", "fields")
_OPAQUE = ("code", "content", "other")
_MISSING = object()
_MAX_SHOWN = 40  # characters of a value in a message
_MAX_NAMED = 3  # differences in a message


@dataclass(frozen=True)
class Snapshot:
    """What a search read when it started.

    Attributes:
        reads: Trees by name of what the cell's body or the function reads from outside.
        function: The tree of the searched function: its code, its arguments, its closure, and the object of a method.
            None for a cell.
        unknown: Parts of the function that cannot be compared, in words.
        is_identified_by_source: Whether the source of the function, from which the name of a study is generated,
            distinguishes it from other functions.
        written: Paths that the body or the function writes into. They are not compared.
    """

    reads: Mapping[str, Any] = field(default_factory=dict)
    function: Any = None
    unknown: tuple[str, ...] = ()
    is_identified_by_source: bool = True
    written: frozenset[KeyPath] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Return what is stored with the study."""
        return {"reads": dict(self.reads), **({} if self.function is None else {"own": self.function})}


@dataclass(frozen=True)
class Difference:
    """One difference between two snapshots.

    Attributes:
        path: Where it is. The function itself has the empty path.
        kind: What differs: a plain value, the code of a function, or the content of data that the function holds.
        before: The stored tree; `_MISSING` if there is none.
        now: The present tree; `_MISSING` if there is none.
        is_close: Whether both are floats that differ by less than `TOLERANCE`.
    """

    path: KeyPath
    kind: Literal["value", "code", "content"]
    before: Any
    now: Any
    is_close: bool = False

    @property
    def name(self) -> str:
        """The path as Python code, such as `config.lr` or `losses[2]`."""
        return path_text(self.path)

    @property
    def value(self) -> Any:
        """The present tree, for the note of a trial; None if there is none."""
        return None if self.now is _MISSING else self.now

    def __str__(self) -> str:
        if self.kind != "value":
            return f"another {'version' if self.kind == 'code' else 'content'} of {self.name}"
        return f"{self.name} = {_shortened(self.before)} before and {_shortened(self.now)} now"


def differences(stored: Mapping[str, Any], snapshot: Snapshot, written: Collection[KeyPath] = ()) -> list[Difference]:
    """Return where a snapshot differs from a stored one.

    Args:
        stored: What `Snapshot.to_json` returned.
        snapshot: The present one. Names that only one of both reads are not compared: then the code differs.
        written: Further paths that the searched code writes into, which are not compared.
    """
    ignored = set(written) | snapshot.written
    before = stored.get("reads", {})
    pairs: list[tuple[KeyPath, Any, Any]] = [
        ((name,), before[name], now) for name, now in snapshot.reads.items() if name in before
    ]
    if snapshot.function is not None and stored.get("own") is not None:
        pairs.append(((), stored["own"], snapshot.function))
    found: dict[str, Difference] = {}
    for path, earlier, now in pairs:
        for difference in _tree_differences(path, earlier, now):
            if not any(difference.path[: len(prefix)] == prefix for prefix in ignored):
                found.setdefault(difference.name, difference)
    return list(found.values())


def changed_paths(before: Snapshot, now: Snapshot) -> set[KeyPath]:
    """Return the paths that the search itself changed, given the snapshots before and after it.

    A dict that got other keys is one path.
    """
    found: set[KeyPath] = set()
    for name in before.reads.keys() & now.reads.keys():
        found |= _different_paths((name,), before.reads[name], now.reads[name])
    if before.function is not None and now.function is not None:
        found |= _different_paths((), before.function, now.function)
    return found


def _different_paths(path: KeyPath, before: Any, now: Any) -> set[KeyPath]:
    return {difference.path for difference in _tree_differences(path, before, now, whole_dicts=True)}


def differences_text(found: list[Difference]) -> str:
    """Return the first differences and the number of the others, as a part of a sentence."""
    more = f", and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return "; ".join(map(str, found[:_MAX_NAMED])) + more


def path_text(path: KeyPath) -> str:
    """Return a path as Python code; the empty path, and the function of a partial, is `the function`."""
    if not path or set(path) == {"function"}:
        return "the function"
    first, *rest = path
    return first + "".join(f".{key}" if key.isidentifier() else f"[{key}]" for key in rest)


def _tree_differences(path: KeyPath, before: Any, now: Any, *, whole_dicts: bool = False) -> Iterator[Difference]:
    """Yield the differences of two trees.

    Args:
        path: Where the trees are.
        before: The earlier tree.
        now: The later tree.
        whole_dicts: Report a dict with other keys than before as one difference.
    """
    if is_number(before) and is_number(now):
        if before != now:
            yield Difference(path, "value", before, now, _is_close(before, now))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (earlier, later) in enumerate(zip(before, now, strict=True)):
            yield from _tree_differences((*path, str(index)), earlier, later, whole_dicts=whole_dicts)
    elif isinstance(before, dict) and isinstance(now, dict):
        yield from _dict_differences(path, before, now, whole_dicts=whole_dicts)
    elif type(before) is not type(now) or before != now:
        yield Difference(path, "value", before, now)


def _dict_differences(
    path: KeyPath, before: dict[str, Any], now: dict[str, Any], *, whole_dicts: bool
) -> Iterator[Difference]:
    if before.get("code") != now.get("code"):
        yield Difference(path, "code", before, now)
    for key in _CONTAINERS:
        if key in before and key in now:
            earlier, later = before[key], now[key]
            if whole_dicts and key == "items" and earlier.keys() != later.keys():
                yield Difference(path, "value", before, now)
                return
            # Another version of a function may hold other names. An empty hash of code is not compared.
            is_same_code = before.get("code") == now.get("code") != ""
            for name in dict.fromkeys((*earlier, *later)):
                if not is_same_code and not (name in earlier and name in later):
                    continue
                pair = earlier.get(name, _MISSING), later.get(name, _MISSING)
                yield from _tree_differences((*path, name), *pair, whole_dicts=whole_dicts)
            return
    if all(any(key in tree for key in _OPAQUE) for tree in (before, now)):
        if "content" in before and "content" in now and before["content"] != now["content"]:
            yield Difference(path, "content", before, now)
    elif before != now:
        yield Difference(path, "value", before, now)


def _is_close(before: float, now: float) -> bool:
    if isinstance(before, int) and isinstance(now, int):
        return False
    try:
        return abs(before - now) < TOLERANCE * max(abs(before), abs(now))
    except OverflowError:
        return False


def _shortened(tree: Any) -> str:
    text = _text(tree)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _text(tree: Any) -> str:
    if tree is _MISSING:
        return "nothing"
    if isinstance(tree, list):
        return f"[{', '.join(map(_text, tree[:_MAX_SHOWN]))}]"
    if not isinstance(tree, dict):
        return repr(tree)
    if "items" in tree:
        return "{" + ", ".join(f"{key}: {_text(part)}" for key, part in list(tree["items"].items())[:_MAX_SHOWN]) + "}"
    if "fields" in tree:
        return "(" + ", ".join(f"{key}={_text(part)}" for key, part in list(tree["fields"].items())[:_MAX_SHOWN]) + ")"
    if "set" in tree:
        return "{" + ", ".join(map(_text, tree["set"][:_MAX_SHOWN])) + "}"
    for key in ("float", "complex"):
        if key in tree:
            return str(tree[key])
    return f"a {tree['other']}" if "other" in tree else f"something else ({next(iter(tree.values()), '')})"
