"""The public names and where they live, so that each loads on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

HOMES = {
    "Choice": "space",
    "Float": "space",
    "Int": "space",
    "NbcompressError": "errors",
    "Optimizer": "optimize",
    "Space": "space",
    "Study": "study",
    "SurrogateSpec": "optimize",
    "Trial": "study",
    "accuracy": "measure",
    "cluster": "compressors",
    "compress": "cell.compress",
    "compare": "measure",
    "distill": "compressors",
    "enforce": "compressors",
    "explain": "measure",
    "export": "artifact",
    "factorize": "compressors",
    "finalists": "run",
    "finetune": "compressors",
    "footprint": "measure",
    "keep": "run",
    "latency_ms": "measure",
    "load": "artifact",
    "maximize": "run",
    "prune": "compressors",
    "quantize": "artifact",
    "record_of": "compressors",
    "report": "run",
    "save": "artifact",
    "search": "run",
    "sensitivity": "measure",
    "size_bytes": "artifact",
    "stop_trial": "run",
    "weights": "measure",
}

# Modules that are reached as attributes, such as `nc.optuna.Sampler`. A star import does not bring them: the names of
# the libraries that they stand in for are in use already.
MODULES = ("compat", "optuna")


# What a `Study` does by a higher floor if nothing of this session has set it: the module and the function that makes it
# for a study. It is loaded at the first use, so that a stored study needs no torch.
SLOTS = {"predictor": ("run.predictor", "predictor_of")}


def slot(name: str) -> Any:
    """Load and return the function that makes a part of a study, such as `predictor`."""
    module, function = SLOTS[name]
    return getattr(import_module(f"nbcompress.{module}"), function)


def public(name: str) -> Any:
    """Load and return a public name.

    Raises:
        KeyError: There is no such name.
    """
    if name in MODULES:
        return import_module(f"nbcompress.{name}")
    return getattr(import_module(f"nbcompress.{HOMES[name]}"), name)
