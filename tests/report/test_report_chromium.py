"""The report in a real browser: no error on its console, filters and order work, model output stays text."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rung.report import write_report

sys.path.insert(0, str(Path(__file__).parents[1]))
from chromium import Chromium, find

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find() is None, reason="no chromium here: apt-get install chromium, or set RUNG_CHROMIUM to one"
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def page(browser, report_run, tmp_path):
    browser.open(write_report([report_run], tmp_path / "a.html"))
    browser.problems.clear()
    yield browser
    assert not browser.problems


def choose(page: Chromium, key: str, value: str) -> None:
    page.run(
        f"(() => {{ const f = document.getElementById('f-{key}'); f.value = {json.dumps(value)};"
        "f.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def shown(page: Chromium) -> list[str]:
    return page.run("[...document.querySelectorAll('#answer-list .row')].map(r => r.textContent)")


def status(page: Chromium) -> str:
    return page.run("document.getElementById('answer-count').textContent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_loads_without_an_error_or_a_request(browser, report_run, other_run, ladder_dir, tmp_path, width, scheme):
    file = write_report([report_run, other_run, ladder_dir], tmp_path / "a.html")
    browser.problems.clear()
    browser.requests.clear()
    browser.screen(width, scheme=scheme, mobile=width < 500)
    browser.open(file)
    assert browser.run("document.title").startswith("A ladder <script>")
    assert browser.problems == [] and browser.requests == [file.resolve().as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    ink, paper = browser.run("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    light, dark = (
        sum(map(int, color[4:-1].split(","))) for color in ((ink, paper) if scheme == "dark" else (paper, ink))
    )
    assert light > 690 and dark < 90
    browser.screen(1280)


def test_filters(page):
    assert status(page) == "208 answers, 104 right" and len(shown(page)) == 200
    choose(page, "kind", "1")
    assert status(page) == "16 answers, 8 right"
    choose(page, "right", "0")
    assert status(page) == "8 answers, 0 right" and all(row.startswith("✗") for row in shown(page))
    choose(page, "kind", "0")
    choose(page, "step", "7")
    assert status(page) == "4 answers, 0 right" and all("step 7" in row for row in shown(page))
    choose(page, "right", "")
    choose(page, "text", "</SCRIPT><script>")
    assert 0 < len(shown(page)) < 8 and all("</script>" in row for row in shown(page))
    choose(page, "text", "nobody said this")
    assert shown(page) == [] and status(page) == "No answer fits these choices."


def test_order(page):
    choose(page, "kind", "0")
    choose(page, "sort", "new")
    assert "step 24" in shown(page)[0]
    choose(page, "sort", "r-")
    assert shown(page)[0].startswith("✗") and shown(page)[-1].startswith("✓")
    choose(page, "sort", "r")
    assert shown(page)[0].startswith("✓") and shown(page)[-1].startswith("✗")


def test_what_a_model_wrote_stays_text(page):
    choose(page, "kind", "1")
    before = page.run("document.querySelectorAll('script').length")
    for index, row in enumerate(shown(page)):
        page.run(f"document.querySelectorAll('#answer-list .row')[{index}].click()")
        text = page.run("document.querySelector('#answer .tokens').textContent")
        assert text and text[:20].strip()[:5] in row
    page.run("document.querySelectorAll('#answer-list .row')[0].click()")
    assert "<script>document.title='owned'</script>" in page.run(
        "document.querySelector('#answer .prompt').textContent"
    )
    assert page.run("document.querySelectorAll('script').length") == before
    assert page.run("document.querySelectorAll('#answers img, #answers script').length") == 0
    assert "owned" not in page.run("document.title")


def test_tokens_carry_their_numbers_and_colours(page):
    choose(page, "kind", "0")
    choose(page, "right", "1")
    colours = "[...document.querySelectorAll('#answer .tok')].map(t => t.style.background)"
    assert all("--plus" in c for c in page.run(colours))
    choose(page, "right", "0")
    assert all("--minus" in c for c in page.run(colours))
    choose(page, "color", "ra")
    assert page.run("document.querySelectorAll('#answer .tok.clip').length") >= 3
    title = page.run("document.querySelectorAll('#answer .tok')[1].title")
    assert title.split("\n") == ["advantage -0.5", "log p -0.1", "ratio 1.1", "clipped: ratio too low"]
    choose(page, "color", "")
    assert not any(page.run(colours))


def test_keyboard(page):
    chosen = "document.querySelector('#answer-list [aria-selected=true]').id"
    page.run("document.getElementById('answer-list').focus()")
    for key, row in (("ArrowDown", "row1"), ("j", "row2"), ("k", "row1"), ("End", "row207"), ("Home", "row0")):
        page.key(key)
        assert page.run(chosen) == row
    assert page.run("document.getElementById('answer-list').getAttribute('aria-activedescendant')") == "row0"
    page.key("/", "/")
    assert page.run("document.activeElement.id") == "f-text" and page.run("document.activeElement.value") == ""
    page.key("Escape")
    assert page.run("document.activeElement.id") == "answer-list"


def test_a_chart_is_read_with_the_arrow_keys(page):
    page.run("document.querySelector('#chart1').focus()")
    page.key("End")
    assert page.run("document.querySelector('.tip').textContent") == "step 240.75  0.65 to 0.85"
    page.key("ArrowLeft")
    assert page.run("document.querySelector('.tip').textContent").startswith("step 00.25")
    page.key("Escape")
    assert page.run("document.querySelectorAll('.tip, .hair').length") == 0


def test_it_prints(page):
    assert page.pdf().startswith(b"%PDF-")
