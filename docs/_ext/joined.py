"""What is read as one stands on one line: 4 x 8 x 64, 2026-11-26, 95 %, and in code --flag and eps=1e-4.

A browser breaks a line behind a space and behind a hyphen, so that -- ends one line and the flag's name begins the next.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

DIGITS = r"\d+(?:[.,]\d+)*"
NUMBER = re.compile(rf"\d{{4}}-\d\d-\d\d|{DIGITS}(?: x {DIGITS})+|{DIGITS} (?:%|[mµ]?s|[GMk]i?B|min)(?!\w)")
VERBATIM = (nodes.literal, nodes.FixedTextElement, nodes.math, nodes.title, nodes.raw)
CODE = re.compile(r"<(code|pre)\b.*?</\1>", re.DOTALL)
WORD = r"(?:<span[^<>]*>[^<>\s]*</span>|[^<>\s])"  # of a word: what the highlighter colored, or a letter
WHOLE = re.compile(rf'(?<![^\s>"(])((?:<span[^<>]*>--?</span>|--){WORD}+|[\w.=]*\de-\d+)')


def _numbers(app: Sphinx, document: nodes.document) -> None:
    """Numbers with what belongs to them; not in titles, which the table of contents has taken already."""
    for text in list(document.findall(nodes.Text)):
        if not isinstance(text.parent, VERBATIM) and (parts := _parts(str(text))):
            text.parent.replace(text, parts)


def _parts(text: str) -> list[nodes.Node]:
    """The text in parts, its numbers in a class of their own; nothing of a text without any."""
    out: list[nodes.Node] = []
    at = 0
    for found in NUMBER.finditer(text):
        out += [nodes.Text(text[at : found.start()])] if found.start() > at else []
        out += [nodes.inline("", found[0], classes=["joined"])]
        at = found.end()
    return [*out, nodes.Text(text[at:])] if out and at < len(text) else out


def _words(app: Sphinx, page: str, template: str, context: dict[str, str], doctree: object) -> None:
    if "body" in context:
        context["body"] = CODE.sub(lambda code: WHOLE.sub(r'<span class="joined">\1</span>', code[0]), context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", _numbers)
    app.connect("html-page-context", _words)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
