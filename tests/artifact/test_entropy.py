"""Decoding returns what was encoded, in about as many bits as its entropy."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcompress.artifact.entropy import EntropyDecoder, EntropyEncoder, code_mask, code_number, code_symbols
from nbcompress.errors import ArtifactError


def reader_of(encoder: EntropyEncoder) -> EntropyDecoder:
    raw = np.concatenate([np.zeros(0, np.uint8), *encoder.raw_parts])
    return EntropyDecoder(memoryview(encoder.coded()), memoryview(raw))


@given(st.integers(1, 300), st.data())
def test_symbols_come_back(n_kinds: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(st.integers(0, n_kinds - 1), max_size=60), max_size=3))
    encoder = EntropyEncoder()
    for row in rows:
        code_symbols(encoder, np.array(row, dtype=np.int64), len(row), n_kinds)
    decoder = reader_of(encoder)
    assert [code_symbols(decoder, None, len(row), n_kinds).tolist() for row in rows] == rows
    decoder.check_end()


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_masks_come_back(n_rows: int, n_columns: int, data: st.DataObject) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n_rows * n_columns, max_size=n_rows * n_columns)))
    encoder = EntropyEncoder()
    code_mask(encoder, mask, n_rows, n_columns)
    assert code_mask(reader_of(encoder), None, n_rows, n_columns).tolist() == mask.tolist()


@given(st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=5)), max_size=10))
def test_numbers_and_raw_bytes_come_back_in_order(items: list[tuple[int, bytes]]) -> None:
    encoder = EntropyEncoder()
    for number, data in items:
        code_number(encoder, number, 7)
        encoder.raw(np.frombuffer(data, np.uint8), len(data))
    decoder = reader_of(encoder)
    assert [(code_number(decoder, None, 7), decoder.raw(None, len(data)).tobytes()) for _, data in items] == items


def n_bits(symbols: np.ndarray, n_kinds: int) -> int:
    encoder = EntropyEncoder()
    code_symbols(encoder, symbols, len(symbols), n_kinds)
    return 8 * len(encoder.coded())


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
    encoder = EntropyEncoder()
    code_mask(encoder, mask, *mask.shape)
    share = mask.mean()
    by_share = mask.size * -(share * log2(share) + (1 - share) * log2(1 - share))
    assert 8 * len(encoder.coded()) < 0.7 * by_share


def test_a_decoder_names_what_is_missing_and_what_is_left() -> None:
    encoder = EntropyEncoder()
    encoder.raw(np.arange(5, dtype=np.uint8), 5)
    with pytest.raises(ArtifactError, match="ends early: 3 bytes of values are missing"):
        reader_of(encoder).raw(None, 8)
    decoder = reader_of(encoder)
    decoder.raw(None, 2)
    with pytest.raises(ArtifactError, match="more than the model: 3 bytes of values are left over"):
        decoder.check_end()
