"""Does the cut model do what the model did without these channels?

The model is compared with a *masked* one: the original, in which every slice of a parameter that belongs to a removed
channel is zero, and whose averages leave such channels out (see `reference`; without that, nothing is cut that is
averaged over). By algebra both compute the same, so their outputs must agree: on the example, on a second input
(another batch size if the first dimension is a batch, other values), with the model's weights and with shaken ones,
since weights at zero, as in a residual branch that begins at nothing, would hide a mistake.

Copies on the CPU in double precision make the tolerance tight: an output may differ by 1e-5 of itself or of the
median output. Code that computes in single precision inside needs more room: then it is ten times what the original's
outputs change by when its weights are rounded to single precision. A model that cannot run in double precision is
compared where it is, with the tolerance of its own precision.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nbcompress.compress.buffers import share_buffers_, shared_buffers
from nbcompress.compress.coupling import Average, Inputs, Trace, couple, first_line, tensors_of, trace
from nbcompress.compress.keras_layers import restate_
from nbcompress.compress.layers import copied
from nbcompress.compress.prune.cutting import Plan, cut_, mask_
from nbcompress.compress.prune.reference import AveragesOverKept
from nbcompress.errors import CompressionError, DataError

TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Check:
    """Compares cut with masked models.

    Attributes:
        originals: The model with its own weights, and with shaken ones, in evaluation mode.
        inputs: What they all run on.
        tolerances: For each original, as a share of an output, and of the median one.
        can_train: The model runs on the first input in training mode, so a cut one must too.
        graphs: For each input the model's graph and its averages, if what is averaged over may be cut.
    """

    originals: tuple[nn.Module, ...]
    inputs: tuple[Inputs, ...]
    tolerances: tuple[float, ...]
    can_train: bool
    graphs: tuple[tuple[Trace, tuple[Average, ...]], ...] = ()

    def objection(self, plan: Plan) -> str | None:
        """Why `plan` must not be carried out; None if all is well."""
        for original, tolerance in zip(self.originals, self.tolerances, strict=True):
            cut = copied(original)
            cut_(cut, plan)
            try:
                restate_(cut)
            except CompressionError as err:
                return str(err)
            masked = copied(original)
            mask_(masked, plan)
            # For the shaken weights, which only look for mistakes in structure, the larger input is enough.
            numbers = range(len(self.inputs))
            for number in numbers if original is self.originals[0] else numbers[-1:]:
                inputs = self.inputs[number]
                try:
                    got = run(cut, inputs)
                except Exception as err:  # noqa: BLE001 - the user's code may raise anything on new shapes
                    return f"the cut model fails: {first_line(err)}"
                wanted = AveragesOverKept(masked, *self.graphs[number], plan) if plan.averages else masked
                problem = difference(run(wanted, inputs), got, tolerance)
                if problem:
                    return problem
        if self.can_train:
            cut = copied(self.originals[0])
            cut_(cut, plan)
            restate_(cut)
            try:
                run(cut.train(), self.inputs[0])
            except Exception as err:  # noqa: BLE001 - as above
                return f"the cut model fails in training mode: {first_line(err)}"
        return None

    def with_averages(self, model: nn.Module, first: tuple[Trace, tuple[Average, ...]]) -> Check:
        """The same comparison, which can also judge plans that remove what the model averages over.

        Args:
            model: The first of the originals, with heads that can go.
            first: Its graph on the first input, and the averages of this graph.

        Raises:
            CompressionError: A graph does not compute what the model computes.
        """
        graphs = [first]
        for inputs in self.inputs[1:]:
            traced = trace(model, inputs)
            graphs.append((traced, couple(model, traced, norms=True).averages))
        originals = tuple(_padded(one) for one in self.originals)
        for graph, inputs in zip(graphs, self.inputs, strict=True):
            followed = AveragesOverKept(originals[0], *graph, Plan({}))
            if difference(run(originals[0], inputs), run(followed, inputs), self.tolerances[0]):
                raise CompressionError(
                    "norms='cut' is checked along the graph of the model, but this graph does not compute what the "
                    "model computes: use norms='keep'"
                )
        return replace(self, originals=originals, graphs=tuple(graphs))


def check_of(model: nn.Module, inputs: Inputs) -> Check:
    """Prepare the comparison for `model`, which stays as it is.

    Raises:
        DataError: The model does not run on `inputs`.
    """
    original, first = _double(model, inputs)
    try:
        run(original, first)
    except Exception:  # noqa: BLE001 - code that insists on a precision or a device raises anything
        original, first = copied(model).eval(), inputs
        try:
            run(original, first)
        except Exception as err:
            raise DataError(f"the model does not run on the example: {first_line(err)}") from err
    floats = [one.dtype for one in original.parameters() if one.is_floating_point()]
    least = max((TOLERANCES.get(dtype, 1e-3) for dtype in floats), default=1e-5)
    shaken = _shaken(original)
    originals = tuple(one for one in (original, shaken) if one is original or _runs(one, first, finite=True))
    seconds = (one for one in _others(first) if _runs(original, one))
    can_train = _runs(copied(original).train(), first)
    tolerances = tuple(max(least, min(1e-3, 10 * _rounding(one, first))) for one in originals)
    return Check(originals, (first, *islice(seconds, 1)), tolerances, can_train)


@torch.no_grad()
def _rounding(model: nn.Module, inputs: Inputs) -> float:
    """By how much the outputs of a model in double precision change when its weights are rounded to single."""
    rounded = copied(model)
    for parameter in rounded.parameters():
        if parameter.is_floating_point():
            parameter.copy_(parameter.float())
    pairs = zip(tensors_of(run(model, inputs)), tensors_of(run(rounded, inputs)), strict=True)
    shares = [_share(a, b) for a, b in pairs if a.is_floating_point() and a.shape == b.shape]
    return max(shares, default=0.0)


@torch.no_grad()
def run(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model without a trace in gradients or in the state of random numbers, which start equal each time.

    What it warns of concerns its own code, and would be repeated for every comparison.
    """
    with _same_random_numbers(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return inputs(model)


@contextmanager
def _same_random_numbers(model: nn.Module) -> Iterator[None]:
    devices = {one.device.index or 0 for one in model.parameters() if one.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        torch.manual_seed(0)
        yield


def _runs(model: nn.Module, inputs: Inputs, *, finite: bool = False) -> bool:
    try:
        result = run(model, inputs)
    except Exception:  # noqa: BLE001 - the answer is no, whatever was raised
        return False
    return not finite or all(bool(torch.isfinite(one).all()) for one in tensors_of(result) if one.is_floating_point())


def difference(expected: Any, got: Any, tolerance: float) -> str | None:
    """How two results of a model differ, in a sentence; None if they agree."""
    wanted, found = tensors_of(expected), tensors_of(got)
    if [tuple(one.shape) for one in wanted] != [tuple(one.shape) for one in found]:
        shapes = [" and ".join(str(tuple(one.shape)) for one in side) for side in (wanted, found)]
        return f"outputs change their shape, from {shapes[0]} to {shapes[1]}"
    for a, b in zip(wanted, found, strict=True):
        if not (a.is_floating_point() or a.is_complex()):
            if not torch.equal(a, b):
                return "outputs differ from those of the masked model"
            continue
        scale = _scale(a)
        if not torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
            n_bad = int((~torch.isfinite(a)).sum())
            if n_bad:
                return (
                    f"{n_bad} of {a.numel()} outputs of the masked model are NaN or infinite, so none can be compared"
                )
            return f"outputs differ from those of the masked model, by {_share(a, b):.2g} of their usual size"
    return None


def _share(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors, as a share of the usual size of the first."""
    return float((a - b).abs().nan_to_num(0.0).max()) / _scale(a) if a.numel() else 0.0


def _scale(values: Tensor) -> float:
    """The median size of what is not zero: unlike the largest, it does not hide errors behind a mask of -1e9."""
    sizes = values.detach().abs().flatten()
    sizes = sizes[(sizes > 0) & torch.isfinite(sizes)]
    return float(sizes.to(torch.float64).median()) if sizes.numel() else 1e-30


def _double(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    def wide(one: Any) -> Any:
        return _wide(one.detach().to("cpu")) if isinstance(one, Tensor) else one

    double, shared = copied(model).eval(), shared_buffers(model)
    # What `double()` does, which leaves complex numbers as they are.
    double.to("cpu")._apply(_wide)  # type: ignore[no-untyped-call]
    share_buffers_(double, shared)
    return double, _mapped(inputs, wide)


def _wide(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _mapped(inputs: Inputs, change: Any) -> Inputs:
    args, kwargs = pytree.tree_map(change, (inputs.args, dict(inputs.kwargs)))
    return Inputs(args, kwargs)


@torch.no_grad()
def _shaken(model: nn.Module) -> nn.Module:
    """A copy with other weights, none of them zero, and matrices that neither damp nor blow up what they are given.

    Weights that begin very small, as in transformers, would make all scores of attention equal, whatever they are
    divided by.
    """
    shaken = copied(model)
    generator = torch.Generator("cpu").manual_seed(0)
    for parameter in shaken.parameters():
        if parameter.is_floating_point() and parameter.numel():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32, device="cpu").to(parameter)
            size = float(parameter.float().square().mean().sqrt())
            usual = max(size, 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.0) or 0.3
            is_positive = bool((parameter > 0).all())
            parameter.mul_(usual / size if size > 0 else 1.0).add_(0.3 * usual * noise)
            if is_positive:
                # A variance may be a parameter, as in Keras.
                parameter.abs_()
    return shaken


def _padded(model: nn.Module) -> nn.Module:
    """A copy in which torch's encoder computes something at padded positions too, as the tracer sees it do.

    Otherwise it packs sequences of several lengths when it is not traced, and gives zeros at these positions.
    """
    padded = copied(model)
    for module in padded.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return padded


def _others(inputs: Inputs) -> list[Inputs]:
    """Second inputs to try: a larger batch first, then other values."""
    generator = torch.Generator("cpu").manual_seed(1)

    def changed(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        if one.is_floating_point():
            return one + 0.5 * torch.randn(one.shape, generator=generator, dtype=torch.float32, device="cpu").to(one)
        return one.flip(0) if one.ndim else one

    second = _mapped(inputs, changed)
    leaves, spec = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
    lengths = {len(one) for one in leaves if isinstance(one, Tensor) and one.ndim}
    if len(lengths) != 1:
        return [second]
    others = pytree.tree_leaves((second.args, dict(second.kwargs)), is_leaf=lambda one: one is None)
    joined = [torch.cat([a, b]) if isinstance(a, Tensor) and a.ndim else a for a, b in zip(leaves, others, strict=True)]
    args, kwargs = pytree.tree_unflatten(joined, spec)
    return [Inputs(args, kwargs), second]


__all__ = ["TOLERANCES", "Check", "check_of", "difference", "run"]
