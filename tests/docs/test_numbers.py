"""A number that a page measured names its command, and is what docs/evidence.md says that the command found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LADDER = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "ladder").glob("*.md"))}
PAGES = {
    **LADDER,
    **{path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "book").glob("[0-9]*.md"))},
}
EVIDENCE, AUDIT = ((DOCS / name).read_text(encoding="utf-8") for name in ("evidence.md", "audit.md"))
NUMBER = re.compile(r"(?<![\w.,])[-+−]?\d[\d,]*(?:\.\d+)?")
MEASURED = re.compile(r"(?<![\w.,/:])(\d*\.\d+|\d+(?= %))(?!\w)")
SOURCE = re.compile(r"`(?:rung \w|python |make )|\]\([^)]*(?:evidence|results|audit|performance)\.md")


def paragraphs(text: str) -> list[str]:
    return re.split(r"\n\n|\n(?=- |\d\. )", FENCE.sub("", text))


def numbers(text: str) -> set[float]:
    return {
        abs(float(x.replace("−", "-").replace(",", ""))) for x in NUMBER.findall(re.sub(r"(?<!\d)\.(?=\d)", "0.", text))
    }


def evidence(recipe: str) -> set[float]:
    """Every number of docs/evidence.md about a recipe: of lines that name it, of rows that end in it or stand below one."""
    found, row = [], ""
    for line in EVIDENCE.splitlines():
        if line.startswith("| ") and not line.startswith("|  |"):
            row = line.split(" | ")[0].rpartition("-> ")[2]
        about = row if line.startswith("|") else line
        if re.search(rf"(?<!\w){recipe}(?!\w)", about.replace("GSPO", "gspo")):
            found.append(line)
    have = numbers("\n".join(found))
    return have | {1 + x / 100 for x in have if x > 3}  # 125 % more is 2.25 times


def strange(paragraph: str, have: set[float]) -> list[str]:
    """Measured numbers of a paragraph that are none of these, rounded as they stand there."""
    said = re.sub(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)", "", paragraph)
    digits = [(x, len(x.partition(".")[2])) for x in MEASURED.findall(said)]
    return [x for x, n in digits if not any(abs(float(x) - h) <= 0.5 * 10**-n + 1e-9 for h in have)]


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "`rung why " in text])
def test_a_number_beside_rung_why_is_what_it_found(page):
    own = numbers("\n".join(re.findall(r"^ *```text\n(.*?)^ *```$", PAGES[page], re.MULTILINE | re.DOTALL)))
    for paragraph in paragraphs(PAGES[page]):
        have = own.union(*(evidence(name) for name in re.findall(r"`rung why (\w+)`", paragraph)))
        for name in re.findall(r"`rung audit (\w+)`", paragraph):
            have |= numbers("\n".join(x for x in AUDIT.splitlines() if x.startswith(f"| {name} |")))
        if "`rung why " in paragraph:
            assert strange(paragraph, have) == [], paragraph


def test_another_number_is_found():
    said = next(x for x in paragraphs(LADDER["grpo"]) if "`rung why grpo`" in x)
    assert strange(said, evidence("grpo")) == []
    for old, new in (("43 %", "53 %"), ("48 %", "49 %"), ("0.761", "0.763")):
        assert strange(said.replace(old, new), evidence("grpo")) == [new.split(" %")[0]], new


@pytest.mark.parametrize("page", LADDER)
def test_a_measured_number_names_its_command(page):
    for paragraph in paragraphs(LADDER[page]):
        said = re.sub(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)", "", paragraph)
        if not paragraph.startswith("|") and re.search(r"(?<![\w.])\d+ %|(?<![\w./:])\d*\.\d{3,}(?!\d*\w)", said):
            assert SOURCE.search(paragraph), paragraph
