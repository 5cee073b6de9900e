"""Copies of models whose classes define how they are copied."""

from __future__ import annotations

import copy
import math
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from nbcompress import prune, quantize
from nbcompress.compressors.copying import deep_copy
from nbcompress.compressors.layers import copied


class Rebuilt(nn.Module):
    """`copy.deepcopy` would build a new instance with other weights."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2) if inner is None else inner

    def __reduce__(self) -> tuple[type[Rebuilt], tuple[()]]:
        return Rebuilt, ()


class Counting(list[nn.Module]):
    """Reports every item to its owner, and refuses items after it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.is_closed = 0, False

    def append(self, module: nn.Module) -> None:
        if self.is_closed:
            raise ValueError("closed")
        self.count += 1
        super().append(module)


def equal_and_apart(first: nn.Module, second: nn.Module) -> bool:
    equal = all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    return equal and not {id(value) for value in first.parameters()} & {id(value) for value in second.parameters()}


def test_a_class_that_makes_its_modules_anew_has_them_copied_attribute_by_attribute() -> None:
    shared = Rebuilt()
    model = nn.Sequential(shared, Rebuilt(shared))
    small = copied(model)
    assert small[0] is small[1].inner is not shared
    assert equal_and_apart(model, small)


def test_also_where_torch_does_not_know_of_them() -> None:
    model, hidden = Rebuilt(), Rebuilt()
    model.hidden = [{"one": (hidden,)}]
    model.method = hidden.forward
    small = copied(model)
    inside = small.hidden[0]["one"][0]
    assert inside is small.method.__self__ is not hidden
    assert equal_and_apart(hidden, inside)


def test_containers_are_filled_without_being_told() -> None:
    model = Rebuilt()
    model.layers = Counting()
    model.layers.append(nn.Linear(2, 2))
    model.layers.is_closed = True
    with pytest.raises(ValueError, match="closed"):
        copy.deepcopy(model.layers)
    small = copied(model)
    assert type(small.layers) is Counting
    assert small.layers.count == len(small.layers) == 1
    assert equal_and_apart(model.layers[0], small.layers[0])


class Backend:
    """Finds attributes by the name of a module, as preprocessing layers of Keras do."""

    def __init__(self) -> None:
        self._name, self.parts = "math", [nn.Linear(2, 2)]

    def __getattr__(self, name: str) -> object:
        return getattr(math, name) if self._name == "math" else None


class Delegating:
    """Finds attributes in the object that it wraps, and leaves an attribute out of copies."""

    def __init__(self, inner: object) -> None:
        self.inner, self.cache = inner, [1]

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def __getstate__(self) -> dict[str, object]:
        return {"inner": self.inner, "cache": []}


def test_objects_that_look_up_attributes_are_not_asked_before_they_have_any() -> None:
    model = nn.Linear(2, 2)
    model.backend = Backend()
    model.proxy = Delegating(model.backend)
    with pytest.raises(RecursionError):
        copy.deepcopy(model.backend)
    small = copied(model)
    assert small.backend.sqrt is math.sqrt
    assert equal_and_apart(model.backend.parts[0], small.backend.parts[0])
    assert small.proxy.inner is small.backend is not model.backend
    assert (small.proxy.cache, model.proxy.cache) == ([], [1])


def test_python_modules_stay_what_they_are() -> None:
    model = nn.Linear(2, 2)
    model.backend = types.SimpleNamespace(numbers=math)
    assert copied(model).backend.numbers is math
    assert copied(model).backend is not model.backend


def test_what_several_copies_share_is_copied_once() -> None:
    model = Rebuilt()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    memo: dict[int, object] = {}
    small, follower = deep_copy(model, memo), deep_copy(optimizer, memo)
    assert follower.param_groups[0]["params"][0] is small.inner.weight


def test_functions_that_work_on_the_model_work_on_its_copy() -> None:
    model = Rebuilt()
    inner, factor = model.inner, 2

    def step(x: torch.Tensor, *, plus: float = 0.0) -> torch.Tensor:
        return factor * model.inner(x) + plus

    model.step = step
    model.twice = lambda x: step(step(x)[:, :1].expand(-1, 3))
    model.other = nn.functional.relu
    small = copied(model)
    x = torch.randn(4, 3)
    assert torch.equal(small.step(x, plus=1.0), model.step(x, plus=1.0))
    with torch.no_grad():
        small.inner.weight.zero_()
        small.inner.bias.fill_(0.5)
    assert torch.equal(small.step(x), torch.ones(4, 2))
    assert torch.equal(small.twice(x), torch.ones(4, 2))
    assert not torch.equal(model.step(x), torch.ones(4, 2))
    assert model.inner is inner
    assert small.other is nn.functional.relu


def test_no_class_is_touched_while_threads_copy_at_once() -> None:
    models = [Rebuilt() for _ in range(8)]
    seen: list[bool] = []

    class Watching:
        def __deepcopy__(self, memo: dict[int, object]) -> Watching:
            seen.append(hasattr(Rebuilt, "__deepcopy__"))
            return self

    for model in models:
        model.watching = Watching()
    with ThreadPoolExecutor(4) as threads:
        copies = list(threads.map(copied, models * 4))
    assert all(map(equal_and_apart, models * 4, copies))
    assert seen == [False] * 32


class Pieces(nn.Module):
    """Splits features into pieces of 8. As layers of einops, it is built anew from its options when it is copied."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], 4, 8).relu().reshape(x.shape[0], 32)

    def __getstate__(self) -> dict[str, int]:
        return {"size": self.size}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def test_hooks_of_a_module_that_is_built_anew_are_copied() -> None:
    model = nn.Sequential(nn.Linear(3, 32), Pieces(8))
    model[1].register_forward_hook(lambda _module, _inputs, output: 2 * output)
    x = torch.randn(5, 3)
    new = deep_copy(model)
    assert torch.equal(new(x), model(x))
    new[1]._forward_hooks.clear()
    assert not torch.equal(new(x), model(x))


def test_classes_that_refuse_to_hand_out_their_state_are_copied_by_their_own_way() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), parametrizations.orthogonal(nn.Linear(4, 4)))
    model[0].register_forward_hook(lambda _module, _inputs, output: 2 * output)
    x = torch.randn(5, 3)
    assert torch.equal(deep_copy(model)(x), model(x))


def test_a_cut_model_with_such_a_module_is_copied() -> None:
    model = nn.Sequential(nn.Linear(3, 32), Pieces(8), nn.Linear(32, 2)).eval()
    x = torch.randn(5, 3)
    small = prune(model, 0.5, granularity="channel", example=x)
    assert small[0].weight.shape == (16, 3)
    assert torch.equal(deep_copy(small)(x), small(x))
    assert torch.isfinite(quantize(small, 8)(x)).all()
