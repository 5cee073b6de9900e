"""Sizes that the code of a module writes as numbers: calls of `reshape` and `split` get other sizes after a cut.

`qkv.reshape(B, N, 3, 4, C // 4)` holds the number of heads as a literal, or computes a size from the width of the
model, which stays. No attribute can be changed so that the call fits the cut tensor. The module gets a pair of hooks
that watch its calls of `reshape`, `view`, `unflatten` and `split`, and replace the sizes that a rule names. A call
whose sizes already fit is not changed. The rules come from the traced graph; whether they are right is decided by the
comparison of the cut model with the masked one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nbcompress.errors import CompressionError


@dataclass(frozen=True)
class Resize:
    """One run of sizes that a module asks for, and the sizes that it gets instead.

    Attributes:
        n_dims: How many dimensions the result of the call has.
        end: How many dimensions follow the run.
        old: The sizes before the cut, such as `(3, 4, 32)` for queries, keys and values, heads, and width.
        new: The sizes after it, such as `(3, 2, 32)`.

    Raises:
        CompressionError: The sizes are no run of so many dimensions, or they do not get smaller.
    """

    n_dims: int
    end: int
    old: tuple[int, ...]
    new: tuple[int, ...]

    def __post_init__(self) -> None:
        is_run = 0 < len(self.old) == len(self.new) <= self.n_dims - self.end and self.end >= 0
        if not is_run or self.old == self.new or any(not 0 < b <= a for a, b in zip(self.old, self.new, strict=True)):
            raise CompressionError(f"a run of sizes can only get smaller, got {self.old} and {self.new}")

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, int | tuple[int, ...]]) -> Resize:
        """Return the rule that `numbers` describes.

        Raises:
            CompressionError: They describe none.
        """
        dims, old, new = (numbers.get(name) for name in ("dims", "old", "new"))
        if not all(isinstance(value, tuple) for value in (dims, old, new)) or len(dims) != 2:  # type: ignore[arg-type]
            raise CompressionError(f"a rule for sizes has dims, old and new, got {dict(numbers)}")
        return cls(dims[0], dims[1] - 1, old, new)  # type: ignore[index, arg-type]

    @property
    def numbers(self) -> dict[str, int | tuple[int, ...]]:
        """The rule as numbers above zero, from which `from_numbers` makes it again."""
        return {"dims": (self.n_dims, self.end + 1), "old": self.old, "new": self.new}

    def sizes_for(self, sizes: Sequence[int], n_elements: int) -> tuple[int, ...] | None:
        """Return the sizes that a call gets that asks for `sizes`; None if the rule does not apply to it.

        Args:
            sizes: The sizes of the result. One of them may be -1, and an exporter may pass symbols.
            n_elements: How many numbers the tensor has.
        """
        if len(sizes) != self.n_dims:
            return None
        start, stop = self.n_dims - self.end - len(self.old), self.n_dims - self.end
        run, before, after = tuple(sizes[start:stop]), tuple(sizes[:start]), tuple(sizes[stop:])
        if -1 in (*before, *after):
            # The size that is left open would take up what was cut.
            return (*before, *self.new, *after) if self._is_old(run) else None
        rest = prod(before) * prod(after)
        if -1 not in run and rest * prod(run) != n_elements:
            # The call would fail.
            changed = tuple(map(_changed, run, self.old, self.new))
            return (*before, *changed, *after) if self._is_old(run) and rest * prod(changed) == n_elements else None
        asks_for_old = any(
            _is(size, old) and old != new for size, old, new in zip(run, self.old, self.new, strict=True)
        )
        return (*before, *self.new, *after) if asks_for_old and rest * prod(self.new) == n_elements else None

    def _is_old(self, run: Sequence[int]) -> bool:
        pairs = zip(run, self.old, self.new, strict=True)
        return all(_is(size, old) or (old == new and not isinstance(size, int)) for size, old, new in pairs)

    def scaled_sizes_for(self, sizes: Sequence[int], n_elements: int) -> tuple[int, ...] | None:
        """Return the sizes for a call whose run also counts the examples of a batch, and shrinks by the same share.

        None is returned if the rule does not apply. The arguments are those of `sizes_for`.
        """
        if len(sizes) != self.n_dims or -1 in sizes or prod(sizes) == n_elements:
            return None
        if prod(sizes) * prod(self.new) != n_elements * prod(self.old):
            return None
        start, stop = self.n_dims - self.end - len(self.old), self.n_dims - self.end
        triples = list(zip(sizes[start:stop], self.old, self.new, strict=True))
        if any(old != new and size * new % old for size, old, new in triples):
            return None
        scaled = (size if old == new else size * new // old for size, old, new in triples)
        return (*sizes[:start], *scaled, *sizes[stop:])


@dataclass(frozen=True)
class Resplit:
    """The sizes of the pieces that a module splits a dimension into, and the sizes that it gets instead.

    Attributes:
        n_dims: How many dimensions the tensor has.
        end: How many dimensions follow the one that is split.
        old: The sizes before the cut.
        new: The sizes after it.

    Raises:
        CompressionError: There is no such dimension, or the sizes do not get smaller.
    """

    n_dims: int
    end: int
    old: tuple[int, ...]
    new: tuple[int, ...]

    def __post_init__(self) -> None:
        is_valid = 0 <= self.end < self.n_dims and 0 < len(self.old) == len(self.new)
        if not is_valid or self.old == self.new or any(not 0 < b <= a for a, b in zip(self.old, self.new, strict=True)):
            raise CompressionError(f"the sizes of pieces can only get smaller, got {self.old} and {self.new}")

    @property
    def numbers(self) -> dict[str, int | tuple[int, ...]]:
        """The rule as numbers above zero; the third of `dims` tells it from a `Resize`."""
        return {"dims": (self.n_dims, self.end + 1, 1), "old": self.old, "new": self.new}

    def pieces_for(self, asked: int | Sequence[int], shape: Sequence[int], dim: int) -> tuple[int, ...] | None:
        """Return the sizes of the pieces for a call that asks for `asked`; None if the rule does not apply to it."""
        if len(shape) != self.n_dims or dim % len(shape) != self.n_dims - 1 - self.end:
            return None
        if not _is(shape[dim], sum(self.new)):
            return None
        if isinstance(asked, int):
            total = sum(self.old)
            asked = [min(asked, total - start) for start in range(0, total, asked)] if asked > 0 else []
        return self.new if tuple(asked) == self.old else None


Rule = Resize | Resplit


def rule_from_numbers(numbers: Mapping[str, int | tuple[int, ...]]) -> Rule:
    """Return the rule that `numbers` describes.

    Raises:
        CompressionError: They describe none.
    """
    dims, old, new = (numbers.get(name) for name in ("dims", "old", "new"))
    if isinstance(dims, tuple) and len(dims) == 3 and isinstance(old, tuple) and isinstance(new, tuple):
        return Resplit(dims[0], dims[1] - 1, old, new)
    return Resize.from_numbers(numbers)


def _is(size: int, number: int) -> bool:
    """Whether a size is `number`. A symbol of an exporter is none: it would be fixed by the comparison."""
    return isinstance(size, int) and size == number


def _changed(size: int, old: int, new: int) -> int:
    return size if old == new else new


_RESHAPES: frozenset[Callable[..., Any]] = frozenset({Tensor.reshape, Tensor.view, torch.reshape})
_UNFLATTENS: frozenset[Callable[..., Any]] = frozenset({Tensor.unflatten, torch.unflatten})
_SPLITS: tuple[Any, ...] = (Tensor.split, torch.split, Tensor.split_with_sizes, torch.split_with_sizes)


class _ResizeMode(TorchFunctionMode):
    """Replaces sizes in the calls of `reshape`, `view`, `unflatten` and `split` while it is active."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        super().__init__()
        self.rules = tuple(rules)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _SPLITS:
            return func(*self._with_new_pieces(args, kwargs or {}))
        asked = _asked_sizes(func, args, kwargs or {})
        if asked is not None:
            n_elements = args[0].numel()
            resizes = [rule for rule in self.rules if isinstance(rule, Resize)]
            exact = (rule.sizes_for(asked, n_elements) for rule in resizes)
            scaled = (rule.scaled_sizes_for(asked, n_elements) for rule in resizes)
            sizes = next((sizes for sizes in chain(exact, scaled) if sizes is not None), None)
            if sizes is not None:
                return func(args[0], sizes) if func in _RESHAPES else args[0].reshape(sizes)
        return func(*args, **(kwargs or {}))

    def _with_new_pieces(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The arguments of a call of `split`: the tensor, the sizes of the pieces, and the dimension."""
        # The functions name their arguments differently, but have them in the same order.
        dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
        tensor, asked = [*args, *(value for name, value in kwargs.items() if name != "dim")][:2]
        rules = (rule for rule in self.rules if isinstance(rule, Resplit))
        new = (rule.pieces_for(asked, tensor.shape, dim) for rule in rules)
        pieces = next((sizes for sizes in new if sizes is not None), None)
        return tensor, asked if pieces is None else list(pieces), dim


def _asked_sizes(func: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sequence[int] | None:
    """The sizes of the result that a call asks for; None if it is another call."""
    if not args or not isinstance(args[0], Tensor) or isinstance(func, property):
        return None
    if func in _RESHAPES:
        sizes = kwargs.get("shape", kwargs.get("size", args[1] if len(args) == 2 else args[1:]))
        sizes = (sizes,) if isinstance(sizes, int) else sizes
        return sizes if isinstance(sizes, (tuple, list)) else None  # `view` also takes a dtype
    if func in _UNFLATTENS and len(args) == 3 and isinstance(args[1], int) and isinstance(args[2], (tuple, list)):
        shape, dim = args[0].shape, args[1] % args[0].ndim
        return (*shape[:dim], *args[2], *shape[dim + 1 :])
    return None


class _Enter:
    """A hook before the call of a module: its sizes are watched from here."""

    def __init__(self, mode: _ResizeMode) -> None:
        self.mode = mode

    def __call__(self, _module: nn.Module, _args: object) -> None:
        self.mode.__enter__()  # type: ignore[no-untyped-call]


class _Leave:
    """A hook after the call of a module, also after an error."""

    def __init__(self, mode: _ResizeMode) -> None:
        self.mode = mode

    def __call__(self, _module: nn.Module, _args: object, _result: object) -> None:
        self.mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


def resize_(module: nn.Module, rule: Rule) -> None:
    """Let `module` call `reshape` or `split` with the sizes of `rule`, in place.

    A rule for sizes that an earlier rule made replaces it.
    """
    mode = next((hook.mode for hook in module._forward_pre_hooks.values() if isinstance(hook, _Enter)), None)
    if mode is None:
        mode = _ResizeMode([rule])
        module.register_forward_pre_hook(_Enter(mode))
        module.register_forward_hook(_Leave(mode), always_call=True)
        return
    joined = [
        replace(before, new=rule.new)
        if (type(before), before.n_dims, before.end, before.new) == (type(rule), rule.n_dims, rule.end, rule.old)
        else before
        for before in mode.rules
    ]
    mode.rules = tuple(dict.fromkeys([*joined, *([] if joined != list(mode.rules) else [rule])]))


__all__ = ["Resize", "Resplit", "Rule", "resize_", "rule_from_numbers"]
