from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nbcompress.compress import distill, finetune, prune
from nbcompress.compress.outputs import own_loss_of, prediction_of
from nbcompress.errors import CompressionError, DataError
from nbcompress.measure import accuracy, compare

SCORES, BOXES = torch.zeros(5, 3), torch.zeros(5, 4)
HIDDEN = torch.zeros(2, 5, 8)


@dataclass
class Returned:
    scores: Tensor
    steps: int = 3


class Cache:
    """As of keys and values."""

    def __init__(self) -> None:
        self.keys = [torch.zeros(5, 2, 3, 4)]


PAIR = namedtuple("PAIR", ["logits", "aux"])

PLAIN: dict[str, Any] = {
    "tensor": SCORES,
    "alone": (SCORES,),
    "list": [SCORES],
    "logits": {"logits": SCORES},
    "any key": {"out": SCORES},
    "attribute": SimpleNamespace(logits=SCORES),
    "dataclass": Returned(SCORES),
    "hidden state": (SCORES, HIDDEN),
    "states of an LSTM": (SCORES, (HIDDEN, HIDDEN)),
    "cache": (SCORES, Cache()),
    "all hidden states": OrderedDict(logits=SCORES, hidden_states=(BOXES, BOXES), past_key_values=((BOXES, BOXES),)),
    "last hidden state": {"last_hidden_state": BOXES, "logits": SCORES},
    "own loss": {"loss": torch.tensor(1.0), "logits": SCORES},
    "own loss in a tuple": (SCORES, torch.tensor(1.0)),
    "classes said": (SCORES, torch.zeros(5, dtype=torch.int64)),
    "none": (SCORES, None),
    "state first": (HIDDEN, SCORES),
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_only_prediction(name: str) -> None:
    assert prediction_of(PLAIN[name], None, 5) is SCORES


SEVERAL: dict[str, tuple[Any, int | str]] = {
    "tuple": ((BOXES, SCORES), 1),
    "from the end": ((BOXES, SCORES), -1),
    "dict": ({"boxes": BOXES, "scores": SCORES}, "scores"),
    "logits and boxes": ({"logits": SCORES, "pred_boxes": BOXES}, "logits"),
    "attributes": (SimpleNamespace(boxes=BOXES, scores=SCORES), "scores"),
    "named tuple by key": (PAIR(SCORES, BOXES), "logits"),
    "named tuple by index": (PAIR(BOXES, SCORES), 1),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_predictions_are_unclear(name: str) -> None:
    result, output = SEVERAL[name]
    with pytest.raises(DataError, match=r"returns several tensors, .*: say which one .* output=.*, or pass loss="):
        prediction_of(result, None, 5)
    assert prediction_of(result, output, 5) is SCORES


def test_outputs_refused() -> None:
    with pytest.raises(DataError, match=r"must return a tensor .*, got dict with 'out' \(str\): pass output="):
        prediction_of({"out": "text"})
    with pytest.raises(
        DataError, match=r"output=2 must name a tensor .*, which is tuple with 0 of shape \(5, 4\), 1 of"
    ):
        prediction_of((BOXES, SCORES), 2)
    assert prediction_of(SCORES, 1) is prediction_of(SCORES, "logits") is SCORES
    for output in (1.5, True, (1,)):
        with pytest.raises(CompressionError, match="output must be the index or the key of one of the model's outputs"):
            finetune(nn.Linear(2, 2), (torch.zeros(3, 2), torch.zeros(3, 2)), output=output)  # type: ignore[arg-type]


def test_the_loss_that_a_model_computes() -> None:
    loss = torch.tensor(2.0)
    for result in ({"loss": loss, "logits": SCORES}, SimpleNamespace(loss=loss), (loss, SCORES), (SCORES, loss)):
        assert own_loss_of(result) is not None
    for result in (SCORES, loss, (SCORES, HIDDEN), {"loss": None}, (SCORES, None), (loss, loss)):
        assert own_loss_of(result) is None


class Detector(nn.Module):
    """Says the right one of two classes behind boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = nn.Linear(2, 4)
        self.scale = nn.Parameter(torch.tensor(9.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.boxes(x), torch.softmax(self.scale * x, 1)


def test_a_detector_is_not_trained_and_not_scored_by_its_boxes() -> None:
    model, x = Detector(), torch.randn(200, 2)
    data = (x, x.argmax(1))
    before = [one.clone() for one in model.parameters()]
    uses = [
        lambda: finetune(model, data),
        lambda: accuracy(model, data),
        lambda: prune(model, 0.5, criterion="gradient", data=data),
        lambda: prune(model, 0.5, finetune=1, data=data),
        lambda: distill(model, model, data),
    ]
    for use in uses:
        with pytest.raises(DataError, match=r"several tensors, 0 of shape \(\d+, 4\), 1 of shape .* output=.* loss="):
            use()
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert float(accuracy(model, data, output=1)) == 1.0
    assert float(accuracy(model, data, output=-1)) == 1.0
    found = compare(model, model, data=data, repeats=0)
    assert found.accuracy is None
    assert "no accuracy: the model returns several tensors" in found.remark
    found = compare(model, model, data=data, repeats=0, output=1)
    assert found.accuracy is not None

    def loss(said: Tensor, label: Tensor) -> Tensor:
        return nn.functional.nll_loss(said.log(), label)

    finetune(model, data, epochs=1, output=1, loss=loss)
    assert torch.equal(model.boxes.weight, before[1])
    finetune(model, data, epochs=1, loss=lambda said, label: loss(said[1], label) + said[0].square().mean())
    assert not torch.equal(model.boxes.weight, before[1])
