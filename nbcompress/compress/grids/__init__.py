"""Which uniform grid fits a tensor? Groups of weights, their scales, and rounding."""

from nbcompress.compress.grids.fit import Scheme, fit_grid, improved_scale, nearest_codes, rounded
from nbcompress.compress.grids.groups import parse_granularity

__all__ = ["Scheme", "fit_grid", "improved_scale", "nearest_codes", "parse_granularity", "rounded"]
