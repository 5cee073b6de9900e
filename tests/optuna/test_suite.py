"""Optuna's own tests of samplers, as its package brings them.

`SingleOnlySamplerTestCase` cannot apply: it is for samplers that refuse several objectives, and ours takes up to four.
"""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from nbcompress.optuna import Sampler


@pytest.mark.filterwarnings("ignore:The range of '.' changed:nbcompress.errors.NbcompressWarning")
class TestSampler(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: Sampler(seed=0)
