"""`rung report`: what stands on it and in which order; runs compared; axes that are shared and axes that must not be."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from rung.io.recipe_views import objective_text, present
from rung.recipe_io import all_recipes, equation
from rung.report.charts import Charts
from rung.report.collect import collect
from rung.report.curves import held_out
from rung.report.equations import inline, mathml
from rung.report.experiments import gradient, narrow, robustness
from rung.report.markup import join
from rung.report.page import render
from rung.training.health import SYMPTOMS


def text_of(*paths: Path) -> str:
    """The page without its data, as a reader has it."""
    page = re.sub(r"<(script|style|svg)\b.*?</\1>", "", render(collect(paths)), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", page)))


def test_the_curve_and_three_answers_come_first(report_run):
    places = [
        text_of(report_run).rindex(words)
        for words in ("Held-out accuracy", "Three answers, before and after", "Never moved")
    ]
    assert places == sorted(places)
    run = collect([report_run])["runs"][0]
    assert [(p["a"]["earned"], p["b"]["earned"]) for p in run["examples"]] == [(1, 1), (1, 1), (0, 1)], (
        "nothing was lost: the first that gained, the first that stayed, and the next"
    )


def _grade(path: Path, rewards: list[float]) -> None:
    """The run's last evaluation, with these rewards; the answers say which run gave them."""
    file = max((path / "evaluations").iterdir())
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    new = [{**row, "reward": r, "answer": f"{path.name} {row['task']}"} for row, r in zip(rows, rewards, strict=True)]
    file.write_text("".join(json.dumps(row) + "\n" for row in new))


def test_two_runs_are_compared_problem_by_problem(tmp_path, make):
    a, b = make(tmp_path / "a", "grpo", steps=2), make(tmp_path / "b", "grpo", steps=2)
    _grade(a, [1, 1, 1, 0, 0, 0, 0, 1])
    _grade(b, [1, 0, 1, 1, 1, 1, 0, 1])
    data = collect([a, b])
    found = data["comparisons"][0]["found"]
    assert found["change"].mean == pytest.approx(2 / 8) and found["change"].n == 8 and found["solved"] == 3
    assert found["change"].low < 0.25 < found["change"].high
    moved = {way: [p["b"]["answer"] for p in found["moved"][way]] for way in (1, -1)}
    assert moved == {1: ["b e3", "b e4", "b e5"], -1: ["b e1"]}
    text = text_of(a, b)
    assert "b minus a, over the same 8 held-out problems (after step 2): +0.25" in text
    assert "3 went better with b, 1 with a; 3 are right in both and 1 the same in both otherwise." in text
    assert re.search("1 problems? that went better with a problem a b .*a e1 .*b e1", text)
    assert re.search("3 problems that went better with b .*a e3 .*b e3", text)
    third = collect([a, b, a])["comparisons"]
    assert [pair["names"][0] for pair in third] == [third[0]["names"][0]] * 2


def test_runs_on_other_problems_are_not_compared(tmp_path, make):
    a, b = make(tmp_path / "a", "grpo", steps=2), make(tmp_path / "b", "grpo", steps=2)
    file = max((b / "evaluations").iterdir())
    file.write_text(file.read_text().replace("eval ", "other "))  # the same names of other problems
    assert collect([a, b])["comparisons"][0]["found"] is None
    assert "have no held-out problem in common" in text_of(a, b)
    one = file.read_text().replace("other 3", "eval 3")
    file.write_text(one)
    assert collect([a, b])["comparisons"][0]["found"]["apart"] == 14


def test_no_line_is_drawn_between_few_evaluations():
    for n, lines in ((5, 0), (12, 1)):
        run = {
            "name": "x",
            "color": 0,
            "scale": 0,
            "kind": "accuracy",
            "eval": {"step": list(range(n)), "mean": [0.5] * n, "low": [0.4] * n, "high": [0.6] * n},
        }
        figure = held_out([run], Charts())
        assert figure.count("<polyline") == lines and figure.count('class="marker"') == n
        assert figure.count('class="whisker"') == n and ("No line is drawn" in figure) == (lines == 0)


def test_points_at_one_step_stand_beside_each_other():
    runs = [
        {"name": c, "color": i, "scale": 0, "kind": "accuracy", "eval": {"step": [0, 9], "mean": [0.5, 0.5]}}
        for i, c in enumerate("ab")
    ]
    places = re.findall(r'<circle cx="([\d.]+)"', held_out(runs, Charts()))
    assert len(places) == len(set(places)) == 4


def test_settings_that_are_not_the_default_are_open_and_the_rest_is_folded(report_run):
    page = render(collect([report_run]))
    body = page[page.index('id="settings"') :]
    shown, folded = body[: body.index("<details")], body[body.index("<details") :]
    assert re.search("steps</td><td[^>]*>24</td><td[^>]*>100<", shown) and "prompts_per_step" in shown
    assert "weight_decay" not in shown and "weight_decay" in folded and folded.startswith("<details><summary>All ")


def test_every_known_symptom_is_judged(report_run):
    text = text_of(report_run)
    run = collect([report_run])["runs"][0]
    seen = {f["name"] for f in run["health"]}
    assert f"The {len(SYMPTOMS) - len(seen)} that were looked for and not seen" in text
    assert all(s.name in text for s in SYMPTOMS)


def test_equations_are_set():
    assert inline("w_bt = m_bt / (B |y_b|)") == "w<sub>bt</sub> = m<sub>bt</sub> / (B |y<sub>b</sub>|)"
    assert inline("A <- A / sqrt(var + eps), g <= max_kl") == "A ← A / √(var + ε), g ≤ max_kl"
    assert inline("pi_ref/pi, ell_t^2, x < y") == "π<sub>ref</sub>/π, ℓ<sub>t</sub><sup>2</sup>, x &lt; y"
    out = mathml("J = sum_bt w_bt S(rho, A) - beta_old KL(old||pi)")
    assert "<munder><mo>∑</mo><mi>bt</mi></munder>" in out and "<msub><mi>β</mi><mi>old</mi></msub>" in out
    for recipe in all_recipes().values():
        text = re.sub("<[^>]*>", "", mathml(objective_text(recipe)))
        assert not re.search(r"[_{}]|\b(rho|beta|pi|mu|sum|theta)\b", text), recipe.name
        for _, part in present(recipe):
            if not isinstance(part, float):
                assert not re.search(
                    r"<-|\|\||\b(rho|beta|pi|mu|theta|grad)\b", re.sub("<[^>]*>", "", inline(equation(part)))
                )


def test_the_ladders_table_has_its_intervals_and_changes_in_one_column_each():
    head, rows = narrow(
        ["recipe", "parent", "what changed", "step size", "accuracy", "low", "high"],
        [["grpo", "ppo", "credit=GroupMean()", 0.0004, 0.8, 0.71, 0.9], ["ppo", None, None, 0.001, 0.7, None, None]],
    )
    assert head == ["recipe", "changed in its parent", "step size", "accuracy", "95 % interval"]
    text = [[re.sub("<[^>]*>", "", join(c)) for c in row] for row in rows]
    assert text[0] == ["grpo", "ppo: credit=GroupMean()", "0.0004", "0.800", "0.710 to 0.900"]
    assert text[1] == ["ppo", "–", "0.001", "0.700", "–"]


def test_a_learning_rate_and_a_bound_on_the_kl_share_no_axis():
    sweep = [{"recipe": name, "step_size": [1e-3, 1e-2], "accuracy": [0.4, 0.5]} for name in ("grpo", "trpo", "mine")]
    out = join(robustness({"robustness": sweep}, Charts(), {}))
    figures = re.findall("<figure.*?</figure>", out)
    axes = [re.search("learning rate|bound on the KL|step size", f)[0] for f in figures]
    assert axes == ["learning rate", "bound on the KL", "step size"] and "<polyline" not in out


def test_traces_in_different_scales_share_no_axis():
    rows = [{"recipe": "a", "trace": 2.0, "low": 1.0, "high": 3.0, "snr": 0.5, "snr_low": 0.4, "snr_high": 0.6}]
    rows.append({"recipe": "b", "trace": 2000.0, "low": None, "high": None})
    out = join(gradient({"gradient": rows}, {}))
    labels = re.findall('aria-label="([^"]*)"', out)
    assert [label.split(".")[0] for label in labels] == [
        "Signal to noise of one batch, |E g|² / trace (more is better)"
    ]
    assert "a: 0.500, interval 0.400 to 0.600" in labels[0] and "2,000" in re.sub("<svg.*?</svg>", "", out)
