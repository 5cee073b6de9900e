"""Check that a cut model computes what the original computes without the removed channels.

`EquivalenceCheck` compares the cut model with the masked model: the original in which every slice of a parameter that
belongs to a removed channel is zero. Both compute the same function by algebra, so their outputs must agree: with the
weights of the model on a second input (a larger batch if the first dimension is a batch, and other values), and with
perturbed weights on the example. Weights that are zero, as in a residual branch at initialisation, could hide a
mistake, so no perturbed weight is zero.

The comparison runs on CPU copies in double precision, so that the tolerance can be tight: an output may differ by 1e-5
of its own size or of the median output. Code that computes in single precision inside needs a larger tolerance: ten
times the change of the original's outputs when its weights are rounded to single precision. A model that cannot run in
double precision is compared on its own device, with the tolerance of its own precision.

A norm averages over all channels of its input, and a masked channel of zeros counts there. `MaskedReference` is the
masked model whose averages leave out the removed channels. It runs the traced graph operator by operator. A call that
averages over removed channels gets the kept part of its input and weights; if it returns a value for each channel, the
removed ones get zero. All other calls run at full width, so nothing of the cut model is used.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from nbcompress.compressors.attention import convert_all_attention_
from nbcompress.compressors.buffers import share_buffers_, shared_buffers
from nbcompress.compressors.copying import release_memory
from nbcompress.compressors.coupling import (
    AveragingCall,
    Trace,
    find_dependencies,
    named_tensors,
    tensors_of,
    trace,
)
from nbcompress.compressors.inputs import Inputs
from nbcompress.compressors.keras import recompute_shapes_
from nbcompress.compressors.layers import copied
from nbcompress.compressors.modes import seeded
from nbcompress.compressors.prune.cutting import RemovalPlan, cut_, mask_
from nbcompress.errors import CompressionError, DataError, first_line, option

# The indices that are kept, by dimension counted from the last.
Kept = Mapping[int, list[int]]


class MaskedReference(nn.Module):
    """A masked model whose averages leave out the removed channels.

    Args:
        masked: The masked model, with the parameters and buffers of the traced model.
        traced: Its graph. The inputs of a call must have the shapes of the traced inputs.
        averages: The averages of the graph.
        plan: Names the removed channels.
    """

    def __init__(
        self, masked: nn.Module, traced: Trace, averages: tuple[AveragingCall, ...], plan: RemovalPlan
    ) -> None:
        super().__init__()
        self.masked, self.traced = masked, traced
        self.kept: dict[fx.Node, dict[int, list[int]]] = {}
        for average in averages:
            indices = average.kept(plan.removed)
            if len(indices) < len(average.sources):
                self.kept.setdefault(average.node, {})[average.dim] = indices

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Return the output tensors of the model, in the order of `tensors_of`."""
        tensors = named_tensors(self.masked)
        given = dict(zip(self.traced.inputs, pytree.tree_leaves((args, kwargs)), strict=True))
        given |= {node: tensors[name] for node, name in self.traced.tensors.items()} | dict(self.traced.constants)
        graph = self.traced.graph
        values = [given.get(node) for node in graph.find_nodes(op="placeholder")]
        return list(_ReferenceInterpreter(cast(fx.GraphModule, graph.owning_module), self.kept).run(*values))


class _ReferenceInterpreter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, kept: Mapping[fx.Node, Kept]) -> None:
        super().__init__(module)
        self._kept = kept

    def run_node(self, n: fx.Node) -> Any:
        """Run one call; an average over removed channels runs on the kept part of its input."""
        if n not in self._kept:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return _call_on_kept(cast(torch._ops.OpOverload, n.target), args, kwargs, self._kept[n])

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run one call. The calls inside of subgraphs, such as code under `torch.no_grad()`, are run here too."""
        operands: list[Any] = [
            _ReferenceInterpreter(arg, self._kept).run if isinstance(arg, fx.GraphModule) else arg for arg in args
        ]
        return super().call_function(target, tuple(operands), kwargs)


# Operators that return a value for each channel; the other averages return one for all channels.
_NORMS = ("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm")


def _call_on_kept(target: torch._ops.OpOverload, args: Any, kwargs: Any, kept: Kept) -> Any:
    """Call `target` on the kept part of its input."""
    schema = target._schema
    names = [argument.name for argument in schema.arguments]
    given: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
    x: Tensor = given[names[0]]
    given[names[0]] = _select_kept(x, kept)
    name = schema.name.split("::")[-1]
    if name not in _NORMS:
        return target(**given)
    # Weights have the last dimensions of the input; those of a group norm have the channel dimension only. A batch norm
    # averages over other dimensions than that of its weights.
    along = {"group_norm": {-1: next(iter(kept.values()))}, "batch_norm": {}, "instance_norm": {}}.get(name, kept)
    given |= {name: _select_kept(given[name], along) for name in ("weight", "bias") if given.get(name) is not None}
    if "normalized_shape" in given:
        given["normalized_shape"] = list(given[names[0]].shape[-len(given["normalized_shape"]) :])
    return _scatter_kept(target(**given), x, kept)


def _select_kept(x: Tensor, kept: Kept) -> Tensor:
    for dim, indices in kept.items():
        x = x.index_select(dim, torch.tensor(indices, device=x.device))
    return x


def _scatter_kept(part: Tensor, x: Tensor, kept: Kept) -> Tensor:
    """A tensor of the shape of `x` with `part` at the kept indices, and zeros elsewhere."""
    shape = list(part.shape)
    for dim, indices in kept.items():
        shape[dim] = x.shape[dim]
        part = part.new_zeros(shape).index_copy(dim, torch.tensor(indices, device=x.device), part)
    return part


TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


class EquivalenceCheck:
    """Compares changed copies of a model with reference models.

    Copies are made when they are needed, and one is held at a time, because each takes twice the memory of a model in
    single precision. The outputs of a reference are kept until the next plan removes something else.

    Args:
        model: The user's model, which does not change.
        inputs: The inputs of the example, on the device and in the precision of the copies.
        is_double: Copies are on the CPU in double precision; else they are as the model.
        tolerance: The relative tolerance of the precision that the model computes in.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, *, is_double: bool, tolerance: float) -> None:
        self._model, self._is_double, self._tolerance = model, is_double, tolerance
        self._is_unpacked = False
        self._latest: weakref.ref[nn.Module] | None = None
        # The first input, and the one that differs from it most and that the model runs on; None if not known yet.
        self.inputs = [inputs, *_second_inputs(inputs)]
        self._last: int | None = None
        # For each input, the model's graph and its averages, if averages may lose channels.
        self._graphs: dict[int, tuple[Trace, tuple[AveragingCall, ...]]] = {}
        self._wide: dict[bool, float] = {}
        self._can_perturb: bool | None = None
        self._can_train: bool | None = None
        self._references: tuple[object, dict[tuple[bool, int], Any]] = (None, {})

    def fresh(self, *, perturbed: bool = False) -> nn.Module:
        """Return a new copy of the model in evaluation mode, in the precision of the check."""
        # A model that holds itself is freed by the collector only, which takes long.
        release_memory(self._model, collect=self._latest is not None and self._latest() is not None)
        model = _in_double_precision(self._model) if self._is_double else copied(self._model).eval()
        self._latest = weakref.ref(model)
        if self._is_unpacked:
            _without_nested_tensors_(model)
        if perturbed:
            _perturb_(model)
        return model

    def without_nested_tensors_(self) -> None:
        """Let torch's encoder compute values at padded positions in all further copies, as when it is traced.

        Otherwise it packs sequences of several lengths into nested tensors, and returns zeros at padded positions.
        """
        self._is_unpacked = True

    def objection(self, plan: RemovalPlan) -> str | None:
        """Return why `plan` is not valid; None if it is."""

        def cut(model: nn.Module) -> None:
            cut_(model, plan)
            recompute_shapes_(model)

        def masked(model: nn.Module, index: int) -> Any:
            mask_(model, plan)
            reference = MaskedReference(model, *self._graphs[index], plan) if plan.averages else model
            return run(reference, self.inputs[index])

        return self.compare(cut, masked, (plan.removed, plan.averages))

    def compare(
        self, change_: Callable[[nn.Module], object], reference: Callable[[nn.Module, int], Any], key: object
    ) -> str | None:
        """Return how a changed model differs from its reference; None if they agree.

        Both run with the weights of the model on the last input, and with perturbed weights on the first one. The
        changed model must also run in training mode if the model does.

        Args:
            change_: Changes a copy of the model, in place.
            reference: Returns the outputs of the reference on an input, from a copy that it may change.
            key: Equal keys stand for equal references.
        """
        if self._references[0] != key:
            self._references = key, {}
        cases = self._cases(reference)
        return next(filter(None, (self._problem(change_, perturbed, index) for perturbed, index in cases)), None)

    def _problem(self, change_: Callable[[nn.Module], object], perturbed: bool, index: int) -> str | None:
        """How a changed copy differs from the reference, which has run."""
        expected = self._references[1][perturbed, index]
        if isinstance(expected, _Failure):
            return f"the masked model fails: {expected.text}"
        cut = self.fresh(perturbed=perturbed)
        try:
            change_(cut)
            actual = run(cut, self.inputs[index])
        except CompressionError as err:
            return str(err)
        except Exception as err:  # noqa: BLE001 - the user's code may raise anything on new shapes
            return f"the cut model fails: {first_line(err)}"
        problem = None if perturbed else self._training_problem(cut, change_)
        # The tolerance may need a copy of its own.
        del cut
        return self._difference(expected, actual, perturbed=perturbed) or problem

    def _cases(self, reference: Callable[[nn.Module, int], Any]) -> Iterator[tuple[bool, int]]:
        """Yield the weights and the input of each comparison, when its reference has run."""
        last = self._last_input(lambda index: not isinstance(self._reference(reference, False, index), _Failure))
        self._reference(reference, False, last)
        yield False, last
        expected = self._reference(reference, True, 0)
        if (isinstance(expected, _Failure) or not _is_finite(expected)) and not self._runs_perturbed():
            # The user's code refuses other weights.
            self._reference(reference, False, 0)
            yield from [(False, 0)] if last else []
        else:
            yield True, 0

    def _last_input(self, is_valid: Callable[[int], bool]) -> int:
        if self._last is None:
            self._last = next((index for index in range(1, len(self.inputs)) if is_valid(index)), 0)
        return self._last

    def _reference(self, reference: Callable[[nn.Module, int], Any], perturbed: bool, index: int) -> Any:
        """The outputs of a reference, or its error."""
        known = self._references[1]
        if (perturbed, index) not in known:
            try:
                known[perturbed, index] = reference(self.fresh(perturbed=perturbed), index)
            except Exception as err:  # noqa: BLE001 - as above
                known[perturbed, index] = _Failure(first_line(err))
        return known[perturbed, index]

    def _runs_perturbed(self) -> bool:
        """Whether the model gives finite numbers with other weights."""
        if self._can_perturb is None:
            try:
                self._can_perturb = _is_finite(run(self.fresh(perturbed=True), self.inputs[0]))
            except Exception:  # noqa: BLE001 - the user's code may refuse the weights
                self._can_perturb = False
        return self._can_perturb

    def _difference(self, expected: Any, actual: Any, *, perturbed: bool) -> str | None:
        """How two results differ. The tolerance is widened for code that computes in single precision."""
        problem = difference(expected, actual, self._tolerance)
        if problem is None or not self._is_double:
            return problem
        if perturbed not in self._wide:
            self._wide[perturbed] = _tolerance_(self.fresh(perturbed=perturbed), self.inputs[0], self._tolerance)
        return difference(expected, actual, self._wide[perturbed])

    def _training_problem(self, cut: nn.Module, change_: Callable[[nn.Module], object]) -> str | None:
        """Why a changed model, which has run, cannot be trained though the model can."""
        if _runs(cut.train(), self.inputs[0]):
            return None
        if self._can_train is None:
            self._can_train = _runs(self.fresh().train(), self.inputs[0])
        if not self._can_train:
            return None
        # What the cut model kept of its first call may have been in the way.
        cut = self.fresh().train()
        try:
            change_(cut)
            run(cut, self.inputs[0])
        except Exception as err:  # noqa: BLE001 - as above
            return f"the cut model fails in training mode: {first_line(err)}"
        return None

    def follow_averages_(self, first: Trace, averages: tuple[AveragingCall, ...]) -> None:
        """From now on, accept plans that remove channels which the model averages over.

        Args:
            first: The graph of the model on the first input, with attention that can lose heads.
            averages: The averages of this graph.

        Raises:
            CompressionError: A graph does not compute the outputs of the model.
        """
        self.without_nested_tensors_()
        last = self._last_input(lambda index: _runs(self.fresh(), self.inputs[index]))
        self._graphs[0] = first, averages
        if last:
            model = self.fresh()
            convert_all_attention_(model)
            traced = trace(model, self.inputs[last])
            self._graphs[last] = traced, find_dependencies(model, traced, cut_norms=True).averages
        original = self.fresh()
        for index, graph in self._graphs.items():
            unmasked = MaskedReference(original, *graph, RemovalPlan({}))
            if difference(run(original, self.inputs[index]), run(unmasked, self.inputs[index]), self._tolerance):
                raise CompressionError(
                    f"{option('norms', 'cut')} is checked along the graph of the model, but this graph does not "
                    f"compute what the model computes: use {option('norms', 'keep')}"
                )


@dataclass(frozen=True)
class _Failure:
    """The error of a model that did not run."""

    text: str


def equivalence_check(model: nn.Module, inputs: Inputs) -> tuple[EquivalenceCheck, nn.Module]:
    """Return the check of plans for `model`, which does not change, and a copy of it that has run on the example.

    Raises:
        DataError: The model does not run on `inputs`, or an output has no elements.
    """
    original, first, is_double = _in_double_precision(model), _map_tensors(inputs, _to_double_on_cpu), True
    try:
        result = run(original, first)
    except Exception:  # noqa: BLE001 - code that needs a precision or a device may raise anything
        original, first, is_double = copied(model).eval(), inputs, False
        try:
            result = run(original, first)
        except Exception as err:
            raise DataError(f"the model does not run on the example: {first_line(err)}") from err
    if tensors_of(result) and not any(tensor.numel() for tensor in tensors_of(result)):
        raise DataError("the outputs of the model on the example have no elements, so nothing can be compared")
    floats = [parameter.dtype for parameter in original.parameters() if parameter.is_floating_point()]
    tolerance = max((TOLERANCES.get(dtype, 1e-3) for dtype in floats), default=1e-5)
    return EquivalenceCheck(model, first, is_double=is_double, tolerance=tolerance), original


@torch.no_grad()
def _tolerance_(model: nn.Module, inputs: Inputs, smallest: float) -> float:
    """Round the weights of a model to single precision, in place, and return ten times the change of its outputs.

    The change is relative, and at least `smallest` is returned.

    Args:
        model: In double precision.
        inputs: The inputs of the model.
        smallest: The tolerance of the precision that the model computes in.
    """
    result = run(model, inputs)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.copy_(parameter.float())
    pairs = zip(tensors_of(result), tensors_of(run(model, inputs)), strict=True)
    changes = [_relative_difference(a, b) for a, b in pairs if a.is_floating_point() and a.shape == b.shape]
    return max(smallest, min(1e-3, 10 * max(changes, default=0.0)))


@torch.no_grad()
def run(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model without gradients, with the same random numbers each time, and put the random state back.

    Warnings are silenced, because they would be repeated in every comparison.
    """
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return inputs(model)


def _runs(model: nn.Module, inputs: Inputs) -> bool:
    try:
        run(model, inputs)
    except Exception:  # noqa: BLE001 - the model does not run, whatever was raised
        return False
    return True


def _is_finite(result: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors_of(result) if tensor.is_floating_point())


def difference(expected: Any, actual: Any, tolerance: float) -> str | None:
    """Return how two results of a model differ, in a sentence; None if they agree."""
    wanted, found = tensors_of(expected), tensors_of(actual)
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (wanted, found)]
    if shapes[0] != shapes[1]:
        before, after = (" and ".join(map(str, side)) for side in shapes)
        return f"outputs change their shape, from {before} to {after}"
    for a, b in zip(wanted, found, strict=True):
        if not (a.is_floating_point() or a.is_complex()):
            if not torch.equal(a, b):
                return "outputs differ from those of the masked model"
            continue
        scale = _median_size(a)
        if not torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
            n_bad = int((~torch.isfinite(a)).sum())
            if n_bad:
                return (
                    f"{n_bad} of {a.numel()} outputs of the masked model are NaN or infinite, so none can be compared"
                )
            n_bad = int((~torch.isfinite(b)).sum())
            if n_bad:
                return f"{n_bad} of {b.numel()} outputs of the cut model are NaN or infinite, unlike the masked model's"
            size = f"{_relative_difference(a, b):.2g}"
            return f"outputs differ from those of the masked model, by {size} of their median size"
    return None


def _relative_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors, relative to the median size of the first."""
    return float((a - b).abs().nan_to_num(0.0).max()) / _median_size(a) if a.numel() else 0.0


def _median_size(values: Tensor) -> float:
    """The median absolute value that is not zero; unlike the largest, it does not grow with a mask of -1e9."""
    sizes = values.detach().abs().flatten()
    sizes = sizes[(sizes > 0) & torch.isfinite(sizes)]
    return float(sizes.to(torch.float64).median()) if sizes.numel() else 1e-30


def _in_double_precision(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode on the CPU, in double precision; complex tensors become complex128."""
    double, shared = copied(model).eval(), shared_buffers(model)
    # `model.double()` would fail on complex tensors.
    double.to("cpu")._apply(_to_double)  # type: ignore[no-untyped-call]
    share_buffers_(double, shared)
    return double


def _to_double(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _to_double_on_cpu(value: Any) -> Any:
    return _to_double(value.detach().to("cpu")) if isinstance(value, Tensor) else value


def _map_tensors(inputs: Inputs, change: Any) -> Inputs:
    args, kwargs = pytree.tree_map(change, (inputs.args, dict(inputs.kwargs)))
    return Inputs(args, kwargs)


# A prime, so that the rows of a weight get different numbers.
_N_NOISE = 65_537


@torch.no_grad()
def _perturb_(model: nn.Module) -> None:
    """Change all weights in place so that none is zero, and matrices keep the size of activations.

    Very small initial weights, as in transformers, would make all attention scores equal, and then a wrong divisor of
    the scores would not show.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.numel():
            values = parameter.data.contiguous().view(-1)
            wide = values if values.element_size() >= 4 else values.float()
            size = float(torch.linalg.vector_norm(wide)) / math.sqrt(len(values))
            new_size = max(size, 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.0) or 0.3
            is_positive = bool(values.min() > 0)
            values.mul_(new_size / size if size > 0 else 1.0)
            # The noise repeats, so that no tensor as large as the weights is made.
            n_noise = min(len(values), _N_NOISE)
            noise = torch.randn(n_noise, generator=generator, dtype=torch.float32, device="cpu").to(values)
            for part in torch.split(values, n_noise):
                part.add_(noise[: len(part)], alpha=0.3 * new_size)
            if is_positive:
                # Some parameters must stay positive, such as variances in Keras.
                values.abs_()
            if not parameter.is_contiguous():
                parameter.copy_(values.view(parameter.shape))


def _without_nested_tensors_(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def _second_inputs(inputs: Inputs) -> list[Inputs]:
    """Second inputs to try, the first that the model runs on is taken: one row more, twice the rows, other values only.

    The larger batches have other values, too.
    """
    generator = torch.Generator("cpu").manual_seed(1)

    def changed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float32, device="cpu")
            return value + 0.5 * noise.to(value)
        return value.flip(0) if value.ndim else value

    other_values = _map_tensors(inputs, changed)
    leaves, spec = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
    lengths = {len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim}
    if len(lengths) != 1:
        return [other_values]
    changed_leaves = pytree.tree_leaves(
        (other_values.args, dict(other_values.kwargs)), is_leaf=lambda value: value is None
    )
    batches = []
    for n_first in (1, None):
        joined = [
            torch.cat([a[:n_first], b]) if isinstance(a, Tensor) and a.ndim else a
            for a, b in zip(leaves, changed_leaves, strict=True)
        ]
        args, kwargs = pytree.tree_unflatten(joined, spec)
        batches.append(Inputs(args, kwargs))
    return [*(batches if lengths != {1} else batches[:1]), other_values]
