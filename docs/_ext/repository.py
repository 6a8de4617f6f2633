"""Links from a page to the repository, written as on a code host ([loop](../examples/loop.py)), lead to it in the site, too.

A file that is no page of the site becomes one: its text with numbered lines, or its picture; a folder becomes a list. What does not
exist is left to Sphinx, which says so.
"""

from __future__ import annotations

import html
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx

FOLDER = "files"  # of the site
PICTURES = {".png", ".svg", ".gif"}


def _lead_all(app: Sphinx, document: nodes.document) -> None:
    """A link to a path of the repository becomes a link to its page."""
    for kind in (addnodes.download_reference, addnodes.pending_xref):
        for node in list(document.findall(kind)):
            path = _path(app, node)
            if path is not None:
                _lead(app, node, path)


def _path(app: Sphinx, node: nodes.Element) -> Path | None:
    """Without its #anchor, which MyST has dropped from a link to a file: it leads to the top."""
    file = unquote(node.get("reftarget", "")).partition("#")[0]
    if node.get("reftype") != "myst" or not file or file in app.env.found_docs:
        return None
    if node.get("refdomain") == "doc":  # MyST takes Markdown anywhere for a page, and drops its suffix
        file += ".md"
    path = (Path(app.env.doc2path(app.env.docname)).parent / file).resolve()
    return path if path.exists() and path.is_relative_to(_root(app)) else None


def _lead(app: Sphinx, node: nodes.Element, path: Path) -> None:
    known: set[Path] = app.repository_paths  # type: ignore[attr-defined]
    known.update([path, *(_inside(path) if path.is_dir() else ())])
    uri = app.builder.get_relative_uri(app.env.docname, _page(app, path))
    for inner in node.findall(nodes.inline):
        inner["classes"] = []
    node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=True))


def _root(app: Sphinx) -> Path:
    """The repository: what holds the folder of the pages."""
    return Path(app.srcdir).resolve().parent


def _page(app: Sphinx, path: Path) -> str:
    return f"{FOLDER}/{path.relative_to(_root(app))}"


def _inside(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    for path in sorted(app.repository_paths):  # type: ignore[attr-defined]
        name = str(path.relative_to(_root(app)))
        body = _list(path) if path.is_dir() else _picture(app, path) if path.suffix in PICTURES else _text(path)
        yield (
            _page(app, path),
            {"title": name, "body": f"<h1>{html.escape(name)}</h1>{body}", "parents": []},
            "page.html",
        )


def _list(folder: Path) -> str:
    rows = (f'<li><a href="{folder.name}/{p.name}.html">{html.escape(p.name)}</a></li>' for p in _inside(folder))
    return f"<ul>{''.join(rows)}</ul>"


def _picture(app: Sphinx, path: Path) -> str:
    to = Path(app.outdir) / _page(app, path)
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)
    return f'<img src="{path.name}" alt="{html.escape(path.stem)}">'


def _text(path: Path) -> str:
    """The lines of a file, with their numbers."""
    source = path.read_text(encoding="utf-8")
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    lines = highlight(source, lexer, HtmlFormatter(nowrap=True)).splitlines()
    shown = "\n".join(f'<span data-line="{n}"></span>{line}' for n, line in enumerate(lines, 1))
    return f'<div class="highlight file"><pre>{shown}\n</pre></div>'


def setup(app: Sphinx) -> dict[str, bool]:
    app.repository_paths = set()  # type: ignore[attr-defined]
    app.connect("doctree-read", _lead_all, priority=100)  # before Sphinx copies what it takes for downloads
    app.connect("html-collect-pages", _pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
