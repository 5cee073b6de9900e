"""What the form "Insert a search" of JupyterLab asks the kernel: what the notebook holds, and the cell to insert.

The front end evaluates `form_choices()` and `form_cell(...)` in the kernel and reads the answer as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

from IPython import get_ipython

from nbcompress.choices import TRIES
from nbcompress.errors import NbcompressError
from nbcompress.magics.base import variables

# Names of variables are offered in this order where there are several of a kind.
_USUAL_DATA = ("train", "train_data", "train_loader", "train_set", "data")
_USUAL_METRICS = ("evaluate", "accuracy", "score", "metric")
# Variables of a kind that the form offers.
_MOST = 200


@dataclass(frozen=True)
class JsonAnswer:
    """An answer that the front end receives as JSON."""

    data: Mapping[str, Any]

    def _repr_json_(self) -> Mapping[str, Any]:
        return self.data

    def __repr__(self) -> str:
        return json.dumps(self.data)


def form_choices() -> JsonAnswer:
    """Return the variables of the notebook that the form offers, the likeliest first."""
    return JsonAnswer(choices_of(_namespace()))


def form_cell(request: str) -> JsonAnswer:
    """Return the cell that the form asks for, or one sentence on why there is none.

    Args:
        request: JSON: `model`, `data`, `evaluate` and `example` (expressions, or null), `budget` (a list such as
            `["60kB", "5ms"]`), `trials`, and `tries` (a list of words, or null for the usual ones).
    """
    from nbcompress.cell.compress_cell import CellNames, compress_cell
    from nbcompress.magics.base import Scope

    asked = json.loads(request)
    shell = get_ipython()
    scope = Scope(shell)
    try:
        names = CellNames(asked["model"], asked.get("evaluate"), asked.get("data"), asked.get("example"))
        values: dict[str, Any] = {
            key: None if asked.get(key) is None else scope.evaluate(asked[key]) for key in ("model", "data", "example")
        }
        cell = compress_cell(
            values["model"],
            asked["budget"],
            names=names,
            data=values["data"],
            example=values["example"],
            tries=asked.get("tries"),
            trials=asked["trials"],
            namespace=scope.namespace,
        )
    except NbcompressError as error:
        return JsonAnswer({"problem": str(error)})
    except Exception as error:  # noqa: BLE001 - a model or data of the user may raise anything
        return JsonAnswer({"problem": f"{type(error).__name__}: {error}"})
    loads = "" if "bo_search" in shell.magics_manager.magics["cell"] else "%load_ext nbcompress"
    return JsonAnswer({"cell": cell.text.rstrip("\n"), "before": loads, "left_out": dict(cell.left_out)})


def choices_of(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the models, data and metric functions of a namespace, and what a search can try."""
    names = variables(namespace)
    # A module that is not imported yet has no instances, so nothing is imported here.
    torch = sys.modules.get("torch")
    models, data, metrics = [], [], []
    for name in names:
        value = namespace[name]
        if torch is None or isinstance(value, type):
            continue
        if isinstance(value, torch.nn.Module):
            if any(parameter.ndim > 1 for parameter in value.parameters()):
                n = sum(parameter.numel() * parameter.element_size() for parameter in value.parameters())
                models.append({"name": name, "kind": type(value).__name__, "kilobytes": n / 1000})
        elif _is_data(value, torch):
            data.append({"name": name, "kind": type(value).__name__})
        elif _is_metric(value):
            metrics.append({"name": name, "kind": "function"})
    return {
        "models": _latest_first(models)[:_MOST],
        "data": _usual_first(data, _USUAL_DATA)[:_MOST],
        "metrics": _usual_first(metrics, _USUAL_METRICS)[:_MOST],
        "tries": list(TRIES),
    }


def _is_data(value: object, torch: Any) -> bool:
    """Return whether a search can train on a value: a loader or a data set, or inputs and targets as tensors."""
    if isinstance(value, torch.utils.data.DataLoader | torch.utils.data.Dataset):
        return True
    return isinstance(value, tuple) and len(value) > 1 and all(isinstance(part, torch.Tensor) for part in value)


def _is_metric(value: object) -> bool:
    """Return whether a value is a function of the notebook that can be called with one argument, the model."""
    if not callable(value) or getattr(value, "__module__", None) != "__main__":
        return False
    try:
        parameters = list(signature(value).parameters.values())
    except (TypeError, ValueError):
        return False
    needed = [each for each in parameters if each.default is Parameter.empty and _is_positional(each)]
    return bool(parameters) and _is_positional(parameters[0]) and len(needed) <= 1 and not _needs_keyword(parameters)


def _is_positional(parameter: Parameter) -> bool:
    return parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _needs_keyword(parameters: list[Parameter]) -> bool:
    return any(each.kind is Parameter.KEYWORD_ONLY and each.default is Parameter.empty for each in parameters)


def _latest_first(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the variable called `model` first, then the others from the newest on."""
    latest = found[::-1]
    return sorted(latest, key=lambda item: item["name"] != "model")


def _usual_first(found: list[dict[str, Any]], usual: tuple[str, ...]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda item: usual.index(item["name"]) if item["name"] in usual else len(usual))


def _namespace() -> Mapping[str, Any]:
    namespace: Mapping[str, Any] = get_ipython().user_ns
    return namespace
