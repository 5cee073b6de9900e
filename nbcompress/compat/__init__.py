"""Drop-in functions for scripts of scikit-optimize and bayes_opt.

A script changes one import. Its trials are in a study, which is stored with `study=` or `storage=` and continued when
the script runs again; a notebook shows the panel. Neither of the two packages is needed. An option that only tunes
their surrogate is ignored with a warning; any other option that does not exist here is an error that names it.
"""

from __future__ import annotations

from nbcompress.compat import acquisition
from nbcompress.compat.acquisition import UtilityFunction
from nbcompress.compat.bayes_opt import BayesianOptimization
from nbcompress.compat.dimensions import Categorical, Integer, Real
from nbcompress.compat.skopt import gp_minimize, use_named_args

__all__ = [
    "BayesianOptimization",
    "Categorical",
    "Integer",
    "Real",
    "UtilityFunction",
    "acquisition",
    "gp_minimize",
    "use_named_args",
]
