"""What may vary? Parameters, the space they span with its unit cube, and the declarations of a cell.

Nothing here loads torch, Optuna or pandas; NumPy comes with the first `encode`.
"""

from nbcompress.space.conditions import Condition
from nbcompress.space.declaration import Declaration
from nbcompress.space.declarations import POINT_NAME, Declarations, find_declarations, without_declarations
from nbcompress.space.parameter import Parameter
from nbcompress.space.parameters import Choice, Float, Int
from nbcompress.space.space import Space
from nbcompress.space.values import Point, Value

__all__ = [
    "POINT_NAME",
    "Choice",
    "Condition",
    "Declaration",
    "Declarations",
    "Float",
    "Int",
    "Parameter",
    "Point",
    "Space",
    "Value",
    "find_declarations",
    "without_declarations",
]
