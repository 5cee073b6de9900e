"""The sources of the site: made from the parsers, the docstrings and the documents, and complete."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from nbcompress.magics import CELL_MAGIC, LINE_MAGICS, parser_of
from nbcompress.public import HOMES

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import build  # noqa: E402
import pages  # noqa: E402


def test_the_reference_documents_every_public_name_once() -> None:
    documented = re.findall(r"^\.\. auto(?:class|function):: nbcompress\.(\w+)$", pages.api_page(), re.MULTILINE)
    assert sorted(documented) == sorted(HOMES)


@pytest.mark.parametrize("name", [CELL_MAGIC, *LINE_MAGICS])
def test_the_page_of_the_magics_has_every_option(name: str) -> None:
    title = f"\n## {'%%' if name == CELL_MAGIC else '%'}{name}\n"
    section = pages.magics_page().partition(title)[2].partition("\n## ")[0]
    assert [option for option in parser_of(name).options() if f"`{option}`" not in section] == []
    assert "%(default)" not in section


def test_links_lead_to_pages_of_the_site() -> None:
    text = "[a](docs/scaling.md#x) [b](CONTRIBUTING.md) ![p](docs/panel.png) [c](LICENSE) `examples/pruning.ipynb`"
    moved = "[a](scaling.md#x) [b](contributing.md) ![p](panel.png) c [pruning](examples/pruning.ipynb)"
    assert pages.relinked(text, ROOT / "README.md") == moved
    assert pages.relinked("[r](../README.md#a)", ROOT / "docs" / "scaling.md") == "[r](index.md#a)"
    assert pages.relinked("[r](https://example.org/README.md)", ROOT / "README.md").endswith(
        "(https://example.org/README.md)"
    )


def test_sources_are_written_from_executed_notebooks(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    drawn = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBORw0KGgo="}}
    slider = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "FloatSlider()"}
    for path in (ROOT / "examples").glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        code[-1]["outputs"] = [drawn, {"output_type": "display_data", "metadata": {}, "data": dict(slider)}]
        (output / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    pages.write(tmp_path / "site", output)
    gallery = (tmp_path / "site" / "gallery.md").read_text(encoding="utf-8")
    for path in (ROOT / "examples").glob("*.ipynb"):
        assert f'href="examples/{path.stem}.html"' in gallery
        assert (tmp_path / "site" / "extra" / "pictures" / f"{path.stem}.png").exists()
        assert "widget-view" not in (tmp_path / "site" / "examples" / path.name).read_text(encoding="utf-8")
    first = (tmp_path / "site" / "index.md").read_text(encoding="utf-8")
    listed = [name for names in pages.CONTENTS.values() for name in names]
    assert [name for name in listed if f"\n{name}\n" not in first] == []
    assert [name for name in listed if not (tmp_path / "site" / f"{name}.md").exists()] == []
    (output / "keras.ipynb").unlink()
    with pytest.raises(SystemExit, match=r"keras\.ipynb is missing"):
        pages.write(tmp_path / "site", output)


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<p id="here">text</p>')
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">good</a><a href="b.html#gone">bad</a><a href="c.html">bad</a>'
        '<a href="https://example.org">not followed</a><script src="https://example.org/x.js"></script>'
    )
    found = build.broken_links(tmp_path)
    assert [sentence.split(",")[0] for sentence in found] == [
        "a.html loads https://example.org/x.js",
        "a.html leads to b.html#gone",
        "a.html leads to c.html",
    ]
