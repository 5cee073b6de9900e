"""A plugin of myst-nb, so that a site that Sphinx builds from notebooks shows saved studies without a warning."""

from __future__ import annotations

from typing import Any, ClassVar

from nbcompress.panels.view import MIME


class SavedStudyRenderer:
    """Leaves the study as data out of a page; the HTML beside it shows the same.

    Sphinx finds it by the entry point `myst_nb.mime_renderers`.
    """

    mime_priority_overrides: ClassVar[tuple[tuple[str, str, None], ...]] = (("*", MIME, None),)

    @staticmethod
    def handle_mime(renderer: object, data: Any, inline: bool) -> list[object] | None:  # noqa: ARG004
        """Return no node for a study as data, and None for every other type, which others draw."""
        return [] if data.mime_type == MIME else None
