"""A student's layer learns to hold what a teacher's layer holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.compress.seeding import seeded
from nbcompress.errors import CompressionError, DataError, LayerNotFound, did_you_mean


class Match:
    """One layer of the teacher beside one of the student.

    Args:
        text: `TEACHER_LAYER:STUDENT_LAYER`, dotted module names.
        teacher: Has the one.
        student: Has the other; the copy that is trained.

    Raises:
        CompressionError: The text is not of this form.
        LayerNotFound: There is no such layer.
    """

    def __init__(self, text: object, teacher: nn.Module, student: nn.Module) -> None:
        names = text.split(":") if isinstance(text, str) else []
        if len(names) != 2 or not all(names):
            raise CompressionError(f"match must be TEACHER_LAYER:STUDENT_LAYER, such as 'layer3:layer2', got {text!r}")
        self.text = text
        self._modules = (_layer(teacher, names[0], "teacher", text), _layer(student, names[1], "student", text))
        self._seen: list[Tensor | None] = [None, None]
        self._projection: nn.Linear | None = None
        self._axis = -1

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is learned beside the student."""
        return [] if self._projection is None else list(self._projection.parameters())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note what both layers give, each time that they run."""

        def hook_for(side: int) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                self._seen[side] = self._features_in(output)

            return hook

        handles = [module.register_forward_hook(hook_for(side)) for side, module in enumerate(self._modules)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._seen = [None, None]

    def prepare(self, seed: int) -> None:
        """After both models ran once: check shapes, and make a projection where the widths differ.

        Raises:
            DataError: A layer was not called, or shapes differ in more than one dimension.
        """
        told, said = self._features()
        differing = [k for k in range(1, told.ndim) if told.ndim == said.ndim and told.shape[k] != said.shape[k]]
        if told.ndim != said.ndim or told.shape[0] != said.shape[0] or len(differing) > 1:
            raise DataError(
                f"match={self.text!r} needs features that differ in width alone, got {tuple(told.shape)} of the "
                f"teacher and {tuple(said.shape)} of the student"
            )
        if differing:
            self._axis = differing[0]
            with seeded(seed):
                widths = said.shape[self._axis], told.shape[self._axis]
                self._projection = nn.Linear(*widths, device=said.device, dtype=torch.float32)

    def loss(self) -> Tensor:
        """Squared distance of the features of the last batch, relative to the size of the teacher's."""
        told, said = (one.float() for one in self._features())
        if self._projection is not None:
            said = self._projection(said.movedim(self._axis, -1)).movedim(-1, self._axis)
        size = told.square().mean().clamp(min=torch.finfo(torch.float32).tiny)
        return (said - told).square().mean() / size

    def _features_in(self, output: Any) -> Tensor:
        """What a layer gives: a tensor, or the first of a tuple, as of recurrent layers and of attention."""
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(first, Tensor):
            raise DataError(
                f"match={self.text!r} needs layers that give a tensor, or a tuple that starts with one, "
                f"got {type(output).__name__}"
            )
        return first

    def _features(self) -> tuple[Tensor, Tensor]:
        told, said = self._seen
        if told is None or said is None:
            who = "teacher" if told is None else "student"
            raise DataError(f"match={self.text!r} needs layers that run, but the {who} does not call its layer")
        return told.detach(), said


def matches_of(match: str | Iterable[str] | None, teacher: nn.Module, student: nn.Module) -> list[Match]:
    """The pairs that `match` names: none, one, or several."""
    if match is None:
        return []
    texts = [match] if isinstance(match, str) or not isinstance(match, Iterable) else list(match)
    return [Match(one, teacher, student) for one in texts]


def _layer(model: nn.Module, name: str, who: str, text: object) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        hint = did_you_mean(name, [one for one in modules if one])
        raise LayerNotFound(f"match={text!r}: the {who} has no layer {name!r}.{hint}")
    return modules[name]


__all__ = ["Match", "matches_of"]
