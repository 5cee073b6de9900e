"""What every compressor does around its own work: check first, copy, change the copy, record, fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from nbcompress.compress.calibration import with_ranges
from nbcompress.compress.data import Batches
from nbcompress.compress.layers import Patterns, Target, check_model, copied, fill_, select
from nbcompress.compress.losses import LossSpec
from nbcompress.compress.observing import evaluating
from nbcompress.compress.options import check_count, check_number, check_seed
from nbcompress.compress.record import Activations, Surgery, TensorRecord, attach_, record_of
from nbcompress.compress.rest import round_rest_
from nbcompress.compress.training import BeforeEpoch, Plan, train_
from nbcompress.errors import CompressionError, DataError


@dataclass(frozen=True)
class Tuning:
    """Fine-tuning after a compressor. It checks itself, so that nothing is changed before the data is known to fit.

    Attributes:
        data: A `DataLoader`, a data set, or a pair of tensors.
        finetune: Epochs; 0 for none.
        lr: Step size of Adam.
        seed: Of the order of the data and of the model's own randomness.
        spec: What the user says of the loss.
    """

    data: object
    finetune: int
    lr: float
    seed: int
    spec: LossSpec = field(default_factory=LossSpec)

    def __post_init__(self) -> None:
        check_count("finetune", self.finetune, 0)
        check_number("lr", self.lr, 0, float("inf"), is_open_low=True)
        check_seed(self.seed)
        if self.finetune and self.data is None:
            raise DataError(f"finetune={self.finetune} needs data to train on: pass data=, such as (inputs, labels)")
        if self.data is not None:
            Batches(self.data)

    def plan(self) -> Plan:
        return Plan(epochs=self.finetune, lr=self.lr, seed=self.seed)


class Workpiece:
    """A copy of a model on its way through one compressor.

    Attributes:
        model: The copy.
        targets: The chosen tensors of the copy.
        record: What was done so far.
    """

    def __init__(self, model: nn.Module, layers: Patterns, tuning: Tuning) -> None:
        select(check_model(model), layers)
        self.model = copied(model)
        self.tuning = tuning
        selection = select(self.model, layers)
        self.targets = selection.targets
        before = record_of(self.model)
        self.record = replace(before, left_out={**before.left_out, **selection.left_out})
        self._latents: dict[str, Tensor] = {}

    def record_of(self, target: Target) -> TensorRecord:
        """What is promised of `target` so far."""
        known = (self.record.tensors[name] for name in target.names if name in self.record.tensors)
        return next(known, TensorRecord())

    def put(self, target: Target, promise: TensorRecord, values: Tensor) -> None:
        """Write `values` into `target` and promise what `promise` says. Fine-tuning begins at the values before."""
        if self.tuning.finetune and promise.grid is not None:
            self._latents[target.name] = target.parameter.detach().clone()
        fill_(target.parameter, values)
        tensors = {name: one for name, one in self.record.tensors.items() if name not in target.names}
        left_out = {name: why for name, why in self.record.left_out.items() if name not in target.names}
        self.record = replace(self.record, tensors={**tensors, target.name: promise}, left_out=left_out)

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Name what could not be done, with the reason."""
        self.record = replace(self.record, left_out={**self.record.left_out, **reasons})

    def operate(self, surgery: Surgery, gone: str) -> None:
        """Note a structural change, in which the parameter `gone` ceased to be."""
        tensors = {name: one for name, one in self.record.tensors.items() if name != gone}
        activations = {name: one for name, one in self.record.activations.items() if name != surgery.module}
        steps = (*self.record.surgery, surgery)
        self.record = replace(self.record, tensors=tensors, surgery=steps, activations=activations)

    def take_inputs(self, activations: Activations, gone: Iterable[str] = ()) -> None:
        """Note how integer kernels take the inputs of some layers, and that those of others stay in floating point.

        Ranges are measured at the end.
        """
        left = {name: one for name, one in self.record.activations.items() if name not in set(gone)}
        self.record = replace(self.record, activations={**left, **activations})

    def round_rest(self, rest: Literal["float16", "float32"]) -> None:
        """From now on the rest is kept in half precision, if `rest` says so or an earlier step did."""
        if rest == "float16":
            self.record = replace(self.record, rest=rest)

    def finished(self, before_epoch: BeforeEpoch | None = None) -> nn.Module:
        """Keep all promises, fine-tune if asked to, measure activation ranges, and return the copy.

        Raises:
            CompressionError: A tensor that a parametrization computes is not finite any more, or training diverges.
        """
        if self.record.rest == "float16":
            self.leave_out(round_rest_(self.model, self.record))
        _check_computed(self.model)
        attach_(self.model, self.record)
        if self.tuning.finetune:
            # Which measures the ranges at its end.
            tuning = self.tuning
            train_(
                self.model,
                tuning.data,
                tuning.plan(),
                spec=tuning.spec,
                latents=self._latents,
                before_epoch=before_epoch,
            )
        else:
            attach_(self.model, with_ranges(self.model, self.record, self.tuning.data, self.tuning.seed))
        return self.model


@torch.no_grad()
def _check_computed(model: nn.Module) -> None:
    """Refuse weights from which a parametrization computes NaN, as weight norm does from a direction of zeros."""
    with evaluating(model):
        for path, module in model.named_modules():
            for name, weight, function in _computed(module):
                if not bool(torch.isfinite(weight()).all()):
                    where = f"{path}.{name}".removeprefix(".")
                    raise CompressionError(
                        f"the parametrization of {where!r} computes NaN or infinity from what is left of its weights: "
                        "take a smaller amount, choose other layers with layers=, or make the weight plain with "
                        f"torch.nn.utils.{function}"
                    )


def _computed(module: nn.Module) -> Iterator[tuple[str, Callable[[], Tensor], str]]:
    """Each weight of `module` that is made of other parameters: its name, how, and what makes it plain."""
    if parametrize.is_parametrized(module):
        for name in cast(nn.ModuleDict, module.parametrizations):
            yield name, partial(getattr, module, name), "parametrize.remove_parametrizations"
    # The older way: a hook that computes the weight before each call.
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield hook.name, partial(hook.compute_weight, module), "remove_weight_norm"
        elif isinstance(hook, SpectralNorm):
            yield hook.name, partial(hook.compute_weight, module, False), "remove_spectral_norm"


__all__ = ["Tuning", "Workpiece"]
