"""The sampler `gp` for studies of Optuna: `optuna.create_study(sampler=nbcompress.optuna.Sampler())`."""

from __future__ import annotations

from nbcompress.optuna.sampler import Sampler

__all__ = ["Sampler"]
