"""The globals of a trial: stateful objects are copied together, and functions read the copies."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from nbcompress.cell.isolation import plain_functions, trial_globals
from nbcompress.errors import SearchError


def notebook(source: str = "", **names: Any) -> dict[str, Any]:
    namespace: dict[str, Any] = {"torch": torch, "nn": nn, "functools": functools, **names}
    exec(source, namespace)
    return namespace


def isolated(namespace: dict[str, Any], *names: str) -> dict[str, Any]:
    return trial_globals(namespace, names, plain_functions(namespace))


def test_modules_arrive_as_copies_and_the_rest_as_it_is() -> None:
    model, data = nn.Linear(2, 2), [torch.ones(2)]
    trial = isolated(notebook(model=model, data=data), "model", "data")
    assert trial["model"] is not model
    assert torch.equal(trial["model"].weight, model.weight)
    assert trial["data"] is data


def test_a_module_in_lists_and_dicts_is_one_copy() -> None:
    model = nn.Linear(2, 2)
    bag = {"nets": [model, 1], "pair": (model, "x")}
    trial = isolated(notebook(model=model, bag=bag), "model", "bag")
    assert trial["bag"]["nets"][0] is trial["model"] is trial["bag"]["pair"][0]
    assert trial["bag"]["nets"] is not bag["nets"]
    assert bag["nets"][0] is model


def test_the_same_list_under_two_names_stays_one_list() -> None:
    nets = [nn.Linear(1, 1)]
    trial = isolated(notebook(a=nets, b=nets), "a", "b")
    assert trial["a"] is trial["b"] is not nets


def test_an_optimizer_belongs_to_the_copied_module() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    # Named in this order on purpose: the optimizer is met first.
    trial = isolated(notebook(optimizer=optimizer, model=model), "optimizer", "model")
    trial["model"](torch.ones(1, 2)).sum().backward()
    trial["optimizer"].step()
    assert torch.equal(model.weight, before)
    assert not torch.equal(trial["model"].weight, before)


def test_a_scheduler_goes_on_without_a_warning() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    names = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    trial = isolated(notebook(**names), "scheduler", "model", "optimizer")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trial["optimizer"].step()
        trial["scheduler"].step()
    assert trial["optimizer"].param_groups[0]["lr"] == pytest.approx(0.01)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_plain_functions_see_the_copies() -> None:
    model = nn.Linear(2, 2)
    namespace = notebook("def get(): return model\ndef outer(): return get()", model=model)
    trial = isolated(namespace, "model", "get", "outer")
    assert trial["outer"]() is trial["model"]
    assert namespace["outer"]() is model


@pytest.mark.parametrize(
    "decoration",
    ["@torch.no_grad()", "@functools.lru_cache(maxsize=3)", "@functools.lru_cache\n@torch.inference_mode()"],
)
def test_decorated_functions_see_the_copies(decoration: str) -> None:
    model = nn.Linear(2, 2)
    namespace = notebook(f"{decoration}\ndef get(): return model", model=model)
    namespace["get"]()
    trial = isolated(namespace, "model", "get")
    assert trial["get"]() is trial["model"]
    assert namespace["get"]() is model


def test_defaults_attributes_and_names_of_functions_are_kept() -> None:
    namespace = notebook("def f(a, b=2, *, c=3):\n    'doc'\n    return a + b + c\nf.mark = 7")
    trial = isolated(namespace, "f")
    assert trial["f"](1) == 6
    assert (trial["f"].mark, trial["f"].__doc__, trial["f"].__name__) == (7, "doc", "f")
    assert not hasattr(trial["f"], "__wrapped__")


def test_classes_closures_and_bound_methods_keep_the_notebook() -> None:
    model = nn.Linear(2, 2)
    namespace = notebook(
        "class K:\n    def get(self): return model\n"
        "def make():\n    x = 0\n    def f(): return x, model\n    return f\n"
        "f = make()\nbound = K().get",
        model=model,
    )
    trial = isolated(namespace, "model", "f", "K", "bound")
    assert trial["f"]()[1] is model
    assert trial["K"]().get() is model
    assert trial["bound"]() is model


def test_writes_stay_in_the_trial() -> None:
    namespace = notebook("count = 0\ndef bump():\n    global count\n    count += 1")
    trial = isolated(namespace, "bump", "count")
    trial["bump"]()
    exec("count += 10; fresh = 1", trial)
    assert trial["count"] == 11
    assert namespace["count"] == 0
    assert "fresh" not in namespace


def test_what_cannot_be_copied_is_named() -> None:
    class Stubborn(nn.Module):
        def __deepcopy__(self, memo: object) -> None:
            raise RuntimeError("no copies of me")

    with pytest.raises(SearchError, match=r"copy of 'model', but copying it raised RuntimeError: no copies of me"):
        isolated(notebook(model=Stubborn()), "model")
