"""Selection of layers, copies of models, and checks of models and options."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compress_zoo import ZOO
from torch import nn

import nbcompress as nc
from nbcompress.compressors import prune, quantize, record_of
from nbcompress.compressors.layers import check_model, copied, select, unique_parameters
from nbcompress.errors import CompressionError, LayerNotFound


def names(animal: str, layers: object = None) -> list[str]:
    return [target.name for target in select(ZOO[animal]().model, layers).targets]  # type: ignore[arg-type]


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
    assert [names[0] for names in unique_parameters(model)] == [
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


def test_what_cannot_be_copied_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].log = {"file": [threading.Lock()]}  # type: ignore[assignment]
    with pytest.raises(CompressionError, match=r"its attribute '0.log' raises TypeError: .*lock.* .set it to None"):
        copied(model)


class Keeping(nn.Module):
    """Stores computed tensors in an attribute, a container, an object, a buffer and a closure."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 16), nn.LSTM(16, 8, batch_first=True), nn.Linear(8, 3)
        self.log: dict[str, list[torch.Tensor]] = {}
        self.seen = SimpleNamespace()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h = self.a(x).relu()
        self.log["h"] = [self.h, self.h[:, :2]]
        self.seen.h = self.h
        self.mean = 0.9 * self.mean + self.h.mean(0)
        y, self.state = self.b(self.h[:, None])
        return self.c(y[:, 0])  # type: ignore[no-any-return]


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 16)), nn.ReLU(), nn.Linear(16, 3))


def old_spectral_norm() -> nn.Module:
    return nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(4, 16)), nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.parametrize("build", [Keeping, old_weight_norm, old_spectral_norm])
def test_what_a_step_of_training_left_behind_is_copied_without_its_graph(
    build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x, labels = build(), torch.randn(8, 4), torch.arange(8) % 3
    loss = nn.functional.cross_entropy(model(x), labels)
    small = nc.quantize(nc.prune(model, 0.2), bits=8)
    nc.finetune(small, (x, labels), epochs=1)
    assert torch.equal(nc.load(nc.save(small, tmp_path / "a.nbz"), build()).eval()(x), small.eval()(x))
    loss.backward()  # the graph of the user's own step is whole
    assert all(parameter.grad is not None for parameter in model.parameters())
    if build is Keeping:
        other = copied(model)
        assert other.h is other.log["h"][0] is other.seen.h is not model.h
        assert torch.equal(other.h, model.h)
        assert model.h.requires_grad
        assert not other.h.requires_grad


def test_a_search_over_a_model_that_was_trained_a_step_runs() -> None:
    model = Keeping()
    model(torch.randn(2, 4)).sum().backward()
    study = nc.search(
        lambda amount: {"size": nc.size_bytes(nc.prune(model, amount))},
        {"amount": nc.Float(0.1, 0.9)},
        minimize=["size"],
        trials=3,
    )
    assert list(study.trials["state"]) == ["complete"] * 3


def test_functions_and_not_modules() -> None:
    import nbcompress.compressors as compress

    for name in ("prune", "quantize", "cluster", "factorize", "distill", "finetune"):
        assert callable(getattr(compress, name)), name
        # The one that also knows the length of the file lives a floor higher.
        assert (getattr(nc, name) is getattr(compress, name)) == (name != "quantize")


def test_several_patterns_in_one_text_get_a_hint() -> None:
    with pytest.raises(LayerNotFound, match=r"Several patterns are a list: \['fc1', 'fc2'\]"):
        select(nn.Sequential(OrderedDict(fc1=nn.Linear(2, 2), fc2=nn.Linear(2, 2))), "fc1, fc2")
