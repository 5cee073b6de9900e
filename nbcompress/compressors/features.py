"""Features in distillation: the student learns what a layer of the teacher returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nbcompress.compressors.modes import seeded
from nbcompress.errors import CompressionError, DataError, LayerNotFound, did_you_mean, option


class FeatureMatch:
    """Compares what one layer of the teacher and one of the student return.

    Args:
        text: `TEACHER_LAYER:STUDENT_LAYER`, dotted module names.
        teacher: The model with the first layer.
        student: The copy that is trained, with the second layer.

    Raises:
        CompressionError: The text has another form.
        LayerNotFound: There is no such layer.
    """

    def __init__(self, text: object, teacher: nn.Module, student: nn.Module) -> None:
        names = text.split(":") if isinstance(text, str) else []
        if len(names) != 2 or not all(names):
            raise CompressionError(
                f"{option('match')} must be TEACHER_LAYER:STUDENT_LAYER, such as 'layer3:layer2', got {text!r}"
            )
        self.text = text
        self._layers = (_layer(teacher, names[0], "teacher", text), _layer(student, names[1], "student", text))
        self._seen: list[Tensor | None] = [None, None]
        self._projection: nn.Linear | None = None
        self._axis = -1

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters outside the student that are learned along with it."""
        return [] if self._projection is None else list(self._projection.parameters())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep what both layers return each time that they run."""

        def hook_for(side: int) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                self._seen[side] = self._features_in(output)

            return hook

        handles = [layer.register_forward_hook(hook_for(side)) for side, layer in enumerate(self._layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._seen = [None, None]

    def prepare(self, seed: int) -> None:
        """Check the shapes after both models ran once, and make a projection if the widths differ.

        Raises:
            DataError: A layer was not called, or shapes differ in more than one dimension.
        """
        teacher, student = self._features()
        differing = [
            k for k in range(1, teacher.ndim) if teacher.ndim == student.ndim and teacher.shape[k] != student.shape[k]
        ]
        if teacher.ndim != student.ndim or teacher.shape[0] != student.shape[0] or len(differing) > 1:
            raise DataError(
                f"{option('match', self.text)} needs features that differ in width alone, got {tuple(teacher.shape)} "
                f"of the teacher and {tuple(student.shape)} of the student"
            )
        if differing:
            self._axis = differing[0]
            with seeded(seed):
                widths = student.shape[self._axis], teacher.shape[self._axis]
                self._projection = nn.Linear(*widths, device=student.device, dtype=torch.float32)

    def loss(self) -> Tensor:
        """Return the squared distance of the features of the last batch, relative to the size of the teacher's."""
        teacher, student = (features.float() for features in self._features())
        if self._projection is not None:
            student = self._projection(student.movedim(self._axis, -1)).movedim(-1, self._axis)
        size = teacher.square().mean().clamp(min=torch.finfo(torch.float32).tiny)
        return (student - teacher).square().mean() / size

    def _features_in(self, output: Any) -> Tensor:
        """The output of a layer if it is a tensor; else the first of a tuple, as of recurrent layers and attention."""
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(first, Tensor):
            raise DataError(
                f"{option('match', self.text)} needs layers that give a tensor, or a tuple that starts with one, "
                f"got {type(output).__name__}"
            )
        return first

    def _features(self) -> tuple[Tensor, Tensor]:
        """Features of the teacher and of the student."""
        teacher, student = self._seen
        if teacher is None or student is None:
            who = "teacher" if teacher is None else "student"
            raise DataError(
                f"{option('match', self.text)} needs layers that run, but the {who} does not call its layer"
            )
        return teacher.detach(), student


def matches_of(match: str | Iterable[str] | None, teacher: nn.Module, student: nn.Module) -> list[FeatureMatch]:
    """Return the pairs of layers that the option `match` names: none, one, or several."""
    if match is None:
        return []
    texts = [match] if isinstance(match, str) or not isinstance(match, Iterable) else list(match)
    return [FeatureMatch(text, teacher, student) for text in texts]


def _layer(model: nn.Module, name: str, who: str, text: object) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        hint = did_you_mean(name, [module for module in modules if module])
        raise LayerNotFound(f"{option('match', text)}: the {who} has no layer {name!r}.{hint}")
    return modules[name]


__all__ = ["FeatureMatch", "matches_of"]
