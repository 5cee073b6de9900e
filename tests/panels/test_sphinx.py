"""The plugin of myst-nb leaves out what the HTML shows, and nothing else."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

from nbcompress.panels.view import MIME

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_entry_point_is_a_plugin_that_leaves_out_the_study_as_data() -> None:
    entry = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]["myst_nb.mime_renderers"]["nbcompress"]
    module, name = entry.split(":")
    plugin = getattr(import_module(module), name)
    assert ("*", MIME, None) in plugin.mime_priority_overrides
    assert plugin.handle_mime(None, SimpleNamespace(mime_type=MIME), False) == []
    assert plugin.handle_mime(None, SimpleNamespace(mime_type="text/html"), False) is None
