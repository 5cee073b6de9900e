"""The search space: parameters, the conditions under which they are active, and the encoding to the unit cube.

This package does not import torch, Optuna or pandas. It imports NumPy at the first `Space.encode`.
"""

from nbcompress.space.conditions import Condition
from nbcompress.space.parameters import Choice, Float, Int, Parameter
from nbcompress.space.space import Space
from nbcompress.space.values import RESERVED, Point, Value, check_name, is_number

__all__ = [
    "RESERVED",
    "Choice",
    "Condition",
    "Float",
    "Int",
    "Parameter",
    "Point",
    "Space",
    "Value",
    "check_name",
    "is_number",
]
