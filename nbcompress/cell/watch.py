"""The notebook's modules stay as they were: a trial that reaches an original is undone and named."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbcompress.cell.isolation import stateful_in
from nbcompress.run.looking import is_a, own_attributes

if TYPE_CHECKING:
    from torch import Tensor, nn


_FOLDERS = ("_modules", "_parameters", "_buffers")


@dataclass
class _Watched:
    """One tensor of a notebook's module: where it stands, the object, its version when last seen, and a copy."""

    owner: dict[str, Any]
    key: str
    tensor: Tensor
    version: int
    saved: Tensor
    is_buffer: bool

    def is_changed(self) -> bool:
        if not self._is_in_place() or _version(self.tensor) != self.version:
            return True
        # Batch normalization updates its running statistics without a new version; buffers are small, so look.
        return self.is_buffer and not _equal(self.tensor, self.saved)

    def _is_in_place(self) -> bool:
        return self.key in self.owner and self.owner[self.key] is self.tensor

    def restore_(self) -> None:
        """Put the tensor and its values back in place."""
        import torch

        with torch.no_grad():
            if self.tensor.shape != self.saved.shape:
                self.tensor.resize_(self.saved.shape)
            self.tensor.copy_(self.saved)
        if not self._is_in_place():
            self.owner[self.key] = self.tensor
        self.version = _version(self.tensor)


def _version(tensor: Tensor) -> int:
    # Inference tensors track no version; outside inference mode nothing can write to them.
    return -1 if tensor.is_inference() else int(tensor._version)


def _equal(one: Tensor, other: Tensor) -> bool:
    import torch

    try:
        if torch.equal(one, other):
            return True
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    except RuntimeError:  # a kind of tensor that torch does not compare; its version has to do
        return True


class ModuleWatch:
    """Watches every module of a namespace; writes through `.data` are not seen.

    The copies are taken once, when the guard is made, and cost the memory of the modules once.
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._tensors: dict[str, list[_Watched]] = {}
        self._children: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
        torch = sys.modules.get("torch")
        seen: set[int] = set()
        for name, value in namespace.items():
            if torch is None or name.startswith("_"):
                continue
            for module in stateful_in(value, (torch.nn.Module,)):
                if id(module) not in seen:
                    seen.add(id(module))
                    self._tensors.setdefault(name, []).extend(_watch(module))
                    folders = [_folder(part, kind) for part in _parts(module) for kind in _FOLDERS]
                    # Those of TorchScript are no dicts, and nothing can be added to them or taken out.
                    folders = [folder for folder in folders if is_a(folder, dict)]
                    self._children.setdefault(name, []).extend((folder, dict(folder)) for folder in folders)

    def restore_(self) -> tuple[str, ...]:
        """Undo every change in place and return the names whose modules had been changed."""
        changed = []
        for name, tensors in self._tensors.items():
            found = False
            for one in tensors:
                if one.is_changed():
                    one.restore_()
                    found = True
            for folder, saved in self._children[name]:
                if list(folder) != list(saved) or any(folder[key] is not saved[key] for key in saved):
                    folder.clear()
                    folder.update(saved)
                    found = True
            if found:
                changed.append(name)
        return tuple(changed)


def _watch(module: nn.Module) -> Iterator[_Watched]:
    from torch.nn.parameter import is_lazy

    for part in _parts(module):
        for kind in ("_parameters", "_buffers"):
            owner = _folder(part, kind)
            for key, tensor in owner.items():
                if tensor is not None and not is_lazy(tensor):
                    try:
                        saved = tensor.detach().clone()
                    except (RuntimeError, TypeError):
                        continue  # a tensor that cannot be copied cannot be put back either
                    yield _Watched(owner, key, tensor, _version(tensor), saved, kind == "_buffers")


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and every module in it, also of one whose `__init__` did not run to its end."""
    from torch import nn

    waiting, seen = [module], {id(module)}
    while waiting:
        part = waiting.pop()
        yield part
        for child in _folder(part, "_modules").values():
            if is_a(child, nn.Module) and id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)


def _folder(part: nn.Module, kind: str) -> Any:
    return own_attributes(part).get(kind, {})
