"""The health check names what goes wrong while it trains, once, with cause and remedy, and is silent in healthy runs."""

import importlib.util
import json
import math
import random
import sys
from pathlib import Path

import pytest

import rung
from rung.cli import main
from rung.errors import InputError
from rung.recipe_io import all_recipes
from rung.records import Rollout, Scored, Task
from rung.report import write_report
from rung.rollout.samplers import numbers_of
from rung.tasks.environments.protocol import Splits
from rung.training import health
from rung.training.health import SYMPTOMS, Facts, Health, of_run, table
from rung.training.metrics import verdict_metrics

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("benchmarks_health", ROOT / "benchmarks" / "health.py")
bench = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

SMALL = {"prompts_per_step": 4, "samples_per_prompt": 4, "eval_problems": 4, "max_new_tokens": 6, "threads": 1}
FAST = {
    "every answer is paid 0.5",
    "two tokens an answer",
    "the sampler's temperature is 1.5",
    "rewards of 1e39 from step 3",
}
ROW = {
    "step_time": 1.0, "reward": 0.4, "rewards/correct/mean": 0.4, "rewards/correct/std": 0.5, "frac_reward_zero_std": 0.3,
    "frac_all_right": 0.1, "rewards/unscored": 0.0, "rewards/identical": 20.0, "rewards/noise": 0.0,
    "rewards/length_correlation": 0.6, "completions/mean_length": 10.0, "completions/max_length": 16.0,
    "completions/clipped_ratio": 0.0, "completions/no_answer_ratio": 0.0, "rewards/any_answer": 0.0, "entropy": 0.5,
    "advantage/abs_mean": 0.5, "advantage/lost": 0.0, "grad_norm": 0.1, "grad_rms": 1e-4, "kl": 0.1, "kl_k1": 0.1,
    "old_kl": 0.01, "ratio/ess": 0.95, "clip_ratio/low_mean": 0.1, "clip_ratio/high_mean": 0.1, "clip_ratio/dual_mean": 0.0,
    "sampling/logp_gap_mean": 1e-6, "critic/explained_variance": 0.3, "critic/loss": 0.1,
}  # fmt: skip
FLAT = {"frac_reward_zero_std": 1.0, "rewards/correct/std": 0.0}
NOTHING = {**FLAT, "reward": 0.0, "rewards/correct/mean": 0.0, "frac_all_right": 0.0}
ALL = {**FLAT, "reward": 1.0, "rewards/correct/mean": 1.0, "frac_all_right": 1.0}


def evaluation(step, accuracy, margin=0.05, **more):
    ends = {
        "eval/accuracy_ci_low": accuracy - margin,
        "eval/accuracy_ci_high": accuracy + margin,
        "eval/accuracy_n": 256.0,
    }
    return {"step": step, "eval/accuracy": accuracy, "eval/reward": accuracy, **ends, **more}


def names(rows, answers=32, samples=4, **facts):
    """What is there after the newest of these rows; a step's row says only in what it differs from ROW."""
    health = Health(Facts(answers, samples, **facts))
    for row in rows:
        step = int(row.get("step", len(health.train) + 1))
        health.look(step, row if "eval/reward" in row else {"step": step, **ROW, **row})
    return {mark.removeprefix("health/") for mark in health.marks}


NAN, FELL = float("nan"), {"reward": 0.05, "rewards/correct/mean": 0.05, "rewards/correct/std": 0.2}
LONG = {"completions/mean_length": 16.0}
CASES = [
    ([{}] * 8, set()),
    ([{"rewards/unscored": 16.0}], {"rewards_unscored"}),
    ([{"rewards/unscored": 15.0}], set()),
    ([{"rewards/unscored": 32.0, "reward": NAN}], {"rewards_unscored"}),
    ([NOTHING] * 2, set()),
    ([NOTHING] * 3, {"problems_too_hard"}),
    ([NOTHING, NOTHING, {}, NOTHING], set()),
    ([{**NOTHING, "completions/no_answer_ratio": 1.0}] * 3, {"format_not_found"}),
    ([{**NOTHING, "completions/no_answer_ratio": 1.0, "completions/clipped_ratio": 1.0}] * 3, {"answers_cut"}),
    ([{}, *[ALL] * 3], {"problems_too_easy"}),
    ([*[ALL] * 3], {"reward_constant"}),
    ([evaluation(0, 1.0, 0.0), *[ALL] * 3], {"problems_too_easy"}),
    ([evaluation(0, 1.0, 0.0), *[{**ALL, "rewards/any_answer": 1.0}] * 3], {"reward_constant"}),
    ([{**FLAT, "reward": 0.5, "rewards/correct/mean": 0.5, "frac_all_right": 1.0}] * 3, {"reward_constant"}),
    ([{**FLAT, "rewards/correct/std": 0.5}] * 3, {"reward_constant"}),
    ([{"completions/clipped_ratio": 0.5}] * 3, {"answers_cut"}),
    ([{"completions/clipped_ratio": 0.4}] * 3, set()),
    ([{"completions/no_answer_ratio": 0.8}] * 3, set()),
    ([{"rewards/noise": 0.6}], {"reward_is_noise"}),
    ([{"rewards/noise": 0.6, "rewards/identical": 4.0}], set()),
    ([{"rewards/noise": 0.6, "rewards/identical": 4.0}] * 2, {"reward_is_noise"}),
    ([{"rewards/noise": 0.4}] * 5, set()),
    ([{"time/reward": 2.0, "step_time": 3.0}] * 3, {"reward_slow"}),
    ([{"time/reward": 2.0, "step_time": 5.0}] * 3, set()),
    ([{"time/reward": 0.5, "step_time": 0.6}] * 3, set()),
    ([{"rewards/length_correlation": 0.96}] * 3, {"reward_is_length"}),
    ([{"rewards/length_correlation": 0.96}] * 2 + [{}], set()),
    ([*[{}] * 2, *[FELL] * 3], {"reward_falls"}),
    ([*[{}] * 2, *[{"reward": 0.25}] * 3], set()),
    ([*[{}] * 2, *[LONG] * 2], set()),
    ([*[{"completions/mean_length": 5.0}] * 2, {}, {**LONG, **FELL}, {**LONG, **FELL}], {"length_grows", "reward_falls"}),
    ([evaluation(0, 0.4), *[{"completions/mean_length": 5.0}] * 2, {}, LONG, LONG, evaluation(5, 0.2)], {"length_grows"}),
    ([evaluation(0, 0.4), *[{"completions/mean_length": 5.0}] * 2, {}, LONG, LONG, evaluation(5, 0.3)], {"length_grows"}),
    ([evaluation(0, 0.4), *[{"completions/mean_length": 5.0}] * 2, {}, LONG, LONG, evaluation(5, 0.35)], set()),
    ([evaluation(0, 0.2), *[{"completions/mean_length": 5.0}] * 2, {}, LONG, LONG, evaluation(5, 0.4)], set()),
    ([evaluation(0, 0.4), {"reward": 0.2}, {}, *[{"reward": 0.45}] * 3, evaluation(5, 0.2)], {"held_out_falls"}),
    ([evaluation(0, 0.4), {"reward": 0.2}, {}, *[{"reward": 0.9}] * 3, evaluation(5, 0.35)], set()),
    ([evaluation(0, 0.4), {"reward": 0.9}, {}, *[{"reward": 0.9}] * 3, evaluation(5, 0.2)], set()),
    ([evaluation(0, 0.4, **{"eval/unscored": 1.0})], {"held_out_unscored"}),
    ([{}, {}, {"entropy": 0.04}, {"entropy": 0.04}], {"entropy_collapses"}),
    ([{}, {}, {"entropy": 0.06}, {"entropy": 0.06}], set()),
    ([{"entropy": 0.06}, {}, {"entropy": 0.04}, {"entropy": 0.04}], set()),
    ([{"entropy": 0.15}, {}, {"entropy": 0.04}, {"entropy": 0.04}], set()),
    ([{}, {}, *[{"entropy": 0.04, "frac_all_right": 0.9}] * 2], set()),
    ([{"kl": 2.0, "kl_k1": 1.5}] * 2, {"kl_runs_away"}),
    ([{"kl": 2.0, "kl_k1": 0.5}] * 2, set()),
    ([{"old_kl": 0.2}] * 3, {"ratios_useless"}),
    ([{"ratio/ess": 0.4}] * 3, {"ratios_useless"}),
    ([{"clip_ratio/low_mean": 0.5}] * 3, set()),
    ([{"sampling/logp_gap_mean": 0.004}], {"sampler_disagrees"}),
    ([{"sampling/logp_gap_mean": 0.001}], set()),
    ([{"critic/explained_variance": 0.0}] * 4, {"critic_blind"}),
    ([{"critic/explained_variance": 0.0}] * 3, set()),
    ([{"critic/explained_variance": 0.002}] * 4, set()),
    ([{"critic/explained_variance": -0.6}] * 5, {"critic_blind"}),
    ([{"critic/explained_variance": -0.1}] * 5, set()),
    ([{"grad_norm": NAN}], {"not_finite"}),
    ([{"critic/loss": None}], {"not_finite"}),
    ([{"grad_rms": 1e-9}], {"gradient_tiny"}),
    ([{"grad_rms": 1e-9, "advantage/abs_mean": 0.0}], set()),
    ([{"grad_rms": 0.0}], set()),
    ([{"grad_rms": 2e-8}], set()),
    ([{"advantage/eps_dominates": 0.5}], {"eps_dominates"}),
    ([{"advantage/eps_dominates": 0.4}], set()),
    ([{"advantage/lost": 0.25}] * 3, {"signal_lost"}),
    ([{}, {}, {"advantage/lost": 0.25}], set()),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)))
def test_each_symptom_is_there_where_its_sign_is_and_nowhere_else(case):
    rows, expected = CASES[case]
    assert names(rows) == expected


def test_signs_depend_on_what_the_run_is():
    for numbers in ("bfloat16", numbers_of("vllm", "float32")):
        assert names([{"sampling/logp_gap_mean": 0.01}], numbers=numbers) == set(), (
            "rounding, or other code, explains it"
        )
        assert names([{"sampling/logp_gap_mean": 0.2}], numbers=numbers) == {"sampler_disagrees"}
    assert numbers_of("torch", "bfloat16") == "bfloat16"
    alone = {"frac_reward_zero_std": 1.0}  # one answer a prompt: no prompt can have a difference
    assert names([alone] * 3, samples=1) == set() and names([NOTHING] * 3, samples=1) == {"problems_too_hard"}
    assert names([{}], plain_prompts=True) == {"template_unused"} and names([{}], unread="x") == {"letters_unread"}


def drawn_rows(seed, steps=120):
    """A run in which much changes: each phase of some steps is that of another case, with an evaluation now and then."""
    rng, out, phase = random.Random(seed), [], {**FLAT, "reward": 0.3}
    for step in range(steps):
        if step > 60 and seed % 2:  # what was paid before says whether this reward is a constant
            phase = ALL
        elif step > 2 and step % rng.choice((3, 5, 8)) == 0:
            phase = rng.choice((
                {}, NOTHING, ALL, FLAT, {"entropy": 0.01}, {"completions/mean_length": 40.0 + step}, {"reward": rng.random()},
                {"critic/explained_variance": rng.choice((0.0, -0.8))},
            ))  # fmt: skip
        out.append({**ROW, **phase, "step": step + 1, "reward": phase.get("reward", rng.random())})
        if step % 7 == 6:
            out.append(evaluation(step + 1, rng.choice((0.1, 0.5, 0.9, 1.0)), 0.01))
    return out


def test_rows_that_no_sign_reads_any_more_are_let_go(monkeypatch):
    """Of a run however long a few rows are kept, and what is found is what all of them show."""
    seen = []
    for keeps in (health.still_read, lambda run: (list(run.train), list(run.held_out))):
        monkeypatch.setattr(health, "still_read", keeps)
        runs = [Health(Facts(32, 4)) for _ in range(12)]
        marks = [
            (run.look(row["step"], row), run.marks)[1] for seed, run in enumerate(runs) for row in drawn_rows(seed)
        ]
        seen.append((marks, [run.found for run in runs], max(len(run.train) + len(run.held_out) for run in runs)))
    (few, found, kept), (every, truth, all_of_them) = seen
    assert few == every and found == truth and len({name for run in truth for name in run}) >= 8
    assert kept <= 20 and all_of_them == 137


@pytest.mark.parametrize("low", [0.95, 0.9549, 0.99, 0.9967, 0.99999, 1.0])
def test_the_bound_that_is_said_of_a_correlation_is_one(low):
    rows = [{**ROW, "step": i, "rewards/length_correlation": r} for i, r in enumerate((1.0, low, 1.0), 1)]
    (found,) = (f for f in of_run({}, rows) if f.name == "reward_is_length")
    said = float(found.seen.rpartition("never below ")[2])
    assert low - 0.01 < said <= low, found.seen


def test_every_symptom_has_a_case():
    cases = {name for _, expected in CASES for name in expected} | {"template_unused", "letters_unread"}
    assert cases == {s.name for s in SYMPTOMS}


def scored(reward, tokens, task="t"):
    return Scored(
        Task(task, "?"), Rollout((1,), tokens, (0.0,) * len(tokens), (0.0,) * len(tokens), "stop"), "", {}, reward
    )


def test_noise_and_length_are_read_within_a_prompt():
    a, b = (5, 6), (5, 6, 7)
    steady = verdict_metrics([[scored(1.0, a), scored(1.0, a), scored(0.0, b)], [scored(0.0, a), scored(0.0, a)]])
    assert steady["rewards/identical"] == 2 and steady["rewards/noise"] == 0.0
    assert steady["rewards/length_correlation"] == pytest.approx(-1.0)
    lots = verdict_metrics([[scored(1.0, a), scored(0.0, a), scored(1.0, b), scored(0.0, b)]])
    assert lots["rewards/noise"] == pytest.approx(1 / (4 / 6)), "both identical pairs differ, and 4 pairs of all 6"
    apart = verdict_metrics([[scored(1.0, a)] * 2, [scored(0.0, b)] * 2])
    assert math.isnan(apart["rewards/length_correlation"]) and math.isnan(apart["rewards/noise"]), (
        "no difference inside"
    )


# -- in a run --------------------------------------------------------------------------------------------------------
class Paid:
    """Sums; `pay(step of scoring, text)` says what an answer earns."""

    def __init__(self, pay):
        self.pay, self.calls = pay, 0

    def __len__(self):
        return 16

    def __getitem__(self, i):
        return Task(str(i), f"{i % 10}+{i // 10}=")

    def score(self, group):
        self.calls += 1
        return [{"r": self.pay(self.calls, c.text)} for c in group.completions]


def splits(pay, eval_pay=None):
    return Splits("paid", Paid(pay), Paid(eval_pay or pay), 6)


def test_a_run_whose_first_answers_cannot_be_scored_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"step 1: none of the 16 answers could be scored.*r nan"):
        rung.train(recipe="grpo", task=splits(lambda n, t: float("nan")), steps=2, out=tmp_path / "r", **SMALL)


def test_a_symptom_is_said_once_marked_while_it_lasts_and_listed_at_the_end(tmp_path, capsys):
    pay = lambda n, t: float(len(t) % 2) if n <= 4 or n > 12 else float("nan")  # noqa: E731  steps 2 and 3 fail
    task = splits(pay, lambda n, t: 0.0)
    run = rung.train(recipe="grpo", task=task, steps=4, out=tmp_path / "r", **SMALL, learning_rate=1e-4)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        said.count("step 2, rewards_unscored: none of the 16 answers could be scored, so nothing was learned. Likely")
        == 1
    )
    assert "What to do: Look at what it returns" in said and "health rewards_unscored, steps 2 to 3: none" in said
    steps = [row for row in run.metrics if "step_time" in row]
    assert [row["rewards/unscored"] for row in steps] == [0, 16, 16, 0]
    assert [row.get("health/rewards_unscored") for row in steps] == [None, 1.0, 1.0, None]
    assert steps[1]["reward"] is None and steps[1]["update/skipped"] == 1 and steps[3]["reward"] is not None
    assert [(f.name, f.first, f.last) for f in run.health] == [("rewards_unscored", 2, 3)]


def test_a_resumed_run_knows_what_was_said_and_the_report_reads_it_from_the_rows(tmp_path, capsys):
    task = splits(lambda n, t: 0.5)
    rung.train(recipe="grpo", task=task, steps=3, out=tmp_path / "r", **SMALL)
    assert "step 3, reward_constant" in capsys.readouterr().out
    run = rung.train(recipe="grpo", task=task, steps=5, out=tmp_path / "r", resume=True, **SMALL)
    assert "step 3, reward_constant" not in (said := capsys.readouterr().out) and "step 5, reward" not in said
    assert [(f.name, f.when) for f in run.health] == [("reward_constant", "steps 3 to 5")]
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert of_run({"prompts_per_step": 4, "samples_per_prompt": 4}, rows) == run.health
    page = write_report([tmp_path / "r"]).read_text()
    assert '<h2 id="health-h">Health</h2>' in page and "<code>reward_constant</code>" in page and "steps 3 to 5" in page


def test_what_prompts_show_is_said_before_the_first_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rung.training.loop.plain_prompts", lambda model, splits: True)
    assert (
        main(
            [
                "train",
                "grpo",
                "--steps",
                "1",
                "--prompts-per-step",
                "2",
                "--eval-problems",
                "2",
                "--out",
                str(tmp_path / "r"),
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert 0 < said.index("step 0, template_unused") < said.index("step 1/1")
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["health/template_unused"] == 1 for row in rows)
    assert [f.name for f in of_run({"prompts_per_step": 2, "samples_per_prompt": 8}, rows)] == ["template_unused"]


# -- faults and healthy runs -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fault", [pytest.param(f, id=f.what, marks=() if f.what in FAST else pytest.mark.slow) for f in bench.FAULTS]
)
def test_a_fault_is_named_within_five_steps(fault):
    step, found = bench.named(fault)
    assert step is not None and step < fault.start + 5, [(f.name, f.first) for f in found]
    assert not [f for f in found if f.first < fault.start], "nothing was wrong before"


def test_faults_of_more_than_twelve_kinds_are_seeded():
    seeded = {f.symptom for f in bench.FAULTS}
    assert len(seeded) >= 12 and {f.what for f in bench.FAULTS} >= FAST and seeded <= {s.name for s in SYMPTOMS}


@pytest.mark.parametrize("recipe", ["dr_grpo", "ppo"])
def test_a_healthy_run_raises_no_alarm(recipe):
    assert bench.healthy(recipe, 0) == []


@pytest.mark.slow
def test_fifty_healthy_runs_raise_one_alarm_at_most():
    cells = [(recipe, seed) for seed in (2, 3) for recipe in all_recipes()]
    alarms = {cell: found for cell in cells if (found := bench.healthy(*cell))}
    assert len(cells) >= 50 and len(alarms) <= 1, alarms


def test_the_page_lists_the_symptoms():
    page = (ROOT / "docs" / "health.md").read_text(encoding="utf-8")
    assert table() in page, 'print it with python -c "from rung.training.health import table; print(table())"'


def test_a_gradient_that_is_not_finite_says_what_was_changed_all_the_same():
    for steps, words in (
        (0.0, "so the policy was not changed"),
        (1.0, "changed nothing; 1 other did"),
        (3.0, "3 others did"),
    ):
        health = Health(Facts(32, 4))
        (found,) = health.look(1, {"step": 1, **ROW, "grad_norm": NAN, "update/steps": steps})
        assert words in found.seen
