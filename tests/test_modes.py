"""What we write, read, fit and check does not depend on the modes of torch that a notebook may have set.

The default device `meta` holds no numbers, so whatever is made there by mistake shows at once.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import nbcompress as nc
from nbcompress.artifact import load_value, save_value
from nbcompress.compress.record import record_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.fc1, self.fc2 = nn.Linear(128, 20), nn.Linear(20, 4)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 20), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(torch.relu(self.norm(self.conv(x))).flatten(1)))
        return self.fc2(x * self.scale)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 4)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.layer(self.enter(x)).mean(1))


@cache
def model(name: str) -> nn.Module:
    """Models and their inputs are made once, before any mode is set."""
    torch.manual_seed(0)
    net, attention = Net().eval(), Attention().eval()
    made: dict[str, Callable[[], nn.Module]] = {
        "net": lambda: net,
        "attention": lambda: attention,
        "quantized": lambda: nc.quantize(nc.prune(net, 0.5), 4),
        "one bit": lambda: nc.quantize(net, 1),
        "affine": lambda: nc.quantize(net, 3, scheme="affine", granularity="group:7"),
        "clustered": lambda: nc.cluster(net, 8),
        "clustered and quantized": lambda: nc.quantize(nc.cluster(net, 8), 6),
        "cut": lambda: nc.prune(net, 0.5, granularity="channel", example=x()[0]),
        "factorized": lambda: nc.factorize(net, 0.3),
        "static": lambda: nc.quantize(net, 8, activations="static", data=x()),
    }
    return made[name]()


@cache
def x() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 1, 6, 6, generator=generator), torch.randint(0, 4, (12,), generator=generator)


@cache
def tokens() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 5, 6, generator=generator), torch.randint(0, 4, (3,), generator=generator)


FILLED = ("quantized", "one bit", "affine", "clustered", "clustered and quantized", "cut", "factorized", "static")


@cache
def file_of(name: str) -> bytes:
    with TemporaryDirectory() as place:
        return nc.save(model(name), Path(place) / "model.nbz").read_bytes()


def saved(name: str) -> bytes:
    with TemporaryDirectory() as place:
        return nc.save(model(name), Path(place) / "model.nbz").read_bytes()


def loaded(name: str, fresh: nn.Module) -> nn.Module:
    with TemporaryDirectory() as place:
        path = Path(place) / "model.nbz"
        path.write_bytes(file_of(name))
        return nc.load(path, fresh)


def kept(fresh: nn.Module) -> object:
    with TemporaryDirectory() as place:
        path = save_value({"model": model("quantized"), "x": x()[0], "n": 1.5}, Path(place) / "value.nbz")
        value = load_value(path, into=fresh)
        return [value["x"], value["model"]]


def exported(name: str) -> Tensor:
    ort = pytest.importorskip("onnxruntime")
    with TemporaryDirectory() as place:
        path = Path(place) / "model.onnx"
        nc.export(model(name), path, example=x()[0])
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: x()[0].numpy()})[0]
    return torch.from_numpy(found)


def evaluate(small: nn.Module) -> float:
    return float(small(x()[0]).detach().square().mean())


def searched(sampler: str) -> object:
    space = {"a": nc.Float(0.0, 1.0), "b": nc.Int(1, 9), "c": nc.Choice("x", "y")}
    study = nc.maximize(lambda a, b, c: -((a - 0.3) ** 2) - b * (c == "x"), space, trials=8, sampler=sampler)
    return study.trials.drop(columns="seconds").to_csv()


# Each is given a copy of the model, made before the mode was set, to be changed or filled.
Call = Callable[[nn.Module], Any]

CALLS: dict[str, Call] = {
    **{f"quantize {bits}": lambda m, bits=bits: nc.quantize(m, bits) for bits in (1, 2, 4, 8)},
    "quantize affine": lambda m: nc.quantize(m, 3, scheme="affine", granularity="group:7"),
    "quantize absmax": lambda m: nc.quantize(m, 4, scale="absmax", granularity="tensor"),
    "quantize static": lambda m: nc.quantize(m, 8, activations="static", data=x()),
    "quantize auto": lambda m: nc.quantize(m, "auto", budget=1500),
    "quantize auto with data": lambda m: nc.quantize(m, "auto", budget=1500, data=x()),
    "quantize and train": lambda m: nc.quantize(m, 2, data=x(), finetune=2),
    "quantize clusters": lambda m: nc.quantize(model("clustered"), 3, data=x(), finetune=2),
    "cluster": lambda m: nc.cluster(m, 8),
    "cluster pruned": lambda m: nc.cluster(model("quantized"), 8, data=x(), finetune=2),
    "prune": lambda m: nc.prune(m, 0.5),
    "prune clustered": lambda m: nc.prune(model("clustered and quantized"), 0.5),
    "prune gradually": lambda m: nc.prune(m, 0.5, schedule="gradual", data=x(), finetune=3),
    "prune 2:4": lambda m: nc.prune(m, granularity="2:4"),
    **{
        f"prune by {one}": lambda m, one=one: nc.prune(m, 0.5, criterion=one, data=x())
        for one in ("random", "gradient", "activation", "hessian")
    },
    **{
        f"channels by {one}": lambda m, one=one: nc.prune(m, 0.5, granularity="channel", criterion=one, data=x())
        for one in ("magnitude", "random", "gradient", "activation", "mutual-information")
    },
    "heads": lambda m: nc.prune(model("attention"), 0.5, granularity="channel", example=tokens()[0], norms="cut"),
    "factorize": lambda m: nc.factorize(m, 0.3),
    "factorize by energy": lambda m: nc.factorize(m, energy=0.8),
    "finetune": lambda m: nc.finetune(m, x(), epochs=2),
    "finetune on a data set": lambda m: nc.finetune(m, TensorDataset(*x()), epochs=2),
    "finetune on batches": lambda m: nc.finetune(m, [x()] * 2, epochs=2, optimizer="sgd", valid=x(), patience=1),
    "distill": lambda m: nc.distill(model("net"), m, x(), epochs=2),
    "distill features": lambda m: nc.distill(model("net"), model("cut"), x(), epochs=2, match="fc1:fc1"),
    **{f"load {name}": lambda m, name=name: loaded(name, m) for name in FILLED},
    **{f"save {name}": lambda m, name=name: saved(name) for name in FILLED},
    "size": lambda m: [nc.size_bytes(model(name)) for name in FILLED],
    "values": kept,
    "export": lambda m: exported("net"),
    "export static": lambda m: exported("static"),
    "accuracy": lambda m: repr(nc.accuracy(m, x())),
    "sensitivity": lambda m: str(nc.sensitivity(m, evaluate)),
    "footprint": lambda m: nc.footprint(model("quantized"), example=x()[0]).layers,
    "compare": lambda m: repr(nc.compare(m, model("quantized"), data=x()).accuracy),
    "search by gp": lambda m: searched("gp"),
    "search by sobol": lambda m: searched("sobol"),
}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


MODES: dict[str, Callable[[], Any]] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "meta": lambda: default_device("meta"),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
}


def told(result: Any) -> list[Any]:
    """What is the same if two results are."""
    if isinstance(result, nn.Module):
        tensors = [one.detach().clone() for one in (*result.parameters(), *result.buffers())]
        record = record_of(result)
        return [*tensors, dict(record.tensors), dict(record.left_out), dict(record.activations), record.rest]
    if isinstance(result, (list, tuple)):
        return [one for part in result for one in told(part)]
    return [result]


@cache
def expected(call: str) -> list[Any]:
    return told(CALLS[call](copy.deepcopy(model("net"))))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", CALLS)
def test_the_same_in_every_mode(call: str, mode: str) -> None:
    before, given = expected(call), copy.deepcopy(model("net"))
    x(), tokens()
    with MODES[mode](), warnings.catch_warnings():
        found = CALLS[call](given)
    after = told(found)
    assert len(after) == len(before)
    for one, other in zip(before, after, strict=True):
        if isinstance(one, Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        else:
            assert one == other
    for one in found if isinstance(found, (list, tuple)) else [found]:
        for tensor in (*one.parameters(), *one.buffers()) if isinstance(one, nn.Module) else ():
            assert not tensor.is_inference()  # it could never be trained
            assert tensor.requires_grad == isinstance(tensor, nn.Parameter)
            assert tensor.grad_fn is None


def test_the_mode_is_what_it_was_afterwards() -> None:
    with torch.inference_mode():
        nc.quantize(model("net"), 4)
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        nc.quantize(model("net"), 4, data=x(), finetune=1)
        assert not torch.is_grad_enabled()


def test_models_and_data_of_inference_mode() -> None:
    """A copy can be trained; the model itself never, which is said."""
    with torch.inference_mode():
        made = copy.deepcopy(model("net"))
        filled = loaded("quantized", copy.deepcopy(model("net")))
        data = x()[0] + 0.0, x()[1] + 0
        trained = nc.quantize(made, 4, data=data, finetune=1)
    assert torch.equal(filled.get_parameter("fc1.weight"), model("quantized").get_parameter("fc1.weight"))
    assert not any(one.is_inference() for one in trained.parameters())
    nc.finetune(trained, data, epochs=1)
    with pytest.raises(nc.NbcompressError, match=r"'conv.weight' was made under torch.inference_mode, so that it can"):
        nc.finetune(made, x())
