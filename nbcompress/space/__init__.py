"""What may vary? Parameters, spaces, and the declarations of a cell."""

from nbcompress.space.conditions import Condition
from nbcompress.space.parameter import Parameter
from nbcompress.space.parameters import Choice, Float, Int
from nbcompress.space.space import Space
from nbcompress.space.values import Point, Value

__all__ = ["Choice", "Condition", "Float", "Int", "Parameter", "Point", "Space", "Value"]
