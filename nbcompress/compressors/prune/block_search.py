"""Find the blocks of a model by running it, and let blocks return their inputs.

A block is a part of the model whose output has the shape of its input, so that the input can stand for the output, or
zeros if the model adds the output to the input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from nbcompress.compressors.blocks import is_container
from nbcompress.compressors.inputs import Inputs
from nbcompress.compressors.prune.equivalence import run
from nbcompress.errors import CompressionError


@dataclass(frozen=True)
class Calls:
    """What the calls of a module on the example were like.

    Attributes:
        n: How many there were.
        source: The argument that a block returns when it is bypassed: a position or a keyword; None without a tensor.
        extras: For each further result, the argument that it is; None if it is none of them. Then no layer needs it.
        is_sequence: The result is a tuple or a list.
        is_replaceable: Its call is that of `nn.Identity`: one tensor in, one tensor out.
        problem: Why the module cannot be bypassed; empty if it can.
        shapes: Of the input and of the output.
        result: Identifies the output tensor.
        is_branch: The model adds its output to something, so that a bypassed block returns zeros.
    """

    n: int
    source: int | str | None
    extras: tuple[int | str | None, ...]
    is_sequence: bool
    is_replaceable: bool
    problem: str
    shapes: tuple[tuple[int, ...], ...]
    result: int
    is_branch: bool = False


@dataclass(frozen=True)
class Block:
    """A part of a model that can be removed.

    Attributes:
        container: Name of the list that holds it; None for modules that are replaced by `nn.Identity`.
        paths: Names of its modules: one, or a layer with the norm and the activation after it.
    """

    container: str | None
    paths: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its first module."""
        return self.paths[0]

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions in the container."""
        return tuple(int(path.rpartition(".")[2]) for path in self.paths)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a model, how they are bypassed, and why other modules of their kinds are none, by name."""

    found: tuple[Block, ...]
    calls: Mapping[str, Calls]
    reasons: Mapping[str, str]


def find_blocks(model: nn.Module, inputs: Inputs) -> Blocks:
    """Find the blocks of `model`, which must run on `inputs` and is in evaluation mode."""
    calls = _observed(model, inputs)
    names = {path: module for path, module in model.named_modules() if path in calls}
    n_of_kind = Counter(type(module) for module in names.values())
    found: list[Block] = []
    reasons: dict[str, str] = {}
    # Inside of blocks nothing is searched, and inside of items of lists only other lists.
    closed: list[str] = []
    items: list[str] = []
    for path, module in model.named_modules():
        if _is_inside(path, closed):
            continue
        if is_container(module):
            own = _blocks_of(path, module, calls, n_of_kind, reasons)
            found += own
            closed += [name for block in own for name in block.paths]
            closed += [name for name, why in reasons.items() if not why.startswith(_CHANGES_SHAPE)]
            items += [f"{path}.{name}".removeprefix(".") for name in module._modules]
        elif path in calls and not _is_inside(path, items) and _is_single(path, module, calls[path], n_of_kind):
            found.append(Block(None, (path,)))
            closed.append(path)
    found += _rows_of_attributes(model, inputs, calls, [*closed, *items])
    kinds = {type(model.get_submodule(block.name)) for block in found}
    reasons = {path: why for path, why in reasons.items() if not found or type(model.get_submodule(path)) in kinds}
    return Blocks(tuple(found), calls, reasons)


def as_branches(model: nn.Module, blocks: Blocks) -> Blocks:
    """Return the blocks of lists as residual branches: the model adds the output of each to its input.

    An `nn.Sequential` adds nothing, so its items are no branches.
    """
    lists = [
        block
        for block in blocks.found
        if block.container is not None and not isinstance(model.get_submodule(block.container), nn.Sequential)
    ]
    marked = {path: replace(blocks.calls[path], is_branch=True) for block in lists for path in block.paths}
    return replace(blocks, found=tuple(lists), calls={**blocks.calls, **marked})


def _is_inside(path: str, others: Sequence[str]) -> bool:
    """Whether `path` is one of `others`, or a module inside of one."""
    return any(f"{path}.".startswith(f"{other}.") for other in others)


def _blocks_of(
    path: str, container: nn.Module, calls: Mapping[str, Calls], n_of_kind: Mapping[type, int], reasons: dict[str, str]
) -> list[Block]:
    """The blocks among the items of a container."""
    items = {f"{path}.{name}".removeprefix("."): item for name, item in container._modules.items() if item is not None}
    blocks: list[Block] = []
    for name, item in items.items():
        if _is_plain_layer(item) or not _has_matrix(item) or (name in calls and _is_stage(name, item, calls)):
            continue
        problem = calls[name].problem if name in calls else "the model does not call it on the example"
        is_alone = n_of_kind.get(type(item), 0) < 2
        if is_alone and (isinstance(container, nn.Sequential) or problem.startswith(_CHANGES_SHAPE)):
            continue  # a head or a stem, and not a layer of a stack
        if is_alone:
            problem = problem or f"it is the only {type(item).__name__}"
        if not problem and len(items) == 1:
            if calls[name].is_replaceable:
                blocks.append(Block(None, (name,)))
                continue
            problem = "it is the only item of its list"
        if problem:
            reasons[name] = problem
        else:
            blocks.append(Block(path, (name,)))
    if isinstance(container, nn.Sequential):
        blocks += _rows_of_layers(path, items, calls)
    return blocks


def _is_stage(path: str, module: nn.Module, calls: Mapping[str, Calls]) -> bool:
    """Whether a module only calls the blocks of a list in it, so that these are the blocks."""
    for inner, candidate in module.named_modules(prefix=path):
        if not is_container(candidate) or len(candidate._modules) < 2:
            continue
        kinds = Counter(type(item) for item in candidate._modules.values() if item is not None and item._modules)
        last = calls.get(f"{inner}.{len(candidate._modules) - 1}")
        if max(kinds.values(), default=0) > 1 and last is not None and last.result == calls[path].result:
            return True
    return False


def _rows_of_layers(path: str, items: Mapping[str, nn.Module], calls: Mapping[str, Calls]) -> list[Block]:
    """Layers of torch of equal shape in a row, each with the norm and the activation that follow it."""
    runs: list[list[str]] = []
    for name, item in items.items():
        if _is_plain_layer(item):
            runs.append([name])
        elif runs and (not item._modules and (not _has_weights(item) or _is_norm(item))):
            runs[-1].append(name)
        else:
            runs.append([])
    by_kind: dict[object, list[Block]] = {}
    for run_ in runs:
        kept: list[str] = []
        for name in run_:
            if name not in calls or calls[name].problem:
                break
            kept.append(name)
        if kept:
            key = type(items[kept[0]]), calls[kept[0]].shapes
            by_kind.setdefault(key, []).append(Block(path, tuple(kept)))
    return [block for blocks in by_kind.values() if len(blocks) > 1 for block in blocks]


def _rows_of_attributes(
    model: nn.Module, inputs: Inputs, calls: Mapping[str, Calls], closed: Sequence[str]
) -> list[Block]:
    """Layers of torch of equal shape that are attributes of one module and follow each other, each with its norm."""
    by_kind: dict[object, list[str]] = {}
    for path, module in model.named_modules():
        call = calls.get(path)
        if call is None or call.problem or not call.is_replaceable or _is_inside(path, closed):
            continue
        if path and _is_plain_layer(module):
            by_kind.setdefault((path.rpartition(".")[0], type(module), call.shapes), []).append(path)
    groups = [set(paths) for paths in by_kind.values() if len(paths) > 1]
    if not groups:
        return []
    before, norm_of = _followed(model, inputs)
    n_readers = Counter(before.values())
    blocks: list[Block] = []
    for group in groups:
        # One that several layers read begins no row.
        pairs = [(first, path) for path in group if (first := before.get(path)) in group and n_readers[first] == 1]
        chosen = {path for pair in pairs for path in pair}
        for path in [path for path in calls if path in chosen]:
            norm = norm_of.get(path)
            has_norm = norm is not None and not calls[norm].problem and calls[norm].is_replaceable
            blocks.append(Block(None, (path, norm) if norm is not None and has_norm else (path,)))
    return blocks


class _Sources(TorchFunctionMode):
    """Notes of each tensor the one that it was made from, where this is a single one besides parameters."""

    def __init__(self) -> None:
        self.of: dict[int, int] = {}
        # So that no other tensor gets the same identity.
        self.alive: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [value for value in tree_leaves((args, kwargs or {})) if isinstance(value, Tensor)]
        self.note([value for value in given if not isinstance(value, nn.Parameter)], result)
        return result

    def note(self, given: Sequence[Tensor], result: Any) -> None:
        if len(given) == 1 and isinstance(result, Tensor) and result is not given[0]:
            self.alive += [result, given[0]]
            self.of[id(result)] = id(given[0])


def _followed(model: nn.Module, inputs: Inputs) -> tuple[dict[str, str], dict[str, str]]:
    """Run the model; return for each layer of torch the one whose output it reads, and the norm that reads its output.

    Between the two layers each step has one tensor as its input: an activation, a norm, another order of dimensions.
    So queries, keys and values of an attention do not follow each other.
    """
    sources = _Sources()
    owners: dict[int, str] = {}
    before: dict[str, str] = {}
    norm_of: dict[str, str] = {}
    paths = {id(module): path for path, module in model.named_modules() if not module._modules}

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args) != 1 or not isinstance(args[0], Tensor):
            return
        place: int | None = id(args[0])
        if _is_norm(module) and place in owners:
            norm_of[owners[place]] = paths[id(module)]
        while _is_plain_layer(module) and place is not None:
            if place in owners:
                before[paths[id(module)]] = owners[place]
                break
            place = sources.of.get(place)

    def end(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        if _is_plain_layer(module) and isinstance(result, Tensor):
            sources.alive.append(result)
            owners[id(result)] = paths[id(module)]
        elif _is_norm(module) and isinstance(args[0], Tensor):
            # The functions of a norm also read its buffers.
            sources.note([args[0]], result)

    leaves = [module for module in model.modules() if id(module) in paths]
    handles = [module.register_forward_pre_hook(begin) for module in leaves]
    handles += [module.register_forward_hook(end) for module in leaves]
    try:
        with sources:
            run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return before, norm_of


def _is_single(path: str, module: nn.Module, call: Calls, n_of_kind: Mapping[type, int]) -> bool:
    """Whether a module that is an attribute is a block: several of one class of the user, or layers of an encoder."""
    if not path or not module._modules or not _has_matrix(module):
        return False
    if _is_of_library(module) and not isinstance(module, nn.TransformerEncoderLayer):
        return False
    return not call.problem and call.is_replaceable and n_of_kind.get(type(module), 0) > 1


def _is_of_library(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.", "keras."))


def _is_plain_layer(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and not module._modules


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.PReLU))


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _has_matrix(module: nn.Module) -> bool:
    """Whether a module has more than the gains of norms."""
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _observed(model: nn.Module, inputs: Inputs) -> dict[str, Calls]:
    """Run the model and note how its modules were called."""
    seen: dict[str, Calls] = {}
    paths: dict[int, str] = {}
    for path, module in model.named_modules():
        paths.setdefault(id(module), path)
    # Further results of modules, and the tensors themselves, so that no other tensor gets the same identity.
    extras: dict[int, str] = {}
    alive: list[Any] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            owner = extras.get(id(value))
            # The parts of a module and the modules around it may use its results; other layers must not need them.
            if owner is not None and owner in seen and not _is_inside(paths[id(module)], [owner]):
                seen[owner] = replace(seen[owner], problem="it returns more than its output, which a later layer needs")

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        path = paths[id(module)]
        alive.append(result)
        call = _described(args, kwargs, result)
        if isinstance(result, (tuple, list)):
            new = [item for item, known in zip(result[1:], call.extras, strict=True) if known is None]
            extras.update((id(item), path) for item in new if isinstance(item, (Tensor, tuple, list)))
        if path in seen:
            n = seen[path].n + 1
            call = replace(call, n=n, problem=f"it is called {n} times")
        seen[path] = call

    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in model.modules()]
    handles += [module.register_forward_hook(note, with_kwargs=True) for module in model.modules()]
    try:
        run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


_CHANGES_SHAPE = "it changes the shape"


def _described(args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> Calls:
    given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    tensors = {key: value for key, value in given.items() if isinstance(value, Tensor)}
    source = next(iter(tensors), None)
    is_sequence = type(result) in (tuple, list)
    results = list(result) if is_sequence else [result]
    extras = tuple(next((key for key, value in given.items() if value is extra), None) for extra in results[1:])
    problem = ""
    shapes: tuple[tuple[int, ...], ...] = ()
    if source is None or not results or not isinstance(results[0], Tensor):
        problem = "it does not turn a tensor into a tensor"
    else:
        x, y = tensors[source], results[0]
        shapes = tuple(() if tensor.is_nested else tuple(tensor.shape) for tensor in (x, y))
        if shapes[0] != shapes[1]:
            problem = f"{_CHANGES_SHAPE}, from {shapes[0]} to {shapes[1]}"
        elif x.dtype != y.dtype or not y.is_floating_point():
            problem = "it changes the kind of numbers"
    is_replaceable = not is_sequence and source == 0 and len(given) == 1
    return Calls(1, source, extras, is_sequence, is_replaceable, problem, shapes, id(results[0]) if results else 0)


# ---- Models whose blocks return their inputs ----


def _returns_input(call: Calls, *args: Any, **kwargs: Any) -> Any:
    given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    x = torch.zeros_like(given[call.source]) if call.is_branch else given[call.source]
    if not call.is_sequence:
        return x
    return (x, *(None if extra is None else given.get(extra) for extra in call.extras))


@contextmanager
def bypassed(model: nn.Module, blocks: Iterable[Block], calls: Mapping[str, Calls]) -> Iterator[nn.Module]:
    """Let blocks return their inputs inside the `with` block. The model is put back at the end."""
    changed: list[nn.Module] = []
    try:
        for block in blocks:
            for path in block.paths:
                module = model.get_submodule(path)
                if "forward" in vars(module):
                    raise CompressionError(f"{path!r} has a forward of its own, so it cannot be bypassed")
                vars(module)["forward"] = partial(_returns_input, calls[path])
                changed.append(module)
        yield model
    finally:
        for module in changed:
            del vars(module)["forward"]


__all__ = ["Block", "Blocks", "Calls", "as_branches", "bypassed", "find_blocks"]
