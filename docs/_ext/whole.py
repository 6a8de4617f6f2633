"""The finished site is read once more: every link and picture leads somewhere, nothing comes from a network, no equation is text.

Sphinx checks the links that it made itself; those of raw HTML, of our own pages and of the theme are checked here.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
AHEAD = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}


VERBATIM = {"pre", "code", "script", "style"}
EQUATION = re.compile(r"\$[^\s$](?:[^$\n]*[^\s$])?\$(?!\d)")  # $5 and $6 are prices


class Page(HTMLParser):
    """ids: what can be linked to.  links, loaded: what is linked to, and what a browser fetches by itself.

    equations: those that still stand in the text as they were written.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.equations: list[str] = []
        self.verbatim = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.verbatim += tag in VERBATIM
        have = {name: value or "" for name, value in attrs}
        self.ids.update(have[name] for name in ("id", "name") if name in have)
        if tag == "a" and "href" in have:
            self.links.append(have["href"])
        elif tag == "link" and AHEAD & set(have.get("rel", "").split()):
            self.loaded.append(have["href"])
        elif tag in LOADED and LOADED[tag] in have:
            self.loaded.append(have[LOADED[tag]])

    def handle_endtag(self, tag: str) -> None:
        self.verbatim -= tag in VERBATIM

    def handle_data(self, data: str) -> None:
        if not self.verbatim:
            self.equations += EQUATION.findall(data)


def faults(site: Path) -> list[tuple[str, str]]:
    """(page, what is wrong with it)."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = str(path.relative_to(site.resolve()))
        found += [(name, f"loads {x} from a network") for x in page.loaded if _remote(x)]
        found += [(name, f"shows {x} as text") for x in page.equations]
        local = [x for x in [*page.links, *page.loaded] if not _remote(x) and not urlsplit(x).scheme]
        found += [(name, f"links to {x}, which there is not") for x in local if not _leads(path, x, pages)]
    return found


def _remote(target: str) -> bool:
    return urlsplit(target).scheme in ("http", "https") or target.startswith("//")


def _leads(path: Path, target: str, pages: dict[Path, Page]) -> bool:
    file, anchor = urlsplit(target).path, unquote(urlsplit(target).fragment)
    to = (path.parent / unquote(file)).resolve() if file else path
    if not anchor or to not in pages:
        return to.is_file()
    return anchor in pages[to].ids


def _check(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        for page, fault in faults(Path(app.outdir)):
            LOG.warning("%s %s", page, fault, type="whole")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
