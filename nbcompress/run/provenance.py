"""How a search was run: what its study's record holds beside the trials."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbcompress.study import Study

# Packages whose versions decide which points are proposed and which numbers come out.
_PACKAGES = ("nbcompress", "torch", "numpy", "scipy", "botorch", "gpytorch", "optuna", "scikit-learn")


def note(study: Study, **facts: Any) -> None:
    """Note facts (JSON) with the study; what is noted already is not written again, so a rerun adds nothing."""
    known = study.record
    changed = {name: fact for name, fact in facts.items() if known.get(name) != fact}
    if changed:
        study.annotate(**changed)


def provenance() -> dict[str, Any]:
    """Return `{"versions": {...}, "machine": {...}}`, as JSON. Names no person and no path."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    machine: dict[str, Any] = {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        machine["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            machine["cuda"] = torch.cuda.get_device_name()
    return {"versions": versions, "machine": machine}
