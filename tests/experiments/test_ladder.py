"""The comparison: the sweep's seeds stay out of it, equal recipes are called equal, and nothing is trained twice."""

import json
import shlex

import pytest

from rung.cli import main
from rung.experiments.ladder import SWEEP_SEED, collapsed, grid_of, job_of, judge, robustness, tuned
from rung.experiments.runs import key, step_size
from rung.parts import NaturalStep
from rung.recipes import LADDER
from rung.settings.experiments import Ladder

FLAGS = [
    "--recipes", "reinforce,reward_to_go", "--seeds", "2", "--sweep-seeds", "1", "--rates", "1e-3", "--tokens", "70",
    "--prompts-per-step", "2", "--samples-per-prompt", "2", "--eval-problems", "8", "--eval-every", "2", "--gradient-batches", "3",
]  # fmt: skip


def sweep_row(recipe, size, accuracy, seed=0, area=0.5, start=0.2):
    return {
        "recipe": recipe,
        "step_size": size,
        "seed": seed,
        "accuracy": accuracy,
        "area": area,
        "accuracy_start": start,
    }


def test_a_whole_ladder_is_kept_and_calls_equal_recipes_equal(tmp_path, capsys, monkeypatch):
    words = ["ladder", "--out", str(tmp_path), *FLAGS]
    assert main([*words, "--json", "-"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [line["recipe"] for line in table] == ["reinforce", "reward_to_go"]
    found = json.loads((tmp_path / "ladder.json").read_text())
    assert {row["seed"] for row in found["rows"] if row["sweep"]} == {SWEEP_SEED}
    assert {row["seed"] for row in found["rows"] if not row["sweep"]} == {0, 1}
    assert all(row["tokens"] >= 70 for row in found["rows"])
    (verdict,) = found["verdicts"]  # one reward at the end: they are the same estimator
    assert verdict["effect"] == verdict["low"] == verdict["high"] == 0 and not verdict["shown"]
    assert "0 change the final accuracy" in found["sentence"] and "credit=RewardToGo" in table[1]["what changed"]
    assert [r["step_size"] for r in found["robustness"]] == [[1e-3]] * 2
    assert [g["recipe"] for g in found["gradient"]] == ["reinforce", "reward_to_go"]
    assert found["gradient"][0]["trace"] == pytest.approx(found["gradient"][1]["trace"])
    assert [c["label"] for c in found["curves"]] == ["reinforce", "reward_to_go"]

    monkeypatch.setattr("rung.experiments.runs.train", lambda *a: pytest.fail("trained again"))
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "no difference shown" in out
    (step,) = [line.split("next: ")[1] for line in out.splitlines() if line.startswith("next: ")]
    assert main(shlex.split(step)[shlex.split(step).index("report") :]) == 0, "what it prints as next works"
    assert json.loads((tmp_path / "ladder.json").read_text()) == found


def test_the_best_rate_is_that_of_the_best_mean_and_robustness_counts_collapses():
    rows = [sweep_row("grpo", 1e-4, a, s) for s, a in enumerate((0.5, 0.6))]
    rows += [sweep_row("grpo", 1e-3, a, s) for s, a in enumerate((0.9, 0.1))]
    rows += [sweep_row("grpo", 1e-2, a, s, area=0.6) for s, a in enumerate((0.55, 0.55))]
    assert tuned(rows, ["grpo"]) == {"grpo": 1e-2}, "equal means: the larger area"
    found = robustness("grpo", rows)
    assert found["accuracy"] == pytest.approx([0.55, 0.5, 0.55]) and found["low"][1] == 0.1
    assert found["collapse"] == pytest.approx(1 / 6)
    assert collapsed(sweep_row("x", 1, 0.19)) and not collapsed(sweep_row("x", 1, 0.2))


def test_a_rung_is_compared_with_the_nearest_one_below_that_takes_part():
    recipes = [LADDER[n] for n in ("reinforce", "ppo", "dr_grpo")]
    by = {
        r.name: [{"accuracy": a + d} for a in (0.5, 0.52, 0.51, 0.53)]
        for r, d in zip(recipes, (0, 0.2, 0.2), strict=True)
    }
    found = judge(recipes, by)
    assert [(v["recipe"], v["parent"], v["shown"]) for v in found] == [
        ("ppo", "reinforce", True),
        ("dr_grpo", "ppo", False),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--recipes", "grppo"], "Did you mean 'grpo'"),
        (["--seeds", "1"], "at least 2 seeds"),
        (["--tokens", "60"], "a single step of 2 x 2 answers may take 64 tokens"),
        (["--rates", "fast"], "are no step sizes"),
        (["--rates", "-1e-3"], "are no step sizes"),
        (["--rates", "nan"], "are no step sizes"),
        (["--recipes", "trpo", "--bounds", "0"], "--bounds '0' are no step sizes"),
        (["--gradient-batches", "2"], "at least 3"),
        (["--recipes", "grpo", "--samples-per-prompt", "1"], "group of one"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(change, said, tmp_path, capsys):
    flags = dict(zip(FLAGS[::2], FLAGS[1::2], strict=True)) | dict(zip(change[::2], change[1::2], strict=True))
    assert main(["ladder", "--out", str(tmp_path / "out"), *(word for pair in flags.items() for word in pair)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_grid_is_sorted_and_holds_nothing_twice():
    assert grid_of(Ladder(rates="1e-3, 1e-4,1e-3"), LADDER["grpo"]) == [1e-4, 1e-3]


@pytest.mark.parametrize("name", LADDER)
def test_every_recipe_is_swept_over_the_step_size_that_its_update_takes(name):
    args, recipe = Ladder(rates="1e-3,2e-3", bounds="5e-3,6e-3"), LADDER[name]
    grid = grid_of(args, recipe)
    configs = [job_of(args, name, size, 0).config.resolved() for size in grid]
    assert [step_size(c, c.build_recipe()) for c in configs] == grid
    assert len({key(c) for c in configs}) == 2, "each size is another run"
    bounded = isinstance(recipe.update, NaturalStep)
    assert grid == ([5e-3, 6e-3] if bounded else [1e-3, 2e-3])
