"""What was coded is decoded, in about as many bits as its entropy."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcompress.artifact.entropy import Reader, Writer, code_mask, code_number, code_symbols
from nbcompress.errors import ArtifactError


def reader_of(writer: Writer) -> Reader:
    plain = np.concatenate([np.zeros(0, np.uint8), *writer.plain_parts])
    return Reader(memoryview(writer.coded()), memoryview(plain))


@given(st.integers(1, 300), st.data())
def test_symbols_come_back(n_kinds: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(st.integers(0, n_kinds - 1), max_size=60), max_size=3))
    writer = Writer()
    for row in rows:
        code_symbols(writer, np.array(row, dtype=np.int64), len(row), n_kinds)
    reader = reader_of(writer)
    assert [code_symbols(reader, None, len(row), n_kinds).tolist() for row in rows] == rows
    reader.check_end()


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_masks_come_back(n_rows: int, n_columns: int, data: st.DataObject) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n_rows * n_columns, max_size=n_rows * n_columns)))
    writer = Writer()
    code_mask(writer, mask, n_rows, n_columns)
    assert code_mask(reader_of(writer), None, n_rows, n_columns).tolist() == mask.tolist()


@given(st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=5)), max_size=10))
def test_numbers_and_plain_bytes_come_back_in_order(items: list[tuple[int, bytes]]) -> None:
    writer = Writer()
    for number, data in items:
        code_number(writer, number, 7)
        writer.plain(np.frombuffer(data, np.uint8), len(data))
    reader = reader_of(writer)
    assert [(code_number(reader, None, 7), reader.plain(None, len(data)).tobytes()) for _, data in items] == items


def n_bits(symbols: np.ndarray, n_kinds: int) -> int:
    writer = Writer()
    code_symbols(writer, symbols, len(symbols), n_kinds)
    return 8 * len(writer.coded())


def entropy_bits(symbols: np.ndarray) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return -sum(count * log2(count / len(symbols)) for count in counts)


@pytest.mark.parametrize(("n", "n_kinds", "at_most"), [(2000, 8, 1.02), (10_000, 16, 1.01), (10_000, 255, 1.02)])
def test_a_bell_shape_takes_its_entropy(n: int, n_kinds: int, at_most: float) -> None:
    bell = np.random.default_rng(0).normal(n_kinds / 2, n_kinds / 8, n)
    symbols = bell.round().clip(0, n_kinds - 1).astype(np.int64)
    assert 0.99 < n_bits(symbols, n_kinds) / entropy_bits(symbols) < at_most


def test_a_constant_takes_next_to_nothing() -> None:
    assert n_bits(np.full(100_000, 5), 256) < 200


def test_a_mask_with_empty_rows_and_columns_takes_less_than_its_share_of_ones() -> None:
    random = np.random.default_rng(0)
    mask = random.random((200, 100)) < 0.3
    mask[:, random.random(100) < 0.6] = False
    mask[random.random(200) < 0.4] = False
    writer = Writer()
    code_mask(writer, mask, *mask.shape)
    share = mask.mean()
    by_share = mask.size * -(share * log2(share) + (1 - share) * log2(1 - share))
    assert 8 * len(writer.coded()) < 0.7 * by_share


def test_a_reader_names_what_is_missing_and_what_is_left() -> None:
    writer = Writer()
    writer.plain(np.arange(5, dtype=np.uint8), 5)
    with pytest.raises(ArtifactError, match="ends early: 3 bytes of values are missing"):
        reader_of(writer).plain(None, 8)
    reader = reader_of(writer)
    reader.plain(None, 2)
    with pytest.raises(ArtifactError, match="more than the model: 3 bytes of values are left over"):
        reader.check_end()
