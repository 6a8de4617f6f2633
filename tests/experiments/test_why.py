"""Every experiment can be built, and a conclusion says no more than its interval."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import rung.experiments.why as why
from rung.cli import main
from rung.errors import InputError
from rung.exact.oracle import all_batches, batch_gradients, expected_gradient
from rung.exact.world import Condition, Scene, World
from rung.experiments.runs import key
from rung.experiments.why import conclude, jobs_of, named, recipe_of
from rung.experiments.why_exact import mean_gradient
from rung.experiments.why_experiments import ACCURACY, EXPERIMENTS, NONE, Arm, Experiment, Quantity
from rung.recipe_io import all_recipes, diff, find
from rung.records import Completion, Group
from rung.tasks import registry

pytest.importorskip("matplotlib")
EVIDENCE = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text(encoding="utf-8")
TINY = {"prompts_per_step": 4, "samples_per_prompt": 2, "steps": 2, "eval_problems": 8}


def test_every_recipe_has_an_experiment_or_a_reason_and_no_two_share_a_directory():
    assert {e.recipe for e in EXPERIMENTS} | NONE.keys() == all_recipes().keys()
    assert not {e.recipe for e in EXPERIMENTS} & NONE.keys()
    assert len({(e.recipe, e.name) for e in EXPERIMENTS}) == len(EXPERIMENTS)
    assert len(named("all")) == len(EXPERIMENTS) and len(named("PPO")) >= 2


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: f"{e.recipe}-{e.name}")
def test_every_experiment_compares_two_recipes_and_nothing_else(experiment):
    a, b = recipe_of(experiment.parent), recipe_of(experiment.child)
    assert diff(a, b), "the arms compute the same"
    if experiment.kind == "training":
        parent, child = (jobs_of(experiment, arm, range(2)) for arm in (experiment.parent, experiment.child))
        assert len({key(j.config) for j in parent + child}) == 4
        for p, c in zip(parent, child, strict=True):
            assert replace(p.config, recipe="grpo", overrides={}) == replace(c.config, recipe="grpo", overrides={})


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: f"{e.recipe}-{e.name}")
def test_every_experiment_has_its_verdict_on_the_page(experiment):
    results = EVIDENCE.split("\n## Results\n")[1].split("\n\n- ")[0]
    arms = f"| {experiment.parent.label} -> {experiment.child.label} |"
    lines = [line for line in results.splitlines() if line.startswith(arms)]
    assert any(line.endswith(("| shown |", "| not shown |", "| WORSE |")) for line in lines)
    assert len(lines) == sum(
        e.parent.label == experiment.parent.label and e.child.label == experiment.child.label for e in EXPERIMENTS
    )


def rows(**columns):
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture
def experiment():
    memory = Quantity("state_mb", "memory", "ratio", "lower")
    return Experiment(
        "grpo", "x", "training", "the claim", "the stress", Arm("p", "ppo"), Arm("c", "grpo"), (ACCURACY, memory)
    )


def test_a_conclusion_reports_effects_and_what_is_not_shown(experiment):
    parent = rows(accuracy=[0.50, 0.54, 0.52, 0.55, 0.51], state_mb=[2.0] * 5)
    child = rows(accuracy=[0.81, 0.83, 0.80, 0.84, 0.85], state_mb=[1.0] * 5)
    found = conclude(experiment, parent, child)
    accuracy, memory = found["verdicts"]
    assert accuracy["shown"] and accuracy["effect"] == pytest.approx(0.302) and accuracy["low"] > 0.2
    assert memory["shown"] and memory["effect"] == pytest.approx(-0.5), "a ratio is a relative change"
    assert "-50 %" in memory["sentence"] and found["sentence"].startswith("Shown: the claim.")

    noisy = rows(accuracy=[0.2, 0.9, 0.4, 0.7, 0.5], state_mb=[2.0] * 5)
    found = conclude(experiment, noisy, child)
    assert not found["verdicts"][0]["shown"] and found["sentence"].startswith("Not shown: the claim.")
    assert "no difference shown" in found["verdicts"][0]["sentence"]


def test_an_effect_in_the_wrong_direction_is_not_sold_as_shown(experiment):
    parent = rows(accuracy=[0.81, 0.83, 0.80, 0.84, 0.85], state_mb=[1.0] * 5)
    child = rows(accuracy=[0.50, 0.54, 0.52, 0.55, 0.51], state_mb=[1.0] * 5)
    found = conclude(experiment, parent, child)
    assert not found["verdicts"][0]["shown"] and found["table"]["rows"][0][-1] == "WORSE"
    assert found["sentence"].startswith("Worse, against the claim: the claim.")
    assert found["table"]["rows"][1][-1] == "not shown"


def test_each_arm_is_compared_at_the_rate_that_its_own_sweep_chose(tmp_path, monkeypatch):
    rates = (1e-6, 3e-3)
    tuned = Experiment(
        "grpo", "t", "training", "claim", "stress", Arm("ppo", "ppo"), Arm("grpo", "grpo"), (ACCURACY,),
        {**TINY, "eval_problems": 64}, rates, seeds=2,
    )  # fmt: skip
    monkeypatch.setattr(why, "SWEEPS", 1)
    run_all, sweeps = why.run_all, []
    monkeypatch.setattr(why, "run_all", lambda *a: [sweeps.append(rows := run_all(*a)), rows][1])
    found = why.examine(tuned, tmp_path, 2, 1)
    sweep, compared = sweeps
    assert {r["seed"] for r in sweep} == {1000} and {r["seed"] for r in compared} == {0, 1}
    for arm, rows in (("ppo", found["rows"][:2]), ("grpo", found["rows"][2:])):
        reached = {rate: [r["accuracy"] for r in sweep if r["label"] == arm and r["lr"] == rate] for rate in rates}
        assert all(len(x) == 1 for x in reached.values()) and sum(reached[rates[0]]) != sum(reached[rates[1]])
        best = max(rates, key=lambda rate: sum(reached[rate]))
        assert {r["label"] for r in rows} == {arm} and {r["lr"] for r in rows} == {best}
        assert f"{arm} {best:g}" in found["sentence"]
    assert "at the best of 2 learning rates" in found["sentence"]
    bound = next(e for e in EXPERIMENTS if e.parent.recipe == "trpo" and e.rates)
    assert not why.sweep_of(bound, bound.parent), "what takes no learning rate is not swept over it"


def test_the_exact_signal_to_noise_is_that_of_all_batches():
    recipe, world = find("opo"), World(vocabulary=3, horizon=2, samples=2, reward="binary", seed=4)
    scene = Scene(world, Condition())
    batches = all_batches(recipe, scene)
    g_ND, p_N = batch_gradients(recipe, scene, batches), batches.weight_N / batches.weight_N.sum()
    mean_D = p_N @ g_ND
    noise = float(p_N @ (g_ND - mean_D).square().sum(1))
    assert mean_gradient(recipe, world)["snr"] == pytest.approx(float(mean_D @ mean_D) / noise)


def test_the_drift_of_wrong_answers_is_what_a_short_step_does():
    recipe, world = find("grpo"), World(vocabulary=3, horizon=3, samples=2, reward="binary", seed=4)
    scene = Scene(world, Condition())
    g = expected_gradient(recipe, scene).gradient

    def length_of_wrong(theta):
        wrong = scene.logp(scene.law(theta)).sum(-1).exp()[0] * (1 - scene.reward_PAT.sum(-1)[0])
        return float((wrong * scene.tree.length_A).sum() / wrong.sum())

    step = 1e-5 * g / g.norm()
    measured = (length_of_wrong(scene.theta + step) - length_of_wrong(scene.theta - step)) / 2e-5
    assert mean_gradient(recipe, world)["wrong_drift"] == pytest.approx(measured, rel=1e-6)


def test_every_kind_runs_from_end_to_end_and_is_kept(tmp_path, monkeypatch, capsys):
    training = Experiment(
        "grpo", "t", "training", "claim", "stress", Arm("ppo", "ppo"), Arm("grpo", "grpo"), (ACCURACY,), TINY, seeds=2
    )
    settings = {"prompts": 2, "samples": 2, "batches": 3, "warmup": 1, "process": True}
    noise = Experiment(
        "grpo", "g", "gradient", "claim", "stress", Arm("reinforce", "reinforce"), Arm("grpo", "grpo"),
        (Quantity("trace", "variance", "ratio", "lower"),), settings, seeds=2,
    )  # fmt: skip
    length = next(e for e in EXPERIMENTS if e.kind == "exact")
    exact = replace(length, recipe="grpo", name="e", settings={**length.settings, "horizon": 2}, seeds=2)
    monkeypatch.setattr(why, "EXPERIMENTS", (training, noise, exact))
    assert main(["why", "grpo", "--out", str(tmp_path), "--json", "-"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [r["measure"] for r in table] == ["held-out accuracy", "variance", exact.measures[0].words]
    for name in ("grpo-t", "grpo-g", "grpo-e"):
        found = json.loads((tmp_path / name / "why.json").read_text())
        assert found["kind"] == "why" and len(found["rows"]) == 4 and found["sentence"] and found["command"]
        assert (tmp_path / name / "why.png").read_bytes()[:4] == b"\x89PNG"
    assert [c["label"] for c in json.loads((tmp_path / "grpo-t" / "why.json").read_text())["curves"]] == ["ppo", "grpo"]

    monkeypatch.setattr("rung.experiments.runs.train", lambda *a: pytest.fail("trained again"))
    monkeypatch.setattr(why.Frozen, "gradients", lambda *a: pytest.fail("measured again"))
    assert main(["why", "grpo", "--out", str(tmp_path), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == table


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["grppo"], "Did you mean 'grpo'"),
        (["reinforce"], "It is the foot of the ladder"),
        (["grpo", "--seeds", "1"], "at least 2 seeds"),
    ],
)
def test_what_cannot_be_shown_is_refused(words, said, capsys, tmp_path):
    assert main(["why", *words, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


# -- the stresses --------------------------------------------------------------------------------------------------
def test_an_offset_moves_training_rewards_only():
    task = registry.load("chained_arithmetic", options={"reward_offset": 1.0})
    for split, zero in ((task.train, 1.0), (task.eval, 0.0)):
        problem = split[0]
        right = Completion("#" + problem.data["answer"])
        rewards = [sum(r.values()) for r in split.score(Group(problem, [right, Completion("no")]))]
        assert rewards == [1.0 + zero, zero]


def test_unlearnable_problems_are_judged_by_lot():
    plain, half = (registry.load("chained_arithmetic", options=o) for o in ({}, {"unlearnable": 0.5}))
    pairs = [(plain.train[i], half.train[i]) for i in range(2000)]
    assert all(a.prompt == b.prompt for a, b in pairs)
    assert sum(a.data["answer"] != b.data["answer"] for a, b in pairs) == pytest.approx(900, abs=90), (
        "half, less the lucky"
    )
    assert [half.eval[i].data for i in range(50)] == [plain.eval[i].data for i in range(50)]
    with pytest.raises(InputError, match="share"):
        registry.load("chained_arithmetic", options={"unlearnable": 2.0})
