"""Printed text: to its trial, bounded, whatever the thread."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcompress.run.printing import HEAD, TAIL, Printed, printed_text


@given(st.lists(st.text(max_size=3000), max_size=30))
def test_head_and_tail_stay(parts: list[str]) -> None:
    printed, whole = Printed(), "".join(parts)
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
    with printed_text() as printed:
        assert sys.stdout is not before[0]
        sys.stdout.writelines(["a", "b"])
        sys.stdout.flush()
        assert not sys.stdout.isatty()
    assert (sys.stdout, sys.stderr) == before
    assert str(printed) == "ab"


def test_also_after_an_error() -> None:
    before = sys.stdout
    with pytest.raises(ValueError), printed_text():
        raise ValueError
    assert sys.stdout is before


def test_threads_do_not_mix() -> None:
    def work(letter: str) -> str:
        with printed_text() as printed:
            for _ in range(200):
                print(letter, end="")
        return str(printed)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, "abcd")) == [letter * 200 for letter in "abcd"]


def test_others_still_print_to_the_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    with printed_text() as printed:
        thread = threading.Thread(target=print, args=("another cell",))
        thread.start()
        thread.join()
        print("the trial")
    assert str(printed) == "the trial\n"
    assert capsys.readouterr().out == "another cell\n"
