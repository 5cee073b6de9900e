"""What a search reads beside its parameters, as JSON, and how two searches differ in it.

A value is a tree. Plain values are themselves; what holds others is a list or an object with one of these keys:

| key | what it is |
| --- | --- |
| `items` | a dict: trees by key |
| `fields` | an object, or a function with what it holds: trees by name |
| `set` | a set, in a fixed order |
| `float`, `complex`, `bytes`, `digest` | a value that JSON cannot hold, or a long one, by its digits |
| `code`, `content` | digits of a function (beside its `fields`), and of an array, a frame or a model |
| `other` | the class of anything else, which is not compared |
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Path = tuple[str, ...]

# Numbers that differ by less than this share of the greater one agree: something measured anew.
TOLERANCE = 0.01
_HOLDERS = ("items", "fields")
_NOT_PLAIN = ("code", "content", "other")
_MISSING = object()
_SHOWN = 40  # characters of a value in a sentence
_NAMED = 3  # differences in a sentence


@dataclass(frozen=True)
class Values:
    """What a search read when it started.

    Attributes:
        reads: Trees by name: what the body or the function reads from outside.
        own: The tree of the function itself: its code, its arguments, what it closes over, the object it belongs to.
            None for a cell.
        unknown: What belongs to the function and cannot be compared, in words.
        is_told_by_text: Whether the text of the function, of which a made name is made, tells it from others.
        written: Where the body itself writes; that does not count.
    """

    reads: Mapping[str, Any] = field(default_factory=dict)
    own: Any = None
    unknown: tuple[str, ...] = ()
    is_told_by_text: bool = True
    written: frozenset[Path] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Return what is stored."""
        return {"reads": dict(self.reads), **({} if self.own is None else {"own": self.own})}


@dataclass(frozen=True)
class Difference:
    """One place in which two searches differ.

    Attributes:
        path: Name, then keys.
        kind: A plain value; or the code of a function or the content of data that the function itself holds.
        before, now: Trees; `_MISSING` where there is none.
        is_close: Floats that differ by less than `TOLERANCE`.
    """

    path: Path
    kind: Literal["value", "code", "content"]
    before: Any
    now: Any
    is_close: bool = False

    @property
    def name(self) -> str:
        """The place as one types it: `config.lr`, `losses[2]`."""
        return path_text(self.path)

    @property
    def value(self) -> Any:
        """The value of now as JSON, for a note."""
        return None if self.now is _MISSING else self.now

    def __str__(self) -> str:
        if self.kind != "value":
            return f"another {'version' if self.kind == 'code' else 'content'} of {self.name}"
        return f"{self.name} = {_shown(self.before)} before and {_shown(self.now)} now"


def differences(stored: Mapping[str, Any], given: Values, written: Collection[Path] = ()) -> list[Difference]:
    """Return where `given` differs from what is stored, without what the body writes into.

    A name that only one of both reads is no difference: then the body or a function is another one.
    """
    ignored = set(written) | given.written
    found: dict[str, Difference] = {}
    before = stored.get("reads", {})
    pairs: list[tuple[Path, Any, Any]] = [
        ((name,), before[name], given.reads[name]) for name in given.reads if name in before
    ]
    if given.own is not None and stored.get("own") is not None:
        pairs.append(((), stored["own"], given.own))
    for path, one, other in pairs:
        for difference in _compared(path, one, other):
            if not any(difference.path[: len(place)] == place for place in ignored):
                found.setdefault(difference.name, difference)
    return list(found.values())


def changed_paths(before: Values, now: Values) -> set[Path]:
    """Return where something was written between two takings of one search; a dict that grew is one place."""
    found: set[Path] = set()
    for name in before.reads.keys() & now.reads.keys():
        found |= {one.path for one in _compared((name,), before.reads[name], now.reads[name], whole=True)}
    if before.own is not None and now.own is not None:
        found |= {one.path for one in _compared((), before.own, now.own, whole=True)}
    return found


def in_words(found: list[Difference]) -> str:
    """Return the differences as a part of a sentence."""
    more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "; ".join(str(one) for one in found[:_NAMED]) + more


def path_text(path: Path) -> str:
    """Return a path as one types it. The function itself has an empty one."""
    if not path:
        return "the function"
    first, *rest = path
    return first + "".join(f".{key}" if key.isidentifier() else f"[{key}]" for key in rest)


def _compared(path: Path, before: Any, now: Any, *, whole: bool = False) -> Iterator[Difference]:
    """Yield the differences of two trees.

    Args:
        whole: A dict with other keys than before is one difference.
    """
    if _is_number(before) and _is_number(now):
        if before != now:
            yield Difference(path, "value", before, now, _is_close(before, now))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _compared((*path, str(place)), one, other, whole=whole)
    elif isinstance(before, dict) and isinstance(now, dict):
        yield from _of_dicts(path, before, now, whole=whole)
    elif type(before) is not type(now) or before != now:
        yield Difference(path, "value", before, now)


def _of_dicts(path: Path, before: dict[str, Any], now: dict[str, Any], *, whole: bool) -> Iterator[Difference]:
    opaque = [any(key in tree for key in _NOT_PLAIN) for tree in (before, now)]
    if before.get("code") != now.get("code"):
        yield Difference(path, "code", before, now)
    for key in _HOLDERS:
        if key in before and key in now:
            inside, other = before[key], now[key]
            if whole and key == "items" and inside.keys() != other.keys():
                yield Difference(path, "value", before, now)
                return
            # A function that was written anew may hold other names; digits of code that are empty are not compared.
            is_same = before.get("code") == now.get("code") != ""
            for name in dict.fromkeys((*inside, *other)):
                if not is_same and not (name in inside and name in other):
                    continue
                yield from _compared((*path, name), inside.get(name, _MISSING), other.get(name, _MISSING), whole=whole)
            return
    if all(opaque):
        if "content" in before and "content" in now and before["content"] != now["content"]:
            yield Difference(path, "content", before, now)
    elif before != now:
        yield Difference(path, "value", before, now)


def _is_number(tree: Any) -> bool:
    return isinstance(tree, (int, float)) and not isinstance(tree, bool)


def _is_close(before: float, now: float) -> bool:
    if isinstance(before, int) and isinstance(now, int):
        return False
    try:
        return abs(before - now) < TOLERANCE * max(abs(before), abs(now))
    except OverflowError:
        return False


def _shown(tree: Any) -> str:
    text = _text(tree)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _text(tree: Any) -> str:
    if tree is _MISSING:
        return "nothing"
    if isinstance(tree, list):
        return f"[{', '.join(map(_text, tree[:_SHOWN]))}]"
    if not isinstance(tree, dict):
        return repr(tree)
    if "items" in tree:
        return "{" + ", ".join(f"{key}: {_text(one)}" for key, one in list(tree["items"].items())[:_SHOWN]) + "}"
    if "fields" in tree:
        return "(" + ", ".join(f"{key}={_text(one)}" for key, one in list(tree["fields"].items())[:_SHOWN]) + ")"
    if "set" in tree:
        return "{" + ", ".join(map(_text, tree["set"][:_SHOWN])) + "}"
    for key in ("float", "complex"):
        if key in tree:
            return str(tree[key])
    return f"a {tree['other']}" if "other" in tree else f"something else ({next(iter(tree.values()), '')})"
