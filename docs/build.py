"""Builds the site: writes its sources, runs Sphinx with warnings as errors, and checks the links of all pages.

python docs/build.py [--sources output/site-sources] [--site output/site]
"""

from __future__ import annotations

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

from pages import write  # noqa: E402


class Links(HTMLParser):
    """The links of a page, what it loads to be shown, and the places that links can lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.places |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        loaded = found.get("src") if tag in ("img", "script", "iframe", "source") else None
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            loaded = found.get("href")
        if loaded:
            self.loaded.append(loaded)


def read(page: Path) -> Links:
    found = Links()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def broken_links(site: Path) -> list[str]:
    """Return a sentence for each link that leads nowhere, and for each thing that a page would load from the network.

    Links to other sites are not followed.
    """
    pages = {page: read(page) for page in sorted(site.rglob("*.html"))}
    wrong = []
    for page, found in pages.items():
        name = page.relative_to(site)
        remote = [address for address in found.loaded if urlsplit(address).netloc]
        wrong += [f"{name} loads {address}, and the site must work without a network" for address in remote]
        for address in [*found.links, *found.loaded]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                wrong.append(f"{name} leads to {address}, which does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                wrong.append(f"{name} leads to {address}, but the page has no such place")
    return list(dict.fromkeys(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebooks", type=Path, default=ROOT / "output", help="the folder of executed notebooks")
    parser.add_argument("--sources", type=Path, default=ROOT / "output" / "site-sources")
    parser.add_argument("--site", type=Path, default=ROOT / "output" / "site")
    options = parser.parse_args()
    from sphinx.cmd.build import main as build

    write(options.sources, options.notebooks)
    # What lies in `extra` is copied as it is.
    extra = f"html_extra_path={(options.sources / 'extra').resolve()}"
    settings = ["-q", "-W", "--keep-going", "-E", "-c", str(DOCS), "-D", extra]
    status = build([*settings, str(options.sources), str(options.site)])
    if status:
        return status
    wrong = broken_links(options.site.resolve())
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if not wrong:
        print(f"The site is complete: open {options.site / 'index.html'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
