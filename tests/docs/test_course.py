"""The lessons of examples/course run as scripts, and print what they are there to show."""

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("marimo", reason="a lesson is a marimo notebook")
LESSONS = {path.stem: path for path in (Path(__file__).parents[2] / "examples" / "course").glob("*.py")}


def printed(name: str, folder: Path, monkeypatch, capsys, steps: int | None = None) -> str:
    """What the lesson prints as a script; with `steps`, of a copy that trains for so many."""
    monkeypatch.chdir(folder)
    lesson = LESSONS[name]
    if steps is not None:
        source, found = re.subn(r"^    STEPS = \d+$", f"    STEPS = {steps}", lesson.read_text(), flags=re.MULTILINE)
        assert found == 1
        lesson = folder / lesson.name
        lesson.write_text(source)
    runpy.run_path(str(lesson), run_name="__main__")
    return capsys.readouterr().out


def accuracies(out: str) -> list[float]:
    found = re.search(r"accuracy (\d\.\d\d) before, (\d\.\d\d) after", out)
    assert found is not None, out
    return [float(x) for x in found.groups()]


def test_these_are_the_lessons():
    assert set(LESSONS) == {"exact_gradients", "the_starter_learns", "your_own_recipe"}


def test_exact_gradients(tmp_path, monkeypatch, capsys):
    out = printed("exact_gradients", tmp_path, monkeypatch, capsys)
    assert "J = 0.6  its gradient: [0.12, -0.18, 0.06, 0.075, -0.075]" in out
    assert "bias, exactly:      [0.0, 0.0, 0.0, 0.0, 0.0]" in out
    exact, measured = map(float, re.findall(r"(?:exactly|estimates): +(\d\.\d+)", out))
    assert measured == pytest.approx(exact, rel=0.1)
    assert "grpo: biased, cosine 0.9613" in out and "best baseline: 0.5204" in out
    assert "three parts replaced: unbiased up to the constant c = (G-1)/G" in out


def test_the_starter_learns_in_few_steps(tmp_path, monkeypatch, capsys):
    out = printed("the_starter_learns", tmp_path, monkeypatch, capsys, steps=2)
    assert len(accuracies(out)) == 2 and "4*7-2=\nbefore" in out and re.search(r"step +2: reward \d", out)
    assert (
        re.search(r"1\. with seeds 0 and 1: reinforce 0\.\d+ and 0\.\d+, dr_grpo", out)
        and "3. 4*7-2+3-6=\nbefore" in out
    )
    groups = re.search(r"earn the same: (0\.\d+) of those of 8 answers, (0\.\d+) of those of 2", out)
    assert float(groups[1]) < float(groups[2])


@pytest.mark.slow
def test_the_starter_learns(tmp_path, monkeypatch, capsys):
    out = printed("the_starter_learns", tmp_path, monkeypatch, capsys)
    before, after = accuracies(out)
    assert before < 0.4 and after > before + 0.3


def test_the_solutions_of_your_own_recipe(tmp_path, monkeypatch, capsys):
    out = printed("your_own_recipe", tmp_path, monkeypatch, capsys, steps=1)
    own = float(re.search(r"own length \((0\.\d+)\)", out)[1])
    assert own < float(
        re.search(r"^1\. biased, cosine (0\.\d+), because of aggregate=MeanLength", out, re.MULTILINE)[1]
    )
    kinds = re.findall(r"^2\. (\w+).* proportional, c = ([\d.]+), noise ([\d.]+)", out, re.MULTILINE)
    noise = {name: float(x) for name, _, x in kinds}
    assert [float(c) for _, c, _ in kinds] == [0.5, 0.375, 0.25] and noise["half"] < min(noise["no"], noise["whole"])
    own, theirs = re.search(r"one's own: cosine (\S+), with rung's: (\S+)", out).groups()
    assert own == theirs and own.startswith("0.96")


@pytest.mark.slow
def test_your_own_recipe(tmp_path, monkeypatch, capsys):
    out = printed("your_own_recipe", tmp_path, monkeypatch, capsys)
    by_length, mine = (
        float(re.search(rf"^{name} +biased, cosine (\d\.\d+)", out, re.MULTILINE)[1]) for name in ("by length", "mine")
    )
    assert by_length < mine < 1 and "dr_grpo    unbiased up to the constant" in out
    before, after = accuracies(out)
    assert after > before + 0.3
