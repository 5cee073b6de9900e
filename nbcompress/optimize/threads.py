"""One thread for linear algebra while a point is proposed.

The matrices are small: several threads spin longer than they work (four times the processor time on a busy machine),
and how many there are would decide the last digits. PyTorch, which the trials train with, has threads of its own and is
left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    # Finding the libraries takes milliseconds; by the first call NumPy's and SciPy's are loaded.
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold the BLAS of NumPy and SciPy to one thread, and give back what it had."""
    with _controller().limit(limits=1, user_api="blas"):
        yield
