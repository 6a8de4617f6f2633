"""`--resume RUN` alone restores everything; what is given besides may change and is written down, or is refused by name."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

import rung
from rung.cli import main
from rung.errors import InputError
from rung.io.run_dir import RunDir
from rung.io.state import load_state, save_state
from rung.recipe_io import all_recipes, find, override
from rung.settings.cluster import Cluster
from rung.tasks.registry import load
from rung.training.config import TrainConfig, to_toml
from rung.training.resume import FREE, HERE, agreed, begun

FLAGS = ["--prompts-per-step", "2", "--samples-per-prompt", "4", "--eval-problems", "2", "--max-new-tokens", "8", "--seed", "3",
         "--learning-rate", "1e-3", "--recipe.surrogate.high", "0.3", "--task-options.eval_share", "0.3"]  # fmt: skip
# A value of each setting that is not its default.
OTHER = {
    "recipe": "ppo", "model": "other", "task": "gsm8k", "task_path": Path("there"), "reward": "a.py:f", "environment": "a.py:E",
    "prompt_column": "p", "answer_column": "a", "verifier": "exact", "system": "s", "chat": True, "prompt_template": "{prompt}!",
    "task_options": {"a": 1}, "template_options": {"a": 1}, "steps": 7, "tokens": 5000, "until": 0.5, "prompts_per_step": 3,
    "samples_per_prompt": 2, "max_new_tokens": 9, "max_turns": 3, "max_turn_tokens": 4, "max_total_tokens": 99,
    "temperature": 0.5, "top_p": 0.5, "top_k": 2, "learning_rate": 1.0, "warmup_steps": 1, "decay_steps": 1,
    "decay_shape": "cosine", "adam_beta1": 0.5, "adam_beta2": 0.5, "adam_epsilon": 1e-6, "clip_norm": 2.0,
    "weight_decay": 0.1, "dtype": "bfloat16", "trainable": "lm_head", "lora_rank": 3, "lora_alpha": 1.0, "lora_targets": "q",
    "gradient_checkpointing": True, "activation_gib": 0.5, "eval_problems": 3, "eval_samples": 2, "eval_every": 1,
    "save_every": 1, "save_rollouts": False, "seed": 5, "tracker": "tensorboard", "trust_remote_code": True, "threads": 2,
    "keep_last": 2, "keep_best": True, "keep_rollouts": 8, "reward_deadline": 5.0, "ignore_memory": True,
    "cluster": "ray", "cluster_options": {"samplers": 2}, "overrides": {"surrogate.high": 0.5},
}  # fmt: skip


def rows(path):
    path.write_text("".join(json.dumps({"prompt": f"{i}+2=", "answer": str(i + 2)}) + "\n" for i in range(8)))
    return str(path)


def stored(path, own=None, **settings):
    """A run as it stands on disk before its first step."""
    config = TrainConfig(**{"recipe": "grpo", "steps": 5, **settings}).resolved()
    with RunDir.create(None, "", path) as run:
        run.write_config(to_toml(config, own or config.build_recipe()))
    return path


def everything(path):
    """All files of a run that do not depend on the time or the machine."""
    times = re.compile(r'"(time/\w+|memory/\w+|step_time)": [^,}]+,? ?')
    found = {p.relative_to(path): p.read_bytes() for p in path.rglob("*.safetensors")}
    found |= {p.relative_to(path): p.read_bytes() for p in path.rglob("*.zst")}
    run = RunDir.open(path)
    found["metrics"] = [times.sub("", json.dumps(row)) for row in run.metrics() if "reward" in row]
    return found, {k: v for k, v in run.config().items() if k != "out"}


@pytest.mark.parametrize("spelling", [["--resume", "part"], ["dr_grpo", "--out", "part", "--resume"]])
def test_a_resume_without_flags_equals_a_run_that_never_stopped(tmp_path, monkeypatch, capsys, spelling):
    monkeypatch.chdir(tmp_path)
    task = ["--task", rows(tmp_path / "rows.jsonl"), "--eval-every", "0"]  # else it follows from the steps
    assert main(["train", "dr_grpo", *task, *FLAGS, "--threads", "1", "--steps", "4", "--out", "whole"]) == 0
    assert main(["train", "dr_grpo", *task, *FLAGS, "--threads", "1", "--steps", "2", "--out", "part"]) == 0
    assert main(["train", *spelling, "--steps", "4"]) == 0
    assert "note: steps is 4 from here on; it was 2" in capsys.readouterr().out
    (whole, settings), (part, again) = everything(tmp_path / "whole"), everything(tmp_path / "part")
    assert again == settings, "what changed is written down"
    assert "steps = 2" in (tmp_path / "part" / "config.toml.bak-1").read_text()
    assert {k: part[k] for k in whole} == whole


def test_a_checkpoint_of_before_whose_one_file_held_everything_is_gone_on_with(tmp_path):
    small = {"recipe": "grpo", "prompts_per_step": 2, "samples_per_prompt": 2, "eval_problems": 2, "max_new_tokens": 8}
    whole = rung.train(**small, steps=2, quiet=True, out=tmp_path / "whole")
    part = rung.train(**small, steps=1, quiet=True, out=tmp_path / "part")
    at = part.model_path
    both = load_state(at) | load_state(at, "progress")
    for file in at.glob("progress.*"):
        file.unlink()
    save_state(at, both)
    (at / "COMPLETE").write_text("step 1\n")  # it had no hashes either
    again = rung.train(resume=True, steps=2, out=tmp_path / "part", quiet=True)
    first, second = ([row["num_tokens"] for row in run.metrics if "num_tokens" in row] for run in (whole, again))
    assert first == second
    assert (again.model_path / "model.safetensors").read_bytes() == (
        whole.model_path / "model.safetensors"
    ).read_bytes()


def test_a_run_that_is_resumed_as_it_is_changes_no_setting(tmp_path):
    small = {"prompts_per_step": 2, "samples_per_prompt": 4, "eval_problems": 2, "threads": 1}
    rung.train(recipe="grpo", steps=1, out=tmp_path / "run", **small)
    before = (tmp_path / "run" / "config.toml").read_bytes()
    assert rung.train(resume=tmp_path / "run").steps == 1
    assert (tmp_path / "run" / "config.toml").read_bytes() == before
    assert rung.train(resume=True, out=tmp_path / "run", steps=2).steps == 2
    with pytest.raises(InputError, match="has done 2 steps, and steps=1 lies before"):
        rung.train(resume=tmp_path / "run", steps=1)


@pytest.mark.parametrize("name", [f.name for f in fields(TrainConfig) if f.name not in (*HERE, "sampler")])
def test_every_setting_is_restored_and_may_change_or_is_refused(tmp_path, name):
    path = stored(tmp_path / "run")
    before, _ = begun(path)
    assert agreed(before)[2] == [] and agreed(TrainConfig(recipe="grpo", resume=True, out=path))[0].steps == 5
    given = replace(before, **{name: OTHER[name]})
    if name in FREE:
        now, _, said = agreed(given)
        assert getattr(now, name) == OTHER[name] and said[0].startswith(
            f"{name} is {OTHER[name]} from here on; it was "
        )
    else:
        both = f"{name} is {getattr(before, name)!r}, not {OTHER[name]!r}"
        both = "recipe.surrogate is Clip(), not Clip(high=0.5)" if name == "overrides" else both
        with pytest.raises(InputError, match=re.escape(both)):
            agreed(given)
    other, _ = begun(stored(tmp_path / "other", **{name: OTHER[name]}))
    assert getattr(other, name) == OTHER[name]


def test_auto_is_the_precision_in_which_the_run_began(tmp_path):
    before, _ = begun(stored(tmp_path / "run", dtype="bfloat16"))
    now, _, said = agreed(replace(before, dtype="auto"))
    assert now.dtype == "bfloat16" and said == []


def test_how_many_processes_there_are_may_change_and_how_stale_answers_are_may_not(tmp_path):
    path = stored(tmp_path / "run", cluster="ray", cluster_options={"samplers": 2, "staleness": 1})
    before = begun(path)[0]
    now, _, said = agreed(replace(before, cluster_options={"samplers": 1, "staleness": 1}))
    assert now.spread().samplers == 1 and "cluster_options is {'samplers': 1, 'staleness': 1} from here on" in said[0]
    with pytest.raises(InputError, match=r"cluster.staleness is 1, not 2"):
        agreed(replace(before, cluster_options={"staleness": 2}))
    with pytest.raises(InputError, match=r"cluster.staleness is 1, not 0"):
        agreed(replace(before, cluster="local"))
    with pytest.raises(InputError, match=r"cluster.partial is None, not 4"):
        agreed(replace(before, cluster_options={"staleness": 1, "partial": 4}))
    fresh = begun(stored(tmp_path / "fresh", cluster="ray", cluster_options={"samplers": 2}))[0]
    assert agreed(replace(fresh, cluster="local"))[0].spread() == Cluster()


def test_all_that_differs_is_said_at_once(tmp_path):
    path = stored(tmp_path / "run")
    with pytest.raises(InputError) as error:
        agreed(replace(begun(path)[0], seed=1, dtype="bfloat16", model="smollm2", lora_rank=4, steps=9))
    text = str(error.value)
    assert all(
        x in text
        for x in ("seed is 0, not 1", "dtype is 'float32', not 'bfloat16'", "model is", "lora_rank is 0, not 4")
    )
    assert "steps is" not in text and text.count("\n") == 0


@pytest.mark.parametrize("name", all_recipes())
def test_the_recipe_is_the_runs_part_by_part(tmp_path, name):
    """Also where the ladder's has changed since, or is none of the ladder's."""
    own = replace(override(find(name), {"update.epochs": 3}) if name == "ppo" else find(name), name="mine")
    path = stored(tmp_path / "run", own, recipe="mine")
    assert agreed(begun(path)[0])[1] == own
    assert agreed(begun(path)[0], own)[1] == own


def test_changes_of_the_recipe_that_change_nothing_are_no_changes(tmp_path):
    path = stored(tmp_path / "run", overrides={"surrogate.high": "0.3", "kl": "NoKL"})
    before, recipe = begun(path)
    assert recipe.surrogate.high == 0.3
    assert agreed(replace(before, overrides={**before.overrides, "surrogate.high": "0.30"}))[2] == []
    assert agreed(replace(before, recipe="GRPO"))[1] == recipe
    with pytest.raises(InputError, match=r"recipe.surrogate is Clip\(high=0.3\), not Clip\(high=0.4\)"):
        agreed(replace(before, overrides={"surrogate.high": 0.4}))
    with pytest.raises(InputError, match="recipe is 'grpo', not 'dr_grpo'"):
        agreed(replace(before, recipe="dr_grpo"))
    with pytest.raises(InputError, match="Did you mean 'grpo'"):
        agreed(replace(before, recipe="gropo"))


def test_a_larger_budget_of_tokens_brings_its_own_cap_of_steps(tmp_path):
    path = stored(tmp_path / "run", tokens=640, steps=None, prompts_per_step=2, samples_per_prompt=4)
    before, _ = begun(path)
    assert before.steps == 80
    now, _, said = agreed(replace(before, tokens=1280))
    assert now.steps == 160 and [s.split()[0] for s in said] == ["steps", "tokens"]
    path = stored(tmp_path / "capped", tokens=640, steps=7, prompts_per_step=2, samples_per_prompt=4)
    assert agreed(replace(begun(path)[0], tokens=1280))[0].steps == 7, "a cap that the user gave stays"


def test_the_end_of_a_falling_learning_rate_moves_with_the_steps(tmp_path):
    before, _ = begun(stored(tmp_path / "run", decay_steps=5))
    assert agreed(replace(before, steps=9))[2][-1] == "the learning rate falls towards the new end"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "--resume RUN"),
        (["--resume", "gone"], "gone is not a run"),
        (["--resume", "a", "--out", "b"], "two runs, a and b"),
        (["--resume=gone", "--steps", "3"], "gone is not a run"),
    ],
)
def test_a_run_that_is_not_named_or_not_there(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["train", "--dry-run"], ["plan"], ["train"]])
def test_every_command_refuses_before_anything_is_loaded(command, capsys, tmp_path):
    path = stored(tmp_path / "run", model="a/model-that-is-nowhere")
    assert main([*command, "--resume", str(path), "--seed", "7"]) == 2
    assert "seed is 0, not 7" in capsys.readouterr().err


def test_problems_made_in_python_are_wanted_again(tmp_path):
    splits = load("chained_arithmetic", options={"train_size": 16, "eval_size": 8})
    small = {"prompts_per_step": 2, "samples_per_prompt": 2, "eval_problems": 2, "threads": 1}
    rung.train(task=splits, steps=1, out=tmp_path / "run", **small)
    with pytest.raises(InputError, match=r"came from Python.*task=\.\.\."):
        rung.train(resume=tmp_path / "run", steps=2)
    assert rung.train(resume=tmp_path / "run", steps=2, task=splits).steps == 2


def test_what_is_refused_is_neither_noted_nor_written_down(tmp_path, capsys):
    small = {"prompts_per_step": 2, "samples_per_prompt": 2, "eval_problems": 2, "threads": 1, "max_new_tokens": 4}
    run = rung.train("grpo", steps=2, out=tmp_path / "run", quiet=True, **small)
    before = everything(run.path)
    with pytest.raises(InputError, match="has done 2 steps"):
        run.resume(1, quiet=False)
    assert "note" not in capsys.readouterr().out, "nothing changes, so nothing is said of a change"
    assert everything(run.path) == before and not list(run.path.glob("*.bak-*"))
    assert run.resume(3).quiet and rung.train(resume=run, steps=3).quiet is False
    assert "note: steps is 3" not in capsys.readouterr().out, "a quiet run goes on quietly"


def test_only_the_newest_checkpoints_stay_and_the_one_that_was_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [
        "--task",
        rows(tmp_path / "rows.jsonl"),
        *FLAGS[:10],
        "--threads",
        "1",
        "--eval-every",
        "0",
        "--save-every",
        "1",
    ]

    def kept(run):
        return sorted(int(p.name.removeprefix("step_")) for p in (tmp_path / run / "checkpoints").iterdir())

    assert main(["train", "dr_grpo", *small, "--steps", "4", "--out", "all"]) == 0
    assert main(["train", "dr_grpo", *small, "--steps", "2", "--out", "few", "--keep-last", "1"]) == 0
    assert (kept("all"), kept("few")) == ([1, 2, 3, 4], [2])
    assert main(["train", "--resume", "few", "--steps", "4"]) == 0
    assert kept("few") == [2, 4], "3 made way for 4, and 2 is what the process went on from"
    whole, part = everything(tmp_path / "all")[0], everything(tmp_path / "few")[0]
    assert {k: v for k, v in part.items() if k in whole} == part and part["metrics"] == whole["metrics"]
    assert main(["train", "--resume", "few", "--steps", "6", "--keep-last", "2"]) == 0
    assert kept("few") == [4, 5, 6]
    assert main(["train", "--resume", "few", "--steps", "7", "--keep-last", "0"]) == 0
    assert kept("few") == [4, 5, 6, 7]
