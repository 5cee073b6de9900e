"""Sizes in the code of a module: which calls get other sizes, and which are left as they are."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from architectures.awkward import HeadsInBatch, LiteralHeads, MultiQuery, OpenWidth
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compressors.coupling.rules_elements import einsum_terms
from nbcompress.compressors.record import record_of
from nbcompress.compressors.resize import Resize, Resplit, resize_, rule_from_numbers
from nbcompress.errors import CompressionError

# Queries, keys and values, 4 heads of width 8, of which 2 stay.
SPLIT = Resize(5, 0, (3, 4, 8), (3, 2, 8))
MERGE = Resize(3, 0, (32,), (16,))


@pytest.mark.parametrize(
    ("rule", "asked", "n_elements", "expected"),
    [
        (SPLIT, (2, 5, 3, 4, 8), 2 * 5 * 48, (2, 5, 3, 2, 8)),
        (SPLIT, (2, 5, 3, 4, 8), 2 * 5 * 96, None),  # the call fits: it is of a tensor that was not cut
        (SPLIT, (2, 5, 3, 4, -1), 2 * 5 * 48, (2, 5, 3, 2, 8)),
        (SPLIT, (2, 5, 3, 4, 4), 2 * 5 * 48, (2, 5, 3, 2, 8)),  # the width was computed from what was left
        (SPLIT, (2, -1, 3, 4, 8), 2 * 5 * 48, (2, -1, 3, 2, 8)),
        (SPLIT, (2, 5, 3, 2, 8), 2 * 5 * 48, None),
        (SPLIT, (2, 15, 4, 8), 2 * 5 * 48, None),  # another number of dimensions
        (SPLIT, (2, 5, 3, 4, 7), 2 * 5 * 48, None),
        (MERGE, (2, 5, 32), 2 * 5 * 16, (2, 5, 16)),
        (MERGE, (2, 5, -1), 2 * 5 * 16, None),
    ],
)
def test_sizes(rule: Resize, asked: tuple[int, ...], n_elements: int, expected: tuple[int, ...] | None) -> None:
    assert rule.sizes_for(asked, n_elements) == expected


def test_a_run_that_counts_the_batch_shrinks_by_its_share() -> None:
    rule = Resize(3, 2, (8,), (4,))  # 2 examples of 4 heads
    assert rule.scaled_sizes_for((20, 5, 8), 10 * 5 * 8) == (10, 5, 8)
    assert rule.scaled_sizes_for((20, 5, 8), 20 * 5 * 8) is None
    assert rule.scaled_sizes_for((3, 5, 8), 10 * 5 * 8) is None


@pytest.mark.parametrize(
    ("old", "new"), [((4,), (4,)), ((4,), (5,)), ((4,), (0,)), ((4, 2), (2,)), ((1,) * 6, (1,) * 6)]
)
def test_a_wrong_rule_is_refused(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    with pytest.raises(CompressionError, match="can only get smaller"):
        Resize(5, 0, old, new)


@pytest.mark.parametrize(
    "numbers", [{}, {"dims": 3, "old": (4,), "new": (2,)}, {"dims": (3,), "old": (4,), "new": (2,)}]
)
def test_numbers_of_a_damaged_file_are_refused(numbers: dict[str, int | tuple[int, ...]]) -> None:
    with pytest.raises(CompressionError, match="a rule for sizes has dims, old and new"):
        Resize.from_numbers(numbers)


# A last dimension of 5 and 11, of which 2 and 4 stay.
PIECES = Resplit(2, 0, (5, 11), (2, 4))
HALVES = Resplit(3, 1, (8, 8), (4, 4))


def test_numbers_give_the_rule_back() -> None:
    assert [rule_from_numbers(rule.numbers) for rule in (SPLIT, PIECES, HALVES)] == [SPLIT, PIECES, HALVES]


@pytest.mark.parametrize(
    ("rule", "asked", "shape", "dim", "expected"),
    [
        (PIECES, [5, 11], (3, 6), -1, (2, 4)),
        (PIECES, [5, 11], (3, 16), 1, None),  # a tensor that was not cut
        (PIECES, [5, 11], (6, 3), 0, None),  # another dimension
        (PIECES, [5, 11], (3, 2, 6), -1, None),
        (PIECES, [2, 4], (3, 6), -1, None),  # computed from what is left
        (HALVES, 8, (3, 8, 5), 1, (4, 4)),
        (HALVES, [8, 8], (3, 8, 5), -2, (4, 4)),
        (HALVES, 4, (3, 8, 5), 1, None),
        (HALVES, 8, (3, 16, 5), 1, None),
    ],
)
def test_pieces(
    rule: Resplit, asked: int | list[int], shape: tuple[int, ...], dim: int, expected: tuple[int, ...] | None
) -> None:
    assert rule.pieces_for(asked, shape, dim) == expected


@pytest.mark.parametrize(("old", "new"), [((8, 8), (8, 8)), ((8, 8), (9, 4)), ((8, 8), (4,)), ((8, 8), (0, 4))])
def test_a_wrong_rule_for_pieces_is_refused(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    with pytest.raises(CompressionError, match="can only get smaller"):
        Resplit(3, 1, old, new)


class Pieces(nn.Module):
    """A gate whose halves are taken in one of the ways to write a length as a number."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b = nn.Linear(4, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.how == "int":
            value, gate = x.split(8, dim=-1)
        elif self.how == "list":
            value, gate = torch.split(x, [8, 8], -1)
        else:
            gate, value = x.split_with_sizes(split_sizes=[8, 8], dim=1)
        return self.b(value * torch.sigmoid(gate))


@pytest.mark.parametrize("how", ["int", "list", "sizes"])
def test_pieces_as_literals_are_cut_twice_and_saved(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Pieces(how).eval(), torch.randn(2, 4)
    half = nc.prune(model, 0.5, granularity="channel", example=x)
    quarter = nc.prune(half, 0.5, granularity="channel", example=x)
    assert [m.a.weight.shape[0] for m in (model, half, quarter)] == [16, 8, 4]
    # Each unit goes from both halves.
    first, second = record_of(half).kept_indices["a"].reshape(2, 4)
    assert (second - first == 8).all()
    loaded = nc.load(nc.save(quarter, tmp_path / "quarter.nbz"), Pieces(how)).eval()
    torch.testing.assert_close(loaded(torch.ones(5, 4)), quarter(torch.ones(5, 4)))


class Reshapes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("not a number")
        return x.view(2, 4, 3)


def test_a_module_gets_other_sizes_only_while_it_runs() -> None:
    module = Reshapes()
    resize_(module, Resize(3, 0, (4, 3), (2, 3)))
    twin, x = copy.deepcopy(module), torch.arange(12.0)
    assert module(x).shape == twin(x).shape == (2, 2, 3)
    with pytest.raises(ValueError, match="not a number"):
        module(x + torch.nan)
    with pytest.raises(RuntimeError, match="invalid for input of size 12"):
        x.view(2, 4, 3)
    # A second cut replaces the rule, because the code still asks for 4.
    resize_(module, Resize(3, 0, (2, 3), (1, 3)))
    assert module(torch.arange(6.0)).shape == (2, 1, 3)
    assert twin(x).shape == (2, 2, 3)


@pytest.mark.parametrize("build", [LiteralHeads, OpenWidth, HeadsInBatch])
def test_heads_as_literals_are_cut_twice_and_exported(build: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(2, 5, 6)
    half = nc.prune(model, 0.5, granularity="channel", example=x)
    quarter = nc.prune(half, 0.5, granularity="channel", example=x)
    assert [m.qkv.weight.shape[0] for m in (model, half, quarter)] == [96, 48, 24]
    assert "qkv.weight" not in record_of(quarter).left_out
    loaded = nc.load(nc.save(quarter, tmp_path / "quarter.nbz"), build()).eval()
    # Other batches and lengths than that of the example.
    for y in (torch.randn(1, 5, 6), torch.randn(7, 5, 6), torch.randn(4, 8, 6)):
        torch.testing.assert_close(loaded(y), quarter(y))
    heads = record_of(half).kept_indices["qkv"].reshape(3, 2, 8)
    assert (heads[1] - heads[0] == 32).all()
    assert (heads[2] - heads[0] == 64).all()


def test_the_file_of_such_a_model_takes_other_batches(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = HeadsInBatch().eval(), torch.randn(2, 5, 6)
    small = nc.prune(model, 0.5, granularity="channel", example=x)
    path = tmp_path / "small.onnx"
    nc.export(small, path, example=x)
    session = onnxruntime.InferenceSession(str(path))
    y = torch.randn(3, 5, 6)
    (found,) = session.run(None, {session.get_inputs()[0].name: y.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), small(y), rtol=1e-4, atol=1e-5)


def test_a_single_head_of_keys_loses_width_with_all_heads_of_queries() -> None:
    model, x = MultiQuery().eval(), torch.randn(2, 5, 6)
    small = nc.prune(model, 0.5, granularity="channel", example=x)
    # 4 heads of queries, one of keys and one of values, each of width 4 instead of 8.
    assert small.q.weight.shape == (16, 32)
    assert small.kv.weight.shape == (8, 32)


@pytest.mark.parametrize(
    ("equation", "n_dims", "expected"),
    [
        ("bij,bjk->bik", [3, 3], (["bij", "bjk"], "bik")),
        ("...ij,jk", [3, 2], (["Zij", "jk"], "Zik")),
        ("...i,...i->...", [3, 2], (["YZi", "Zi"], "YZ")),
        ("ji", [2], (["ji"], "ij")),
    ],
)
def test_letters_of_einsum(equation: str, n_dims: list[int], expected: tuple[list[str], str]) -> None:
    assert einsum_terms(equation, n_dims) == expected
