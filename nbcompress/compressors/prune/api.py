"""`prune`: check the options and call the pruning of single weights or of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from nbcompress.choices import CRITERIA, WEIGHT_CRITERIA, Criterion
from nbcompress.compressors.layers import Patterns, check_choice, check_number
from nbcompress.compressors.losses import LossFunction, LossSpec
from nbcompress.compressors.modes import outside_inference, with_progress
from nbcompress.compressors.optimizers import OptimizerChoice, OptimizerSpec
from nbcompress.compressors.outputs import OutputKey
from nbcompress.compressors.prune.schedules import Schedule, gradual_share, own_shares
from nbcompress.compressors.prune.structure import StructureOptions, prune_structure
from nbcompress.compressors.prune.weights import PruneOptions, prune_gradually, prune_once
from nbcompress.compressors.session import CompressionSession, FineTuneOptions
from nbcompress.errors import CompressionError, DataError, option


@outside_inference
def prune(
    model: nn.Module,
    amount: float | None = None,
    *,
    threshold: float | None = None,
    granularity: Literal["weight", "2:4", "channel", "layer"] = "weight",
    criterion: Criterion = "magnitude",
    scope: Literal["global", "layer", "lamp"] | None = None,
    schedule: Literal["one-shot", "gradual"] | Sequence[float] | Callable[[int], float] = "one-shot",
    norms: Literal["keep", "cut"] = "keep",
    layers: Patterns = None,
    example: object = None,
    data: object = None,
    finetune: int = 0,
    lr: float = 1e-3,
    seed: int = 0,
    loss: LossFunction | None = None,
    output: OutputKey | None = None,
    optimizer: OptimizerChoice = "adam",
    momentum: float | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    weight_decay: float = 0.0,
    progress: bool = True,
) -> nn.Module:
    """Return a copy of `model` without its least important weights, channels or layers.

    Args:
        model: Any module; it does not change.
        amount: Share of the weights to remove, from 0 to 1. Weights that are zero already count and are removed first:
            pruning a pruned model by the same amount changes nothing.
        threshold: Instead of `amount`: remove the weights of smaller magnitude.
        granularity: `weight` sets single weights to zero. `2:4` sets two of every four consecutive inputs of an output
            to zero (along the flattened inputs of a convolution) and needs no amount. `channel` removes neurons,
            channels and heads, so that the tensors become smaller. `layer` removes whole blocks whose output has the
            shape of their input: transformer layers, residual blocks, layers of equal shape in a row.
        criterion: What is removed first. `magnitude`: weights, or channels, of small norm; for `layer`, the block whose
            removal changes the outputs on the data least, one after the other, or without data the block that changes
            its own input least. `random`. `gradient`: weight times gradient over the data, first-order Taylor
            (Molchanov et al. 2019). `activation`: the magnitude of a weight times the norm of its input (Wanda, Sun et
            al. 2024); for channels, the mean absolute activation. For channels only, with the activation `a_u` of unit
            u: `energy`, the sum of `a_u^2` over examples; `winner`, the same where the unit is the largest of its
            layer; `mutual-information` of activation and label, with the bias correction of Miller (1955);
            `redundancy`, one minus the largest share of the unit's information that another unit of the layer gives,
            too (`max over v of I(u; v) / H(u)`, Battiti 1994), computed again after each unit: of two equal units
            exactly one goes. `hessian`, for weights only: the weights whose removal changes the outputs of their layer
            least, with an update of the kept weights (Hassibi and Stork 1993; SparseGPT, Frantar and Alistarh 2023).
            `activation` and `hessian` prune the single weights of linear layers and convolutions; other layers are
            listed as left out.
        scope: `global` ranks the weights of all layers together, `layer` removes the share from each layer, and `lamp`
            ranks globally by LAMP scores (Lee et al. 2021). The default is `layer` for channels, and `global` for
            weights; with `activation`, the default removes the share from each output of a layer. With `hessian`, the
            scope divides the share among layers by magnitude, and the criterion chooses the weights within each layer.
        schedule: `one-shot`, or `gradual`: a little before every epoch of `finetune`, by the cubic schedule of Zhu and
            Gupta (2017). Or one's own: a list of shares, such as `[0.3, 0.6, 0.8]`, or a function of the step (from 0)
            that returns a share. A step comes before each epoch of `finetune`; a list also works without training,
            step after step. Shares are of the original model and must not fall; the last one is the amount.
        norms: For `channel`: what happens to a width that layer norms average over, such as the width of the residual
            stream of a transformer. `keep` leaves it whole. `cut` cuts it too: the cut model then equals the original
            without these channels only if its norms average over the kept channels.
        layers: Shell patterns on dotted module names, such as `"conv*"`; None chooses all layers.
        example: Input of the model, for `channel` and `layer`: a tensor, a tuple of positional or a dict of keyword
            inputs. Without it, the first batch of the data is used. Its first two rows serve where the model runs on
            them.
        data: A `DataLoader`, a data set, or a pair of tensors (inputs, targets). Needed for fine-tuning and for all
            criteria except `magnitude` and `random`. With `channel` and `layer`, the statistics of batch norms are
            measured on it again.
        finetune: Number of epochs of training afterwards; zeros stay zero.
        lr: Step size of that training.
        seed: Seed of `random`, of the order of the data and of fine-tuning.
        loss: Loss function for fine-tuning and `gradient`: from the output of the model and the target to a scalar.
        output: Index or key of the prediction, if the model returns several tensors.
        optimizer, momentum, betas, eps, weight_decay: The optimizer of that training and its options; see `finetune`.
        progress: Whether a bar shows how far it is, from two seconds on.

    Returns:
        A copy of the model, with a record of what was done. With `granularity="weight"`, exactly `round(amount * n)` of
        the n chosen weights are zero (of each tensor with scope `layer`, of each output with `activation`), or more if
        more were zero before. Of weights with equal scores, those that come first are removed first. No tensor loses
        its last weight unless `amount` is 1. Quantized and clustered weights keep their grids and codebooks, which are
        fitted again where values left them; `hessian` refuses them, because it changes the kept weights. With `2:4`,
        tensors whose rows do not divide by 4 are left out. With `channel`, at least one channel of each layer stays, no
        output of the model changes its shape, and the cut model is checked against the original with the removed
        channels at zero; `nc.record_of(copy).kept_indices` names the kept ones. With `layer`, at least one block
        stays, and the copy is checked against the original whose removed blocks return their inputs. For both, an
        amount of 0 gives a plain copy.

    Raises:
        CompressionError: An option or a weight has a value that is not allowed, the options contradict each other,
            nothing can be pruned, or fine-tuning diverges.
        LayerNotFound: `layers` matches no layer.
        DataError: Data or an example is needed and missing, or does not fit the model.

    Example:
        >>> import torch
        >>> import nbcompress as nc
        >>> nn = torch.nn
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> sparse = nc.prune(model, 0.5)
        >>> sum(int((parameter == 0).sum()) for parameter in sparse.parameters() if parameter.ndim > 1)
        80
        >>> small = nc.prune(model, 0.5, granularity="channel", example=torch.zeros(1, 8))
        >>> small[0], small[2]
        (Linear(in_features=8, out_features=8, bias=True), Linear(in_features=8, out_features=2, bias=True))

    References:
        Molchanov et al. (2019), "Importance Estimation for Neural Network Pruning".
        Sun et al. (2024), "A Simple and Effective Pruning Approach for Large Language Models".
        Battiti (1994), "Using Mutual Information for Selecting Features in Supervised Neural Net Learning".
        Miller (1955), "Note on the Bias of Information Estimates".
        Hassibi and Stork (1993), "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon".
        Frantar and Alistarh (2023), "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot".
        Lee et al. (2021), "Layer-adaptive Sparsity for the Magnitude-based Pruning".
        Zhu and Gupta (2017), "To Prune, or Not to Prune".
    """
    check_choice("granularity", granularity, ("weight", "2:4", "channel", "layer"))
    check_choice("criterion", criterion, CRITERIA)
    fine_tune = FineTuneOptions(
        data, finetune, lr, seed, LossSpec(loss, output), OptimizerSpec(optimizer, momentum, betas, eps, weight_decay)
    )
    shares = own_shares(schedule, amount, finetune)
    is_one_shot = schedule == "one-shot"
    if shares is not None:
        amount = shares[-1] if granularity != "2:4" else amount
    check_choice("norms", norms, ("keep", "cut"))
    if scope is not None:
        check_choice("scope", scope, ("global", "layer", "lamp"))
    if granularity == "2:4":
        _check_two_of_four(amount, threshold, scope, is_one_shot=is_one_shot)
    elif (amount is None) == (threshold is None):
        raise CompressionError(
            f"prune needs {option('amount=')}, a share from 0 to 1, or {option('threshold=')}, a magnitude, "
            "and not both"
        )
    if amount is not None:
        amount = check_number("amount", amount, 0, 1)
    threshold = _checked_threshold(threshold, criterion, scope)
    if criterion not in ("magnitude", "random") and data is None:
        raise DataError(
            f"{option('criterion', criterion)} needs data: pass {option('data=')}, such as (inputs, labels)"
        )
    if norms != "keep" and granularity != "channel":
        raise CompressionError(
            f"{option('norms', norms)} concerns the width of channels: pass {option('granularity', 'channel')}"
        )
    if granularity in ("channel", "layer"):
        if amount is None:
            raise CompressionError(
                f"{option('granularity', granularity)} removes a share: pass {option('amount=')} instead of "
                f"{option('threshold=')}"
            )
        steps = shares or _steps(amount, schedule, finetune)
        structure = StructureOptions(granularity, criterion, scope, norms, layers, example)
        with with_progress(progress):
            return prune_structure(model, steps, structure, fine_tune)
    _check_criterion(criterion, is_one_shot=is_one_shot)
    ranked_by = "2:4" if granularity == "2:4" else scope or {"activation": "row"}.get(criterion, "global")
    options = PruneOptions(amount, threshold, criterion, ranked_by, data, seed, fine_tune.spec)
    with with_progress(progress):
        if not is_one_shot:
            return _prune_gradually(model, layers, fine_tune, options, shares)
        return prune_once(CompressionSession(model, layers, fine_tune), options)


def _checked_threshold(threshold: float | None, criterion: str, scope: str | None) -> float | None:
    if threshold is None:
        return None
    if criterion != "magnitude" or scope is not None:
        raise CompressionError(
            f"{option('threshold=')} is a magnitude for every weight: leave out {option('criterion=')} and "
            f"{option('scope=')}"
        )
    return check_number("threshold", threshold, 0, float("inf"))


def _steps(amount: float, schedule: Schedule, n_epochs: int) -> tuple[float, ...]:
    """The shares of a schedule that is called by its name, for channels and layers."""
    if schedule == "one-shot":
        return (amount,)
    if not n_epochs:
        raise CompressionError(_NEEDS_EPOCHS)
    shares = (gradual_share(0.0, amount, epoch, n_epochs) for epoch in range(1, n_epochs + 1))
    return tuple(share for share in shares if share is not None)


_NEEDS_EPOCHS = (
    f"{option('schedule', 'gradual')} prunes between epochs: pass {option('finetune=EPOCHS')} and {option('data=')}"
)


def _check_two_of_four(amount: object, threshold: object, scope: str | None, *, is_one_shot: bool) -> None:
    if threshold is not None or amount not in (None, 0.5):
        got = option("threshold", threshold) if threshold is not None else option("amount", amount)
        raise CompressionError(
            f"{option('granularity', '2:4')} always keeps two of four: leave out {option('amount=')} and "
            f"{option('threshold=')}, got {got}"
        )
    if scope is not None:
        raise CompressionError(
            f"{option('granularity', '2:4')} ranks within every four weights: leave out {option('scope=')}, "
            f"got {scope!r}"
        )
    if not is_one_shot:
        raise CompressionError(
            f"{option('granularity', '2:4')} has no smaller share to start with: use {option('schedule', 'one-shot')}"
        )


def _check_criterion(criterion: str, *, is_one_shot: bool) -> None:
    """Refuse criteria that single weights do not have."""
    if criterion not in WEIGHT_CRITERIA:
        raise CompressionError(
            f"{option('criterion', criterion)} scores the activations of channels and neurons: pass "
            f"{option('granularity', 'channel')}, or another criterion"
        )
    if criterion == "hessian" and not is_one_shot:
        raise CompressionError(
            f"{option('criterion', 'hessian')} updates the other weights at once: use {option('schedule', 'one-shot')}"
        )


def _prune_gradually(
    model: nn.Module,
    layers: Patterns,
    fine_tune: FineTuneOptions,
    options: PruneOptions,
    shares: tuple[float, ...] | None,
) -> nn.Module:
    if not fine_tune.finetune and shares is None:
        raise CompressionError(_NEEDS_EPOCHS)
    session = CompressionSession(model, layers, fine_tune)
    for target in session.targets:
        before = session.constraint_of(target)
        if before.grid is not None or before.codebook is not None:
            raise CompressionError(
                f"{option('schedule', 'gradual')} comes before quantizing and clustering, but {target.name!r} has "
                f"{'a grid' if before.grid is not None else 'a codebook'}: use {option('schedule', 'one-shot')}"
            )
        if fine_tune.finetune and not target.parameter.requires_grad:
            raise CompressionError(
                f"{option('schedule', 'gradual')} retrains, but {target.name!r} does not require a gradient"
            )
    return prune_gradually(session, options, shares)


__all__ = ["prune"]
