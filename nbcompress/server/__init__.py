"""The part that answers JupyterLab while the kernel is busy: the studies in the files that the server serves.

It is an extension of Jupyter Server. Only this folder imports `jupyter_server`, which is no requirement of the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _load_jupyter_server_extension(app: ServerApp) -> None:
    """Add the handlers to a server; it calls this when it starts."""
    from nbcompress.server.handlers import add_handlers

    add_handlers(app)
