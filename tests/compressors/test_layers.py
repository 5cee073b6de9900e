from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from compress_zoo import ZOO
from torch import nn
from torch.nn.utils import prune as masks

import nbcompress as nc
from nbcompress.compressors import prune, quantize, record_of
from nbcompress.compressors.layers import check_model, copied, select, unique_parameters
from nbcompress.errors import CompressionError, LayerNotFound


def names(animal: str, layers: object = None) -> list[str]:
    return [one.name for one in select(ZOO[animal]().model, layers).targets]  # type: ignore[arg-type]


def test_any_parameter_of_any_module() -> None:
    assert names("recurrent") == ["embedding.weight", "gru.weight_ih_l0", "gru.weight_hh_l0", "head.weight"]
    assert names("attention") == ["attention.in_proj_weight", "attention.out_proj.weight", "head.weight"]
    assert names("bare") == ["first", "second", "frozen"]
    assert names("tied") == ["embedding.weight", "body.weight"]
    assert names("convolutional") == ["0.weight", "3.weight", "4.weight", "8.weight"]


@pytest.mark.parametrize(
    ("animal", "layers", "chosen"),
    [
        ("attention", "head", ["head.weight"]),
        ("attention", "attention", ["attention.in_proj_weight", "attention.out_proj.weight"]),
        ("attention", "*out*", ["attention.out_proj.weight"]),
        ("attention", ["head", "attention.out_proj"], ["attention.out_proj.weight", "head.weight"]),
        ("attention", "*", ["attention.in_proj_weight", "attention.out_proj.weight", "head.weight"]),
        ("recurrent", "gru.*hh*", ["gru.weight_hh_l0"]),
        ("bare", "f*", ["first", "frozen"]),
        ("tied", "head", ["embedding.weight"]),
        ("convolutional", "[03]", ["0.weight", "3.weight"]),
    ],
)
def test_patterns(animal: str, layers: object, chosen: list[str]) -> None:
    assert names(animal, layers) == chosen


@pytest.mark.parametrize(
    ("animal", "layers", "text"),
    [
        (
            "attention",
            "conv*",
            r"layers='conv\*' matches no layer of the model. Layers with weights: attention, attention.out_proj, head",
        ),
        ("attention", "atention", "matches no layer of the model. Did you mean 'attention'?"),
        ("attention", ["head", "tail"], "layers='tail' matches no layer"),
        ("attention", "norm", r"layers='norm' matches only what has no weights to compress: norm \(a weight is"),
        ("bare", "gain", "matches only what has no weights to compress: gain"),
        ("bare", "third", "Layers with weights: first, second, frozen"),
    ],
)
def test_no_match(animal: str, layers: object, text: str) -> None:
    with pytest.raises(LayerNotFound, match=text):
        names(animal, layers)


@pytest.mark.parametrize("layers", ["", [], [3], 3, [""]])
def test_no_pattern(layers: object) -> None:
    with pytest.raises(
        CompressionError, match=r"layers must be a shell pattern or a list of them, such as 'conv\*', got"
    ):
        names("attention", layers)


def test_weights_that_share_memory_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data = model[0].weight.data
    assert [one[0] for one in unique_parameters(model)] == [
        ("0.weight", "1.weight"),
        ("0.bias",),
        ("1.bias",),
    ]
    small = prune(model, 0.5)
    assert torch.equal(small[0].weight, small[1].weight)


def test_left_out_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_parameter("waves", nn.Parameter(torch.ones(2, 2, dtype=torch.complex64)))
    model.register_parameter("nothing", nn.Parameter(torch.ones(0, 2)))
    model.register_buffer("table", torch.ones(3, 3))
    small = prune(model, 0.5)
    assert record_of(small).left_out == {
        "waves": "its dtype is complex64",
        "nothing": "it is empty",
        "table": "a buffer, not a parameter",
    }


def test_frozen_weights_are_compressed_and_stay_frozen() -> None:
    small = quantize(ZOO["bare"]().model, 2)
    assert "frozen" in record_of(small).tensors
    assert not small.get_parameter("frozen").requires_grad


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("net", "the model must be a torch.nn.Module, got str"),
        (None, "got NoneType"),
        (nn.LazyLinear(3), "parameter 'weight' has no shape yet: run the model once on an example"),
        (nn.Linear(2, 2, device="meta"), "parameter 'weight' is on the meta device"),
        (nn.ReLU(), "the model has no parameter of floating point with two axes or more to compress"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_models_refused(model: object, text: str) -> None:
    with pytest.raises(CompressionError, match=text):
        prune(model, 0.5)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_models_are_refused() -> None:
    with pytest.raises(CompressionError, match="a scripted model cannot be compressed"):
        check_model(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)))


def test_what_cannot_be_copied_says_so() -> None:
    model = nn.Linear(4, 4)
    masks.l1_unstructured(model, "weight", 0.5)
    model(torch.ones(1, 4)).sum()
    with pytest.raises(
        CompressionError, match=r"the model must allow copy.deepcopy, .* call torch.nn.utils.prune.remove first"
    ):
        copied(model)


def test_functions_and_not_modules() -> None:
    import nbcompress.compressors as compress

    for name in ("prune", "quantize", "cluster", "factorize", "distill", "finetune"):
        assert callable(getattr(compress, name)), name
        # The one that also knows the length of the file lives a floor higher.
        assert (getattr(nc, name) is getattr(compress, name)) == (name != "quantize")


def test_several_patterns_in_one_text_get_a_hint() -> None:
    with pytest.raises(LayerNotFound, match=r"Several patterns are a list: \['fc1', 'fc2'\]"):
        select(nn.Sequential(OrderedDict(fc1=nn.Linear(2, 2), fc2=nn.Linear(2, 2))), "fc1, fc2")
