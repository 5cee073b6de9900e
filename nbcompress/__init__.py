"""Make PyTorch models small and fast without leaving the notebook.

Public names load on first use, so that `import nbcompress` and `%load_ext nbcompress` take no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbcompress._version import __version__
from nbcompress.public import HOMES, MODULES, public

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def __getattr__(name: str) -> Any:
    if name not in (*HOMES, *MODULES):
        from nbcompress.errors import did_you_mean

        near = did_you_mean(name, [*HOMES, *MODULES])
        raise AttributeError(f"module 'nbcompress' has no attribute {name!r}.{near}")
    value = public(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({"__version__", *HOMES, *MODULES})


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics: `%load_ext nbcompress`."""
    from nbcompress.magics import register

    register(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics away again: `%unload_ext nbcompress`."""
    from nbcompress.magics import unregister

    unregister(shell)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Where Jupyter Server finds its extension. It reads this from the package that its configuration names."""
    return [{"module": "nbcompress.server"}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "nbcompress"}]


__all__ = ["__version__", *HOMES]
