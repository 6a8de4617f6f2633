"""A small run as `rung train` leaves it, made of plain files, with answers that try to be more than text."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from rung.io.run_dir import RunDir
from rung.models import starter
from rung.recipe_io import find
from rung.training.config import TrainConfig, to_toml

NASTY = (
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<!--<script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\u2028\u2029 ' \" & &lt; \\ \x00 \x1b[31m 🙂",
)
STEPS = 24


def make_run(
    path: Path,
    recipe: str = "ppo",
    steps: int = STEPS,
    *,
    checkpoint: bool = True,
    pay: Callable[[float], float] = lambda right: right,
    fine: float = 0.0,
) -> Path:
    """pay, fine: what a training answer earns by being right (1 or 0), and a penalty for its length."""
    tokenizer = Tokenizer.from_file(str(starter.path() / "tokenizer.json"))
    config = TrainConfig(recipe=recipe, task="chained_arithmetic", steps=steps, prompts_per_step=2, learning_rate=4e-4)
    with RunDir.create(None, "x", path) as run:
        run.write_config(to_toml(config, find(recipe)))
        run.write_environment()
        for step in range(steps + 1):
            if step:
                run.log(_metrics(step))
                run.write_rollouts(step, [_answer(tokenizer, step, i, pay, fine) for i in range(8)])
            if step in (0, steps):
                share = 0.25 if step == 0 else 0.75
                low, high = share - 0.1, share + 0.1
                row = {"eval/accuracy_ci_low": low, "eval/accuracy_ci_high": high, "eval/accuracy_n": 8.0}
                run.log({"step": step, "eval/accuracy": share, **row})
                _evaluation(run.path, step, round(8 * share))
        if checkpoint:
            run.checkpoint(steps, lambda directory: _copy_tokenizer(directory))
    return path


def _copy_tokenizer(directory: Path) -> None:
    shutil.copy(starter.path() / "tokenizer.json", directory)


def _metrics(step: int) -> dict[str, float]:
    wave = math.sin(step)
    return {
        "step": step, "reward": 0.5 + 0.01 * step + 0.05 * wave, "entropy": 1 / step, "grad_norm": 1.0 + 0.1 * wave,
        "completions/mean_length_right": 5.0 + wave, "completions/mean_length_wrong": math.nan if step < 3 else 4.0 + wave,
        "clip_ratio/low_mean": 0.01, "clip_ratio/high_mean": 0.02 + 0.001 * wave, "num_tokens": 40.0 * step,
        "step_time": 1.0 + 0.1 * wave, "time/sample": 0.5, "time/update": 0.4, "memory/sample": 0.5, "memory/update": 0.75,
    }  # fmt: skip


def _answer(tokenizer: Tokenizer, step: int, i: int, pay: Callable[[float], float], fine: float) -> dict[str, object]:
    earned, parts = pay(float(i % 2)), {"overlong": fine} if fine else {}
    ids = tokenizer.encode(f"{i}>{step % 10}#{i}").ids
    text = NASTY[i] if i < len(NASTY) else tokenizer.decode(ids)
    row = {
        "task": f"t{i // 4}", "prompt": f"{NASTY[i % 5]} {i // 4}+{step % 10}=", "answer": text, "reward": earned + fine,
        "rewards": {"correct": earned, NASTY[0]: 0.0, **parts}, "stop": "stop", "version": step, "group": i // 4,
        "advantages": [0.5 if i % 2 else -0.5] * len(ids), "logp": [-0.1 * k for k in range(len(ids))],
        "ratios": [1.0 + 0.1 * k for k in range(len(ids))], "clipped": [k % 4 for k in range(len(ids))],
    }  # fmt: skip
    return {**row, "tokens": ids}


def _evaluation(path: Path, step: int, right: int) -> None:
    (path / "evaluations").mkdir(exist_ok=True)
    rows = [
        {"task": f"e{i}", "prompt": f"{NASTY[i % 5]} eval {i}", "answer": NASTY[i % 5], "reward": float(i < right),
         "rewards": {"correct": float(i < right)}, "stop": "stop", "version": step}
        for i in range(8)
    ]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "evaluations" / f"step_{step:06d}.jsonl").write_text(lines, encoding="utf-8")


@pytest.fixture(scope="session")
def report_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "first")


@pytest.fixture(scope="session")
def make() -> Callable[..., Path]:
    return make_run


@pytest.fixture(scope="session")
def graded_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rewards of any size, and two answers without one."""
    run = make_run(tmp_path_factory.mktemp("report") / "graded", "grpo", pay=lambda right: 20 * right - 4)
    rows = []
    for row in (run / "metrics.jsonl").read_text().splitlines():
        old = json.loads(row)
        if "eval/accuracy" in old:
            mean = 0.0 if old["step"] == 0 else 12.5
            own = {
                "eval/reward_ci_low": mean - 1,
                "eval/reward_ci_high": mean + 1,
                "eval/reward_n": 8,
                "eval/unscored": 2,
            }
            old = {"step": old["step"], "eval/reward": mean, **own}
        rows.append(json.dumps(old) + "\n")
    (run / "metrics.jsonl").write_text("".join(rows))
    for path, gain in zip(sorted((run / "evaluations").iterdir()), (0.0, 12.5), strict=True):
        answers = [
            {**json.loads(line), "reward": gain + i - 3.5} for i, line in enumerate(path.read_text().splitlines())
        ]
        path.write_text("".join(json.dumps(a) + "\n" for a in answers))
    return run


@pytest.fixture(scope="session")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "second", "grpo", steps=10, checkpoint=False)


LADDER = {
    "kind": "ladder",
    "title": f"A ladder {NASTY[0]}",
    "sentence": f"Nothing was shown. {NASTY[1]}",
    "rows": [{"recipe": "grpo", "parent": "ppo", "seed": s, "accuracy": 0.8 + 0.01 * s, "lr": 4e-4} for s in range(2)],
    "table": {"columns": ["recipe", "accuracy", NASTY[0]], "rows": [["grpo", 0.81, NASTY[1]], ["ppo", None, True]]},
    "verdicts": [
        {"recipe": "grpo", "parent": "ppo", "effect": 0.01, "low": -0.02, "high": 0.04, "p": 0.4, "shown": False,
         "sentence": "grpo against ppo: not shown."},
        {"recipe": "dr_grpo", "parent": "grpo", "effect": 0.05, "low": 0.02, "high": 0.08, "p": 0.003, "shown": True},
    ],
    "curves": [
        {"label": name, "x": [0, 1000, 2000], "mean": [0.2, 0.5, 0.8], "low": [0.1, 0.4, 0.7], "high": [0.3, 0.6, 0.9],
         "xlabel": "tokens", "ylabel": "accuracy", "title": "Held-out accuracy"}
        for name in ("grpo", "dr_grpo")
    ],
    "robustness": [{"recipe": "grpo", "step_size": [1e-4, 4e-4], "accuracy": [0.5, 0.8], "low": [0.4, 0.7], "high": [0.6, 0.9]}],
    "gradient": [{"recipe": "grpo", "trace": 2.5, "low": 2.0, "high": 3.0, "cosine": 0.4}],
    "command": "rung ladder --recipes grpo,dr_grpo",
}  # fmt: skip


@pytest.fixture
def ladder_dir(tmp_path: Path) -> Path:
    (tmp_path / "ladder").mkdir()
    (tmp_path / "ladder" / "ladder.json").write_text(json.dumps(LADDER), encoding="utf-8")
    return tmp_path / "ladder"
