"""A trend: lines and parabolas along single features, added up, with coefficients that are drawn from one variance.

Most losses of mixed spaces are close to a sum: a choice costs so much, a number has a best value. A stationary kernel
of all features cannot say so, and learns each option of a choice anew for each value of the others. The trend says it
in one product of matrices: its covariance is `t2 P P'`, beside the kernel's.

References:
    Duvenaud, Nickisch, Rasmussen (2011), "Additive Gaussian Processes".
    Rasmussen & Williams (2006), section 2.7: explicit basis functions as part of the covariance.
"""

from __future__ import annotations

import numpy as np

from nbcompress.optimize.history import Array

# On even points between 0 and 1: the standard deviation of u, and that of (u - 1/2)^2 and its mean.
_LINE, _PARABOLA, _MEAN = np.sqrt(1.0 / 12.0), np.sqrt(1.0 / 180.0), 1.0 / 12.0


def basis(features: Array) -> tuple[Array, Array]:
    """Return P `(n, 2D)`, the lines and then the parabolas along features `(n, D)`, and its derivatives `(n, 2D)`.

    On even points each column has mean 0, and P's rows have length 1 on average: so t2 is the trend's mean variance.
    """
    centred = features - 0.5
    share = np.sqrt(0.5 / max(features.shape[1], 1))
    columns = np.hstack([centred / _LINE, (centred * centred - _MEAN) / _PARABOLA])
    slopes = np.hstack([np.full_like(centred, 1.0 / _LINE), (2.0 / _PARABOLA) * centred])
    return share * columns, share * slopes


def by_feature(by_column: Array) -> Array:
    """Add up what P's columns `(n, 2D)` say of each feature: shape `(n, D)`."""
    lines, parabolas = np.hsplit(by_column, 2)
    return np.asarray(lines + parabolas)
