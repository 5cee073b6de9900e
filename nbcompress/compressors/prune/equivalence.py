"""Check that a cut model computes what the original computes without the removed channels.

`EquivalenceCheck` compares the cut model with the masked model: the original in which every slice of a parameter that
belongs to a removed channel is zero. Both compute the same function by algebra, so their outputs must agree: on the
example and on a second input (a larger batch if the first dimension is a batch, and other values), with the weights of
the model and with perturbed weights. Weights that are zero, as in a residual branch at initialisation, could hide a
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from nbcompress.compressors.buffers import share_buffers_, shared_buffers
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
_NORMS = ("layer_norm", "rms_norm", "group_norm")


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
    # Weights have the last dimensions of the input; those of a group norm have the channel dimension only.
    along = {-1: next(iter(kept.values()))} if name == "group_norm" else kept
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


@dataclass(frozen=True)
class EquivalenceCheck:
    """Compares the cut model of a plan with the masked model.

    Attributes:
        original: The model, in evaluation mode.
        inputs: The inputs that the models run on.
        tolerances: The relative tolerance of an output and of the median output: with the weights of the model, and
            with perturbed weights if it runs with them.
        can_train: The model runs on the first input in training mode, so the cut model must as well.
        graphs: For each input, the model's graph and its averages, if averages may lose channels; else empty.
    """

    original: nn.Module
    inputs: tuple[Inputs, ...]
    tolerances: tuple[float, ...]
    can_train: bool
    graphs: tuple[tuple[Trace, tuple[AveragingCall, ...]], ...] = ()

    def objection(self, plan: RemovalPlan) -> str | None:
        """Return why `plan` is not valid; None if it is."""
        for variant, tolerance, indices in self.variants():
            if variant is self.original:
                problem = self._problem(variant, tolerance, indices, plan)
            else:
                problem = self._problem_in_place(variant, tolerance, indices, plan)
                if problem:
                    # What the masked model kept of its call may have been in the way.
                    problem = self._problem(_perturbed(self.original), tolerance, indices, plan)
            if problem:
                return problem
        if self.can_train:
            cut = copied(self.original)
            cut_(cut, plan)
            recompute_shapes_(cut)
            try:
                run(cut.train(), self.inputs[0])
            except Exception as err:  # noqa: BLE001 - as above
                return f"the cut model fails in training mode: {first_line(err)}"
        return None

    def _problem(self, model: nn.Module, tolerance: float, indices: Sequence[int], plan: RemovalPlan) -> str | None:
        """Compare a cut copy of `model` with a masked one; one copy at a time is held."""
        cut = copied(model)
        cut_(cut, plan)
        try:
            recompute_shapes_(cut)
            outputs = [run(cut, self.inputs[index]) for index in indices]
        except CompressionError as err:
            return str(err)
        except Exception as err:  # noqa: BLE001 - the user's code may raise anything on new shapes
            return f"the cut model fails: {first_line(err)}"
        del cut
        masked = copied(model)
        mask_(masked, plan)
        for index, actual in zip(indices, outputs, strict=True):
            problem = difference(self._run_masked(masked, index, plan), actual, tolerance)
            if problem:
                return problem
        return None

    def _problem_in_place(
        self, model: nn.Module, tolerance: float, indices: Sequence[int], plan: RemovalPlan
    ) -> str | None:
        """Mask `model`, run it, cut it, and run it again. No copy is made."""
        mask_(model, plan)
        expected = [self._run_masked(model, index, plan) for index in indices]
        cut_(model, plan)
        try:
            recompute_shapes_(model)
            problems = [
                difference(before, run(model, self.inputs[index]), tolerance)
                for index, before in zip(indices, expected, strict=True)
            ]
        except Exception as err:  # noqa: BLE001 - as above
            return f"the cut model fails: {first_line(err)}"
        return next(filter(None, problems), None)

    def _run_masked(self, masked: nn.Module, index: int, plan: RemovalPlan) -> Any:
        reference = MaskedReference(masked, *self.graphs[index], plan) if plan.averages else masked
        return run(reference, self.inputs[index])

    def variants(self) -> Iterator[tuple[nn.Module, float, Sequence[int]]]:
        """Yield the model, then a copy with perturbed weights, each with its tolerance and the inputs to compare on.

        The copy belongs to the caller. Perturbed weights find mistakes in structure, for which the larger input is
        enough.
        """
        indices = range(len(self.inputs))
        yield self.original, self.tolerances[0], indices
        if len(self.tolerances) > 1:
            yield _perturbed(self.original), self.tolerances[1], indices[-1:]

    def with_averages(self, model: nn.Module, first: tuple[Trace, tuple[AveragingCall, ...]]) -> EquivalenceCheck:
        """Return a check that also accepts plans that remove channels which the model averages over.

        Args:
            model: The original, with attention that can lose heads.
            first: Its graph on the first input, and the averages of this graph.

        Raises:
            CompressionError: A graph does not compute the outputs of the model.
        """
        graphs = [first]
        for inputs in self.inputs[1:]:
            traced = trace(model, inputs)
            graphs.append((traced, find_dependencies(model, traced, cut_norms=True).averages))
        original = _without_nested_tensors(self.original)
        for graph, inputs in zip(graphs, self.inputs, strict=True):
            unmasked = MaskedReference(original, *graph, RemovalPlan({}))
            if difference(run(original, inputs), run(unmasked, inputs), self.tolerances[0]):
                raise CompressionError(
                    f"{option('norms', 'cut')} is checked along the graph of the model, but this graph does not "
                    f"compute what the model computes: use {option('norms', 'keep')}"
                )
        return replace(self, original=original, graphs=tuple(graphs))


def equivalence_check(model: nn.Module, inputs: Inputs) -> EquivalenceCheck:
    """Prepare the check of plans for `model`, which does not change.

    Raises:
        DataError: The model does not run on `inputs`.
    """
    original, first = _in_double_precision(model, inputs)
    try:
        result = run(original, first)
    except Exception:  # noqa: BLE001 - code that needs a precision or a device may raise anything
        original, first = copied(model).eval(), inputs
        try:
            result = run(original, first)
        except Exception as err:
            raise DataError(f"the model does not run on the example: {first_line(err)}") from err
    floats = [parameter.dtype for parameter in original.parameters() if parameter.is_floating_point()]
    smallest = max((TOLERANCES.get(dtype, 1e-3) for dtype in floats), default=1e-5)
    tolerances = [_tolerance_(copied(original), first, result, smallest)]
    del result
    perturbed = _perturbed(original)
    try:
        result = run(perturbed, first)
    except Exception:  # noqa: BLE001 - the user's code may refuse the weights
        result = None
    if result is not None and _is_finite(result):
        tolerances.append(_tolerance_(perturbed, first, result, smallest))
    del perturbed, result
    second = (inputs for inputs in _second_inputs(first) if _runs(original, inputs))
    can_train = _runs(copied(original).train(), first)
    return EquivalenceCheck(original, (first, *islice(second, 1)), tuple(tolerances), can_train)


@torch.no_grad()
def _tolerance_(model: nn.Module, inputs: Inputs, result: Any, smallest: float) -> float:
    """Round the weights of a model to single precision, in place, and return ten times the change of its outputs.

    The change is relative, and at least `smallest` is returned.

    Args:
        model: In double precision.
        inputs: The inputs of the model.
        result: Its outputs on them.
        smallest: The tolerance of the precision that the model computes in.
    """
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


def _in_double_precision(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """Copies on the CPU in double precision; complex tensors become complex128."""

    def converted(value: Any) -> Any:
        return _to_double(value.detach().to("cpu")) if isinstance(value, Tensor) else value

    double, shared = copied(model).eval(), shared_buffers(model)
    # `model.double()` would fail on complex tensors.
    double.to("cpu")._apply(_to_double)  # type: ignore[no-untyped-call]
    share_buffers_(double, shared)
    return double, _map_tensors(inputs, converted)


def _to_double(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _map_tensors(inputs: Inputs, change: Any) -> Inputs:
    args, kwargs = pytree.tree_map(change, (inputs.args, dict(inputs.kwargs)))
    return Inputs(args, kwargs)


@torch.no_grad()
def _perturbed(model: nn.Module) -> nn.Module:
    """A copy with other weights, none of them zero, whose matrices keep the size of activations.

    Very small initial weights, as in transformers, would make all attention scores equal, and then a wrong divisor of
    the scores would not show.
    """
    perturbed = copied(model)
    generator = torch.Generator("cpu").manual_seed(0)
    for parameter in perturbed.parameters():
        if parameter.is_floating_point() and parameter.numel():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32, device="cpu").to(parameter)
            size = float(parameter.float().square().mean().sqrt())
            new_size = max(size, 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.0) or 0.3
            is_positive = bool((parameter > 0).all())
            parameter.mul_(new_size / size if size > 0 else 1.0).add_(0.3 * new_size * noise)
            if is_positive:
                # Some parameters must stay positive, such as variances in Keras.
                parameter.abs_()
    return perturbed


def _without_nested_tensors(model: nn.Module) -> nn.Module:
    """A copy in which torch's encoder computes values at padded positions, as it does when it is traced.

    Otherwise it packs sequences of several lengths into nested tensors, and returns zeros at padded positions.
    """
    copy = copied(model)
    for module in copy.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return copy


def _second_inputs(inputs: Inputs) -> list[Inputs]:
    """Second inputs to try: a larger batch with other values first, then other values only."""
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
    joined = [
        torch.cat([a, b]) if isinstance(a, Tensor) and a.ndim else a
        for a, b in zip(leaves, changed_leaves, strict=True)
    ]
    args, kwargs = pytree.tree_unflatten(joined, spec)
    return [Inputs(args, kwargs), other_values]
