"""One set of task and weight flags for every command, stored with a run, and in the key of a stored one."""

import json
from dataclasses import fields, replace

import pytest

from rung.cli import main
from rung.evaluation.conformance import tiny
from rung.evaluation.interview import Interview
from rung.experiments.ladder import job_of
from rung.experiments.runs import key
from rung.io.run_dir import RunDir
from rung.settings.experiments import Ladder, Variance
from rung.settings.flags import Eval, Verify
from rung.settings.shared import Problems, Weights, as_typed, given, settings_of
from rung.training.config import TrainConfig

STEP = [
    "--steps", "1", "--prompts-per-step", "2", "--samples-per-prompt", "2", "--eval-problems", "4", "--max-new-tokens", "4",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"ask": f"w5 w{i}", "r": {"a": f"w{i}"}}) + "\n" for i in range(4, 30)))
    (path.parent / "pay.py").write_text(
        "def pay(prompts, completions, ask):\n"
        "    assert all(p[0]['content'] == 'w9' and p[1]['content'] == f'w7 {a} w8' for p, a in zip(prompts, ask))\n"
        "    return [float(i % 2) for i in range(len(prompts))]\n"
    )
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path, ready = tmp_path_factory.mktemp("model"), tiny("llama")
    ready.hf.save_pretrained(path)
    ready.codec.tokenizer.save_pretrained(path)
    return str(path)


def flags(rows):
    return ["--task", str(rows), "--reward", f"{rows.parent / 'pay.py'}:pay", "--prompt-column", "ask", "--system", "w9",
            "--prompt-template", "w7 {prompt} w8"]  # fmt: skip


def test_every_command_has_the_same_settings():
    for command in (TrainConfig, Eval, Verify, Ladder, Variance):
        assert {f.name for f in fields(Problems)} <= {f.name for f in fields(command)}
    for command in (TrainConfig, Ladder, Variance):
        assert {f.name for f in fields(Weights)} <= {f.name for f in fields(command)}


def test_a_run_of_the_ladder_has_them_all_and_another_key_for_each(tmp_path):
    (tmp_path / "pay.py").write_text("def pay(completions): return [0.0] * len(completions)\n")
    chosen = {
        "system": "s", "chat": True, "prompt_template": "{prompt}!", "answer_column": "a", "lora_rank": 2,
        "dtype": "bfloat16", "trainable": "norm", "reward": f"{tmp_path / 'pay.py'}:pay", "task_options": {"seed": 1},
    }  # fmt: skip
    base, keys = Ladder(), set()
    for name, value in chosen.items():
        config = job_of(replace(base, **{name: value}), "grpo", 1e-3, 0).config
        assert getattr(config, name) == value
        keys.add(key(config))
    assert len({key(job_of(base, "grpo", 1e-3, 0).config), *keys}) == 1 + len(chosen)
    paid = TrainConfig(reward=f"{tmp_path / 'pay.py'}:pay*0.5,{tmp_path / 'pay.py'}:pay")
    before = key(paid)
    (tmp_path / "pay.py").write_text("def pay(completions): return [1.0] * len(completions)\n")
    assert key(paid) != before, "another reward in the same file"


def test_the_key_reads_the_rows_of_a_directory(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"prompt": "{name} 1+1=", "answer": "2"}}\n' * 3)
    before = key(TrainConfig(task=str(tmp_path)))
    (tmp_path / "train.jsonl").write_text('{"prompt": "2+2=", "answer": "4"}\n')
    assert key(TrainConfig(task=str(tmp_path))) != before


def test_flags_as_they_are_typed():
    args = Ladder(task="my rows.jsonl", chat=True, task_options={"a": [1]}, lora_rank=2)
    assert as_typed({**given(args, Problems), **given(args, Weights)}) == (
        " --task 'my rows.jsonl' --chat --task-options.a '[1]' --lora-rank 2"
    )
    assert settings_of(args, Weights)["dtype"] == "float32"


def test_train_stores_them_and_eval_and_ask_put_problems_the_same_way(rows, model, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "grpo", "--model", model, "--out", str(run), *STEP, *flags(rows)]) == 0
    assert "each problem stands in 'w7 {prompt} w8'" in " ".join(capsys.readouterr().out.split())
    stored = RunDir.open(run).config()
    assert (stored["system"], stored["prompt_template"], stored["prompt_column"]) == ("w9", "w7 {prompt} w8", "ask")
    assert main(["eval", str(run), "--json", "-"]) == 0, "the reward function asserts what it reads"
    assert json.loads(capsys.readouterr().out)[0]["problems"] == 4
    spec = json.loads(next((run / "evaluations").glob("*.spec.json")).read_text())
    assert (spec["system"], spec["prompt_column"]) == ("w9", "ask")
    asked = Interview.of(run, before=False).frame.around("w5 w6")
    assert [m["content"] for m in asked] == ["w9", "w7 w5 w6 w8"]


def test_ladder_and_variance_on_a_reward_of_ones_own_with_lora(rows, model, tmp_path, capsys):
    words = [
        *flags(rows),
        "--max-new-tokens",
        "4",
        "--prompts-per-step",
        "2",
        "--samples-per-prompt",
        "2",
        "--lora-rank",
        "2",
    ]
    small = ["--recipes", "reinforce", "--seeds", "2", "--sweep-seeds", "1", "--rates", "1e-3", "--tokens", "20",
             "--eval-problems", "2", "--eval-every", "0", "--gradient-batches", "3"]  # fmt: skip
    out = tmp_path / "out"
    assert main(["ladder", "--model", model, "--out", str(out), *small, *words]) == 0
    found = json.loads((out / "ladder.json").read_text())
    assert "--system w9" in found["command"] and "--lora-rank 2" in found["command"]
    run = next((out / "runs").iterdir())
    assert RunDir.open(run).config()["lora_rank"] == 2 and list(run.rglob("adapter_model.safetensors"))
    capsys.readouterr()
    few = ["--batches", "3", "--warmup-batches", "0", "--recipes", "reinforce", "--json", "-"]
    assert main(["variance", model, *words, *few]) == 0
    fresh = json.loads(capsys.readouterr().out)[0]
    assert main(["variance", str(run), *few, "--prompts-per-step", "2", "--samples-per-prompt", "2"]) == 0
    again = json.loads(capsys.readouterr().out)[0]
    assert fresh["trace"] > 0 and again["trace"] > 0, "a run knows its problems, its reward and its adapter"
