"""Which few evenly spaced values do weights take? Grids of 1 to 8 bits."""

from nbcompress.compress.quantize.apply import quantize

__all__ = ["quantize"]
