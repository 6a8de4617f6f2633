"""LaTeX to MathML when the site is built: a browser needs no script and no network to show an equation.

Latex2mathml passes on what it does not know. Here a command that is left in the output, or an equation that does not
convert at all, is a warning at its line, and warnings are errors. What it forgets is added: the space around a function's name.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LOG = logging.getLogger(__name__)


SPACE = "{http://www.w3.org/1998/Math/MathML}"
BARS = {"|", "\u2016"}  # a browser stretches them to the whole line where nothing forbids it
PUNCTUATION = re.compile(r"[,.;:)?!]+")
LIMITS = {"max", "min", "sup", "inf", "argmax", "argmin", "lim"}
BELOW = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}
FUNCTIONS = LIMITS | {
    "log",
    "exp",
    "ln",
    "sin",
    "cos",
    "tan",
    "arcsin",
    "arccos",
    "arctan",
    "tanh",
    "sech",
    "det",
    "dim",
    "clip",
}


def mathml(latex: str, display: str) -> str:
    """MathML of an equation; ValueError where it cannot be shown as it was meant."""
    try:
        root = ET.fromstring(convert(latex.replace("{aligned}", "{align*}"), display=display))
    except Exception as error:  # its parser lets errors of every kind out; none of them may pass
        raise ValueError(f"{type(error).__name__} {error}".strip()) from error
    for text in root.itertext():
        if "\\" in text:
            raise ValueError(f"{text} means nothing to latex2mathml")
    for bar in root.iter():
        if (bar.text or "").strip() in BARS and "stretchy" not in bar.attrib:
            bar.tag, sides = f"{SPACE}mo", "0.15em" if _kind(bar) == "mi" else "0"  # \\Vert between two laws is an mi
            bar.attrib.update(stretchy="false", lspace=sides, rspace=sides)
    for parent in list(root.iter()):
        if _kind(parent) in ("math", "mrow", "mtd"):
            _set_functions(parent, display)
    ET.register_namespace("", SPACE.strip("{}"))
    return ET.tostring(root, encoding="unicode")


def _kind(element: ET.Element) -> str:
    return element.tag.removeprefix(SPACE)


def _function(element: ET.Element) -> str:
    """max of max and of max_theta; nothing of anything else."""
    inner = element[0] if _kind(element) in ("msub", "msup", "munder", "msubsup") else element
    name = (inner.text or "").strip()
    return name if name in FUNCTIONS else ""


def _set_functions(row: ET.Element, display: str) -> None:
    """A thin space beside a function's name, unless an operator is there; what belongs to max and to a sum stands below it."""
    children = list(row)
    for at in reversed(range(len(children))):
        name = _function(children[at])
        if display == "block" and len(children[at]) and (children[at][0].text or "") in LIMITS | {"∑", "∏"}:
            children[at].tag = SPACE + BELOW.get(_kind(children[at]), _kind(children[at]))
        for side in (at + 1, at) if name else ():
            beside = children[side if side > at else at - 1] if 0 < side < len(children) else None
            if beside is not None and (_kind(beside) not in ("mo", "mspace") or _function(beside)):
                row.insert(side, ET.Element(f"{SPACE}mspace", width="0.167em"))


def _join(app: Sphinx, document: nodes.document) -> None:
    """A comma or a stop behind an equation stays on its line."""
    for node in list(document.findall(nodes.math)):
        parent, at = node.parent, node.parent.index(node)
        after = parent[at + 1] if at + 1 < len(parent) else None
        if isinstance(after, nodes.Text) and (stop := PUNCTUATION.match(after)):
            parent[at : at + 2] = [
                nodes.inline("", "", node, nodes.Text(stop[0]), classes=["joined"]), nodes.Text(after[stop.end() :]),
            ]  # fmt: skip


def _show(self: HTML5Translator, node: nodes.Node, display: str) -> None:
    try:
        found = mathml(node.astext(), display)
    except ValueError as error:
        LOG.warning("the equation %r does not render: %s", node.astext(), error, location=node, type="mathml")
        found = self.encode(node.astext())
    self.body.append(f'<div class="equation">{found}</div>' if display == "block" else found)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", _join)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda self, node: _show(self, node, "inline"), None),
        block_renderers=(lambda self, node: _show(self, node, "block"), None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
