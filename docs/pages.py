"""Writes the sources of the site into one folder: documents of the repository, API, magics and the gallery.

What stands in the README, in a docstring or in a parser is not written a second time.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# What the public names are for, in the order of the page: a heading, and the homes of its names.
API = {
    "The search": ("space", "run", "study", "optimize"),
    "Compressors": ("compressors", "cell.compress"),
    "Files": ("artifact",),
    "Measures": ("measure",),
    "Errors": ("errors",),
}
# A function stands with those that a reader looks for together, wherever it lives.
PLACES = {"quantize": "Compressors"}
FURTHER = {
    "nbcompress.optuna": ("Sampler",),
    "nbcompress.compat": ("gp_minimize", "BayesianOptimization"),
}
# Notebooks in the order in which one would read them; those that are not named follow.
FIRST = (
    "quickstart",
    "pruning",
    "quantization",
    "weight-sharing",
    "distillation",
    "joint-search",
    "transformer",
    "keras",
)


# The pages beside the first one, as the bar at the side lists them.
CONTENTS = {
    "Start": ("gallery", "how-it-works"),
    "Reference": ("magics", "api", "scaling", "formats"),
    "Evidence": ("benchmarks", "changelog"),
    "Take part": ("contributing", "security"),
}


def write(folder: Path, output: Path = ROOT / "output") -> None:
    """Write all sources of the site.

    Args:
        folder: Where to; what is there is removed.
        output: Where `make docs` and `make reports` leave executed notebooks.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))):
        text = relinked(path.read_text(encoding="utf-8"), path)
        name = page_of(path)
        if name == "index.md":
            text += contents()
        if name:
            (folder / name).write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "docs" / "figures", folder / "figures")
    shutil.copy(ROOT / "docs" / "panel.png", folder)
    (folder / "api.md").write_text(api_page(), encoding="utf-8")
    (folder / "magics.md").write_text(magics_page(), encoding="utf-8")
    write_gallery(folder, output)


def page_of(path: Path) -> str | None:
    """The name of the page of a file of the repository, or of a picture; None if the site does not have it."""
    if path == ROOT / "README.md":
        return "index.md"
    if path.is_relative_to(ROOT / "docs") and path.suffix in (".md", ".png"):
        return str(path.relative_to(ROOT / "docs"))
    if path.parent == ROOT / "examples" and path.suffix == ".ipynb":
        return str(path.relative_to(ROOT))
    is_page = path.parent == ROOT and path.suffix == ".md" and path.name != "README.zh-CN.md"
    return path.name.lower() if is_page else None


def contents() -> str:
    trees = []
    for caption, names in CONTENTS.items():
        trees += ["```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```", ""]
    return "\n" + "\n".join(trees)


def relinked(text: str, path: Path) -> str:
    """Return a document of the repository as it stands in the site: links to files lead to their pages."""

    def moved(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or not target:
            return match[0]
        page = page_of((path.parent / target).resolve())
        # Files that are no page of the site are named only.
        return f"{label}({page}{anchor})" if page else label.strip("![]")

    text = re.sub(r"(!?\[[^]]*])\(([^)#\s]*)(#[^)\s]*)?\)", moved, text)
    return re.sub(r"`examples/([\w-]+)\.ipynb`", r"[\1](examples/\1.ipynb)", text)


# ---- From docstrings ----


def api_page() -> str:
    """The reference of all public names, by what they are for."""
    from nbcompress.public import HOMES

    lines = ["# Python", "", "`import nbcompress as nc` has these names. They load what they need on first use.", ""]
    placed = set()
    for heading, homes in API.items():
        names = [
            name
            for name, home in HOMES.items()
            if PLACES.get(name, heading if home in homes else "") == heading and name not in placed
        ]
        placed |= set(names)
        lines += [f"## {heading}", ""]
        for name in sorted(names, key=str.lower):
            lines += entry("nbcompress", name)
    missing = set(HOMES) - placed
    if missing:
        raise SystemExit(f"docs/pages.py must say where {', '.join(sorted(missing))} stand on the page")
    lines += ["## Beside other libraries", ""]
    for module, names in FURTHER.items():
        for name in names:
            lines += entry(module, name)
    return "\n".join(lines)


def entry(module: str, name: str) -> list[str]:
    """The directive that documents a name."""
    from importlib import import_module

    kind = "class" if isinstance(getattr(import_module(module), name), type) else "function"
    options = ["   :members:"] if kind == "class" else []
    return [f"### {name}", "", "```{eval-rst}", f".. auto{kind}:: {module}.{name}", *options, "```", ""]


# ---- From parsers ----


def magics_page() -> str:
    """Each magic with its arguments, examples, words and defaults, as its parser knows them."""
    from nbcompress.magics import CELL_MAGIC, LINE_MAGICS, parser_of

    lines = [
        "# Magics",
        "",
        "Run `%load_ext nbcompress` once. This page is made from the parsers: `%prune -h` shows the same.",
        "",
    ]
    for name in (CELL_MAGIC, *LINE_MAGICS):
        parser = parser_of(name)
        title = f"%%{name}" if name == CELL_MAGIC else f"%{name}"
        lines += [f"## {title}", "", prose(parser.description or ""), ""]
        examples = (parser.epilog or "").removeprefix("examples:\n")
        if examples:
            lines += ["```text", textwrap.dedent(examples).strip("\n"), "```", ""]
        lines += ["| argument | what it does |", "| --- | --- |"]
        lines += [f"| {spelling(action)} | {meaning(action, parser)} |" for action in parser._actions if action.help]
        lines.append("")
    return "\n".join(lines)


def prose(text: str) -> str:
    """Return plain text as Markdown: nothing in it is markup, and options are set as code."""
    # A parser breaks its lines, also behind a hyphen.
    text = re.sub(r"(?<=\w)-\n(?=\w)", "-", text)
    text = re.sub(r"([\\`*_$|<\[\]{}])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![\w-])(--[a-z][a-z-]*)", r"`\1`", text)


def spelling(action: argparse.Action) -> str:
    """An argument as it is typed."""
    value = action.metavar or action.dest.upper()
    value = " ".join(value) if isinstance(value, tuple) else str(value)
    if not action.option_strings:
        return f"`{value}`"
    option = ", ".join(f"`{text}`" for text in action.option_strings)
    return option if action.nargs == 0 else f"{option} `{value}`"


def meaning(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """The help of an argument, with the words that it takes."""
    found = " ".join(parser._get_formatter()._expand_help(action).split())
    choices: Any = action.choices or getattr(action.type, "choices", None)
    if choices:
        words = [str(word) for word in choices]
        if not all(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", found) for word in words):
            found += f" Words: {', '.join(words)}."
    return prose(found)


# ---- From notebooks ----


def write_gallery(folder: Path, output: Path) -> None:
    """Copy the executed notebooks, and write the page that shows them with a picture each."""
    target, pictures = folder / "examples", folder / "extra" / "pictures"
    target.mkdir()
    pictures.mkdir(parents=True)
    names = sorted(path.stem for path in (ROOT / "examples").glob("*.ipynb"))
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    cards, listed = [], []
    for name in names:
        executed = output / f"{name}.ipynb"
        if not executed.exists():
            raise SystemExit(f"{executed} is missing: `make docs` runs the notebooks first")
        notebook = json.loads(executed.read_text(encoding="utf-8"))
        (target / executed.name).write_text(json.dumps(cleaned(notebook)), encoding="utf-8")
        title, story = headline(notebook)
        picture = last_picture(notebook)
        if picture:
            (pictures / f"{name}.png").write_bytes(picture)
        image = f'<img src="pictures/{name}.png" alt="" loading="lazy">' if picture else ""
        cards.append(
            f'<a href="examples/{name}.html">{image}<strong>{html.escape(title)}</strong>'
            f"<span>{html.escape(story)}</span></a>"
        )
        listed.append(f"examples/{name}")
    toctree = ["```{toctree}", ":hidden:", "", *listed, "```"]
    page = [
        "# Gallery",
        "",
        "Every notebook was run as it stands, without a person; its outputs are those of that run.",
        "",
        '<div class="gallery">',
        *cards,
        "</div>",
        "",
        *toctree,
    ]
    (folder / "gallery.md").write_text("\n".join(page), encoding="utf-8")


def cleaned(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook with a sentence in the place of each widget, which needs a kernel."""
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop("application/vnd.jupyter.widget-view+json", None) and "text/html" not in data:
                data["text/plain"] = "(Here the notebook shows widgets. They need a kernel.)"
    return notebook


def source(cell: dict[str, Any]) -> str:
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def headline(notebook: dict[str, Any]) -> tuple[str, str]:
    """The title of a notebook and the first sentences of its story."""
    first, _, rest = source(notebook["cells"][0]).partition("\n")
    story = " ".join(rest.strip().split("\n\n")[0].split())
    story = re.sub(r"[*`$]|\[([^]]*)]\([^)]*\)", lambda match: match[1] or "", story)
    return first.removeprefix("# "), textwrap.shorten(story, 190, placeholder=" …")


def last_picture(notebook: dict[str, Any]) -> bytes | None:
    """The last picture that matplotlib drew in a notebook, else the last one of a card or panel."""
    plots, cards = [], []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                (cards if "text/html" in data else plots).append(data["image/png"])
    found = (plots or cards)[-1:]
    return base64.b64decode("".join(found[0])) if found else None
