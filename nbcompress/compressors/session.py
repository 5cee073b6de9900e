"""The part that all compressors share: check options, copy the model, keep the record, and fine-tune at the end."""

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

from nbcompress.compressors.calibration import with_activation_ranges
from nbcompress.compressors.codebooks import fit_codebook, quantize_codebook, round_to_codebook
from nbcompress.compressors.codes import satisfies
from nbcompress.compressors.constraints import rest_tensors, round_to_half_
from nbcompress.compressors.data import Batches
from nbcompress.compressors.grids import GridSpec, fit_grid, round_to_grid
from nbcompress.compressors.layers import (
    Patterns,
    Target,
    check_model,
    check_seed,
    copied,
    fill_,
    select,
)
from nbcompress.compressors.losses import LossSpec
from nbcompress.compressors.modes import evaluating
from nbcompress.compressors.optimizers import OptimizerSpec
from nbcompress.compressors.record import Activations, Surgery, TensorRecord, attach_, record_of
from nbcompress.compressors.torch_masks import torch_masks
from nbcompress.compressors.training import BeforeEpoch, TrainingOptions, train_
from nbcompress.errors import CompressionError, DataError, check_integer, option


@dataclass(frozen=True)
class FineTuneOptions:
    """Options of the training after a compressor. They check themselves before anything is copied or changed.

    Attributes:
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, targets).
        finetune: Epochs; 0 for no training.
        lr: Step size.
        seed: Seed of the order of the data and of the model's own randomness.
        spec: The loss and the output that the user chose.
        optimizer: Which optimizer trains.

    Raises:
        CompressionError: A number is out of range.
        DataError: There are epochs but no data, or the data has a form that is not known.
    """

    data: object
    finetune: int
    lr: float
    seed: int
    spec: LossSpec = field(default_factory=LossSpec)
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)

    def __post_init__(self) -> None:
        check_integer("finetune", self.finetune, 0, error=CompressionError)
        self.optimizer.check_lr(self.lr)
        check_seed(self.seed)
        if self.finetune and self.data is None:
            raise DataError(
                f"{option('finetune', self.finetune)} needs data to train on: pass {option('data=')}, "
                "such as (inputs, labels)"
            )
        if self.data is not None:
            Batches(self.data)

    def training_options(self) -> TrainingOptions:
        return TrainingOptions(self.finetune, self.lr, self.optimizer, seed=self.seed)


class CompressionSession:
    """A copy of a model while one compressor works on it.

    Args:
        model: The model, which stays as it is.
        layers: Which layers to compress; see `select`.
        fine_tune: Options of the training at the end.

    Attributes:
        model: The copy.
        targets: The chosen tensors of the copy.
        record: Everything that was done to the copy so far.
        fine_tune: Options of the training at the end.

    Raises:
        CompressionError: The model cannot be compressed or copied.
        LayerNotFound: `layers` matches nothing.
    """

    def __init__(self, model: nn.Module, layers: Patterns, fine_tune: FineTuneOptions) -> None:
        # Checked before the copy is made, which can be large.
        check_model(model)
        if not torch_masks(model):
            select(model, layers)
        self.model = copied(model)
        self.fine_tune = fine_tune
        selection = select(self.model, layers)
        self.targets = selection.targets
        before = record_of(self.model)
        self.record = replace(before, left_out={**before.left_out, **selection.left_out})
        self._latents: dict[str, Tensor] = {}

    def constraint_of(self, target: Target) -> TensorRecord:
        """Return the constraint that is recorded for `target`, or an empty one."""
        known = (self.record.tensors[name] for name in target.names if name in self.record.tensors)
        return next(known, TensorRecord())

    def apply(
        self, target: Target, constraint: TensorRecord, values: Tensor, *, starts_at_values: bool = False
    ) -> None:
        """Write `values` into `target` and record the constraint that they satisfy.

        Under a grid, fine-tuning starts at the values of `target` before, or at `values` if `starts_at_values`.
        """
        if self.fine_tune.finetune and constraint.grid is not None and not starts_at_values:
            self._latents[target.name] = target.parameter.detach().clone()
        fill_(target.parameter, values)
        tensors = {name: tensor for name, tensor in self.record.tensors.items() if name not in target.names}
        left_out = {name: why for name, why in self.record.left_out.items() if name not in target.names}
        self.record = replace(self.record, tensors={**tensors, target.name: constraint}, left_out=left_out)

    def refit_(self, targets: Iterable[Target]) -> None:
        """Fit the grid or codebook of each of `targets` again if its values have left it."""
        for target in targets:
            constraint = self.constraint_of(target)
            if not satisfies(target.parameter, constraint):
                is_half = self.record.rest == "float16"
                self.apply(target, *refit(target.parameter, constraint, is_half=is_half))

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Record why tensors are not compressed, by name."""
        self.record = replace(self.record, left_out={**self.record.left_out, **reasons})

    def add_surgery(self, surgery: Surgery, removed: str) -> None:
        """Record a structural change that removed the parameter named `removed`."""
        tensors = {name: tensor for name, tensor in self.record.tensors.items() if name != removed}
        activations = {
            name: activation for name, activation in self.record.activations.items() if name != surgery.module
        }
        steps = (*self.record.surgery, surgery)
        self.record = replace(self.record, tensors=tensors, surgery=steps, activations=activations)

    def set_activations(self, activations: Activations, removed: Iterable[str] = ()) -> None:
        """Record how integer kernels read the inputs of some layers. Static ranges are measured by `finish`.

        Args:
            activations: By name of the layer.
            removed: Layers whose inputs stay in floating point.
        """
        names = set(removed)
        kept = {name: activation for name, activation in self.record.activations.items() if name not in names}
        self.record = replace(self.record, activations={**kept, **activations})

    def set_rest(self, rest: Literal["float16", "float32"]) -> None:
        """Record that the rest is in half precision if `rest` says so. An earlier step may have said so too."""
        if rest == "float16":
            self.record = replace(self.record, rest=rest)

    def finish(self, before_epoch: BeforeEpoch | None = None) -> nn.Module:
        """Round the rest, attach the record, fine-tune, measure activation ranges, and return the copy.

        Args:
            before_epoch: See `train_`.

        Raises:
            CompressionError: A parametrization computes NaN or infinity, or training diverges.
        """
        if self.record.rest == "float16":
            self.leave_out(round_to_half_(rest_tensors(self.model, self.record)))
        _check_computed(self.model)
        attach_(self.model, self.record)
        if self.fine_tune.finetune:
            # Training measures the ranges at its end.
            train_(
                self.model,
                self.fine_tune.data,
                self.fine_tune.training_options(),
                spec=self.fine_tune.spec,
                latents=self._latents,
                before_epoch=before_epoch,
            )
        else:
            data, seed = self.fine_tune.data, self.fine_tune.seed
            attach_(self.model, with_activation_ranges(self.model, self.record, data, seed))
        return self.model


def refit(tensor: Tensor, constraint: TensorRecord, *, is_half: bool) -> tuple[TensorRecord, Tensor]:
    """Fit a constraint of the same kind to `tensor` as it is now.

    Args:
        tensor: Values that left their grid or codebook.
        constraint: The constraint that they left.
        is_half: Shared values are rounded to half precision.

    Returns:
        The new constraint, and the nearest values that satisfy it.
    """
    grid, codebook, is_pruned = constraint.grid, constraint.codebook, constraint.is_pruned
    if grid is not None:
        if not grid.is_fixed:
            share = 1.0 if grid.in_half is None else 1 - len(grid.in_half) / tensor.numel()
            spec = GridSpec(grid.bits, grid.scheme, grid.group, share=share, is_turned=grid.is_turned)
            grid = fit_grid(tensor, spec, is_pruned=is_pruned)
        return replace(constraint, grid=grid), round_to_grid(tensor, grid, is_pruned=is_pruned)
    if codebook is None:
        return constraint, tensor.detach()
    # Zero is one of the values of a pruned tensor, also while none of its weights is zero.
    fitted = fit_codebook(tensor, len(codebook.values), is_pruned, is_half=is_half)
    values = round_to_codebook(tensor, fitted, is_pruned)
    refitted = replace(constraint, codebook=fitted)
    if codebook.grid is not None:
        fixed = codebook.grid.scale
        spec = GridSpec(codebook.grid.bits, codebook.grid.scheme, "tensor")
        spec = replace(spec, scale=1 / float(fixed[0])) if codebook.grid.is_fixed else spec
        on_grid, values = quantize_codebook(values, refitted, spec)
        refitted = replace(refitted, codebook=on_grid)
    return refitted, values


@torch.no_grad()
def _check_computed(model: nn.Module) -> None:
    """Refuse parameters of which a parametrization computes NaN, as weight norm does from a direction of zeros."""
    with evaluating(model):
        for path, module in model.named_modules():
            for name, weight, function in _computed_weights(module):
                if not bool(torch.isfinite(weight()).all()):
                    where = f"{path}.{name}".removeprefix(".")
                    raise CompressionError(
                        f"the parametrization of {where!r} computes NaN or infinity from what is left of its weights: "
                        "take a smaller amount, choose other layers with layers=, or make the weight plain with "
                        f"torch.nn.utils.{function}"
                    )


def _computed_weights(module: nn.Module) -> Iterator[tuple[str, Callable[[], Tensor], str]]:
    """Each weight of `module` that is computed from other parameters.

    Yields:
        Its name, a function that computes it, and the function of `torch.nn.utils` that makes it a plain parameter.
    """
    if parametrize.is_parametrized(module):
        for name in cast(nn.ModuleDict, module.parametrizations):
            yield name, partial(getattr, module, name), "parametrize.remove_parametrizations"
    # Older versions of torch use a hook that computes the weight before each call.
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            yield hook.name, partial(hook.compute_weight, module), "remove_weight_norm"
        elif isinstance(hook, SpectralNorm):
            yield hook.name, partial(hook.compute_weight, module, False), "remove_spectral_norm"


__all__ = ["CompressionSession", "FineTuneOptions", "refit"]
