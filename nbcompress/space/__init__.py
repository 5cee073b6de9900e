"""What may vary? Parameters, the space they span with its unit cube, and the declarations of a cell.

Nothing here loads torch, Optuna or pandas; NumPy comes with the first `encode`.
"""

from nbcompress.space.conditions import Condition
from nbcompress.space.parameters import Choice, Float, Int, Parameter
from nbcompress.space.space import Space
from nbcompress.space.values import Point, Value

__all__ = [
    "Choice",
    "Condition",
    "Float",
    "Int",
    "Parameter",
    "Point",
    "Space",
    "Value",
]
