"""Drop-in functions for scripts of scikit-optimize, bayes_opt, Hyperopt and Ray Tune.

A script changes its imports. Its trials are in a study, which is stored with `study=` or `storage=` and continued when
the script runs again; a notebook shows the panel. Only the searcher for Ray Tune needs the other package. An option
that only tunes their surrogate is ignored with a warning; any other one that does not exist here is an error that names
it. Hyperopt's functions are in `compat.hyperopt`, the searcher for Ray Tune is `compat.tune.Search`.
"""

from __future__ import annotations

from nbcompress.compat import acquisition
from nbcompress.compat.acquisition import UtilityFunction
from nbcompress.compat.bayes_opt import BayesianOptimization, TargetSpace
from nbcompress.compat.dimensions import Categorical, Integer, NotUniqueError, Real
from nbcompress.compat.skopt import gp_minimize, use_named_args

__all__ = [
    "BayesianOptimization",
    "Categorical",
    "Integer",
    "NotUniqueError",
    "Real",
    "TargetSpace",
    "UtilityFunction",
    "acquisition",
    "gp_minimize",
    "use_named_args",
]
