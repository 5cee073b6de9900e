"""Modes that are set for a while come back as they were, also after an error."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from nbcompress.compressors.modes import evaluating, outside_inference, requiring_grad, seeded, training_flags


def net() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))
    model[2].eval()
    return model


def test_training_flags_come_back() -> None:
    model = net()
    before = training_flags(model)
    with evaluating(model):
        assert not any(training_flags(model).values())
    assert training_flags(model) == before
    with pytest.raises(ValueError, match="stop"), evaluating(model):
        raise ValueError("stop")
    assert training_flags(model) == before


def test_requires_grad_comes_back() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1), requires_grad=False)
    with requiring_grad([first, second], True):
        assert second.requires_grad
    assert (first.requires_grad, second.requires_grad) == (True, False)
    with pytest.raises(ValueError, match="stop"), requiring_grad([first, second], False):
        raise ValueError("stop")
    assert (first.requires_grad, second.requires_grad) == (True, False)


def drawn(generator: torch.Generator) -> tuple[float, float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(())), float(torch.rand((), generator=generator))


def test_seeds_repeat_and_random_state_comes_back() -> None:
    generator = torch.Generator()
    with seeded(7, generator, None):
        first = drawn(generator)
        expected = drawn(generator)
        with seeded(7, generator):
            assert drawn(generator) == first
        with seeded(7, generator):
            drawn(generator)
            assert drawn(generator) == expected
    with seeded(7, generator):
        drawn(generator)
        with seeded(1, generator):
            drawn(generator)
        assert drawn(generator) == expected


def test_a_function_runs_outside_of_inference_mode_without_gradients() -> None:
    @outside_inference
    def modes() -> tuple[bool, bool]:
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    assert modes() == (False, True)
    with torch.inference_mode():
        assert modes() == (False, False)
