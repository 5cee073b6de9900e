"""Whether what was exported does what the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nbcompress.errors import ArtifactError

# Sums in another order move a float32 result by far less, and a forgotten bias by far more.
FLOAT_TOLERANCE = 1e-3
# A cosine of .955. Networks that bear 8 bits stay below .15; one that does not is beyond .9.
INTEGER_TOLERANCE = 0.3


@dataclass(frozen=True)
class Agreement:
    """How far outputs are from those of the model, in the output where that is farthest.

    Attributes:
        error: Length of the difference over length of the expected output; for integers and truth values the share
            that differs. Infinite if the shapes differ or a finite number became none.
        cosine: Of the angle between the two.
    """

    error: float
    cosine: float

    def worse(self, other: Agreement) -> Agreement:
        return self if self.error >= other.error else other


def agreement(expected: Sequence[Tensor], found: Sequence[Tensor]) -> Agreement:
    """Compare outputs one by one."""
    if len(expected) != len(found):
        return Agreement(float("inf"), 0.0)
    worst = Agreement(0.0, 1.0)
    for one, two in zip(expected, found, strict=True):
        worst = worst.worse(_agreement(one, two))
    return worst


def check(name: str, what: str, found: Agreement, tolerance: float) -> None:
    """Raise an ArtifactError with the figure if the outputs are too far from those of the model.

    Args:
        name: Of the model's class.
        what: Was run, and on what.
        found: How far they are.
        tolerance: How far they may be.
    """
    if not found.error <= tolerance:
        raise ArtifactError(
            f"what is exported must agree with {name}, but {what} gives outputs that are off by {found.error:.3g} of "
            f"their length (cosine {found.cosine:.3f}), and tolerance={tolerance:g} is allowed: nothing was written"
        )


def _agreement(expected: Tensor, found: Tensor) -> Agreement:
    if expected.shape != found.shape:
        return Agreement(float("inf"), 0.0)
    if not (expected.is_floating_point() or expected.is_complex()):
        differs = float((expected != found).double().mean()) if expected.numel() else 0.0
        return Agreement(differs, 1 - differs)
    one, two = expected.double().flatten(), found.double().flatten()
    same = one.isfinite() & two.isfinite()
    if not bool((same | (one == two) | (one.isnan() & two.isnan())).all()):
        return Agreement(float("inf"), 0.0)
    one, two = one[same], two[same]
    length = float(one.norm())
    error = float((one - two).norm())
    lengths = length * float(two.norm())
    cosine = float(one @ two) / lengths if lengths else float(not error)
    return Agreement(error / length if length else error, cosine)


__all__ = ["FLOAT_TOLERANCE", "INTEGER_TOLERANCE", "Agreement", "agreement", "check"]
