"""The fixed words that options of a search, of training and of compressors take. The first of each is the default.

They are listed apart from the code that they choose, so that help and Tab completion need not import it.
"""

from __future__ import annotations

from typing import Literal, get_args

SAMPLERS = ("gp", "sobol", "random", "grid", "tpe", "nsga2", "optuna-gp")
ACQUISITIONS = ("logei", "ucb", "pi", "qlogei", "ei", "noisy-ei", "kg", "mes", "thompson")
# Those that take several objectives, too.
MULTI_OBJECTIVE_ACQUISITIONS = ("logei", "ucb", "pi", "qlogei", "ei", "noisy-ei", "thompson")
KERNELS = ("matern52", "rbf", "matern32", "matern12")
# Kernels of a `SurrogateSpec` that have no closed form, and surrogates that are more than a kernel and a mean.
FURTHER_KERNELS = ("linear", "additive", "mixed")
SURROGATES = (*KERNELS, *FURTHER_KERNELS, "warped", "saas")
LIKELIHOODS = ("gaussian",)
MEANS = ("constant", "linear", "zero")
PRUNERS = ("none", "median", "asha", "hyperband")
ENGINES = ("inline", "process", "ray", "dask")
INTERRUPTS = ("return", "raise")

# What `%compress` can try.
TRIES = ("blocks", "channels", "rank", "weights", "bits", "codebooks", "training")
# Of prune: what is removed first.
Criterion = Literal[
    "magnitude",
    "random",
    "gradient",
    "activation",
    "energy",
    "winner",
    "mutual-information",
    "redundancy",
    "hessian",
]
CRITERIA: tuple[str, ...] = get_args(Criterion)
CHANNEL_CRITERIA = tuple(word for word in CRITERIA if word != "hessian")
WEIGHT_CRITERIA = ("magnitude", "random", "gradient", "activation", "hessian")
# Of quantize; beside these a number.
SCALES = ("error", "absmax", "pow2")
# Of everything that trains.
OPTIMIZERS = ("adam", "adamw", "sgd", "momentum", "gd")


def is_engine(word: str) -> bool:
    """Return whether a word chooses an engine: a fixed word, `ray://HOST:PORT` or `dask:ADDRESS`."""
    return word in ENGINES or word.startswith(("ray://", "dask:"))
