"""Tell the Jupyter server which storages this kernel uses, so that its studies can be seen while the kernel is busy.

The kernel writes a file beside its connection file, in a folder that only its user may read. It holds paths, and URLs
without their passwords.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

from nbcompress.errors import warn

_PREFIX = "nbcompress-"
_CONNECTION_PREFIX = "kernel-"
# Storages of a kernel beyond this number are not listed.
MAX_STORAGES = 100


def registration_file(connection_file: str) -> Path | None:
    """Return the file in which the kernel with that connection file lists its storages, or None if it is no kernel's.

    Example:
        >>> registration_file("/run/kernel-12ab.json").name
        'nbcompress-12ab.json'
    """
    path = Path(connection_file)
    if path.suffix != ".json" or not path.stem.startswith(_CONNECTION_PREFIX):
        return None
    return path.with_name(f"{_PREFIX}{path.stem.removeprefix(_CONNECTION_PREFIX)}.json")


def registered(folder: str | os.PathLike[str], kernel_id: str) -> list[dict[str, Any]]:
    """Return what a kernel has registered: `storage` (a path or a URL without password), `study`, `is_searched`.

    A study that the kernel has only opened for reading is not searched there.
    """
    try:
        data = json.loads((Path(folder) / f"{_PREFIX}{kernel_id}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    entries = data.get("studies") if isinstance(data, dict) else None
    return [
        {"storage": entry["storage"], "study": entry["study"], "is_searched": entry.get("is_searched") is True}
        for entry in (entries if isinstance(entries, list) else [])[:MAX_STORAGES]
        if isinstance(entry, dict) and isinstance(entry.get("storage"), str) and isinstance(entry.get("study"), str)
    ]


def register_study(storage: str, study: str, *, is_searched: bool = False) -> None:
    """List a study of this kernel for the Jupyter server. Outside a Jupyter kernel this does nothing.

    Args:
        storage: The location of its storage, as `Study.storage` has it: without a password.
        study: Its name.
        is_searched: Whether this kernel searches it, and does not only read it.
    """
    path = _own_file()
    if path is None or not (os.path.isabs(storage) or "://" in storage):
        return
    entry = {"storage": storage, "study": study, "is_searched": is_searched}
    known = registered(path.parent, path.stem.removeprefix(_PREFIX))
    if entry in known or {**entry, "is_searched": True} in known:
        return
    known = [other for other in known if (other["storage"], other["study"]) != (storage, study)]
    if not path.exists():
        atexit.register(_remove, path, os.getpid())
    text = json.dumps({"version": 1, "studies": [entry, *known][:MAX_STORAGES]})
    unfinished = path.with_suffix(".tmp")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(unfinished, path)
    except OSError as error:
        warn(f"The sidebar of JupyterLab will not show study {study!r}: {path} cannot be written ({error.strerror}).")


def _own_file() -> Path | None:
    """Return the file of this process if it is a Jupyter kernel, else None."""
    # Only a kernel has this module, and it is not imported for any other purpose.
    application: Any = getattr(sys.modules.get("ipykernel.kernelapp"), "IPKernelApp", None)
    if application is None or not application.initialized():
        return None
    return registration_file(str(getattr(application.instance(), "abs_connection_file", "")))


def _remove(path: Path, process: int) -> None:
    if os.getpid() == process:  # a forked process leaves it
        path.unlink(missing_ok=True)


__all__ = ["register_study", "registered", "registration_file"]
