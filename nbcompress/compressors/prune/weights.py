"""Set single weights to zero, at once or a little before each epoch of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from nbcompress.compressors.layers import Target, fill_
from nbcompress.compressors.losses import LossSpec
from nbcompress.compressors.prune.activation_scores import InputStatistics, input_statistics
from nbcompress.compressors.prune.schedules import gradual_share
from nbcompress.compressors.prune.weight_scores import (
    keep_masks,
    keep_masks_by_magnitude,
    keep_masks_by_row,
    keep_two_of_four,
    lamp_scores,
    prune_by_hessian,
    scores_of,
)
from nbcompress.compressors.record import Codebook, TensorRecord, attach_, record_of
from nbcompress.compressors.session import CompressionSession
from nbcompress.compressors.training import Trainer
from nbcompress.errors import CompressionError, option
from nbcompress.progress import progress_bar


@dataclass(frozen=True)
class PruneOptions:
    """How many weights are removed, and which.

    Attributes:
        amount: Share of the chosen weights to remove, or None if `threshold` is given.
        threshold: Weights of smaller magnitude are removed.
        criterion: See `scores_of`; or `hessian`.
        scope: `global`, `layer`, `lamp`, `row`, or `2:4` (two of every four inputs of a row; the amount is not used).
        data: Data for the criteria that need it.
        seed: Seed of `random` and of the order of the data.
        spec: The user's loss, for `gradient`.
    """

    amount: float | None
    threshold: float | None
    criterion: str
    scope: str
    data: object
    seed: int
    spec: LossSpec = field(default_factory=LossSpec)

    def masks(
        self, model: nn.Module, targets: Sequence[Target], statistics: Mapping[str, InputStatistics] | None = None
    ) -> list[Tensor]:
        """Return a bool mask of the weights to keep for each target, on its device.

        Args:
            model: The model of the targets.
            targets: The tensors to prune.
            statistics: Input statistics by name of the target, for `activation`; measured if None.
        """
        return self.masks_and_ranges(model, targets, statistics)[0]

    def masks_and_ranges(
        self, model: nn.Module, targets: Sequence[Target], statistics: Mapping[str, InputStatistics] | None = None
    ) -> tuple[list[Tensor], dict[str, tuple[float, float]]]:
        """Return the masks, and the lowest and the highest score of each layer."""
        weights = [target.parameter for target in targets]
        is_short = all(weight.dtype in (torch.float32, torch.bfloat16, torch.float16) for weight in weights)
        if self.criterion == "magnitude" and self.threshold is None and self.scope in ("global", "layer") and is_short:
            masks = keep_masks_by_magnitude(weights, self.amount or 0.0, is_global=self.scope == "global")
            return masks, {_layer_of(target): _magnitude_range(target.parameter) for target in targets}
        scores = self.scores(model, targets, statistics)
        pairs = zip(targets, scores, strict=True)
        ranges = {_layer_of(target): (float(score.min()), float(score.max())) for target, score in pairs}
        return self.masks_of(scores, targets), ranges

    def scores(
        self, model: nn.Module, targets: Sequence[Target], statistics: Mapping[str, InputStatistics] | None = None
    ) -> list[Tensor]:
        """Return the scores of the weights of each target; the lowest are removed first."""
        return scores_of(model, targets, self.criterion, self.data, self.seed, statistics, self.spec)

    def masks_of(self, scores: list[Tensor], targets: Sequence[Target]) -> list[Tensor]:
        """Return the masks that follow from scores."""
        if self.threshold is not None:
            masks = [_above(score, self.threshold) for score in scores]
        elif self.scope == "2:4":
            masks = keep_two_of_four(scores)
        elif self.scope == "row":
            masks = keep_masks_by_row(scores, self.amount or 0.0)
        else:
            ranked = lamp_scores(scores) if self.scope == "lamp" else scores
            masks = keep_masks(ranked, self.amount or 0.0, is_global=self.scope != "layer")
        return [mask.to(target.parameter.device) for mask, target in zip(masks, targets, strict=True)]


def prune_once(session: CompressionSession, options: PruneOptions) -> nn.Module:
    """Prune, then fine-tune if that was asked for, and return the model."""
    if options.criterion == "hessian":
        _prune_by_hessian(session, options)
    else:
        statistics = leave_out_unsupported(session, options)
        session.refit_(session.targets)
        _prune(session, options, statistics)
    return session.finish()


def _prune(
    session: CompressionSession, options: PruneOptions, statistics: Mapping[str, InputStatistics] | None = None
) -> None:
    masks, ranges = options.masks_and_ranges(session.model, session.targets, statistics)
    session.record = replace(session.record, scores=ranges)
    _apply(session, masks)


def _layer_of(target: Target) -> str:
    return target.name.removesuffix(".weight")


def _magnitude_range(weight: Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(weight.detach().abs())
    return float(low), float(high)


def leave_out_unsupported(
    session: CompressionSession, options: PruneOptions, *, with_products: bool = False
) -> dict[str, InputStatistics]:
    """Take the targets that cannot be pruned with these options out of `session`, and record the reasons.

    Returns:
        The input statistics by name of the target, if the criterion needs them.

    Raises:
        CompressionError: No target is left.
    """
    reasons: dict[str, str] = {}
    if options.scope == "2:4":
        lengths = {target.name: target.parameter[0].numel() for target in session.targets}
        reasons = {name: f"its {n} inputs do not divide by 4" for name, n in lengths.items() if n % 4}
    statistics: dict[str, InputStatistics] = {}
    if options.criterion in ("activation", "hessian"):
        rest = [target for target in session.targets if target.name not in reasons]
        statistics, unseen = input_statistics(
            session.model, rest, options.data, options.seed, with_products=with_products
        )
        reasons |= unseen
    if reasons:
        session.targets = tuple(target for target in session.targets if target.name not in reasons)
        session.leave_out(reasons)
    if not session.targets:
        listed = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:4])
        how = option("granularity", "2:4") if options.scope == "2:4" else option("criterion", options.criterion)
        raise CompressionError(f"{how} can prune no chosen weight ({listed})")
    return statistics


def _prune_by_hessian(session: CompressionSession, options: PruneOptions) -> None:
    statistics = leave_out_unsupported(session, options, with_products=True)
    # Each layer loses as many weights as with magnitude, because errors of different layers cannot be compared.
    masks = replace(options, criterion="magnitude").masks(session.model, session.targets)
    for target, mask in zip(session.targets, masks, strict=True):
        before = session.constraint_of(target)
        if before.grid is not None or before.codebook is not None:
            raise CompressionError(
                f"{option('criterion', 'hessian')} changes the weights that stay, but {target.name!r} must keep to its "
                f"{'grid' if before.grid is not None else 'codebook'}: prune before quantizing and clustering"
            )
        count = None if options.scope == "2:4" else int((~mask).sum())
        # The statistics are large, so those of this layer are freed here.
        values = prune_by_hessian(target.parameter, statistics.pop(target.name), count)
        session.apply(target, TensorRecord(is_pruned=True), values)


def prune_gradually(
    session: CompressionSession, options: PruneOptions, shares: Sequence[float] | None = None
) -> nn.Module:
    """Prune in steps: by the cubic schedule of `gradual_share`, or by shares of the user's own.

    Args:
        session: The session.
        options: The options; without `shares`, the amount is the final share.
        shares: The share of zeros after each step. A step is carried out before each epoch of fine-tuning; without
            fine-tuning, one after the other.
    """
    end = options.amount if shares is None else shares[-1]
    if end is None:
        raise CompressionError(
            f"{option('schedule', 'gradual')} needs {option('amount=')}, the final share, not a threshold"
        )
    leave_out_unsupported(session, options)
    n_epochs = session.fine_tune.finetune
    if shares is not None and not n_epochs:
        session.refit_(session.targets)
        for amount in shares:
            _prune(session, replace(options, amount=amount))
        return session.finish()
    n_zeros = sum(int((target.parameter == 0).sum()) for target in session.targets)
    start = min(n_zeros / sum(target.parameter.numel() for target in session.targets), end)

    def share_of(epoch: int) -> float | None:
        if shares is None:
            return gradual_share(start, end, epoch, n_epochs)
        return shares[epoch - 1] if epoch <= len(shares) else None

    ranges: dict[str, tuple[float, float]] = {}

    def before_epoch(epoch: int, trainer: Trainer) -> None:
        share = share_of(epoch)
        if share is None:
            return
        # Scoring does not change the mode of the model; the trainer sets it.
        masks, found = replace(options, amount=share).masks_and_ranges(trainer.model, session.targets)
        ranges.update(found)
        for target, mask in zip(session.targets, masks, strict=True):
            fill_(target.parameter, torch.where(mask, target.parameter.detach(), 0.0))
            trainer.set_constraint(target.name, session.constraint_of(target))

    # Before the first epoch no weight is removed, but zeros stay zero from now on.
    _apply(session, [torch.ones_like(target.parameter, dtype=torch.bool) for target in session.targets])
    small = session.finish(before_epoch)
    attach_(small, replace(record_of(small), scores=ranges))
    return small


def _apply(session: CompressionSession, masks: Sequence[Tensor]) -> None:
    with progress_bar("prune", len(session.targets), "tensor") as advance:
        for target, mask in zip(session.targets, masks, strict=True):
            before = session.constraint_of(target)
            values = torch.where(mask, target.parameter.detach(), 0.0)
            session.apply(target, _pruned_constraint(before, bool((values == 0).any())), values)
            advance(1)


def _pruned_constraint(before: TensorRecord, has_zeros: bool) -> TensorRecord:
    """The constraint of a pruned tensor. Every grid contains zero; a codebook gets zero as an additional value."""
    codebook = before.codebook
    if codebook is not None and has_zeros and not bool((codebook.values == 0).any()):
        codebook = Codebook(torch.unique(torch.cat([codebook.values, codebook.values.new_zeros(1)])), codebook.grid)
    return TensorRecord(True, before.grid, codebook)


def _above(scores: Tensor, threshold: float) -> Tensor:
    mask = scores >= threshold
    mask &= scores > 0
    if not bool(mask.any()) and bool((scores > 0).any()):
        mask.view(-1)[scores.flatten().argmax()] = True
    return mask


__all__ = ["PruneOptions", "prune_gradually", "prune_once"]
