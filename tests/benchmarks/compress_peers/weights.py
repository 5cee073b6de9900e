"""Single weights set to zero: ours, `torch.nn.utils.prune`, NNCF and torchao."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from methods import OURS, Make, Method, Stage, layers_of, ours, share_of, state_bytes
from nets import TUNING_LR, Case
from torch import nn
from torch.nn.utils import prune as torch_prune

import nbcompress as nc

SHARES = (50, 75, 90, 95)


def pruned(case: Case, share: int, **options: object) -> Iterator[Stage]:
    """Ours, one-shot, then tuned."""
    options |= {"data": case.train, "seed": case.seed, "layers": layers_of(case.model)}
    model = nc.prune(case.model, share / 100, **options)
    yield ours("plain", model)
    yield ours("tuned", case.tuned(model))


def gradually_pruned(case: Case, share: int, **options: object) -> Iterator[Stage]:
    """Ours, a little before each epoch of tuning."""
    options |= {"data": case.train, "seed": case.seed, "layers": layers_of(case.model)}
    options |= {"finetune": case.tuning, "lr": TUNING_LR}
    yield ours("tuned", nc.prune(case.model, share / 100, schedule="gradual", **options))


def two_of_four(case: Case, _: int, **options: object) -> Iterator[Stage]:
    """Ours, two of every four; a layer whose inputs do not divide by four is left out."""
    options |= {"data": case.train, "seed": case.seed, "layers": layers_of(case.model)}
    model = nc.prune(case.model, granularity="2:4", **options)
    covers = share_of(nc.compress.record_of(model).tensors, case.model)
    yield replace(ours("plain", model), covers=covers)
    yield replace(ours("tuned", case.tuned(model)), covers=covers)


def masked(case: Case, share: int, prune: Callable[[list[tuple[nn.Module, str]], float], None]) -> Iterator[Stage]:
    """By `torch.nn.utils.prune`; the masks stay while it is tuned."""
    model = copy.deepcopy(case.model)
    prune([(model.get_submodule(name), "weight") for name in layers_of(model)], share / 100)
    yield from _masked_stages(case, model)


def _masked_stages(case: Case, model: nn.Module, covers: float = 1.0) -> Iterator[Stage]:
    # Once masks are multiplied in and removed, zeros lie in the file like any other number.
    n_bytes = partial(state_bytes, case.model)
    yield Stage("plain", model, n_bytes, covers)
    yield Stage("tuned", case.tuned(model), n_bytes, covers)


def largest(places: list[tuple[nn.Module, str]], share: float) -> None:
    torch_prune.global_unstructured(places, torch_prune.L1Unstructured, amount=share)


def largest_by_layer(places: list[tuple[nn.Module, str]], share: float) -> None:
    for module, name in places:
        torch_prune.l1_unstructured(module, name, share)


def any_of_all(places: list[tuple[nn.Module, str]], share: float) -> None:
    torch_prune.global_unstructured(places, torch_prune.RandomUnstructured, amount=share)


def nncf_pruned(case: Case, share: int, mode: str) -> Iterator[Stage]:
    """By NNCF, which chooses the layers by itself."""
    import nncf

    model = copy.deepcopy(case.model)
    small = nncf.prune(model, nncf.PruneMode[mode], ratio=share / 100, examples_inputs=case.example)
    yield from _masked_stages(case, small)


def wanda(case: Case, share: int, block: int | None = None) -> Iterator[Stage]:
    """By torchao's Wanda, for linear layers only."""
    from torchao.sparsity import WandaSparsifier

    model = copy.deepcopy(case.model)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    sparsifier = WandaSparsifier(share / 100, semi_structured_block_size=block)
    sparsifier.prepare(model, [{"tensor_fqn": f"{name}.weight"} for name in linear])
    with torch.no_grad():
        model(case.train[0])
    sparsifier.step()
    for name in linear:
        # The observer of inputs is no longer needed, and would go on counting while the model is tuned.
        model.get_submodule(name).activation_post_process = nn.Identity()
    yield from _masked_stages(case, model, share_of([f"{name}.weight" for name in linear], case.model))


def _ours(name: str, make: Make = pruned, budgets: tuple[int, ...] = SHARES, **options: object) -> Method:
    return Method("weights", OURS, name, partial(make, **options), budgets)


METHODS = (
    _ours("magnitude, global"),
    _ours("magnitude, layer", scope="layer"),
    _ours("magnitude, lamp", scope="lamp"),
    _ours("magnitude, lamp, gradual", gradually_pruned, scope="lamp"),
    _ours("random, global", criterion="random"),
    _ours("gradient, global", criterion="gradient"),
    _ours("activation, row", criterion="activation"),
    _ours("activation, layer", criterion="activation", scope="layer"),
    _ours("hessian, global", criterion="hessian"),
    _ours("hessian, lamp", criterion="hessian", scope="lamp"),
    _ours("magnitude, 2:4", two_of_four, (50,)),
    _ours("activation, 2:4", two_of_four, (50,), criterion="activation"),
    _ours("hessian, 2:4", two_of_four, (50,), criterion="hessian"),
    Method("weights", "torch.nn.utils.prune", "magnitude, global", partial(masked, prune=largest), SHARES),
    Method("weights", "torch.nn.utils.prune", "magnitude, layer", partial(masked, prune=largest_by_layer), SHARES),
    Method("weights", "torch.nn.utils.prune", "random, global", partial(masked, prune=any_of_all), SHARES),
    # NNCF's global ranking divides by the norm of each layer first.
    Method("weights", "nncf", "magnitude, normed", partial(nncf_pruned, mode="UNSTRUCTURED_MAGNITUDE_GLOBAL"), SHARES),
    # Layer by layer it rounds what goes down: of the 144 weights of a first layer 8 stay at 95 %, where 7.2 were asked
    # for and the others keep 7, which is 5 points of accuracy after tuning. So no other method is equal to it.
    Method("weights", "nncf", "magnitude, layer up", partial(nncf_pruned, mode="UNSTRUCTURED_MAGNITUDE_LOCAL"), SHARES),
    Method("weights", "torchao", "activation, layer", wanda, SHARES),
    Method("weights", "torchao", "activation, 2:4", partial(wanda, block=4), (50,)),
)
