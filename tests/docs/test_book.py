"""The chapters of docs/book compute what they print, and every letter in a formula has one meaning.

The Python blocks of a chapter run top to bottom in one namespace, as a reader would paste them; what a block prints is
the text block that follows it. Every letter of a formula has its row in docs/symbols.md, and no letter has two.
"""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from collections import Counter
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

import rung.maths

DOCS = Path(__file__).parents[2] / "docs"
TEXT = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "book").glob("[0-9]*.md"))}
SYMBOLS = (DOCS / "symbols.md").read_text(encoding="utf-8")
LADDER = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "ladder").glob("*.md"))}
FALSE = (DOCS / "false_claims.md").read_text(encoding="utf-8")
SHEET = (DOCS / "cheat_sheet.md").read_text(encoding="utf-8")
COMPUTED = {**TEXT, "false_claims": FALSE}
GUIDES = {  # the other pages with formulas in them
    name: (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for name in (
        "audit_yours",
        "conformance",
        "evaluation",
        "evidence",
        "glossary",
        "metrics",
        "models",
        "proof",
        "report",
    )
}
every_chapter = pytest.mark.parametrize("chapter", TEXT)

FENCE = re.compile(r"^ *```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)  # indented in a list of exercises
LAYOUT = set(  # LaTeX that is no symbol: layout, operators, relations
    re.findall(
        r"\w+",
        """
        frac binom sqrt left right big Big cdot cdots ldots dots times quad qquad text mathrm mathbb mathbf operatorname
        hat bar tilde widehat overline underline underbrace lVert rVert lvert rvert Vert mid begin end top ast dagger circ
        nabla partial sum prod int log exp min max arg argmax sin cos arcsin det Pr lim to infty pm mp
        le ge leq geq lt gt ne neq approx equiv propto sim in notin subset cup cap forall exists
        Rightarrow Longrightarrow Leftrightarrow rightarrow leftarrow longrightarrow mapsto colon
        """,
    )
)


# -- the code ----------------------------------------------------------------------------------------------------
def blocks(text: str) -> list[tuple[str, str]]:
    return [(language, textwrap.dedent(source)) for language, source in FENCE.findall(text)]


@pytest.mark.parametrize("chapter", COMPUTED)
def test_the_chapter_prints_what_it_shows(chapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the last of the false claims trains
    scope: dict[str, Any] = {"__name__": chapter}
    printed = ""
    for language, source in [*blocks(COMPUTED[chapter]), ("", "")]:
        if language == "text":
            assert printed, f"nothing printed this:\n{source}"
            assert [x.rstrip() for x in printed.splitlines()] == [x.rstrip() for x in source.splitlines()]
            printed = ""
        assert not printed, f"printed, but not shown:\n{printed}"
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(source, f"docs/book/{chapter}.md", "exec"), scope)
            printed = out.getvalue()


@pytest.mark.parametrize("chapter", COMPUTED)
def test_the_toy_is_the_same_in_every_chapter(chapter):
    toy = next(source for language, source in blocks(TEXT["02_objective"]) if language == "python")
    code = [source for language, source in blocks(COMPUTED[chapter]) if language == "python"]
    assert "REWARD = " in toy
    if any("logp(" in source for source in code):
        assert code[0].startswith(toy)


@every_chapter
def test_a_chapter_ends_with_a_problem_a_command_and_exercises(chapter):
    _, found, end = TEXT[chapter].partition("\n## The problem that is left\n")
    assert found and re.search(r"\brung [a-z]+", end)
    assert "\n## Exercises\n" in end
    assert end.count("<summary>Solution</summary>") == end.count("</details>") >= 2


def test_every_false_claim_is_quoted_refuted_by_code_and_set_right():
    claims = re.split(r"^## ", FALSE, flags=re.MULTILINE)[1:]
    assert 10 <= len(claims) <= 15
    for claim in claims:
        assert re.match(r'"[^"]+"$', claim.splitlines()[0])
        assert "```python\n" in claim and "```text\n" in claim and "\n**True:** " in claim, claim[:60]


def test_the_citation_is_that_of_the_file():
    page, file = (path.read_text(encoding="utf-8") for path in (DOCS / "how_to_cite.md", DOCS.parent / "CITATION.cff"))
    for name in ("title", "version", "license"):
        value = re.search(rf"^{name}: \"?([^\"\n]+)", file, re.MULTILINE)
        assert value is not None and re.search(rf"{name} += {{{re.escape(value[1])}}}", page)


# -- the symbols -------------------------------------------------------------------------------------------------
def formulas(text: str) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    shown = re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL)
    return shown + re.findall(r"\$([^$\n]+)\$", re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL))


def without_words(formula: str) -> str:
    """Operators and words in upright letters are no symbols, and neither is a token of the toy."""
    formula = re.sub(r"\\mathbb\{E\}", " ", formula)
    return re.sub(r"\\(?:mathrm|text|operatorname|texttt)\{[^{}]*\}", " ", formula)


LETTER = re.compile(r"k_\{?[123]\}?|\\[a-zA-Z]+|[a-zA-Z]")


def letters(formula: str) -> set[str]:
    found = {x.replace("{", "").replace("}", "") for x in LETTER.findall(without_words(formula))}
    return {x for x in found if x.lstrip("\\") not in LAYOUT and x != "e"}  # e is Euler's


def head(form: str) -> str:
    """pi_theta(a) is about pi."""
    found = LETTER.match(without_words(form).strip())
    assert found, form
    return found.group()


def table() -> list[list[str]]:
    return [re.findall(r"\$([^$]+)\$", line.split(" | ")[0]) for line in SYMBOLS.splitlines() if line.startswith("| $")]


MEANINGS = [{head(form) for form in row} for row in table()]


def test_no_letter_has_two_rows():
    twice = [x for x, n in Counter(x for row in MEANINGS for x in row).items() if n > 1]
    assert len(MEANINGS) > 30 and not twice


@pytest.mark.parametrize("page", [*COMPUTED, *LADDER, *GUIDES, "symbols", "cheat_sheet"])
def test_every_letter_of_a_formula_has_its_row(page):
    text = {**COMPUTED, **LADDER, **GUIDES, "symbols": SYMBOLS, "cheat_sheet": SHEET}[page]
    known = set().union(*MEANINGS)
    missing = {x: f for f in formulas(text) for x in letters(f) - known}
    assert not missing, "give them a row in docs/symbols.md, or use the letter that it has"


FORMS = {x: {bool("_" in form) for row in table() for form in row if head(form) == x} for row in MEANINGS for x in row}
USE = re.compile(r"(\\[a-zA-Z]+|[a-zA-Z])(?:\^\\ast|\^\{[^{}]*\}|\^\w)?(_?)")


@pytest.mark.parametrize("page", [*COMPUTED, *LADDER, *GUIDES])
def test_a_letter_carries_a_subscript_only_where_its_row_shows_one(page):
    """G is a number of answers, G_t would be a second meaning; delta_t is an error over a token, delta alone another."""
    for formula in formulas({**COMPUTED, **LADDER, **GUIDES}[page]):
        plain = re.sub(r"\\(?:hat|bar|tilde|widehat)\b ?\{?(\\?[a-zA-Z]+)\}?", r"\1", without_words(formula))
        for x, sub in USE.findall(re.sub(r"k_\{?[123]\}?", "", plain)):
            assert x not in FORMS or bool(sub) in FORMS[x], f"{x}{sub} is not a form of docs/symbols.md: {formula}"


def equations_of_the_code() -> dict[str, tuple[str, set[str]]]:
    """What a docstring of rung.maths says first, and the fields that it may name: {module.name: (line, fields)}."""
    out = {}
    for module in map(import_module, (f"rung.maths.{m.name}" for m in iter_modules(rung.maths.__path__))):
        for name, item in vars(module).items():
            if getattr(item, "__module__", None) == module.__name__ and item.__doc__:
                own = set(getattr(item, "__dataclass_fields__", ()))
                out[f"{module.__name__}.{name}"] = item.__doc__.splitlines()[0], own
    return out


def strange_letters(line: str, own: set[str], where: str) -> list[str]:
    """Letters of an equation that the table of symbols does not have, or not in this form, or for something else."""
    greek = {x.removeprefix("\\"): x for x in FORMS if x.startswith("\\") and len(x) > 2} | {"R": "R", "G": "G"}
    used = re.findall(r"\b(alpha|beta|gamma|[dD]elta|ell|kappa|mu|nu|rho|sigma|tau|theta|[RG])(_[\w{])?", line)
    wrong = [x + sub for x, sub in used if x not in own and (x not in greek or bool(sub) not in FORMS[greek[x]])]
    return wrong + (["kappa"] if "kappa" in line and where == "kl" else [])


def test_the_equations_of_the_code_use_the_letters_of_the_book():
    found = {
        name: strange_letters(line, own, name.split(".")[2]) for name, (line, own) in equations_of_the_code().items()
    }
    assert len(found) > 60 and {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    "line", ["delta = log pi - log pi_ref", "log s = sum_t Delta_t", "A_bt = G_bt - b", "kappa = u"]
)
def test_other_letters_are_found(line):
    assert strange_letters(line, set(), "kl")


def test_the_table_names_the_first_chapter_that_uses_a_letter():
    used = {f"book/{name}": set().union(*map(letters, formulas(text))) for name, text in TEXT.items()}
    ladder = {f"ladder/{name}": set().union(*map(letters, formulas(text))) for name, text in LADDER.items()}
    rows = [line for line in SYMBOLS.splitlines() if line.startswith("| $")]
    for row, meanings in zip(rows, MEANINGS, strict=True):
        named = re.search(r"\[(\d+|ladder)\]\(((?:book|ladder)/\w+)\.md\) \|$", row)
        assert named, row
        chapters = [page for page, found in used.items() if found & meanings]
        assert named[2] in (chapters[:1] or [page for page, found in ladder.items() if found & meanings]), row


# -- the text ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", [*COMPUTED, *LADDER])
def test_a_page_with_formulas_leads_to_the_table_of_symbols(page):
    assert re.search(r"\]\((\.\./)?symbols\.md\)", {**COMPUTED, **LADDER}[page])


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [*COMPUTED, "symbols", "glossary", "cheat_sheet", "how_to_cite"])
def test_links_lead_to_files_and_dollars_are_paired(page):
    path = DOCS / "book" / f"{page}.md" if page in TEXT else DOCS / f"{page}.md"
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if not target.startswith(("https://", "http://")):
            linked = path.parent / file if file else path
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked.read_text(encoding="utf-8")), target
    text = re.sub(r"`[^`\n]*`", "", text)
    inline = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    assert text.count("$$") % 2 == 0 and inline.count("$") == 2 * len(
        re.findall(r"\$[^$\s](?:[^$\n]*[^$\s])?\$", inline)
    )
    for formula in formulas(text):
        assert formula.count("{") == formula.count("}"), formula
        assert not re.search(r"\\[^a-zA-Z]", formula), f"Markdown eats a backslash before punctuation: {formula}"


def test_a_word_of_the_glossary_stands_on_the_page_that_explains_it():
    entries = re.findall(
        r"^\*\*(.+?)\*\*: (.*?)(?=\n\n|\Z)", (DOCS / "glossary.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(entries) > 50
    for words, text in entries:
        page = (DOCS / re.findall(r"\]\(([^)#]+)", text)[-1]).read_text("utf-8").lower()
        missing = [w for w in words.lower().split(", ") if w not in re.sub(r"\s+", " ", page)]
        assert not missing, f"say {missing} there, or let the link lead elsewhere: {text}"


@every_chapter
def test_the_figures_of_a_chapter_are_made_by_the_command_below_them(chapter):
    made = re.findall(
        r"^def ([a-z]\w*)\(\) -> Figure:", (DOCS / "book/figures/make.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    for name in re.findall(r"\]\(figures/(\w+)\.svg\)", TEXT[chapter]):
        assert name in made and f"`python docs/book/figures/make.py {name}`" in TEXT[chapter]
