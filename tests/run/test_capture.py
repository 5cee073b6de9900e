"""Memory after many trials, captured output and seeds."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from run_searches import fresh_study, searched

from nbcompress.run import Assignment, RunningTrial, keep
from nbcompress.run.capture import captured_output, seeded, trial_seed
from nbcompress.run.outcome import HEAD, TAIL, PrintedText


@contextmanager
def printing() -> Iterator[PrintedText]:
    """Run a trial that collects its output inside the `with` block."""
    with RunningTrial(Assignment(0, {}, 0)).entered() as trial, captured_output(trial) as printed:
        yield printed


def test_memory_stays_flat() -> None:
    def body(x: float) -> dict[str, float]:
        big = torch.full((1_000_000,), x)  # 4 MB
        cycle: list[object] = [big]
        cycle.append(cycle)
        keep(big=big)
        if x > 0.8:
            raise ValueError("with a traceback that holds it")
        return {"loss": float(big.mean())}

    study = fresh_study()
    searched(body, study, trials=40)
    gc.collect()
    before = psutil.Process().memory_info().rss
    searched(body, study, trials=340)
    # Counted before any collection of ours: what waits in cycles stays below the growth that starts one (32 MB are 8),
    # how ever much freed memory the allocator keeps for itself.
    alive = sum(type(item) is torch.Tensor and item.numel() == 1_000_000 for item in gc.get_objects())
    assert alive < 40
    # Had they stayed, these 300 trials would hold 1,200 MB.
    assert psutil.Process().memory_info().rss - before < 600_000_000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_memory_is_freed_between_trials() -> None:
    def body(x: float) -> dict[str, float]:
        big = torch.full((10_000_000,), x, device="cuda")
        cycle: list[object] = [big]
        cycle.append(cycle)
        return {"loss": float(big.mean())}

    searched(body, trials=10)
    assert torch.cuda.memory_allocated() == 0
    assert torch.cuda.memory_reserved() < 50_000_000


@given(st.lists(st.text(max_size=3000), max_size=30))
def test_head_and_tail_stay(parts: list[str]) -> None:
    printed, whole = PrintedText(), "".join(parts)
    for part in parts:
        printed.write(part)
    text = str(printed)
    if len(whole) <= HEAD + TAIL:
        assert text == whole
    else:
        gap = f"\n... {len(whole) - HEAD - TAIL} characters left out ...\n"
        assert text == whole[:HEAD] + gap + whole[-TAIL:]


def test_the_streams_are_put_back() -> None:
    before = sys.stdout, sys.stderr
    with printing() as printed:
        assert sys.stdout is not before[0]
        sys.stdout.writelines(["a", "b"])
        sys.stdout.flush()
        assert not sys.stdout.isatty()
    assert (sys.stdout, sys.stderr) == before
    assert str(printed) == "ab"


def test_also_after_an_error() -> None:
    before = sys.stdout
    with pytest.raises(ValueError), printing():
        raise ValueError
    assert sys.stdout is before


def test_threads_do_not_mix() -> None:
    def work(letter: str) -> str:
        with printing() as printed:
            for _ in range(200):
                print(letter, end="")
        return str(printed)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, "abcd")) == [letter * 200 for letter in "abcd"]


def test_others_still_print_to_the_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    with printing() as printed:
        thread = threading.Thread(target=print, args=("another cell",))
        thread.start()
        thread.join()
        print("the trial")
    assert str(printed) == "the trial\n"
    assert capsys.readouterr().out == "another cell\n"


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
    code = "from nbcompress.run.capture import trial_seed; print(trial_seed(7, 11, 2))"
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
from nbcompress.run.capture import seeded
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
