"""`explain`: which inputs decide the output of a model, before and after compression, by integrated gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from nbcompress.compressors.data import Batch, Batches
from nbcompress.compressors.inputs import inputs_from_example
from nbcompress.compressors.modes import outside_inference, requiring_grad, with_progress
from nbcompress.compressors.outputs import OutputKey, prediction_of
from nbcompress.errors import MeasureError, check_integer, first_line, option
from nbcompress.measure.inputs import evaluation_copy, preserved_random_state
from nbcompress.measure.interval import Interval
from nbcompress.measure.text import text_table
from nbcompress.progress import progress_bar

# Chosen outputs: a class for all examples, a class for each of them, or a function of what the model returns.
Target = int | Tensor | Callable[[Any], Tensor]

# Texts of tokens or names of inputs, by number.
Names = Sequence[str] | Callable[[int], str]

_N_RESAMPLES = 2000
# A larger difference between the sum of the attributions and the change of the output is a warning of the card.
_LARGE_GAP = 0.05


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Attributions of the same examples by two models.

    Attributes:
        inputs: The input that is explained, `(examples, ...)`.
        before: Attributions by the original model, in the shape of `inputs`. Those of an example add up to the change
            of the output from the baseline to the example.
        after: The same by the compressed model.
        agreement: Spearman's rank correlation of `before` and `after` for each example, from -1 to 1. NaN where there
            are fewer than two inputs, or where all attributions of one model are equal.
        targets: The class that is explained for each example; None for a single output, or a function.
        predicted: What each of the two models predicts for each example: a class if there are classes, else the number
            that is explained.
        gaps: For each model, the largest difference between the sum of the attributions of an example and the change of
            its output, as a share of the largest change.
        is_tokens: Whether the inputs are tokens, so that attributions are those of their embeddings.
        names: Texts of tokens, or names of the inputs of an example, by number.
        numbers: The numbers of the examples in some data; empty if they are 0, 1, 2 and so on.
    """

    inputs: Tensor
    before: Tensor
    after: Tensor
    agreement: Tensor
    targets: Tensor | None
    predicted: tuple[Tensor, Tensor]
    gaps: tuple[float, float]
    is_tokens: bool = False
    names: Mapping[int, str] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()

    @cached_property
    def mean_agreement(self) -> Interval | None:
        """The mean of `agreement` with its 95 % interval over examples; None for fewer than two known correlations.

        The interval is that of a bootstrap with a fixed seed: 2.5 % and 97.5 % of the means of 2,000 resamples.
        """
        known = self.agreement[~self.agreement.isnan()].double().numpy()
        if len(known) < 2:
            return None
        picks = np.random.default_rng(0).integers(0, len(known), (_N_RESAMPLES, len(known)))
        low, high = np.quantile(known[picks].mean(1), (0.025, 0.975))
        return Interval(float(known.mean()), float(low), float(high))

    @property
    def flipped(self) -> tuple[int, ...]:
        """The examples for which the two models predict different classes; empty without classes."""
        before, after = self.predicted
        return () if before.is_floating_point() else tuple(torch.nonzero(before != after).flatten().tolist())

    def to_json(self) -> dict[str, Any]:
        """Plain data: dicts, lists, texts and numbers."""
        mean = self.mean_agreement
        return {
            "before": self.before.tolist(),
            "after": self.after.tolist(),
            "agreement": [None if value != value else value for value in self.agreement.tolist()],
            "mean_agreement": None if mean is None else [mean.value, mean.low, mean.high],
            "targets": None if self.targets is None else self.targets.tolist(),
            "predicted": [values.tolist() for values in self.predicted],
            "gaps": list(self.gaps),
        }

    def rows(self) -> list[list[str]]:
        """Rows of a table: example, the class that is explained, predictions before and after, rank correlation."""
        targets = [""] * len(self.inputs) if self.targets is None else [str(int(item)) for item in self.targets]
        columns = [targets, *([_value_text(value) for value in values.tolist()] for values in self.predicted)]
        columns.append([_correlation_text(value) for value in self.agreement.tolist()])
        numbers = self.numbers or range(len(self.inputs))
        return [[str(number), *(column[i] for column in columns)] for i, number in enumerate(numbers)]

    def notes(self) -> list[str]:
        """Notes under the table: the mean agreement, and how exactly the attributions add up."""
        n, mean, gap = len(self.inputs), self.mean_agreement, max(self.gaps)
        notes = []
        if mean is not None:
            notes.append(f"rank correlation on {n} examples: {mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})")
        share = f"at most {gap:.1%}" if gap >= 0.001 else "less than 0.1%"
        text = f"attributions add up to the change of the output, with an error of {share} of it"
        notes.append(f"{text}: more `steps` make it smaller" if gap > _LARGE_GAP else text)
        return notes

    def __str__(self) -> str:
        return "\n".join([text_table(ROW_HEADER, self.rows()), *self.notes()])

    def __repr__(self) -> str:
        mean = self.mean_agreement
        known = "" if mean is None else f": rank correlation {mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})"
        return f"<Explanation of {len(self.inputs)} example{'s' * (len(self.inputs) != 1)}{known}>"


ROW_HEADER = ["example", "explained", "predicted before", "predicted after", "rank correlation"]


def _value_text(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _correlation_text(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"


@outside_inference
def explain(
    original: nn.Module,
    small: nn.Module,
    x: object,
    *,
    target: Target | None = None,
    baseline: float | Tensor | None = None,
    steps: int = 32,
    batch_size: int = 64,
    output: OutputKey | None = None,
    names: Names | None = None,
    progress: bool = True,
) -> Explanation:
    """Return which inputs decide the output of two models, and how far the two agree.

    Attributions are integrated gradients: (x - baseline) times the mean gradient of the output on the straight line
    from the baseline to x, by the midpoint rule. The two models are explained for the same output. For tokens, the line
    goes from the baseline to the embeddings of the tokens, and the attributions of the numbers of an embedding are
    added.

    Args:
        original: The model before compression. It stays as it is; a copy runs in evaluation mode.
        small: The compressed model.
        x: Inputs, examples along the first axis: a tensor, or a tuple or dict of inputs. Of several, the first is
            explained and the others stay as they are. Each model gets them on its own device.
        target: Which output is explained: a class, a class for each example, or a function from what the model returns
            to one number for each example. By default the class that the original predicts, or the single output.
        baseline: The input without information, a number or a tensor of the shape of an example; by default 0. For
            tokens, a token, or tokens in the shape of an example; by default embeddings of zeros.
        steps: Points on the line. More of them make the sum of the attributions more exact.
        batch_size: Examples that run at a time.
        output: Index or key of the prediction, where a model returns several tensors.
        names: For the card: the text of each token or the name of each input, as a list or a function of its number.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        Attributions by both models, and their rank correlation for each example. At the end of a cell it shows a card.

    Raises:
        MeasureError: An argument has another form, no gradient reaches the input, or the models return outputs of
            different shapes.
        DataError: A model does not run on `x`, or returns several tensors.

    Example:
        >>> import torch, nbcompress as nc
        >>> model = torch.nn.Linear(8, 3)
        >>> found = nc.explain(model, nc.quantize(model, bits=4), torch.randn(20, 8))
        >>> found.before.shape, found.agreement.shape
        (torch.Size([20, 8]), torch.Size([20]))
        >>> bool(found.agreement.mean() > 0.9)
        True

    References:
        Sundararajan, Taly and Yan (2017), "Axiomatic Attribution for Deep Networks", sections 3 and 5.
        Spearman (1904), "The proof and measurement of association between two things".
        Efron (1979), "Bootstrap methods: another look at the jackknife" (the interval of the mean).
    """
    steps = check_integer("steps", steps, 1, error=MeasureError)
    batch_size = check_integer("batch_size", batch_size, 1, error=MeasureError)
    before, after = (_Explained(evaluation_copy(model), output) for model in (original, small))
    batch = _as_batch(x)
    inputs = _inputs_of(batch)
    texts = _named(names, inputs)
    if not inputs.is_floating_point():
        for model in (before, after):
            model.check_embeds()
    with with_progress(progress), preserved_random_state():
        outputs = [model.outputs(batch, batch_size, target) for model in (before, after)]
        if outputs[0].shape != outputs[1].shape:
            shapes = " and ".join(str(tuple(item.shape)) for item in outputs)
            raise MeasureError(f"both models must return outputs of the same shape, got {shapes}")
        targets = _classes(outputs[0], target)
        line = _StraightLine(_baseline(baseline, inputs), steps, batch_size)
        parts = [model.attributions(batch, line, targets, target) for model in (before, after)]
    values = [part[0] for part in parts]
    predicted = [item.argmax(1) if item.ndim == 2 else item for item in outputs]
    return Explanation(
        inputs.detach().cpu(),
        values[0],
        values[1],
        _rank_correlations(*values),
        targets,
        (predicted[0], predicted[1]),
        (parts[0][1], parts[1][1]),
        is_tokens=not inputs.is_floating_point(),
        names=texts,
    )


# ---- The inputs ----


def _as_batch(x: object) -> Batch:
    given = inputs_from_example(torch.as_tensor(x) if isinstance(x, np.ndarray) else x)
    raw = (dict(given.kwargs), None) if given.kwargs else (*given.args, None)
    batch = Batches([raw]).first(nn.Identity())
    inputs = _inputs_of(batch)
    if inputs.dtype == torch.bool or inputs.is_complex() or not inputs.ndim or not len(inputs):
        shape = f"{inputs.dtype} of shape {tuple(inputs.shape)}"
        raise MeasureError(f"{option('x')} must hold examples along its first axis, as numbers or tokens, got {shape}")
    return batch


def _inputs_of(batch: Batch) -> Tensor:
    """The input that is explained: the first tensor."""
    found = next(iter(batch.tensors), None)
    if found is None:
        raise MeasureError(f"{option('x')} must be a tensor, or a tuple or dict of tensors")
    return found


def _parts(batch: Batch, n: int, size: int) -> Iterator[tuple[slice, Batch]]:
    """Parts of at most `size` of `n` examples. Tensors of another length go with every part."""
    for start in range(0, n, size):
        part = slice(start, min(start + size, n))
        yield part, batch.mapped(lambda item, at=part: item[at] if item.ndim and len(item) == n else item)  # type: ignore[misc]


def _baseline(given: object, inputs: Tensor) -> Tensor | None:
    """The baseline in the shape of the inputs; None for embeddings of zeros."""
    if given is None:
        return torch.zeros_like(inputs) if inputs.is_floating_point() else None
    try:
        baseline = torch.as_tensor(given)
        found = torch.broadcast_to(baseline.to(inputs.device), inputs.shape)
    except (RuntimeError, TypeError, ValueError):
        shape = tuple(given.shape) if isinstance(given, Tensor) else repr(given)
        raise MeasureError(
            f"{option('baseline')} must be a number, or a tensor of the shape of an example, "
            f"{tuple(inputs.shape[1:])}, got {shape}"
        ) from None
    if not inputs.is_floating_point() and (baseline.is_floating_point() or baseline.dtype == torch.bool):
        raise MeasureError(f"{option('baseline')} of tokens must be a token, an integer, got {given!r}")
    return found.to(inputs.dtype)


def _named(names: Names | None, inputs: Tensor) -> dict[int, str]:
    """The texts of the tokens that occur, or the names of the inputs of an example."""
    if names is None:
        return {}
    numbers = range(inputs[0].numel()) if inputs.is_floating_point() else torch.unique(inputs).tolist()
    if not callable(names) and (isinstance(names, str) or not isinstance(names, Sequence)):
        kind = type(names).__name__
        raise MeasureError(f"{option('names')} must be a list of texts or a function of a number, got {kind}")
    if not callable(names) and (not numbers or not 0 <= min(numbers) <= max(numbers) < len(names)):
        what = f"tokens up to {max(numbers)}" if numbers else "no input"
        what = f"{len(numbers)} inputs of an example" if inputs.is_floating_point() else what
        raise MeasureError(f"{option('names')} must have a text for every number, got {len(names)} for {what}")
    return {number: str(names(number) if callable(names) else names[number]) for number in numbers}


# ---- The output that is explained ----


def _classes(outputs: Tensor, target: Target | None) -> Tensor | None:
    """The class that is explained for each example; None if there is a single number for each."""
    n = len(outputs)
    if callable(target) and not isinstance(target, Tensor):
        return None
    if outputs.ndim == 1:
        if target is not None:
            raise MeasureError(
                f"{option('target')} chooses among several outputs, but the model returns one: leave it out"
            )
        return None
    if target is None:
        return outputs.argmax(1)
    classes = torch.as_tensor(target) if not isinstance(target, bool) else torch.tensor(target)
    is_fit = classes.shape in ((), (n,)) and not (classes.is_floating_point() or classes.dtype == torch.bool)
    if not is_fit or int(classes.min()) < 0 or int(classes.max()) >= outputs.shape[1]:
        got = repr(target) if classes.ndim == 0 else f"{classes.dtype} of shape {tuple(classes.shape)}"
        raise MeasureError(
            f"{option('target')} must be a class from 0 to {outputs.shape[1] - 1}, one for each of {n} examples, or a "
            f"function of what the model returns, got {got}"
        )
    return classes.long().cpu().expand(n)


@dataclass(frozen=True)
class _StraightLine:
    """The points at which gradients are taken.

    Attributes:
        baseline: Where the line begins, in the shape of the inputs; None for embeddings of zeros.
        steps: Points on the line.
        batch_size: Examples that run at a time.
    """

    baseline: Tensor | None
    steps: int
    batch_size: int


@dataclass(frozen=True)
class _Explained:
    """A model that is explained.

    Attributes:
        model: A copy, which may change.
        output: Index or key of the prediction.
    """

    model: nn.Module
    output: OutputKey | None

    def outputs(self, batch: Batch, batch_size: int, target: Target | None) -> Tensor:
        """Return what the model says on the CPU: `(examples, classes)`, or one number for each example."""
        n = len(_inputs_of(batch))
        with torch.no_grad():
            parts = [self._said(self._placed(part), target) for _, part in _parts(batch, n, batch_size)]
        return torch.cat(parts).float().cpu()

    def check_embeds(self) -> None:
        """Refuse integers for a model without an embedding, before it fails on them.

        Raises:
            MeasureError: There is no embedding.
        """
        if not any(isinstance(module, nn.Embedding) for module in self.model.modules()):
            raise self._no_embedding()

    def _no_embedding(self) -> MeasureError:
        return MeasureError(
            f"{option('x')} holds integers, but no nn.Embedding of {type(self.model).__name__} reads them as they are: "
            "pass numbers as floats, x.float()"
        )

    def attributions(
        self, batch: Batch, line: _StraightLine, classes: Tensor | None, target: Target | None
    ) -> tuple[Tensor, float]:
        """Return the attributions of all examples on the CPU, and the largest error of their sums."""
        n = len(_inputs_of(batch))
        found, sums, changes = [], [], []
        with progress_bar("explain", n, "example") as advance:
            for at, part in _parts(batch, n, line.batch_size):
                baseline = None if line.baseline is None else line.baseline[at]
                chosen = None if classes is None else classes[at]
                with self._as_variable(self._placed(part), baseline) as variable:
                    values, change = self._integrate(variable, line.steps, chosen, target)
                found.append(values.float().cpu())
                sums.append(values.flatten(1).sum(1) if values.ndim > 1 else values)
                changes.append(change)
                advance(len(values))
        total, change = torch.cat(sums).double().cpu(), torch.cat(changes).double().cpu()
        largest = float(change.abs().max())
        if not any(bool(item.any()) for item in found) and largest:
            raise MeasureError(
                f"no gradient of the output of {type(self.model).__name__} reaches its input: all are zero although "
                "the output changes, so it cannot be explained by gradients"
            )
        return torch.cat(found), float((total - change).abs().max()) / largest if largest else 0.0

    def _placed(self, batch: Batch) -> Batch:
        """The inputs on the device and in the dtype of the model."""
        raw = (dict(batch.kwargs), None) if batch.kwargs else (*batch.args, None)
        return Batches([raw]).first(self.model)

    def _said(self, batch: Batch, target: Target | None) -> Tensor:
        """What the model says for the inputs: `(examples, classes)`, or one number for each example."""
        n = len(_inputs_of(batch))
        result = batch(self.model)
        if callable(target) and not isinstance(target, Tensor):
            return self._of_function(target, result, n)
        said = prediction_of(result, self.output, n)
        if said.shape[:1] == (n,) and said.numel() == n:
            return said.reshape(n)
        if said.ndim != 2 or len(said) != n:
            raise MeasureError(
                f"which output is explained is not clear where {type(self.model).__name__} returns "
                f"{tuple(said.shape)} for {n} examples: pass {option('target=')}, a function from what it returns to "
                "one number for each example, such as lambda said: said[:, -1, 0]"
            )
        return said

    def _of_function(self, target: Callable[[Any], Tensor], result: Any, n: int) -> Tensor:
        try:
            said = target(result)
        except Exception as err:  # the user's own function may raise anything
            raise MeasureError(f"{option('target')} raised {first_line(err)}") from err
        if not isinstance(said, Tensor) or said.numel() != n:
            got = f"shape {tuple(said.shape)}" if isinstance(said, Tensor) else type(said).__name__
            raise MeasureError(
                f"{option('target')} must return a tensor with one number for each of {n} examples, got {got}"
            )
        return said.reshape(n)

    def _integrate(
        self, variable: _Variable, steps: int, classes: Tensor | None, target: Target | None
    ) -> tuple[Tensor, Tensor]:
        """Return the attributions of a batch, and the change of the output from baseline to inputs."""

        def value(share: float) -> tuple[Tensor, Tensor]:
            point = (variable.start + share * (variable.end - variable.start)).detach().requires_grad_(True)
            # A copy, which a model may change in place.
            said = self._said(variable.at(point.clone()), target)
            rows = said if classes is None else said.gather(1, classes.to(said.device)[:, None])[:, 0]
            return point, rows

        total = torch.zeros_like(variable.end)
        parameters = [parameter for parameter in self.model.parameters() if parameter.is_floating_point()]
        # cuDNN cannot run a recurrent layer backward in evaluation mode.
        without_cudnn = torch.backends.cudnn.flags(enabled=False)
        with requiring_grad(parameters, False), torch.enable_grad(), without_cudnn:
            for step in range(steps):
                point, rows = value((step + 0.5) / steps)
                gradient = None
                if rows.requires_grad:
                    gradient = self._gradient(rows, point)
                if gradient is None:
                    raise MeasureError(
                        f"no gradient of the output of {type(self.model).__name__} reaches its input, so it cannot be "
                        "explained by gradients: a step of its forward is not differentiable"
                    )
                total += gradient
        with torch.no_grad():
            change = value(1.0)[1] - value(0.0)[1]
            found = (variable.end - variable.start) * total / steps
        return (found.sum(-1) if variable.is_embedding else found), change

    def _gradient(self, rows: Tensor, point: Tensor) -> Tensor | None:
        try:
            return torch.autograd.grad(rows.sum(), point, allow_unused=True)[0]
        except RuntimeError as err:
            raise MeasureError(
                f"{type(self.model).__name__} cannot be explained by gradients, because its backward raised "
                f"{first_line(err)}"
            ) from err

    @contextmanager
    def _as_variable(self, batch: Batch, baseline: Tensor | None) -> Iterator[_Variable]:
        """Give the inputs of a batch as a variable of the model: themselves, or the embeddings of tokens."""
        inputs = _inputs_of(batch)
        if inputs.is_floating_point():
            start = torch.zeros_like(inputs) if baseline is None else baseline.to(inputs.device, inputs.dtype)
            yield _Variable(start, inputs, lambda point: _with_inputs(batch, inputs, point))
            return
        embedding, end = self._embedded(batch, inputs)
        if baseline is None:
            start = torch.zeros_like(end)
        else:
            with torch.no_grad():
                start = embedding(baseline.to(inputs.device, inputs.dtype))
        replaced: list[Tensor] = []

        def replace_output(_module: nn.Module, args: tuple[Any, ...], result: Tensor) -> Tensor:
            return replaced[-1] if replaced and _reads(args, inputs) else result

        def at(point: Tensor) -> Batch:
            replaced[:] = [point]
            return batch

        handle = embedding.register_forward_hook(replace_output)
        try:
            yield _Variable(start, end, at, is_embedding=True)
        finally:
            handle.remove()

    def _embedded(self, batch: Batch, tokens: Tensor) -> tuple[nn.Module, Tensor]:
        """Return the first embedding layer that reads the tokens, and what it returns for them."""
        found: list[tuple[nn.Module, Tensor]] = []

        def watch(module: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
            if _reads(args, tokens):
                found.append((module, result.detach()))

        layers = [module for module in self.model.modules() if isinstance(module, nn.Embedding)]
        handles = [layer.register_forward_hook(watch) for layer in layers]
        try:
            with torch.no_grad():
                batch(self.model)
        finally:
            for handle in handles:
                handle.remove()
        if not found:
            raise self._no_embedding()
        return found[0]


@dataclass(frozen=True)
class _Variable:
    """What gradients are taken of.

    Attributes:
        start: Its value at the baseline.
        end: Its value at the inputs.
        at: Returns the batch that runs the model at a value.
        is_embedding: Whether the last axis is that of an embedding.
    """

    start: Tensor
    end: Tensor
    at: Callable[[Tensor], Batch]
    is_embedding: bool = False


def _reads(args: tuple[Any, ...], tokens: Tensor) -> bool:
    """Whether a layer was called with the tokens."""
    return bool(args) and isinstance(args[0], Tensor) and args[0].shape == tokens.shape and torch.equal(args[0], tokens)


def _with_inputs(batch: Batch, inputs: Tensor, point: Tensor) -> Batch:
    return batch.mapped(lambda item: point if item is inputs else item)


def _rank_correlations(before: Tensor, after: Tensor) -> Tensor:
    """Spearman's rank correlation for each example; equal values have the mean of their ranks."""
    ranks = [rankdata(item.reshape(len(item), -1).double().numpy(), axis=1) for item in (before, after)]
    first, second = (item - item.mean(1, keepdims=True) for item in ranks)
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    products = (first * second).sum(1)
    known = np.divide(products, scale, out=np.full(len(scale), np.nan), where=scale > 0)
    return torch.from_numpy(np.clip(known, -1, 1)).float()


__all__ = ["ROW_HEADER", "Explanation", "Target", "explain"]
