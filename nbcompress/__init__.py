"""Make PyTorch models small and fast without leaving the notebook.

Public names load on first use, so that `import nbcompress` and `%load_ext nbcompress` take no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nbcompress._version import __version__

# Where each public name lives. The import happens when the name is first asked for.
_HOMES = {
    "Choice": "space",
    "Float": "space",
    "Int": "space",
    "Space": "space",
    "Study": "study",
    "Trial": "study",
    "NbcompressError": "errors",
    "Optimizer": "optimize",
    "cluster": "compress",
    "distill": "compress",
    "factorize": "compress",
    "finetune": "compress",
    "prune": "compress",
    "quantize": "artifact",
    "export": "artifact",
    "load": "artifact",
    "save": "artifact",
    "size_bytes": "artifact",
    "footprint": "measure",
    "sensitivity": "measure",
    "keep": "run",
    "maximize": "run",
    "report": "run",
    "search": "run",
}

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nbcompress' has no attribute {name!r}")
    home = import_module(f"nbcompress.{_HOMES[name]}")
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics: `%load_ext nbcompress`."""
    from nbcompress.magics import register

    register(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics away again: `%unload_ext nbcompress`."""
    from nbcompress.magics import unregister

    unregister(shell)


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "nbcompress"}]


__all__ = ["__version__", *_HOMES]
