"""`rung eval`: one spec for every model, paired comparison, all answers kept, nothing overwritten, small sets warned of."""

import json
import shutil
from pathlib import Path

import pytest

import rung
from rung.cli import main
from rung.errors import InputError
from rung.evaluation.models import answers_file
from rung.evaluation.spec import EvalSpec, deviations, fingerprint, read, spec_from
from rung.settings.flags import Eval
from rung.tasks.registry import load
from rung.training.config import TrainConfig

SIZE = ["--problems", "6", "--samples", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    rung.train(
        recipe="reinforce", steps=1, out=out, prompts_per_step=2, samples_per_prompt=2, eval_problems=2, threads=1
    )
    return out


def evaluate(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[dict[str, object]], str]:
    capsys.readouterr()
    assert main(["eval", *words, "--json", "-"]) == 0
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_a_run_is_compared_with_its_base_and_repeated_from_the_stored_spec(run, tmp_path, capsys):
    rows, notes = evaluate(capsys, str(run), "--compare", "starter", *SIZE)
    first, second, difference = rows
    assert first["task"] == second["task"] == "chained_arithmetic" and first["samples"] == 2
    assert difference["accuracy"] == pytest.approx(first["accuracy"] - second["accuracy"])
    assert difference["95% low"] <= difference["accuracy"] <= difference["95% high"] and 0 < difference["p"] <= 1
    assert first["accuracy"] <= first["pass@2"] and 0 <= first["maj@2"] <= first["pass@2"]
    assert "6 problems x 2 samples show one of" in notes

    answers = run / "evaluations" / "eval-1.jsonl"
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(lines) == 24 and {"prompt", "answer", "reward", "extracted", "sample", "length"} <= set(lines[0])
    assert [line["task"] for line in lines[:12]] == [line["task"] for line in lines[12:]]
    spec = read(answers.with_suffix(".spec.json"))
    assert (spec.problems, spec.samples, spec.max_new_tokens, spec.split) == (6, 2, 16, "eval")

    out = tmp_path / "again.jsonl"
    again, _ = evaluate(capsys, "starter", "--spec", str(answers.with_suffix(".spec.json")), "--out", str(out))
    assert again == [{key: value for key, value in second.items() if key in again[0]}]
    repeated = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["answer"] for line in repeated] == [line["answer"] for line in lines[12:]]

    before = answers.read_bytes()
    evaluate(capsys, str(run), "--problems", "2")
    assert (run / "evaluations" / "eval-2.jsonl").is_file() and answers.read_bytes() == before


def test_the_table_for_people_and_the_json_file(tmp_path, capsys):
    assert main(["eval", "starter", *SIZE, "--json", str(tmp_path / "table.json")]) == 0
    said = capsys.readouterr()
    assert "accuracy (mean@2)" in said.out and "pass@2" in said.out and "maj@2" in said.out
    assert "are few" in said.err and "answers were not kept" in said.err
    assert json.loads((tmp_path / "table.json").read_text())[0]["problems"] == 6


def test_a_mixture_shows_the_accuracy_of_each_part(tmp_path, capsys):
    part = '[[part]]\ntask = "chained_arithmetic"\nname = "{}"\n'
    (tmp_path / "mix.toml").write_text(part.format("a") + part.format("b"), encoding="utf-8")
    (row,), _ = evaluate(capsys, "starter", "--task", str(tmp_path / "mix.toml"), "--problems", "8")
    assert row["accuracy"] == pytest.approx((row["rewards/a.correct"] + row["rewards/b.correct"]) / 2)


def test_prompts_that_leave_no_room_count_as_wrong_and_are_reported(tmp_path, capsys):
    path = tmp_path / "sums.jsonl"
    long = "+".join("12" * 500)
    path.write_text("".join(json.dumps({"prompt": p, "answer": "3"}) + "\n" for p in ("1+2=", f"{long}=", "2+1=")))
    words = ["--task", str(path), "--task-options.eval_share", "1.0", "--max-new-tokens", "4"]
    (row,), notes = evaluate(capsys, "starter", *words)
    assert row["problems"] == 3 and row["too long prompts"] == 1
    assert "1 prompts leave starter no room" in notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["starter", "--problems", "0"], "a whole number of at least 1"),
        (["starter", "--split", "evl"], "Did you mean 'eval'"),
        (["starter", "--temperature", "-1"], "0 is greedy"),
        (["starter", "--spec", "gone.json"], "gone.json cannot be read"),
        (["starter", "--spec", "{spec}", "--samples", "3"], "--samples would change it"),
        (["starter", "--spec", "{spec}"], "holds other problems"),
        (["starter", "--spec", "{typo}"], "Did you mean 'samples'"),
        (["starter", "--out", "{spec}"], "nothing is overwritten"),
        (["smollm", "--task", "chained_arithmetic"], "Did you mean 'smollm2'"),
    ],
)
def test_refused(tmp_path, capsys, words, message):
    (tmp_path / "spec.json").write_text(
        json.dumps(EvalSpec(task="chained_arithmetic", problems=2, fingerprint="0000").to_dict())
    )
    (tmp_path / "typo.json").write_text(json.dumps({"task": "chained_arithmetic", "format": 1, "sampels": 3}))
    words = [word.format(spec=tmp_path / "spec.json", typo=tmp_path / "typo.json") for word in words]
    assert main(["eval", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_fingerprint_changes_with_the_problems():
    first, second = load("chained_arithmetic").eval, load("chained_arithmetic", options={"seed": 1}).eval
    assert fingerprint(first, 5) == fingerprint(first, 5) != fingerprint(first, 6)
    assert fingerprint(first, 5) != fingerprint(second, 5)


def test_answers_are_never_written_over(tmp_path):
    (tmp_path / "a.spec.json").write_text("mine")
    with pytest.raises(InputError, match="nothing is overwritten"):
        answers_file(tmp_path / "a.jsonl", "starter", {})
    assert answers_file(None, "starter", {}) is None


def graded(tmp_path: Path, body: str) -> list[str]:
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i}+2=", "answer": str(i + 2)}) + "\n" for i in range(8))
    )
    (tmp_path / "pay.py").write_text(f"def pay(completions, **columns):\n    return [{body} for text in completions]\n")
    part = '[[part]]\ntask = "rows.jsonl"\nreward = "pay.py:pay"\n[part.options]\neval_share = 0.99\n'
    (tmp_path / "mix.toml").write_text(part)
    return ["--task", str(tmp_path / "mix.toml"), "--max-new-tokens", "6", "--samples", "2"]


def test_a_reward_on_a_scale_of_its_own_is_a_mean_reward(tmp_path, capsys):
    words = graded(tmp_path, "2.0 + sum(map(ord, text)) % 3")
    (row,), notes = evaluate(capsys, "starter", *words)
    assert 2 <= row["95% low"] <= row["reward"] <= row["95% high"] <= 4
    assert (
        not [name for name in row if name == "accuracy" or name.startswith(("pass@", "maj@"))]
        and "are few" not in notes
    )
    assert main(["eval", "starter", *words]) == 0
    said = capsys.readouterr().out
    assert "mean reward" not in said and "reward (mean@2)" in said and "accuracy" not in said
    first, second, difference = evaluate(capsys, "starter", "--compare", "starter", *words)[0]
    assert first["reward"] == second["reward"] and difference["reward"] == 0


def test_answers_without_a_score_are_in_no_mean(tmp_path, capsys):
    (row,), notes = evaluate(capsys, "starter", *graded(tmp_path, "None if len(text) % 2 else 1.0"))
    assert 0 < row["unscored"] < 14 and row["accuracy"] == 1.0 and "answers of starter could not be scored" in notes
    (row,), notes = evaluate(capsys, "starter", *graded(tmp_path, "None"))
    assert row["unscored"] == 14 and row["accuracy"] is None and "so there is none" in notes


@pytest.mark.parametrize(
    ("judged", "reason"), [(0, "no problem has 2 answers that"), (2, "no problem has 4 answers that")]
)
def test_a_measure_without_a_number_says_why(judged, reason, tmp_path, capsys):
    words = graded(tmp_path, "1.0")
    paid = f"[1.0 if i < {judged} else None for i in range(len(completions))]"
    (tmp_path / "pay.py").write_text(f"def pay(completions, **columns):\n    return {paid}\n", encoding="utf-8")
    words[words.index("--samples") + 1] = "4"
    (row,), _ = evaluate(capsys, "starter", *words)
    assert row["pass@4"] is None and (row["pass@2"] is None) == (row["accuracy"] is None) == (judged == 0)
    assert main(["eval", "starter", *words]) == 0
    table = " ".join(capsys.readouterr().out.split())
    assert f"none: {reason} could be judged" in table and "nan" not in table
    assert (
        ("could be judged, so there is no number" in table)
        == ("(mean@4) none: no answer could" in table)
        == (judged == 0)
    )


OWN = {
    "temperature": 0.7, "max_new_tokens": 9, "eval_problems": 7, "eval_samples": 2, "prompts_per_step": 2, "samples_per_prompt": 2,
    "task_options": {"reward_offset": 0.0, "seed": 3}, "threads": 1, "steps": 1, "recipe": "reinforce",
}  # fmt: skip


@pytest.mark.parametrize(
    "change", [{}, {"eval_samples": None}, {"dtype": "bfloat16"}, {"top_p": 1.0, "temperature": 1.3}]
)
def test_a_run_is_evaluated_as_it_evaluated_itself(tmp_path, capsys, change):
    """Token limit, sampling, task, options, problems, samples and precision: the answers are the same, word for word."""
    run = rung.train(**{**OWN, **change}, out=tmp_path / "run")
    (row,), _ = evaluate(capsys, str(run.path))
    assert row["accuracy"] == run.after.accuracy and (row["95% low"], row["95% high"]) == run.after.interval()
    kept = [json.loads(line) for line in (run.path / "evaluations" / "eval-1.jsonl").read_text().splitlines()]
    assert [(a["task"], a["answer"]) for a in kept] == [(a.task.id, a.text) for a in run.after.answers]
    assert main(["eval", str(run.path), "--json", str(tmp_path / "t.json")]) == 0
    assert "as in the run" in " ".join(capsys.readouterr().out.split())


def test_a_result_that_cannot_be_kept_is_shown_and_that_is_said(tmp_path, capsys):
    run = rung.train(**OWN, out=tmp_path / "run")
    shutil.rmtree(run.path / "evaluations")
    (run.path / "evaluations").write_text("a file: nothing can be written below it, as on a read-only disk")
    capsys.readouterr()
    assert main(["eval", str(run.path)]) == 0
    said = capsys.readouterr()
    assert f"{run.after.accuracy:.4g}" in said.out and "answers could not be kept" in said.err and "--out" in said.err
    assert main(["eval", str(run.path), "--out", str(run.path / "evaluations" / "x.jsonl")]) == 2, "refused beforehand"


def test_a_small_task_gets_as_many_answers_as_in_the_run(tmp_path, capsys):
    rows = "".join(json.dumps({"prompt": f"{i % 10}+2=", "answer": str(i % 10 + 2)}) + "\n" for i in range(20))
    (tmp_path / "rows.jsonl").write_text(rows)
    own = {**OWN, "task": str(tmp_path / "rows.jsonl"), "task_options": {"eval_share": 0.2}, "eval_samples": None}
    run = rung.train(**{**own, "eval_problems": 12}, out=tmp_path / "run")
    (row,), _ = evaluate(capsys, str(run.path))
    assert row["problems"] * row["samples"] == 12 and row["samples"] > 1 and row["accuracy"] == run.after.accuracy


def test_flags_override_and_the_header_says_so(run, tmp_path, capsys):
    words = ["--temperature", "0.5", "--problems", "3", "--max-new-tokens", "5"]
    assert main(["eval", str(run), *words, "--json", str(tmp_path / "t.json")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "at most 5 tokens; other than in the run:" in said
    for name in ("problems 3 and not 2", "temperature 0.5 and not 1", "max_new_tokens 5 and not 16"):
        assert name in said
    spec = read(max((run / "evaluations").glob("*.spec.json")))
    assert (spec.temperature, spec.problems, spec.max_new_tokens) == (0.5, 3, 5)


def test_another_task_keeps_how_the_run_samples_and_nothing_else(tmp_path):
    stored = {"task": "mine.jsonl", "temperature": 0.7, "max_new_tokens": 9, "eval_problems": 7, "dtype": "bfloat16",
              "task_options": {"eval_share": 0.3}, "reward": "pay.py:pay"}  # fmt: skip
    spec = spec_from(Eval("run", task="chained_arithmetic"), stored)
    assert (spec.temperature, spec.dtype, spec.problems, spec.samples) == (0.7, "bfloat16", 256, 1)
    assert spec.max_new_tokens is None and spec.reward is None and spec.task_options == {}
    own = spec_from(Eval("run", task_options={"min_digits": 2}), stored)
    assert own.task_options == {"eval_share": 0.3, "min_digits": 2} and own.max_new_tokens == 9 and own.reward


def test_where_all_problems_earn_the_same_there_is_no_interval_to_print(tmp_path, capsys):
    words = graded(tmp_path, "4.0")
    assert main(["eval", "starter", "--compare", "starter", *words]) == 0
    assert "nan" not in capsys.readouterr().out


def test_a_runs_chat_can_be_switched_off_and_is_said(tmp_path):
    stored = {"task": "chained_arithmetic", "chat": True, "eval_problems": 4, "max_new_tokens": 8}
    kept, off = (spec_from(Eval(model="run", chat=chat), stored) for chat in (None, False))
    assert kept.chat is True and not deviations(kept, stored)
    assert off.chat is False and deviations(off, stored) == ["chat False and not True"]
    (tmp_path / "config.toml").write_text('task = "chained_arithmetic"\nchat = true\n', encoding="utf-8")
    kept, off = (TrainConfig(model=str(tmp_path), chat=chat).resolved() for chat in (None, False))
    assert kept.chat is True and off.chat is False, "a run as model, too"
