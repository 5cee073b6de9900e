"""Builds the front end when the package is built, where Node is at hand; without it the Python part still installs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

EXTENSION = "share/jupyter/labextensions/nbcompress"
STAMP = "nbcompress/panels/static/sources.sha256"
BUILT = (
    "nbcompress/panels/static/panel.js",
    "nbcompress/labextension/package.json",
)
WITHOUT = "nbcompress: the front end was not built ({}); panels will show plain HTML and text."


class FrontEndHook(BuildHookInterface[Any]):
    """Runs the front end's own build unless what is built already belongs to these sources."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (hatchling calls it)
        root = Path(self.root)
        reason = build(root)
        if reason:
            self.app.display_warning(WITHOUT.format(reason))
        if self.target_name == "wheel" and (root / "nbcompress/labextension/package.json").is_file():
            build_data["shared_data"]["nbcompress/labextension"] = EXTENSION
            build_data["shared_data"]["install.json"] = f"{EXTENSION}/install.json"


def build(root: Path) -> str:
    """Build what is missing or stale. Return why it could not be built, or an empty string."""
    folder = root / "labextension"
    stamp = root / STAMP
    is_built = all((root / one).is_file() for one in BUILT)
    if not folder.is_dir():
        return "" if is_built else "its sources are missing"
    fingerprint = sources_hash(folder)
    if is_built and stamp.is_file() and stamp.read_text(encoding="ascii").strip() == fingerprint:
        return ""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is missing"
    for command in ([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], [npm, "run", "build"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line.lower()]
            return f"`npm {command[1]}` failed: {lines[0].strip() if lines else done.returncode}"
    stamp.write_text(fingerprint + "\n", encoding="ascii")
    return ""


def sources_hash(folder: Path) -> str:
    """Return a hash of everything that the built front end depends on."""
    digest = hashlib.sha256()
    for path in sources(folder):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


def sources(folder: Path) -> Iterator[Path]:
    yield from (
        folder / name for name in ("package.json", "package-lock.json", "build.mjs") if (folder / name).is_file()
    )
    yield from sorted((folder / "src").rglob("*.ts"))
    yield from sorted((folder / "schema").rglob("*.json"))
