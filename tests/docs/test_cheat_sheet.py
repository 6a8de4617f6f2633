"""The cheat sheet is what the recipes say, tells all of them apart, and prints on one page."""

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rung import parts as p
from rung.recipe_io import all_recipes

DOCS = Path(__file__).parents[2] / "docs"
CHROMIUM = os.environ.get("RUNG_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("cheat_sheet", DOCS / "cheat_sheet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sheet_is_current(maker):
    assert maker.sheet() == maker.PAGE.read_text(encoding="utf-8"), "run `python docs/cheat_sheet.py`"


def test_every_recipe_has_a_row_and_no_two_are_alike(maker):
    rows = {name: maker.row(recipe).split(" | ", 1)[1] for name, recipe in all_recipes().items()}
    assert len(set(rows.values())) == len(rows) == len(all_recipes())


@pytest.mark.parametrize(
    "change",
    [
        {"surrogate": p.Clip(high=0.3)}, {"kl": p.K3(0.05)}, {"credit": p.GroupMean(scale="none")}, {"entropy": 0.1},
        {"normalize": p.Whiten(shift=False)}, {"aggregate": p.TokenMean()}, {"ratio": p.SequenceRatio()}, {"imitation": 0.2},
        {"update": p.GradientSteps(minibatches=3)}, {"data": p.Data(resample=1)}, {"trust": p.OldKL()},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_changed_part_changes_the_row(maker, change):
    grpo = all_recipes()["grpo"]
    assert maker.row(replace(grpo, **change)) != maker.row(grpo)


@pytest.mark.skipif(CHROMIUM is None, reason="printing needs Chromium")
def test_it_prints_on_one_page(maker, tmp_path):
    pytest.importorskip("sphinx", reason="equations are rendered by the site's extension")
    page, out = tmp_path / "sheet.html", tmp_path / "sheet.pdf"
    page.write_text(maker.printed(maker.sheet()), encoding="utf-8")
    assert page.read_text(encoding="utf-8").count("<tr>") == 1 + len(all_recipes())
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={tmp_path}")
    subprocess.run(
        [CHROMIUM, *flags, f"--print-to-pdf={out}", page.as_uri()], check=True, timeout=240, capture_output=True
    )
    assert re.findall(rb"/Type /Page\b", out.read_bytes()) == [b"/Type /Page"]
