from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import nbcompress as nc
from nbcompress.compress.numbers import number_at, numbers_of, set_number_
from nbcompress.compress.record import record_of


class Sizes(NamedTuple):
    width: int
    depth: int


class Row(tuple[int, ...]):
    """A tuple with an attribute of its own."""

    name = ""


@dataclass(frozen=True)
class Frozen:
    heads: int = 4
    width: int = 16


@dataclass(frozen=True, slots=True)
class Slotted:
    heads: int = 4
    width: int = 16


class Checking:
    """Compares its attributes whenever one of them is set, and computes nothing of them."""

    def __init__(self) -> None:
        vars(self).update(heads=4, width=16)

    def __setattr__(self, name: str, value: object) -> None:
        raise ValueError(f"{name} must fit to the others")


class Mirror(dict[str, int]):
    """Its items are attributes as well, and cannot be set."""

    def __init__(self, **items: int) -> None:
        super().__init__(items)
        vars(self).update(items)

    def __setitem__(self, key: str, value: int) -> None:
        raise TypeError(f"{key} is frozen")


def pydantic_model() -> object:
    pydantic = pytest.importorskip("pydantic")
    return pydantic.create_model("Config", __config__={"frozen": True}, heads=(int, 4), width=(int, 16))()


CONFIGS = {
    "data class": Frozen,
    "data class with slots": Slotted,
    "named tuple": lambda: NamedTuple("Heads", [("heads", int), ("width", int)])(4, 16),
    "class that checks": Checking,
    "dict with attributes": lambda: Mirror(heads=4, width=16),
    "pydantic": pydantic_model,
    "inside another": lambda: SimpleNamespace(heads=4, width=16, frozen=Frozen()),
}


class Configured(nn.Module):
    """Attention that reads everything from a configuration."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.qkv, self.out = nn.Linear(6, 3 * config.width), nn.Linear(config.width, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (one.view(n, length, self.config.heads, 4).transpose(1, 2) for one in parts)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def holder() -> nn.Module:
    module = nn.Module()
    module.n = 3
    module.flag = True
    module._secret = 4
    module.config = SimpleNamespace(heads=4, sizes=[8, 16], inner=SimpleNamespace(k=5), _hidden=1)
    module.options = {"heads": 4, 7: 9, "not a name": 1}
    module.sizes = Sizes(2, 6)
    return module


FOUND = {
    "n": 3,
    "config.heads": 4,
    "config.sizes[0]": 8,
    "config.sizes[1]": 16,
    "config.inner.k": 5,
    "options[heads]": 4,
    "options[7]": 9,
    "sizes[0]": 2,
    "sizes[1]": 6,
}


def test_numbers_are_found_by_path() -> None:
    module = holder()
    assert {path: n for path, n in numbers_of(module) if path != "training"} == FOUND
    assert {path: number_at(module, path) for path in FOUND} == FOUND


PATHS = ["", "_secret", "flag", "config", "config._hidden", "missing", "n.real", "config.sizes[2]", "[0]", "n n"]
PATHS += ["__class__", "forward.__globals__", "config.__class__", "a" * 300, "config.inner.k.real", "options[heads"]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_but_numbers_can_be_reached(path: str) -> None:
    assert number_at(holder(), path) is None


def test_what_holds_a_number_is_copied_wherever_the_model_holds_it() -> None:
    module = holder()
    model = nn.Sequential(module, nn.Module())
    model[1].shared = module.config
    before = module.config
    for path in FOUND:
        set_number_(model, module, path, 1)
    assert {number_at(module, path) for path in FOUND} == {1}
    assert (before.heads, before.sizes, before.inner.k) == (4, [8, 16], 5)
    assert model[1].shared is module.config
    assert isinstance(module.sizes, Sizes)


def test_a_configuration_follows_and_the_users_own_stays(tmp_path: Path) -> None:
    config, example = SimpleNamespace(heads=4, width=16), torch.randn(2, 5, 6)
    model = Configured(config)
    small = nc.prune(model, 0.5, granularity="channel", example=example)
    assert (small.qkv.out_features, small.config.heads) == (24, 2)
    assert model.config is config
    assert config.heads == 4
    surgery = {one.module: dict(one.attributes) for one in record_of(small).surgery}
    assert surgery[""] == {"config.heads": 2}
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), Configured(config))
    assert (loaded.config.heads, config.heads) == (2, 4)
    with torch.no_grad():
        assert torch.equal(loaded(example), small(example))


@pytest.mark.parametrize("build", CONFIGS.values(), ids=list(CONFIGS))
def test_configurations_that_are_frozen_follow_as_well(build: Callable[[], object], tmp_path: Path) -> None:
    config, example = build(), torch.randn(2, 5, 6)
    before = repr(config)
    model = Configured(config)  # type: ignore[arg-type]
    small = nc.prune(model, 0.5, granularity="channel", example=example)
    assert (small.qkv.out_features, small.config.heads, type(small.config)) == (24, 2, type(config))
    assert model.config is config
    assert repr(config) == before
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), Configured(build()))  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(loaded(example), small(example))


@pytest.mark.parametrize("row", [torch.Size([2, 5, 4, 4]), Row([2, 5, 4, 4])], ids=["torch.Size", "class"])
def test_rows_of_numbers_keep_their_class(row: tuple[int, ...]) -> None:
    module = nn.Module()
    module.row = row
    if isinstance(row, Row):
        row.name = "own"
    set_number_(module, module, "row[2]", 2)
    assert (type(module.row), module.row, getattr(module.row, "name", "own")) == (type(row), (2, 5, 2, 4), "own")
    assert row == (2, 5, 4, 4)
