"""The site: `make docs` writes it to docs/_build/index.html. It is read without a network.

The pages are plain Markdown, as a code host shows them; what only the site needs (its navigation) is added here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]
from rung import __version__  # noqa: E402
from rung.recipe_io import all_recipes  # noqa: E402

project, author, copyright = "rung", "The rung developers", "The rung developers"
version = release = __version__
extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "mathml", "joined", "repository", "docstrings", "whole",
]  # fmt: skip
exclude_patterns = ["_build", "_ext"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_dmath_allow_space = myst_dmath_allow_digits = False  # as on a code host: $5 is a price
myst_links_external_new_tab = False

smartquotes_action = "q"  # quotes alone: a dash would take the place of --flag
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "furo"
html_title = "rung"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = False
html_show_search_summary = False  # a summary is fetched from its page, which file:// does not allow
html_permalinks_icon = "#"
pygments_style, pygments_dark_style = "friendly", "monokai"
copybutton_selector = "div:is(.highlight-python, .highlight-bash, .highlight-sh, .highlight-toml) pre"

NAVIGATION = {  # page: (caption, the pages below it; * for all that match)
    "index": [
        ("Learn", ["book/index", "cheat_sheet", "symbols", "glossary", "false_claims", "how_to_cite"]),
        ("The ladder", ["ladder/index", "metrics", "health"]),
        ("Guides", ["tasks", "environments", "models", "vllm", "evaluation", "python", "report", "terminal", "plan", "scale",
                    "reliability", "port_from_trl", "export"]),
        ("Results and proof", ["results", "evidence", "proof", "audit", "audit_yours", "field", "field/issues", "conformance",
                               "performance", "speedrun", "devices"]),
        ("Python API", ["api/index"]),
    ],
    "book/index": [("", ["[0-9]*", "toy"])],
    "ladder/index": [("", list(all_recipes()))],
    "api/index": [("", ["call", "recipes", "parts", "records", "exact"])],
}  # fmt: skip


def _navigate(app: Sphinx, page: str, text: list[str]) -> None:
    """Below a page that has others below it, their list: hidden, since the page itself links to them."""
    for caption, names in NAVIGATION.get(page, ()):
        known = [x for x in names if "*" in x or Path(app.srcdir, page).parent.joinpath(f"{x}.md").exists()]
        options = [":hidden:", ":glob:", *([f":caption: {caption}"] if caption else [])]
        text[0] += "\n".join(["", "", "```{toctree}", *options, "", *known, "```", ""])


def _arrows(app: Sphinx, document: nodes.document) -> None:
    """a -> b, which the repository writes in ASCII, never breaks in the middle of the arrow."""
    for text in list(document.findall(nodes.Text)):
        if "->" in text and not isinstance(text.parent, (nodes.literal, nodes.FixedTextElement, nodes.math)):
            text.parent.replace(text, nodes.Text(text.replace("->", "\u2192")))


def _toy(app: Sphinx, page: str, template: str, context: dict[str, object], doctree: object) -> None:
    if page == "book/toy":
        app.add_js_file("toy.js")
        app.add_js_file("toy_view.js")


def setup(app: Sphinx) -> None:
    app.connect("source-read", _navigate)
    app.connect("doctree-read", _arrows)
    app.connect("html-page-context", _toy)
