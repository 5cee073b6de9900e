"""Remove channels or whole layers: in one step or by a schedule, with fine-tuning between the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from nbcompress.choices import CHANNEL_CRITERIA
from nbcompress.compressors.calibration import with_activation_ranges
from nbcompress.compressors.constraints import rest_tensors, round_to_half_
from nbcompress.compressors.data import Batches
from nbcompress.compressors.inputs import Inputs, inputs_of
from nbcompress.compressors.layers import Patterns, check_model, copied, select
from nbcompress.compressors.modes import seeded
from nbcompress.compressors.record import attach_, record_of
from nbcompress.compressors.session import FineTuneOptions
from nbcompress.compressors.torch_masks import without_torch_masks
from nbcompress.compressors.training import train_
from nbcompress.errors import CompressionError, DataError, option


@dataclass(frozen=True)
class StructureOptions:
    """What is removed. The options check themselves.

    Attributes:
        granularity: `channel` or `layer`.
        criterion: See `prune`.
        scope: See `prune`.
        norms: See `prune`.
        layers: See `prune`.
        example: An input of the user's, or None.

    Raises:
        CompressionError: The granularity has no such criterion or scope.
    """

    granularity: str
    criterion: str
    scope: str | None
    norms: str
    layers: Patterns
    example: object

    def __post_init__(self) -> None:
        if self.granularity == "layer":
            if self.criterion not in ("magnitude", "random"):
                raise CompressionError(
                    f"{option('granularity', 'layer')} takes magnitude (the change of the outputs) or random, got "
                    f"{option('criterion', self.criterion)}"
                )
            if self.scope not in (None, "global"):
                raise CompressionError(
                    f"{option('granularity', 'layer')} ranks all blocks together: leave out {option('scope=')}, got "
                    f"{self.scope!r}"
                )
            return
        if self.criterion not in CHANNEL_CRITERIA:
            raise CompressionError(
                f"{option('criterion', self.criterion)} prunes single weights: {option('granularity', 'channel')} "
                f"takes {', '.join(CHANNEL_CRITERIA[:-1])} or {CHANNEL_CRITERIA[-1]}"
            )
        if self.scope == "lamp":
            raise CompressionError(
                f"{option('granularity', 'channel')} takes scope layer or global, got {option('scope', 'lamp')}"
            )


def prune_structure(
    model: nn.Module, shares: Sequence[float], options: StructureOptions, fine_tune: FineTuneOptions
) -> nn.Module:
    """Return a copy of `model` without channels or layers.

    Args:
        model: Any module; it does not change.
        shares: The share of the original that is removed after each step. A step is carried out before each epoch of
            fine-tuning; the last one is followed by the other epochs.
        options: What is removed.
        fine_tune: Data and epochs.

    Raises:
        CompressionError: Nothing can be removed, or the last share rounds to nothing.
        DataError: The example is missing, or the model does not run on it.
        LayerNotFound: The patterns match nothing.
    """
    model = without_torch_masks(check_model(model))
    if options.granularity == "channel":
        select(model, options.layers)
    _check_last(shares[-1], options)
    small, reasons = model, record_of(model).left_out
    first = next((step for step, share in enumerate(shares) if share), None)
    for step, share in enumerate(shares):
        if share:
            # The reasons of the step before say less than those of this one.
            if small is not model:
                attach_(small, replace(record_of(small), left_out=reasons))
            small = _without_share(small, share, options, fine_tune, original=model if len(shares) > 1 else None)
            if step == first and len(record_of(small).surgery) == len(record_of(model).surgery):
                # The first share rounds to nothing. If the last one does so too, this is the error, before training.
                _without_share(model, shares[-1], options, fine_tune, original=None)
        elif small is model:
            small = copied(model)
        if not fine_tune.finetune:
            continue
        n_epochs = fine_tune.finetune - step if step == len(shares) - 1 else 1
        if shares[-1]:
            training = replace(fine_tune, finetune=n_epochs, seed=fine_tune.seed + step)
            train_(small, fine_tune.data, training.training_options(), spec=fine_tune.spec)
    if not fine_tune.finetune and shares[-1]:
        ranges = with_activation_ranges(small, record_of(small), fine_tune.data, fine_tune.seed)
        attach_(small, ranges)
    return small


def _check_last(share: float, options: StructureOptions) -> None:
    is_channel = options.granularity == "channel"
    if share == 1:
        what, why = ("channels", ": a layer is never cut to nothing") if is_channel else ("blocks", "")
        raise CompressionError(f"{option('amount')} must leave {what}, so it is below 1, got 1{why}")


def _without_share(
    model: nn.Module, share: float, options: StructureOptions, fine_tune: FineTuneOptions, original: nn.Module | None
) -> nn.Module:
    # Imported here because loading the tracer takes long, and only channels and layers need it.
    from nbcompress.compressors.prune.channels import recompute_batchnorm_

    batches = None if fine_tune.data is None else Batches(fine_tune.data)
    with seeded(fine_tune.seed, *(batches.generators if batches else ())):
        inputs = inputs_of(model, options.example, batches)
        if inputs is None:
            raise DataError(
                f"{option('granularity', options.granularity)} runs the model once: pass {option('example=')}, an "
                f"input, or {option('data=')}"
            )
        few = _few_rows(inputs)
        try:
            small = _cut(model, share, few, options, fine_tune, original)
        except DataError:
            if few is inputs:
                raise
            # The model needs all rows.
            small = _cut(model, share, inputs, options, fine_tune, original)
        if fine_tune.data is not None:
            # A cut shifts the activations; new statistics bring back most of the accuracy.
            recompute_batchnorm_(small, fine_tune.data)
    record = record_of(small)
    if record.rest == "float16":
        attach_(small, replace(record, left_out={**record.left_out, **round_to_half_(rest_tensors(small, record))}))
    return small


# The checks run the model on so many rows of the example or the data. A batch norm in training mode needs two.
_N_ROWS = 2


def _few_rows(inputs: Inputs) -> Inputs:
    """The first rows of a batch; the inputs themselves if their tensors do not all have the same number of rows."""
    leaves, spec = tree_flatten((inputs.args, dict(inputs.kwargs)))
    lengths = {len(leaf) if leaf.ndim else 0 for leaf in leaves if isinstance(leaf, Tensor)}
    if len(lengths) != 1 or max(lengths) <= _N_ROWS:
        return inputs
    args, kwargs = tree_unflatten([leaf[:_N_ROWS] if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
    return Inputs(args, kwargs)


def _cut(
    model: nn.Module,
    share: float,
    inputs: Inputs,
    options: StructureOptions,
    fine_tune: FineTuneOptions,
    original: nn.Module | None,
) -> nn.Module:
    from nbcompress.compressors.prune.channels import cut_channels
    from nbcompress.compressors.prune.layers import count_blocks, cut_blocks

    if options.granularity == "layer":
        return cut_blocks(
            model,
            share,
            criterion=options.criterion,
            layers=options.layers,
            example=inputs,
            data=fine_tune.data,
            seed=fine_tune.seed,
            n_original=None if original is None else count_blocks(original, inputs, options.layers),
        )
    return cut_channels(
        model,
        share,
        criterion=options.criterion,
        scope=options.scope or "layer",
        norms=options.norms,
        layers=options.layers,
        example=inputs,
        data=fine_tune.data,
        seed=fine_tune.seed,
        spec=fine_tune.spec,
        original=original,
    )


__all__ = ["StructureOptions", "prune_structure"]
