"""Single weights to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from nbcompress.compress.keeping import keep_again_
from nbcompress.compress.layers import Target, fill_
from nbcompress.compress.losses import LossSpec
from nbcompress.compress.prune.counting import keep_masks, keep_masks_by_row, keep_two_of_four
from nbcompress.compress.prune.input_scores import InputStatistics, input_statistics
from nbcompress.compress.prune.scores import lamp_scores, scores_of
from nbcompress.compress.prune.second_order import surgeon_pruned
from nbcompress.compress.record import Codebook, TensorRecord
from nbcompress.compress.training import Trainer
from nbcompress.compress.workpiece import Workpiece
from nbcompress.errors import CompressionError

# The last quarter of gradual pruning trains at the final amount, so that the weights left can settle (a heuristic).
_PRUNING_SHARE = 0.75


@dataclass(frozen=True)
class Cut:
    """How many weights go, and which.

    Attributes:
        amount: Share of the chosen weights, or None if `threshold` is given.
        threshold: Weights of smaller magnitude go.
        criterion: See `scores_of`; or `hessian`.
        scope: `global`, `layer`, `lamp`, `row`, or `2:4` (two of every four inputs of a row, whatever the amount).
        data: For the criteria that need it.
        seed: For the random one.
        spec: What the user says of the loss, for `gradient`.
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
        """What stays of each target: bool, on its device. Statistics of inputs are measured if they are not given."""
        scores = scores_of(model, targets, self.criterion, self.data, self.seed, statistics, self.spec)
        if self.threshold is not None:
            masks = [_above(one, self.threshold) for one in scores]
        elif self.scope == "2:4":
            masks = keep_two_of_four(scores)
        elif self.scope == "row":
            masks = keep_masks_by_row(scores, self.amount or 0.0)
        else:
            ranked = lamp_scores(scores) if self.scope == "lamp" else scores
            masks = keep_masks(ranked, self.amount or 0.0, is_global=self.scope != "layer")
        return [mask.to(one.parameter.device) for mask, one in zip(masks, targets, strict=True)]


def prune_once(work: Workpiece, cut: Cut) -> nn.Module:
    """Prune, then fine-tune if the workpiece says so."""
    if cut.criterion == "hessian":
        _operate(work, cut)
    else:
        statistics = leave_out(work, cut)
        keep_again_(work, work.targets)
        _apply(work, cut.masks(work.model, work.targets, statistics))
    return work.finished()


def leave_out(work: Workpiece, cut: Cut, *, with_products: bool = False) -> dict[str, InputStatistics]:
    """Take out of `work` what cannot be cut in this way, by name; return the statistics of inputs if they are needed.

    Raises:
        CompressionError: Nothing is left.
    """
    reasons: dict[str, str] = {}
    if cut.scope == "2:4":
        lengths = {one.name: one.parameter[0].numel() for one in work.targets}
        reasons = {name: f"its {n} inputs do not divide by 4" for name, n in lengths.items() if n % 4}
    statistics: dict[str, InputStatistics] = {}
    if cut.criterion in ("activation", "hessian"):
        rest = [one for one in work.targets if one.name not in reasons]
        statistics, unseen = input_statistics(work.model, rest, cut.data, cut.seed, with_products=with_products)
        reasons |= unseen
    if reasons:
        work.targets = tuple(one for one in work.targets if one.name not in reasons)
        work.leave_out(reasons)
    if not work.targets:
        listed = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:4])
        how = "granularity='2:4'" if cut.scope == "2:4" else f"criterion={cut.criterion!r}"
        raise CompressionError(f"{how} can prune no chosen weight ({listed})")
    return statistics


def _operate(work: Workpiece, cut: Cut) -> None:
    statistics = leave_out(work, cut, with_products=True)
    # How much each layer loses is what magnitude would take; errors of different layers cannot be compared.
    masks = replace(cut, criterion="magnitude").masks(work.model, work.targets)
    for target, mask in zip(work.targets, masks, strict=True):
        before = work.record_of(target)
        if before.grid is not None or before.codebook is not None:
            raise CompressionError(
                f"criterion='hessian' changes the weights that stay, but {target.name!r} must keep to its "
                f"{'grid' if before.grid is not None else 'codebook'}: prune before quantizing and clustering"
            )
        count = None if cut.scope == "2:4" else int((~mask).sum())
        # The statistics of one layer at a time are let go.
        values = surgeon_pruned(target.parameter, statistics.pop(target.name), count)
        work.put(target, TensorRecord(is_pruned=True), values)


def prune_gradually(work: Workpiece, cut: Cut) -> nn.Module:
    """Prune a little before each epoch, early on most.

    The share of zeros follows `end + (start - end) * (1 - t)^3` with t from 0 to 1 over the first three quarters of
    the epochs (Zhu and Gupta 2017, "To Prune, or Not to Prune", equation 1).
    """
    end = cut.amount
    if end is None:
        raise CompressionError("schedule='gradual' needs amount=, a share to arrive at, not a threshold")
    leave_out(work, cut)
    n_zeros = sum(int((one.parameter == 0).sum()) for one in work.targets)
    start = min(n_zeros / sum(one.parameter.numel() for one in work.targets), end)
    n_epochs = work.tuning.finetune
    n_steps = max(1, round(_PRUNING_SHARE * n_epochs))

    def before_epoch(epoch: int, trainer: Trainer) -> None:
        share = end + (start - end) * (1 - min(epoch / n_steps, 1.0)) ** 3
        if epoch > n_steps:
            return
        # The model's own mode is put back by the trainer; scoring itself leaves it as it is.
        for target, mask in zip(
            work.targets, replace(cut, amount=share).masks(trainer.model, work.targets), strict=True
        ):
            fill_(target.parameter, torch.where(mask, target.parameter.detach(), 0.0))
            trainer.become(target.name, work.record_of(target))

    # Before the first epoch nothing goes, but the tensors are pruned ones from now on.
    _apply(work, [torch.ones_like(one.parameter, dtype=torch.bool) for one in work.targets])
    return work.finished(before_epoch)


def _apply(work: Workpiece, masks: Sequence[Tensor]) -> None:
    for target, mask in zip(work.targets, masks, strict=True):
        before = work.record_of(target)
        values = torch.where(mask, target.parameter.detach(), 0.0)
        work.put(target, _pruned(before, bool((values == 0).any())), values)


def _pruned(before: TensorRecord, has_zeros: bool) -> TensorRecord:
    """The promise of a pruned tensor. Every grid holds zero; a codebook gets it as one more value."""
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


__all__ = ["Cut", "prune_gradually", "prune_once"]
