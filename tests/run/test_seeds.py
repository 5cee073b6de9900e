"""Seeds of trials: the same everywhere and always."""

from __future__ import annotations

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbcompress.run.seeds import seeded, trial_seed


def test_these_numbers_never_change() -> None:
    # A stored study is continued by later versions, so the formula is part of the format.
    assert [trial_seed(0, 0), trial_seed(0, 1), trial_seed(1, 0), trial_seed(0, 0, 1)] == KNOWN


KNOWN = [1958632164, 1714574859, 3165491043, 899726344]


@given(st.integers(-(2**40), 2**40), st.integers(0, 10**6), st.integers(0, 100))
def test_every_seed_fits_numpy(seed: int, number: int, repeat: int) -> None:
    assert 0 <= trial_seed(seed, number, repeat) < 2**32


def test_neighbours_share_none() -> None:
    seeds = [trial_seed(seed, number, repeat) for seed in range(20) for number in range(100) for repeat in range(3)]
    assert len(set(seeds)) == len(seeds)


def test_another_process_gives_the_same() -> None:
    code = "from nbcompress.run.seeds import trial_seed; print(trial_seed(7, 11, 2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == trial_seed(7, 11, 2)


def test_threads_that_share_generators_leave_the_notebook_s_as_they_were() -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)

    def work(seed: int) -> None:
        with seeded(seed):
            random.random(), np.random.rand(), torch.rand(())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(100)))
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


def test_the_trial_that_imports_torch_first_has_its_seed_too() -> None:
    code = """
import sys
from nbcompress.run.seeds import seeded
if len(sys.argv) > 1:
    import torch
with seeded(5):
    import torch
    drawn = torch.rand(()).item()
assert "Seeds" not in str(sys.meta_path)
print(drawn)
outside = torch.rand(2)
torch.manual_seed(5)
assert outside[0] != torch.rand(2)[1], "the notebook's generator stands where the trial left it"
"""

    def said(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    assert said() == said("torch is loaded")
