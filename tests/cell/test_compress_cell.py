"""The cell that compresses a model: what is tried, its budget, its first trials and its names."""

from __future__ import annotations

import ast
from typing import Any

import pytest
import torch
from torch import nn

import nbcompress as nc
from nbcompress.artifact.budget import Limits, parse_limits
from nbcompress.cell import CellBody, CellSource
from nbcompress.cell.compress_cell import TRIES, CellNames, CompressCell, compress_cell
from nbcompress.errors import CompressionError, SearchError
from nbcompress.magics.search_options import goal_of, search_parser


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 32), nn.ReLU(), nn.Linear(32, 4)
    )


def images() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(24, 1, 8, 8), torch.randint(0, 4, (24,))


def space_of(cell: CompressCell) -> nc.Space:
    """Return the space of the written cell, read as the magic reads it."""
    line, _, body = cell.text.partition("\n")
    arguments = search_parser().read(line.removeprefix("%%bo_search"), lambda text: [])
    goal = goal_of(arguments, {"accuracy": 1.0})
    parsed = CellBody(CellSource(body, goal))
    # The declarations of the cell read no variable.
    return parsed.space(lambda node: eval(compile(ast.Expression(node), "cell", "eval")))


def test_a_budget_is_bytes_or_milliseconds_or_both() -> None:
    assert parse_limits("60kB") == Limits(60.0)
    assert parse_limits(1500) == Limits(1.5)
    assert parse_limits("5 ms") == Limits(None, 5.0)
    assert parse_limits(["5ms", "60KiB"]) == Limits(61.44, 5.0)
    for wrong, text in [(["5ms", "6ms"], "one limit in bytes and one in ms"), ([], "a length such as '60kB'")]:
        with pytest.raises(CompressionError, match=text):
            parse_limits(wrong)
    with pytest.raises(CompressionError, match="above zero"):
        parse_limits("0ms")


def test_first_trials_meet_the_budget_and_are_points_of_the_space() -> None:
    model, data = network(), images()
    cell = compress_cell(model, "6kB", data=data, tries=["channels", "rank", "weights", "bits", "training"])
    space = space_of(cell)
    assert len(cell.start) >= 3
    for point in cell.start:
        assert dict(space.check(point)) == dict(point)
        small = nc.prune(model, amount=point["channels"], granularity="channel", data=data)
        small = nc.prune(nc.factorize(small, rank=point["rank"]), amount=point["amount"])
        assert nc.size_bytes(nc.quantize(small, bits=point["bits"])) <= 6000
    assert '--subject-to "kilobytes <= 6"' in cell.options


def test_the_least_change_that_meets_the_budget_comes_first() -> None:
    cell = compress_cell(network(), "1MB", data=images())
    assert cell.start[0] == {
        "channels": 0.0,
        "rank": 1.0,
        "amount": 0.0,
        "method": "grid",
        "bits": 8,
        "lr": 0.003,
        "epochs": 8,
    }


def test_what_a_model_consists_of_decides_what_is_tried() -> None:
    # A recurrent layer has no channels that can be cut and no matrix that can be factorized.
    recurrent = compress_cell(nn.GRU(8, 8), "1kB", names=CellNames(data=None))
    assert set(recurrent.tries) == {"weights", "bits", "codebooks"}
    assert recurrent.left_out["training"] == "there is no data"
    assert "full rank" in recurrent.left_out["rank"]
    assert "finetune" not in recurrent.body
    everything = compress_cell(network(), "6kB", data=images())
    assert {"channels", "rank", "weights", "bits", "codebooks", "training"} <= set(everything.tries)


def test_only_what_makes_calls_faster_is_tried_for_a_time() -> None:
    cell = compress_cell(network(), "1000ms", data=images())
    assert set(cell.tries) <= {"blocks", "channels", "rank", "training"}
    assert "milliseconds = latency_ms(small, train[0][:1])\n" in cell.body
    assert '--subject-to "milliseconds <= 1000"' in cell.options


def test_blocks_are_counted() -> None:
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(16, 2, 16, dropout=0.0, batch_first=True) for _ in range(3)]
    data = (torch.randn(8, 5, 16), torch.randn(8, 5, 16))
    cell = compress_cell(nn.Sequential(*layers), "1MB", data=data, tries=["blocks", "bits"])
    assert "blocks = Int(0, 2)  # how many of the 3 blocks are removed\n" in cell.body
    assert 'small = prune(model, amount=blocks / 3, granularity="layer", data=train)\n' in cell.body
    assert cell.start[0] == {"blocks": 0, "bits": 8}
    assert "blocks" not in compress_cell(network(), "1MB", data=images()).tries


def test_a_trial_that_is_too_slow_ends_before_the_training() -> None:
    body = compress_cell(network(), "1000ms", data=images()).body
    assert body.index("milliseconds = ") < body.index("finetune(") < body.index("accuracy = ")


def test_one_kind_alone() -> None:
    cell = compress_cell(network(), "20kB", names=CellNames(data=None), tries=["bits"])
    assert set(space_of(cell).names) == {"bits"}
    assert cell.start == ({"bits": 8}, {"bits": 4}, {"bits": 2})
    assert "small = quantize(model, bits=bits)\n" in cell.body


def test_a_function_of_the_notebook_that_hides_ours_is_not_called() -> None:
    from torch.nn.utils import prune

    names = CellNames(data=None)
    cell = compress_cell(network(), "20kB", names=names, tries=["weights"], namespace={"prune": prune})
    assert "import nbcompress as nc\n" in cell.body
    assert "small = nc.prune(model, amount=amount)\n" in cell.body
    ours = compress_cell(network(), "20kB", names=names, tries=["weights"], namespace={"prune": nc.prune})
    assert "small = prune(model, amount=amount)\n" in ours.body


def test_a_model_that_meets_the_budget_already() -> None:
    options: dict[str, Any] = {"names": CellNames(data=None), "tries": ["bits"]}
    size = nc.size_bytes(network())
    assert (
        compress_cell(network(), size, **options).body.splitlines()[0].endswith(" kB as it is, which meets the budget")
    )
    assert compress_cell(network(), size - 1, **options).body.splitlines()[0].endswith(" kB as it is")


def test_the_allowed_loss_is_a_constraint() -> None:
    cell = compress_cell(network(), "20kB", names=CellNames(data=None), tries=["bits"], keep_accuracy=0.01)
    assert '--subject-to "accuracy >= baseline - 0.01"' in cell.options


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"budget": 100},
            r"cannot be met: the smallest uniform setting .* still has .* kB, but the budget is 0\.1 kB\.",
        ),
        (
            {
                "budget": "0.000001ms",
                "tries": ["channels"],
                "names": CellNames(data=None, example="x"),
                "example": torch.rand(1, 1, 8, 8),
            },
            r"still has .* ms, but .*ms of a call in torch",
        ),
        ({"tries": ["bitss"]}, "Did you mean 'bits'"),
        ({"tries": ["training"]}, "there is no data"),
        ({"names": CellNames(data=None, evaluate=None)}, "needs a metric"),
        ({"budget": "5ms"}, "give example"),
        ({"trials": 0}, "at least 1"),
        ({"keep_accuracy": -1}, "from 0 on"),
    ],
)
def test_refusals(settings: dict[str, Any], text: str) -> None:
    options = {"budget": "20kB", "names": CellNames(data=None), "tries": ["bits"], **settings}
    with pytest.raises((CompressionError, SearchError), match=text):
        compress_cell(network(), options.pop("budget"), **options)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({"model": "a +"}, "is an expression of the notebook"),
        ({"data": "bits"}, "assigns 'bits'"),
        ({"evaluate": "lambda m: kilobytes"}, "assigns 'kilobytes'"),
    ],
)
def test_names_that_cannot_stand_in_the_cell(names: dict[str, str], text: str) -> None:
    with pytest.raises(SearchError, match=text):
        CellNames(**names)


def test_every_word_is_documented() -> None:
    assert set(TRIES) == {"blocks", "channels", "rank", "weights", "bits", "codebooks", "training"}
