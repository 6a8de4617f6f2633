"""The site: what is wrong with a page fails its build, and what is built reads alone: no network, no script for an equation."""

from __future__ import annotations

import io
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the site's tools are not here: pip install 'rung[docs]'")
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path[:0] = [str(DOCS / "_ext"), str(ROOT / "tests")]
from docstrings import rest  # noqa: E402
from mathml import mathml  # noqa: E402

from chromium import Chromium, find  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:'myst_parser")  # what MyST will have to change for Sphinx 11

PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)

GOOD = """# A page

See [the code](../src/code.py), [its folder](../src), [a picture](../src/a.png),
[the changes](../CHANGES.md), [below](#and-more) and [the start](index.md#here).

$$
\\hat J = \\sum_{i=1}^G \\log \\pi(a_t \\mid s_t) + \\left( \\frac{a}{b} \\right)
$$

| a table of 2 columns | |
|---|---|
| 4 x 8 x 64, on 2026-11-26 | 9.5 %, by `rung train --steps 3`, eps=1e-4 |

    rung train --model x --set eps=1e-4 -- a

<details><summary>Solution</summary>

It is $\\rho_t > 1$, for $5, with --steps 3 and "quotes": a -> b.

</details>

## And more
"""
BAD = {
    "page": ("[x](no_page.md)", "target not found: 'no_page.md'"),
    "anchor": ("[x](index.md#nowhere)", "local id not found in doc 'index': 'nowhere'"),
    "own_anchor": ("[x](#nowhere)", "target not found: 'nowhere'"),
    "source": ("[x](../src/no_code.py)", "target not found: '../src/no_code.py'"),
    "image": ("![x](no_image.png)", "image file not readable: no_image.png"),
    "html_link": ('<a href="nowhere.html">x</a>', "html_link.html links to nowhere.html"),
    "html_image": ('<img src="nowhere.png">', "html_image.html links to nowhere.png"),
    "network": ('<img src="https://example.org/a.png">', "network.html loads https://example.org/a.png from a network"),
    "script": ('<script src="//example.org/a.js"></script>', "script.html loads //example.org/a.js from a network"),
    "command": ("It is $\\foo x$.", "does not render: \\foo means nothing"),
    "brace": ("$$\n\\frac{a}{\n$$", "does not render"),
    "ampersand": ("$$\n\\begin{gathered} a &= b \\end{gathered}\n$$", "does not render"),
    "text": ("| a |\n|---|\n| $J$ = .6 |", "text.html shows $J$ as text"),
    "lexer": ("```nolanguage\nx\n```", "Pygments lexer name 'nolanguage' is not known"),
    "twice": ("[x]: index.md\n[x]: other.md\n\n[x]", "Duplicate reference definition"),
}


def build(folder: Path, pages: dict[str, str]) -> tuple[int, str]:
    """Exit status and warnings of a site with these pages, with our configuration; its repository is `folder`."""
    source = folder / "docs"
    (source / "_static").mkdir(parents=True)
    (source / "_static" / "site.css").touch()
    (folder / "src").mkdir()
    (folder / "CHANGES.md").write_text("# Changes\n")
    (folder / "src" / "code.py").write_text("first = 1\nsecond = 2\n")
    (folder / "src" / "a.png").write_bytes((DOCS / "pictures" / "report-ladder.png").read_bytes())
    listed = "".join(f"{name}\n" for name in pages if name != "orphan")
    (source / "index.md").write_text(f"# Start\n\n```{{toctree}}\n{listed}```\n\n## Here\n")
    for name, text in pages.items():
        (source / f"{name}.md").write_text(text if text.startswith("# ") else f"# {name}\n\n{text}\n")
    said = io.StringIO()
    with patch_docutils(), docutils_namespace():
        app = Sphinx(
            source, DOCS, folder / "out", folder / "trees", "html", {"html_static_path": [str(source / "_static")]},
            status=None, warning=said, warningiserror=True,
        )  # fmt: skip
        app.build()
    return app.statuscode, re.sub(r"\x1b\[[\d;]*m", "", said.getvalue())


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> tuple[int, str]:
    return build(tmp_path_factory.mktemp("bad"), {**{name: text for name, (text, _) in BAD.items()}, "orphan": "alone"})


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_page_is_said(bad, name):
    mine = [line for line in bad[1].splitlines() if f"/{name}.md:" in line or f"WARNING: {name}.html" in line]
    assert any(BAD[name][1] in line for line in mine), bad[1]


def test_what_is_wrong_fails_the_build(bad):
    status, said = bad
    assert status == 1
    assert "orphan.md: WARNING: document isn't included in any toctree" in said


def test_a_good_page_is_built_without_a_word_and_its_links_lead_to_the_repository(tmp_path):
    assert build(tmp_path, {"good": GOOD}) == (0, "")
    page, code, folder = (
        (tmp_path / "out" / name).read_text() for name in ("good.html", "files/src/code.py.html", "files/src.html")
    )
    assert 'href="files/src/code.py.html"' in page and 'href="files/src.html"' in page
    assert 'href="files/CHANGES.md.html"' in page
    assert page.count("<math") == 2 and "<munderover><mo>∑" in page and 'src="https://' not in page
    assert (
        "for $5, with --steps 3 and \u201cquotes\u201d: a \u2192 b." in page and "<summary>Solution</summary>" in page
    )
    assert 'data-line="2"' in code and "second" in code and 'href="src/code.py.html"' in folder
    assert (tmp_path / "out" / "files" / "src" / "a.png").exists()


def test_what_is_read_as_one_is_not_parted_by_the_end_of_a_line(tmp_path):
    assert build(tmp_path, {"good": GOOD}) == (0, "")
    page = (tmp_path / "out" / "good.html").read_text()
    joined = re.findall('<span class="joined">([^<]*)</span>', page)
    assert joined == ["4 x 8 x 64", "2026-11-26", "9.5 %", "--steps", "--model", "--set", "eps=1e-4"]


def test_every_page_is_in_the_navigation():
    """Which the build says, too; this says it in a second."""
    lists = runpy.run_path(str(DOCS / "conf.py"))["NAVIGATION"]
    wanted = [
        str(Path(page).parent / name) for page, several in lists.items() for _, names in several for name in names
    ]
    pages = {str(p.relative_to(DOCS).with_suffix("")) for p in PAGES} - {"index"}
    assert [page for page in pages if not any(fnmatchcase(page, name) for name in wanted)] == []
    assert [name for name in wanted if not any(fnmatchcase(page, name) for page in pages)] == []


# -- equations ---------------------------------------------------------------------------------------------------------
def equations(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    shown = [(x, "block") for x in re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL)]
    text = re.sub(r"`[^`\n]*`", "", re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL))
    return shown + [(x, "inline") for x in re.findall(r"\$([^$\s](?:[^$\n]*[^$\s])?)\$(?!\d)", text)]


@pytest.mark.parametrize("path", [p for p in PAGES if "$" in p.read_text()], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_equation_renders_in_the_font_of_the_site(path):
    from fontTools.ttLib import TTFont

    known = TTFont(DOCS / "_static" / "math.woff2").getBestCmap()
    for latex, display in equations(path):
        tree = ET.fromstring(mathml(latex, display))
        missing = {c for text in tree.itertext() for c in text if not c.isspace() and ord(c) not in known}
        assert not missing, (latex, missing)


@pytest.mark.parametrize(
    ("latex", "has"),
    [
        ("a \\log b", '<mi>a</mi><mspace width="0.167em" /><mi>log</mi><mspace width="0.167em" /><mi>b</mi>'),
        ("\\log(b)", "<mi>log</mi><mo"),
        ("\\max_\\theta x", '<munder><mo>max</mo><mi>θ</mi></munder><mspace width="0.167em" />'),
        (
            "\\begin{aligned} a &= b \\\\ &= c \\end{aligned}",
            '<mtd columnalign="left"><mi /><mo>=</mo><mi>c</mi></mtd>',
        ),
        ("x_\\max", "<msub><mi>x</mi><mo>max</mo></msub>"),
        ("\\lVert z \\rVert^2", '<msup><mo stretchy="false" lspace="0" rspace="0">‖</mo><mn>2</mn></msup>'),
        ("\\pi \\Vert \\mu", '<mi>π</mi><mo stretchy="false" lspace="0.15em" rspace="0.15em">‖</mo><mi>μ</mi>'),
    ],
)
def test_the_names_of_functions_stand_apart(latex, has):
    assert has in mathml(latex, "block")


# -- names ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", PAGES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_path_of_the_repository_that_a_page_names_exists(path):
    named = re.findall(
        r"(?<![\w/.-])((?:src/rung|tests|examples|benchmarks|docs)/[\w./-]*\w)", path.read_text(encoding="utf-8")
    )
    assert [x for x in named if not any(ROOT.glob(f"{x}*"))] == []


# -- docstrings ----------------------------------------------------------------------------------------------------------
def test_a_docstring_says_the_same_as_rest():
    lines = rest(
        """A_bt = R_b - b   (Williams 1992).

        Plain *text* with `code`, |bars| and under_scores_.

            x = 1

        rate: the share
            of a batch.
        eps: small; a part: of it.

        low        the lower bound,
                   with a second line.
        wide, far  two more.

        Args:
            a: one.  b is not another.
        """
    )
    text = "\n".join(lines)
    assert lines[:3] == [".. code-block:: text", "", "    A_bt = R_b - b   (Williams 1992)."]
    assert "Plain \\*text\\* with \\ ``code``\\ , \\|bars\\| and under\\_scores\\_." in text
    assert ".. code-block:: text\n\n    x = 1\n" in text and "\n``rate``\n    the share of a batch.\n" in text
    assert (
        "\n``low``\n    the lower bound, with a second line.\n\n\n``wide``, ``far``\n    two more.\n" in text
        and "\n``eps``\n    small; a part\\: of it." in text
        and "**Args**\n\n\n``a``\n    one.  b is not another." in text
    )


# -- the whole -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find() is None:
        pytest.skip("no chromium here: apt-get install chromium, or set RUNG_CHROMIUM to one")
    with Chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.mark.slow
def test_every_page_is_in_the_site_and_can_be_found(site, browser):
    assert {p.relative_to(DOCS).with_suffix(".html") for p in PAGES} <= {
        p.relative_to(site) for p in site.rglob("*.html")
    }
    assert not any(
        word in p.read_text()
        for p in (site / "api").glob("*.html")
        for word in ("Annotated", "Range(", "factory", "~typing", "~collections")
    )
    browser.open(site / "search.html", "?q=pessimistic")
    found = browser.run(
        "new Promise((done) => { const look = () => { const found = document.querySelectorAll('#search-results li a');"
        " if (found.length) done([...found].map((a) => a.href)); else setTimeout(look, 100); }; look(); })"
    )
    assert any("10_ppo" in link or "ladder/ppo" in link for link in found)


@pytest.mark.slow
def test_the_site_reads_alone_on_a_wide_and_on_a_narrow_screen_in_the_light_and_in_the_dark(site, tmp_path):
    if find() is None:
        pytest.skip("no chromium here: apt-get install chromium, or set RUNG_CHROMIUM to one")
    sys.path.insert(0, str(DOCS))
    from look import look

    assert look(site, tmp_path, ["index", "toy", "12_dr_grpo", "ladder/grpo", "api/parts", "results", "symbols"]) == []
    assert len(list(tmp_path.glob("*.png"))) > 28


@pytest.mark.slow
def test_the_toy_answers_a_keyboard(site, browser):
    browser.problems.clear()
    browser.open(site / "book" / "toy.html")
    assert "GRPO: biased" in browser.run("document.getElementById('toy-verdict').textContent")
    browser.run("document.getElementById('toy-recipe').focus()")
    for _ in range(2):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="d", text="d")  # types its way to Dr. GRPO
    said = browser.run(
        "[document.getElementById('toy-recipe').value, document.getElementById('toy-verdict').textContent]"
    )
    assert said[0] in ("dr_grpo", "dapo") and "GRPO: biased" not in said[1].replace("Dr. GRPO", "")
    browser.run("document.getElementById('toy-G').focus()")
    for _ in range(3):
        browser.call(
            "Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37
        )
    assert browser.run("document.getElementById('toy-G').value") == "1"
    browser.run("document.getElementById('toy-w00').focus()")
    browser.call(
        "Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37
    )
    assert browser.run("document.getElementById('toy-policy').value") == ""  # no preset any more: your own
    assert "Take G = 2 or more" in browser.run("document.getElementById('toy-verdict').textContent")
    named = "[...document.querySelectorAll('#toy input, #toy select')].filter((x) => !x.labels.length).length"
    assert browser.run(named) == 0 and browser.problems == []


@pytest.mark.slow
def test_a_link_to_the_toy_opens_it_with_its_settings(site, browser):
    browser.problems.clear()
    chosen = "['recipe', 'rewards', 'policy', 'moved'].map((id) => document.getElementById(`toy-${id}`).value)"
    browser.open(site / "book" / "toy.html", "#the-clip-lets-go")
    assert browser.run(chosen) == ["ppo", "right is 1, wrong is 0", "of the book", "2"]
    assert "PPO, exact critic: biased" in browser.run("document.getElementById('toy-verdict').textContent")
    browser.run(
        "new Promise((done) => { addEventListener('hashchange', () => setTimeout(done)); location.hash = 'where-the-zero-lies'; })"
    )
    assert browser.run(chosen) == ["reinforce", "right is 2, wrong is 1", "of the book", "0"] and browser.problems == []
