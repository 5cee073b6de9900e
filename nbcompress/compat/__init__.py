"""How does an older script come over? Call shapes of scikit-optimize and bayes_opt, over our search and its studies.

A script changes one import and gains a study, which is kept where `study=` or `storage=` says and continued when the
script runs again, and in a notebook the panel. Neither of the two packages is needed. What is here works fully. An
option of theirs that only tunes their surrogate is passed over with a warning; another that is not here is an error
that names it.
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
