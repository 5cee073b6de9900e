"""Write the search cell that compresses a model: `%compress` and the form in JupyterLab show its text.

What the model consists of decides what is tried. The first trials are uniform settings that meet the budget: all layers
share them, so the search does not end below the best of them.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from nbcompress.artifact import quantize
from nbcompress.artifact.budget import Limits, parse_limits
from nbcompress.artifact.file import size_bytes
from nbcompress.cell.compress_steps import (
    ACCURACY,
    KEPT,
    KILOBYTES,
    MILLISECONDS,
    CellNames,
    Step,
    first_input,
    steps_of,
)
from nbcompress.choices import TRIES
from nbcompress.compressors import cluster
from nbcompress.compressors.data import Batches
from nbcompress.compressors.factorize import why_not_factorizable
from nbcompress.compressors.inputs import inputs_of
from nbcompress.compressors.layers import check_model, select, unique_parameters
from nbcompress.compressors.prune.layers import count_blocks
from nbcompress.errors import CompressionError, SearchError, check_integer, did_you_mean, first_line, option
from nbcompress.measure import latency_ms
from nbcompress.progress import progress_bar
from nbcompress.public import public

Point = Mapping[str, Any]

# Training moves values to other codes, so the file of a trained model can be longer: the first trials leave this room.
_ROOM = 0.95
# Samples of a latency while the first trials are chosen, and how many settings those are at most.
_LATENCY_SAMPLES = 10
_MOST_STARTS = 6
_MAX_HALVINGS = 4
# Matrices of a smaller full rank save next to nothing as two factors.
_LEAST_FULL_RANK = 16
# Above this many weights a setting takes seconds to build, and fewer are tried before the search begins.
_MANY_WEIGHTS = 5_000_000


_BITS = (2, 3, 4, 6, 8)
_CLUSTERS = (2, 64)


def _shrunk(model: nn.Module, point: Point) -> nn.Module:
    """Return the model with the bits or the codebooks of a point, if it has them."""
    if "clusters" in point:
        return cluster(model, clusters=point["clusters"])
    return quantize(model, bits=point["bits"]) if "bits" in point else model


@dataclass(frozen=True)
class CompressCell:
    """A search cell as text, and what it was made of.

    Attributes:
        body: The cell without its magic line.
        options: The words of the magic line as typed.
        tries: What is tried: some of `TRIES`.
        start: The first trials.
        limits: The budget.
        constraints: The constraints of the magic line.
        example: An input of the model as a value: the given one, or one of the data for a budget in ms; else None.
        left_out: What is not tried, and why, by word.
    """

    body: str
    options: tuple[str, ...]
    tries: tuple[str, ...]
    start: tuple[Point, ...]
    limits: Limits
    constraints: tuple[str, ...]
    example: object
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole cell."""
        return f"{' '.join(['%%bo_search', *self.options])}\n{self.body}"


def compress_cell(
    model: nn.Module,
    budget: object,
    *,
    names: CellNames | None = None,
    data: object = None,
    example: object = None,
    tries: Iterable[str] | None = None,
    trials: int = 30,
    keep_accuracy: float | None = None,
    study: str | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> CompressCell:
    """Write the cell that searches the best compression of a model within a budget.

    The objective is the accuracy (whatever number `evaluate` returns; more is better). The budget is a constraint.

    Args:
        model: A trained model. It does not change.
        budget: As in `parse_limits`.
        names: The expressions that stand for model, data, metric and example in the cell.
        data: The value of `names.data`.
        example: The value of `names.example`.
        tries: Some of `TRIES`; None chooses those that make this model cheaper in what the budget limits.
        trials: How many trials the cell runs.
        keep_accuracy: How much less than the original's accuracy is allowed; None allows any.
        study: The name of the study; None lets the cell make one.
        namespace: The notebook's variables. Where one has the name of a function of ours, the cell says `nc.`.

    Returns:
        The cell.

    Raises:
        CompressionError: The model cannot be compressed, or no setting that is tried meets the budget.
        SearchError: An option cannot be used.
        DataError: The data does not fit the model.
        MeasureError: The model does not run on the example.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> cell = compress_cell(model, "3kB", names=CellNames(data=None), tries=["weights", "bits"], trials=9)
        >>> print(cell.body.splitlines()[-3])
        report(kilobytes=size_bytes(small) / 1000)  # too big already? the trial ends here
    """
    return _Writer(
        check_model(model),
        parse_limits(budget),
        names or CellNames(),
        data,
        example,
        tries if tries is None else tuple(tries),
        check_integer("trials", trials, 1),
        keep_accuracy,
        study,
        dict(namespace or {}),
    ).written()


@dataclass(frozen=True)
class _Writer:
    """Writes one cell; the fields are the arguments of `compress_cell`."""

    model: nn.Module
    limits: Limits
    given_names: CellNames
    data: object
    given_example: object
    wanted: tuple[str, ...] | None
    trials: int
    keep_accuracy: float | None
    study: str | None
    namespace: Mapping[str, Any]

    def __post_init__(self) -> None:
        names = self.given_names
        if (names.data is None) != (self.data is None):
            raise SearchError(f"{option('data')} needs the data and its name in the notebook.")
        if names.evaluate is None and names.data is None:
            raise SearchError(f"The cell needs a metric: give {option('evaluate')} or {option('data')}.")
        if self.keep_accuracy is not None and not 0 <= self.keep_accuracy < float("inf"):
            raise SearchError(f"{option('keep_accuracy')} is a number from 0 on, but got {self.keep_accuracy!r}.")
        for word in self.wanted or ():
            if word not in TRIES:
                raise SearchError(
                    f"{option('tries')} takes {', '.join(TRIES)}, but got {word!r}.{did_you_mean(word, TRIES)}"
                )

    @cached_property
    def _input(self) -> tuple[str | None, object]:
        """One input of the model as an expression and as a value; of the data where it is needed and not given."""
        names = self.given_names
        if names.example is not None or self.limits.milliseconds is None:
            return names.example, self.given_example
        found = None if names.data is None else first_input(names.data, self.data)
        if found is None:
            raise SearchError(f"A budget in ms needs an input of the model: give {option('example')}.")
        return found

    @property
    def names(self) -> CellNames:
        """The expressions, with that of the input."""
        return replace(self.given_names, example=self._input[0])

    @property
    def example(self) -> object:
        """One input of the model, or None."""
        return self._input[1]

    @cached_property
    def all_steps(self) -> tuple[Step, ...]:
        return steps_of(self.names, self.data, self.example, self._n_blocks)

    @cached_property
    def _n_blocks(self) -> int:
        """How many blocks can be removed or stay, 0 if that cannot be known."""
        if self.names.data is None and self.names.example is None:
            return 0
        try:
            batches = None if self.data is None else Batches(self.data)
            inputs = inputs_of(self.model, self.example, batches)
            return 0 if inputs is None else count_blocks(self.model, inputs, None)
        except Exception:  # noqa: BLE001 - a model of the user may raise anything; removing channels says why
            return 0

    @cached_property
    def reasons(self) -> dict[str, str]:
        """Why something is not tried, by word; what is not in it is tried."""
        reasons = {step.name: why for step in self.all_steps if (why := self._why_not(step))}
        if self.limits.kilobytes is None and self.wanted is None:
            reasons |= dict.fromkeys(("bits", "codebooks"), "fewer bits make a call of torch no faster")
        if self.names.data is None:
            reasons["training"] = "there is no data"
        if self.wanted is not None:
            refused = [word for word in self.wanted if word in reasons]
            if refused:
                raise CompressionError(f"{option('tries')}: {refused[0]!r} cannot be tried: {reasons[refused[0]]}.")
            reasons = {word: reasons.get(word, "it was not asked for") for word in TRIES if word not in self.wanted}
        return reasons

    def _why_not(self, step: Step) -> str:
        """Return why a step is not tried, or an empty string. What can be done is found out by doing it."""
        if self.wanted is not None and step.name not in self.wanted:
            return "it was not asked for"
        if self.limits.kilobytes is None and not step.saves and self.wanted is None:
            return "zeros make a call of torch no faster"
        if step.name in ("blocks", "channels") and self.names.data is None and self.names.example is None:
            return "it needs data or an example"
        if len(step.values) < 2:
            return "the model has no blocks that can be removed"
        if step.name == "rank" and not any(map(_has_large_matrix, self.model.modules())):
            return f"no layer has a full rank of {_LEAST_FULL_RANK} or more"
        if step.name == "weights":
            return ""
        try:
            smaller = step.apply(self.model, step.values[len(step.values) // 2])
        except Exception as err:  # noqa: BLE001 - a model of the user may raise anything
            return first_line(err)
        if _n_numbers(smaller) >= _n_numbers(self.model):
            return "it removes nothing of this model"
        return ""

    @cached_property
    def tries(self) -> tuple[str, ...]:
        tried = tuple(word for word in TRIES if word not in self.reasons)
        if not set(tried) - {"training"}:
            told = "; ".join(f"{word}: {why}" for word, why in self.reasons.items())
            raise CompressionError(f"Nothing can be tried on this model: {told}.")
        return tried

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return tuple(step for step in self.all_steps if step.name in self.tries)

    def written(self) -> CompressCell:
        select(self.model)
        start = self._start()
        constraints = [
            f"{metric} <= {limit:.10g}"
            for metric, limit in ((KILOBYTES, self.limits.kilobytes), (MILLISECONDS, self.limits.milliseconds))
            if limit is not None
        ]
        if self.keep_accuracy is not None:
            constraints.append(f"{ACCURACY} >= baseline - {self.keep_accuracy:.10g}")
        bounds = [f'--subject-to "{constraint}"' for constraint in constraints]
        options = [f"--trials {self.trials}", f"--maximize {ACCURACY}", *bounds]
        if self.study is not None:
            options.append("--study " + (self.study if self.study.isidentifier() else f'"{self.study}"'))
        options += [f"--keep {KEPT}", f"--start {_literal(start)}", f"--baseline {self._baseline()}"]
        given = (self.tries, start, self.limits, tuple(constraints), self.example, self.reasons)
        return CompressCell(self._body(), tuple(options), *given)

    # The text --------------------------------------------------------------------------------------------------------

    @cached_property
    def _prefix(self) -> str:
        """`nc.` if a variable of the notebook hides a function of ours that the cell calls, else nothing."""
        used = ["prune", "factorize", "quantize", "cluster", "report", "finetune", "size_bytes", "latency_ms"]
        used += [ACCURACY] if self.names.evaluate is None else []
        hidden = (name for name in used if name in self.namespace and self.namespace[name] is not public(name))
        return "nc." if any(hidden) else ""

    def _call(self, function: str) -> str:
        return f"{self._prefix}{function}"

    def _measured(self, metric: str, model: str) -> str:
        """Return the expression of a metric of a model."""
        if metric == KILOBYTES:
            return f"{self._call('size_bytes')}({model}) / 1000"
        if metric == MILLISECONDS:
            return f"{self._call('latency_ms')}({model}, {self.names.example})"
        if self.names.evaluate is None:
            return f"float({self._call('accuracy')}({model}, {self.names.data}))"
        node = ast.parse(self.names.evaluate.strip(), mode="eval").body
        is_plain = isinstance(node, (ast.Name, ast.Attribute, ast.Subscript, ast.Call))
        function = self.names.evaluate.strip() if is_plain else f"({self.names.evaluate.strip()})"
        return f"{function}({model})"

    @property
    def _metrics(self) -> list[str]:
        limited = [(KILOBYTES, True), (MILLISECONDS, self.limits.milliseconds is not None)]
        return [name for name, is_wanted in limited if is_wanted] + [ACCURACY]

    def _baseline(self) -> str:
        # `nc` need not be a variable of the notebook, and the library's names are known on the line only where no
        # variable has them: then the size of the original is left out.
        metrics = [m for m in reversed(self._metrics) if not self._prefix or (m == ACCURACY and self.names.evaluate)]
        items = (f'"{metric}": {self._measured(metric, self.names.model)}' for metric in metrics)
        return "{" + ", ".join(items) + "}"

    def _body(self) -> str:
        lines = [f"# {self._summary()}"]
        if self._prefix:
            lines.append("import nbcompress as nc")
        lines += [step.declared for step in self.steps]
        both = {"bits", "codebooks"} <= set(self.tries)
        if both:
            lines.append('method = Choice("grid", "codebook")')
        elif "bits" in self.tries:
            lines.append(_BITS_LINE)
        elif "codebooks" in self.tries:
            lines.append(_CLUSTERS_LINE)
        if "training" in self.tries:
            lines += ["lr = Float(1e-4, 1e-2, log=True)", "epochs = Int(1, 8)"]
        lines.append("")
        source = self.names.model
        for step in self.steps:
            lines.append(f"{KEPT} = {self._call(step.function)}({source}, {step.arguments})")
            source = KEPT
        lines += self._last_lines(source, both)
        if self.limits.kilobytes is not None:
            told = f"{self._call('report')}({KILOBYTES}={self._measured(KILOBYTES, KEPT)})"
            lines.append(f"{told}  # too big already? the trial ends here")
        metrics = {metric: f"{metric} = {self._measured(metric, KEPT)}" for metric in self._metrics}
        if MILLISECONDS in metrics:
            # Training does not change how long a call takes, so a trial that is too slow ends before it.
            lines.append(metrics.pop(MILLISECONDS))
        if "training" in self.tries:
            lines.append(f"{self._call('finetune')}({KEPT}, {self.names.data}, lr=lr, epochs=epochs)")
        lines += metrics.values()
        if self.names.evaluate is None and "training" in self.tries:
            lines[-1] += "  # on the training data: a metric on other data says more"
        return "\n".join(lines) + "\n"

    def _last_lines(self, source: str, both: bool) -> list[str]:
        quantized = f"{KEPT} = {self._call('quantize')}({source}, bits=bits)"
        clustered = f"{KEPT} = {self._call('cluster')}({source}, clusters=clusters)"
        if not both:
            return [quantized] * ("bits" in self.tries) + [clustered] * ("codebooks" in self.tries)
        return [
            'if method == "codebook":',
            f"    {_CLUSTERS_LINE}",
            f"    {clustered}",
            "else:",
            f"    {_BITS_LINE}",
            f"    {quantized}",
        ]

    def _summary(self) -> str:
        kinds = Counter(
            type(module).__name__
            for module in self.model.modules()
            if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
        )
        layers = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
        kilobytes = size_bytes(self.model) / 1000
        fits = self.limits.kilobytes is not None and kilobytes <= self.limits.kilobytes
        size = f"{_number(kilobytes)} kB as it is{', which meets the budget' if fits else ''}"
        return f"{layers}: {_n_numbers(self.model):,} parameters, {size}"

    # The first trials ------------------------------------------------------------------------------------------------

    def _start(self) -> tuple[Point, ...]:
        """Return uniform settings that meet the budget, the gentlest of each kind, those that change least first.

        Raises:
            CompressionError: No setting meets it.
        """
        found: list[tuple[float, Point]] = []
        costs: list[str] = []
        bases, ways = self._bases(), self._raised_together()
        with progress_bar("first trials", len(bases) * len(ways), "setting") as advance:
            for harshness, base in bases:
                for steps in ways:
                    share, cost = self._least_share(base, steps)
                    costs.append(cost)
                    if share is not None:
                        found.append((harshness + share, _moved(base, steps, share)))
                    advance(1)
        if not found:
            least = min(costs, key=lambda cost: float(cost.split()[0]))
            limits = ((self.limits.kilobytes, "kB"), (self.limits.milliseconds, "ms"))
            allowed = " and ".join(f"{_number(limit)} {unit}" for limit, unit in limits if limit is not None)
            raise CompressionError(
                f"{option('budget')} cannot be met: the smallest uniform setting of {', '.join(self.tries)} still has "
                f"{least}, but the budget is {allowed}. Allow more.{self._other_runtime()}"
            )
        found.sort(key=lambda item: item[0])
        points: list[Point] = []
        for _, point in found:
            if point not in points:
                points.append(point)
        return tuple(points[: min(_MOST_STARTS, max(1, self.trials // 3))])

    def _other_runtime(self) -> str:
        """Return what else can be done about a budget in milliseconds: those of the cell are of a call in torch."""
        if self.limits.milliseconds is None:
            return ""
        return (
            ' These are ms of a call in torch; latency_ms(..., runtime="onnx") in a search cell of yours takes others.'
        )

    def _raised_together(self) -> list[tuple[Step, ...]]:
        """Return the steps whose amounts are raised together until the budget is met."""
        by_name = {step.name: step for step in self.steps}
        if self.limits.milliseconds is not None:
            return [(step,) for step in self.steps if step.saves] or [()]
        wanted: list[tuple[str, ...]] = [("weights",), ("channels", "weights")]
        if not by_name.keys() & {"weights"}:
            wanted = [("rank",), ("channels",)]
        chosen = [tuple(by_name[name] for name in names) for names in wanted if by_name.keys() >= set(names)]
        return chosen or [()]

    def _bases(self) -> list[tuple[float, Point]]:
        """Return settings of everything but the amounts, and a guess of how much accuracy each costs (0 is nothing)."""
        none: Point = {step.parameter: step.values[0] for step in self.steps}
        training = {"lr": 0.003, "epochs": 8} if "training" in self.tries else {}
        both = {"bits", "codebooks"} <= set(self.tries)
        bits = {n: {"method": "grid"} | {"bits": n} if both else {"bits": n} for n in (8, 4, 2)}
        books = {n: {"method": "codebook"} | {"clusters": n} if both else {"clusters": n} for n in (16, 4)}
        kinds: list[tuple[float, Point]] = []
        if "bits" in self.tries:
            kinds += [(0.0, bits[8]), (0.05, bits[4]), (0.4, bits[2])]
        if "codebooks" in self.tries:
            kinds += [(0.05, books[16]), (0.4, books[4])]
        if _n_numbers(self.model) > _MANY_WEIGHTS:
            kinds = [kind for kind in kinds if kind[0] == 0.05]
        return [(harshness, {**none, **kind, **training}) for harshness, kind in kinds or [(0.0, {})]]

    def _least_share(self, base: Point, steps: tuple[Step, ...]) -> tuple[float | None, str]:
        """Return the least share of the values of `steps` with which `base` meets the budget, and the cost of the most.

        It is found by halving the range a few times; None if even the most does not meet it.
        """
        meets, shown = self._cost(_moved(base, steps, 1.0))
        if not meets:
            return None, shown
        if not steps or self._cost(base)[0]:
            return 0.0, shown
        least, most = 0.0, 1.0
        for _ in range(_MAX_HALVINGS):
            middle = (least + most) / 2
            if self._cost(_moved(base, steps, middle))[0]:
                most = middle
            else:
                least = middle
        return most, shown

    @cached_property
    def _built(self) -> dict[tuple[tuple[str, Any], ...], nn.Module]:
        """The models of the settings so far, by what was done to them: several settings begin with the same cut."""
        return {}

    def _cost(self, point: Point) -> tuple[bool, str]:
        """Return whether a setting meets the budget with some room, before training; and its cost in words."""
        small = self.model
        done: tuple[tuple[str, Any], ...] = ()
        for step in self.steps:
            if point[step.parameter] != step.values[0]:
                done += ((step.parameter, point[step.parameter]),)
                if done not in self._built:
                    self._built[done] = step.apply(small, point[step.parameter])
                small = self._built[done]
        small = _shrunk(small, point)
        meets, told = True, ""
        if self.limits.kilobytes is not None:
            kilobytes = size_bytes(small) / 1000
            meets, told = kilobytes <= self.limits.kilobytes * _ROOM, f"{_number(kilobytes)} kB"
        if self.limits.milliseconds is not None and meets:
            milliseconds = latency_ms(small, self.example, repeats=_LATENCY_SAMPLES)
            meets, told = milliseconds <= self.limits.milliseconds * _ROOM, f"{_number(milliseconds)} ms"
        return meets, told


def _moved(base: Point, steps: tuple[Step, ...], share: float) -> Point:
    """Return `base` with the values of `steps` at this share of the way to the strongest."""
    return {**base, **{step.parameter: step.values[round(share * (len(step.values) - 1))] for step in steps}}


_BITS_LINE = f"bits = Choice({', '.join(map(str, _BITS))})"
_CLUSTERS_LINE = f"clusters = Int({_CLUSTERS[0]}, {_CLUSTERS[1]}, log=True)"


def _number(value: float) -> str:
    """Return a number as one types it, without needless digits."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _literal(points: Iterable[Point]) -> str:
    return "[" + ", ".join(repr(dict(point)).replace("'", '"') for point in points) + "]"


def _n_numbers(model: nn.Module) -> int:
    return sum(parameter.numel() for _, parameter in unique_parameters(model))


def _has_large_matrix(module: nn.Module) -> bool:
    if why_not_factorizable(module) is not None:
        return False
    weight: Any = module.weight
    full_rank: int = min(weight.shape[0], weight[0].numel())
    return full_rank >= _LEAST_FULL_RANK


__all__ = ["KEPT", "TRIES", "CellNames", "CompressCell", "compress_cell"]
