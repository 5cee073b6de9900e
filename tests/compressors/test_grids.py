from __future__ import annotations

import re

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nbcompress.compressors import Grid, TensorRecord, codes_of, values_of
from nbcompress.compressors.grids import (
    GridSpec,
    _candidates,
    _groups_of,
    _storable,
    fit_grid,
    group_rows,
    parse_granularity,
    refit_scale,
    round_to_grid,
)
from nbcompress.errors import CompressionError

BITS = [(1, "symmetric"), *((bits, scheme) for bits in range(2, 9) for scheme in ("symmetric", "affine"))]
GROUPS = ["tensor", "channel", 3]


def tensors(width: int = 32) -> st.SearchStrategy[Tensor]:
    number = st.floats(-1e3, 1e3, width=width)
    sizes = st.tuples(st.integers(1, 4), st.integers(1, 7))
    return sizes.flatmap(
        lambda size: st.lists(number, min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
            lambda values: torch.tensor(values).reshape(size)
        )
    )


def error(w: Tensor, scheme: GridSpec) -> Tensor:
    rows = group_rows(w - round_to_grid(w, fit_grid(w, scheme)), scheme.group)[0].double()
    shifts = rows.sum(dim=1).square()
    if scheme.group == "tensor":
        shifts = rows.reshape(len(w), -1).sum(dim=1).square().sum()
    return rows.square().sum(dim=1) + scheme.shift_weight * shifts


def grid(bits: int, scale: list[float], zero: list[int], scheme: str = "symmetric", group: object = "channel") -> Grid:
    return Grid(bits, scheme, group, torch.tensor(scale), torch.tensor(zero, dtype=torch.int32))  # type: ignore[arg-type]


def test_three_bits_by_hand() -> None:
    """The textbook: the scale is the largest magnitude over 3."""
    w = torch.tensor([[3.0, -1.4, 0.6, 0.2], [-4.5, 3.5, 1.4, 0.0]])
    found = fit_grid(w, GridSpec(3, scale="absmax"))
    assert found.n_codes == 8
    assert found == grid(3, [1.0, 1.5], [4, 4])
    codes = codes_of(round_to_grid(w, found), TensorRecord(grid=found))
    assert (codes - found.zero[:, None]).tolist() == [[3, -1, 1, 0], [-3, 2, 1, 0]]
    # It is no number of half precision, so that the largest weight stays exactly.
    found = fit_grid(w / 10, GridSpec(3, scale="absmax"))
    assert round_to_grid(w / 10, found)[0, 0] == w[0, 0] / 10


def test_four_bits_are_twos_complement_and_eight_are_balanced() -> None:
    """Steps -8 ... 7 and -127 ... 127 whatever the weights: what kernels of integers take."""
    w = torch.tensor([[7.0, -1.0, 0.0]])
    assert fit_grid(w, GridSpec(4, scale="absmax")) == grid(4, [1.0], [8])
    assert fit_grid(w * 127 / 7, GridSpec(8, scale="absmax")) == grid(8, [1.0], [127])
    assert (grid(4, [1.0], [8]).n_codes, grid(8, [1.0], [127]).n_codes) == (16, 255)


def test_powers_of_two_by_hand() -> None:
    """Largest magnitude 7 over 7 is 1 = 2^0. With 6.5 the error of 1 is 0.25, that of 2 more, that of 1/2 clips."""
    w = torch.tensor([[7.0, -3.0, 1.0], [6.5, -3.0, 1.0]])
    found = fit_grid(w, GridSpec(4, scale="pow2"))
    assert found == Grid(4, "symmetric", "channel", torch.ones(2), torch.full((2,), 8, dtype=torch.int32), True)
    # One outlier is clipped where that costs less: 8 becomes 7 * 1/4, and 36 weights of 0.25 are kept.
    w = torch.tensor([[2.0, *[0.25] * 36]])
    assert fit_grid(w, GridSpec(4, scale="pow2")).scale.tolist() == [0.25]
    assert fit_grid(torch.tensor([[0.0, 12.0]]), GridSpec(2, "affine", scale="pow2")).scale.tolist() == [4.0]
    # One bit: the mean magnitude 2.5 is nearer to 2 than to 4, and 3.5 nearer to 4.
    assert fit_grid(torch.tensor([[2.0, -3.0], [3.0, 4.0]]), GridSpec(1, scale="pow2")).scale.tolist() == [2.0, 4.0]
    assert fit_grid(torch.zeros(1, 3), GridSpec(3, scale="pow2")).scale.tolist() == [1.0]


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_a_factor_of_ones_own(scheme: str) -> None:
    w = torch.tensor([[0.123, -0.456], [0.05, 0.004]])
    found = fit_grid(w, GridSpec(8, scheme, "channel", 100.0))  # type: ignore[arg-type]
    assert torch.equal(round_to_grid(w, found), torch.tensor([[12.0, -46.0], [5.0, 0.0]]) * torch.tensor(0.01))
    assert refit_scale(w * 3, found) is found


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("group", GROUPS)
def test_the_largest_stay_in_half_precision(bits: int, group: object) -> None:
    """A quarter of 16 weights, of equal ones the first. The grid is that of the others."""
    w = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    w[0], w[2, 1] = torch.tensor([9.0, -9.1, 0.1, 9.0]), 9.0
    found = fit_grid(w, GridSpec(bits, group=group, share=0.75))  # type: ignore[arg-type]
    assert found.in_half is not None
    assert found.in_half.tolist() == [0, 1, 3, 9]
    rounded = round_to_grid(w, found)
    assert torch.equal(rounded.flatten()[found.in_half], w.flatten()[found.in_half].half().float())
    others = w.clone()
    others.view(-1)[found.in_half] = 0
    assert torch.equal(found.scale, fit_grid(others, GridSpec(bits, group=group), is_pruned=True).scale)  # type: ignore[arg-type]
    codes = codes_of(rounded, TensorRecord(grid=found))
    values = values_of(codes, TensorRecord(grid=found), w.dtype)
    values.view(-1)[found.in_half] = rounded.flatten()[found.in_half]
    assert torch.equal(values, rounded)
    with pytest.raises(CompressionError, match="must keep 4 weights in half precision, but 1 of them"):
        codes_of(
            rounded.index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(-9.12345)), TensorRecord(grid=found)
        )
    with pytest.raises(CompressionError, match="share= keeps the largest weights in half precision, but one is beyond"):
        fit_grid(w * 1e5, GridSpec(bits, share=0.75))


def test_two_affine_bits_by_hand() -> None:
    """Four codes from -1 to 2: scale 1, zero is code 1."""
    w = torch.tensor([[-1.0, 2.0, 0.4, 0.6]])
    found = fit_grid(w, GridSpec(2, "affine", scale="absmax"))
    assert found == grid(2, [1.0], [1], "affine")
    assert codes_of(round_to_grid(w, found), TensorRecord(grid=found)).tolist() == [[0, 3, 1, 2]]


def test_one_bit_by_hand() -> None:
    """The scale is the mean magnitude; codes 0 and 2; code 1 only for zeros of a pruned tensor, which do not count."""
    w = torch.tensor([[1.0, -3.0, 0.0, 2.0]])
    plain, pruned = fit_grid(w, GridSpec(1)), fit_grid(w, GridSpec(1), is_pruned=True)
    assert plain.scale.tolist() == [1.5]
    assert pruned.scale.tolist() == [2.0]
    assert round_to_grid(w, plain).tolist() == [[1.5, -1.5, 1.5, 1.5]]
    assert round_to_grid(w, pruned, is_pruned=True).tolist() == [[2.0, -2.0, 0.0, 2.0]]
    assert codes_of(round_to_grid(w, pruned, is_pruned=True), TensorRecord(grid=pruned)).tolist() == [[2, 0, 1, 2]]


def test_two_bits_clip_an_outlier() -> None:
    """absmax would round eighty ones to zero for the sake of the nine; the search gives up the nine."""
    w = torch.tensor([[1.0, -1.0] * 40 + [9.0]])
    plain = round_to_grid(w, fit_grid(w, GridSpec(2, scale="absmax")))
    assert plain.tolist() == [[0.0] * 80 + [9.0]]
    best = round_to_grid(w, fit_grid(w, GridSpec(2)))
    assert torch.equal(best.sign(), w.sign())
    # The side of the nine has the value more.
    assert float(best[0, 80]) == 2 * float(best[0, 0])


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_no_sign_is_favoured(bits: int, group: object) -> None:
    """Weights turned around lose as much: the side with one value more turns around too."""
    w = torch.randn(20, 9, generator=torch.Generator().manual_seed(bits)) ** 3
    for scale in ("absmax", "error"):
        plan = GridSpec(bits, "symmetric", group, scale)  # type: ignore[arg-type]
        # A sum of floats in another order can end on another float16 scale.
        assert float(error(w, plan).sum()) == pytest.approx(float(error(-w, plan).sum()), rel=1e-3)


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("group", ["channel", 32, "tensor"])
def test_clipping_one_side_does_not_shift_an_output(group: object, scheme: str) -> None:
    """Four codes cannot lie evenly around zero: the fewer ones must not pull the sum of an output's weights along."""
    w = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    plan = GridSpec(2, scheme, group)  # type: ignore[arg-type]
    shift = (round_to_grid(w, fit_grid(w, plan)) - w).sum(dim=1)
    # By squares alone it would be 13.5, 5.7 and 14 at least; one scale for all outputs cannot suit each.
    assert float(shift.square().mean().sqrt()) < (9 if group == "tensor" else 3)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("bits", "scheme"), BITS)
@settings(max_examples=15, deadline=None)
@given(w=tensors())
@example(w=torch.tensor([[999.0, -146.0]]))
def test_error_is_within_its_bound(bits: int, scheme: str, group: object, w: Tensor) -> None:
    plan = GridSpec(bits, scheme, group, "absmax")  # type: ignore[arg-type]
    found = fit_grid(w, plan)
    scale, _ = found.spread(tuple(w.shape))
    if bits > 1:
        assert bool(((w - round_to_grid(w, found)).abs() <= scale * (0.5 + 1e-4)).all())
    else:
        assert round_to_grid(w, found).abs().unique().numel() <= len(found.scale)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("bits", "scheme"), BITS)
@settings(max_examples=15, deadline=None)
@given(w=tensors())
def test_search_is_never_worse_than_the_scale_that_spans_all(bits: int, scheme: str, group: object, w: Tensor) -> None:
    plan = GridSpec(bits, scheme, group)  # type: ignore[arg-type]
    if bits == 1:
        return
    w3, _ = _groups_of(w, plan.group)
    s, z = next(_candidates(w3, plan))
    s = _storable(s, z, plan, w.dtype)
    spanning = Grid(bits, scheme, plan.group, s.flatten(), z.flatten().to(torch.int32))  # type: ignore[arg-type]
    rows = group_rows(w - round_to_grid(w, spanning), plan.group)[0].double()
    shifts = rows.sum(dim=1).square()
    if group == "tensor":
        shifts = rows.reshape(len(w), -1).sum(dim=1).square().sum()
    plain = rows.square().sum(dim=1) + plan.shift_weight * shifts
    assert bool((error(w, plan) <= plain * (1 + 1e-6)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(("bits", "scheme"), BITS)
@settings(max_examples=15, deadline=None)
@given(w=tensors(), exponent=st.integers(-30, 6), is_pruned=st.booleans())
def test_codes_come_back_exactly(
    bits: int, scheme: str, dtype: torch.dtype, w: Tensor, exponent: int, is_pruned: bool
) -> None:
    values = (w * 2.0**exponent).to(dtype)
    found = fit_grid(values, GridSpec(bits, scheme, "channel"), is_pruned=is_pruned)  # type: ignore[arg-type]
    constraint = TensorRecord(is_pruned, grid=found)
    on_grid = round_to_grid(values, found, is_pruned=is_pruned)
    assert bool(torch.isfinite(on_grid).all())
    codes = codes_of(on_grid, constraint)
    assert codes.dtype == torch.int32
    assert 0 <= int(codes.min()) <= int(codes.max()) < found.n_codes
    assert torch.equal(values_of(codes, constraint, dtype), on_grid)
    if is_pruned:
        assert bool((on_grid[values == 0] == 0).all())


@pytest.mark.parametrize("bits", range(1, 9))
def test_symmetric_codes_are_unique_in_bfloat16(bits: int) -> None:
    torch.manual_seed(bits)
    found = fit_grid(torch.randn(50, 9).bfloat16(), GridSpec(bits))
    codes = torch.arange(0, found.n_codes, 2 if bits == 1 else 1).repeat(50, 1)
    constraint = TensorRecord(grid=found)
    assert torch.equal(codes_of(values_of(codes, constraint, torch.bfloat16), constraint), codes.int())


@pytest.mark.parametrize("value", [65504.0, 3e38, 1e-44, 1e-7])
@pytest.mark.parametrize(("bits", "scheme"), BITS)
def test_extreme_weights(bits: int, scheme: str, value: float) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        w = torch.tensor([[value, -value / 3, value / 2]]).to(dtype)
        if not torch.isfinite(w).all():
            continue
        found = fit_grid(w, GridSpec(bits, scheme))  # type: ignore[arg-type]
        on_grid = round_to_grid(w, found)
        assert bool(torch.isfinite(on_grid).all())
        codes_of(on_grid, TensorRecord(grid=found))


def test_no_value_of_a_grid_overflows() -> None:
    """The best scale of these would put a value beyond 65504."""
    w = torch.tensor([[61440.0, -41280.0]], dtype=torch.float16)
    for bits, scheme in BITS:
        assert bool(torch.isfinite(round_to_grid(w, fit_grid(w, GridSpec(bits, scheme)))).all())  # type: ignore[arg-type]


def test_scales_fit_into_two_bytes() -> None:
    torch.manual_seed(0)
    for bits, scheme in BITS:
        scale = fit_grid(torch.randn(20, 30), GridSpec(bits, scheme)).scale  # type: ignore[arg-type]
        assert torch.equal(scale.half().float(), scale)
    tiny = fit_grid(torch.randn(2, 5) * 1e-9, GridSpec(4)).scale
    assert not torch.equal(tiny.half().float(), tiny)


def test_a_group_of_zeros() -> None:
    found = fit_grid(torch.zeros(2, 3), GridSpec(4))
    assert found.scale.tolist() == [1.0, 1.0]
    assert torch.equal(round_to_grid(torch.zeros(2, 3), found), torch.zeros(2, 3))


@pytest.mark.parametrize("is_pruned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("bits", "scheme"), BITS)
@pytest.mark.parametrize("group", GROUPS)
def test_groups_of_zeros_stay_zero(
    group: str | int, bits: int, scheme: str, dtype: torch.dtype, is_pruned: bool
) -> None:
    """Whole tensors, rows, and short groups at the end of a row."""
    w = torch.tensor([[0.0] * 4, [1.0, -2.0, 3.0, 0.0], [1.0, 0.0, 2.0, 4.0]], dtype=dtype)
    for values, n_zero in ((torch.zeros_like(w), 3), (w, {"tensor": 0}.get(group, 1))):  # type: ignore[call-overload]
        found = fit_grid(values, GridSpec(bits, scheme, group), is_pruned=is_pruned)  # type: ignore[arg-type]
        for made in (found, refit_scale(values, found, is_pruned=is_pruned)):
            on_grid = round_to_grid(values, made, is_pruned=is_pruned)
            assert on_grid.dtype == dtype
            assert not on_grid[:n_zero].any()
            codes = codes_of(on_grid, TensorRecord(is_pruned, grid=made))
            assert torch.equal(values_of(codes, TensorRecord(is_pruned, grid=made), dtype), on_grid)


def test_groups_are_counted_channel_by_channel() -> None:
    """Five weights a channel in groups of two: three groups a channel, the last one short."""
    w = torch.arange(1.0, 11.0).reshape(2, 5)
    rows, real = group_rows(w, 2)
    assert rows.tolist() == [[1, 2], [3, 4], [5, 0], [6, 7], [8, 9], [10, 0]]
    assert real is not None
    assert real.tolist() == [[True, True]] * 2 + [[True, False]] + [[True, True]] * 2 + [[True, False]]
    found = grid(8, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [127] * 6, group=2)
    assert found.spread((2, 5))[0].tolist() == [[1, 1, 2, 2, 3], [4, 4, 5, 5, 6]]
    # A short group of one bit: what fills it up does not count.
    assert fit_grid(w, GridSpec(1, group=2)).scale.tolist() == [1.5, 3.5, 5, 6.5, 8.5, 10]


def test_improved_scale_follows() -> None:
    before = grid(2, [1.0], [1])
    w = torch.tensor([[0.8, -0.6, 0.1]])
    # Codes 2, 0, 1: the best scale is (0.8 + 0.6) / 2.
    assert refit_scale(w, before).scale.tolist() == [pytest.approx(0.7, rel=2**-11)]
    assert refit_scale(torch.zeros(1, 3), before) == before


@pytest.mark.parametrize(("text", "group"), [("tensor", "tensor"), ("channel", "channel"), ("group:32", 32)])
def test_granularity(text: str, group: object) -> None:
    assert parse_granularity(text) == group


@pytest.mark.parametrize("text", ["group", "group:", "group:0", "group:1", "group:-4", "group:x", "layer", 32, None])
def test_granularity_refused(text: object) -> None:
    with pytest.raises(
        CompressionError, match=f"granularity must be channel, tensor, or group:N .* got {re.escape(repr(text))}"
    ):
        parse_granularity(text)


def test_a_value_off_its_grid_is_named() -> None:
    constraint = TensorRecord(grid=grid(3, [1.0], [3]))
    with pytest.raises(
        CompressionError, match=r"parameter 'fc.weight' must keep to its grid, but 1 of 3 .* first is 0.5"
    ):
        codes_of(torch.tensor([[1.0, 0.5, -2.0]]), constraint, "fc.weight")
    with pytest.raises(CompressionError, match="must keep to its grid, but 2 of 3"):
        codes_of(torch.tensor([[5.0, torch.nan, -2.0]]), constraint)
    with pytest.raises(CompressionError, match="neither a grid nor a codebook"):
        codes_of(torch.ones(1), TensorRecord(is_pruned=True))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: grid(9, [1.0], [1]), "1 to 8 bits"),
        (lambda: grid(1, [1.0], [1], "affine"), "sign . scale"),
        (lambda: grid(3, [1.0], [3], group=0), "group is tensor, channel or a count"),
        (lambda: grid(3, [1.0, 2.0], [3]), "one float32 scale and one int32 zero"),
        (lambda: grid(3, [0.0], [3]), "positive and finite"),
        (lambda: grid(3, [torch.nan], [3]), "positive and finite"),
        (lambda: grid(3, [1.0], [2]), r"one of the grid's 8 codes \(a middle one if it is symmetric\)"),
        (lambda: grid(8, [1.0], [128]), r"one of the grid's 255 codes \(a middle one"),
        (lambda: grid(3, [1.0], [8], "affine"), "one of the grid's 8 codes"),
        (lambda: grid(3, [1.0], [3]).spread((2, 4)), r"shape \(2, 4\) has 2 groups, not 1"),
    ],
)
def test_impossible_grids(make: object, text: str) -> None:
    with pytest.raises(CompressionError, match=text):
        make()  # type: ignore[operator]
