"""docs/metrics.md defines every metric that a run can log, and none that no run logs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import rung.training
from rung.cli import main
from rung.evaluation.conformance import tiny

TABLE = Path(__file__).parents[2] / "docs" / "metrics.md"
SOURCE = Path(rung.training.__path__[0])
FILES = ("metrics.py", "learner.py", "work.py", "loop.py", "evaluation.py", "../maths/update.py", "../cluster/ahead.py")
RECIPES = ("ppo", "trpo", "ppo_kl", "vapo", "grpo")  # between them they have every part that logs something


def rows() -> list[list[str]]:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def defined() -> set[str]:
    return {row[0].strip("`") for row in rows()}


def general(name: str) -> str:
    """rewards/correct/mean is defined as rewards/NAME/mean."""
    name = re.sub(r"^rewards/[^/]+/(mean|std)$", r"rewards/NAME/\1", name)
    name = re.sub(r"^health/.+$", "health/NAME", name)
    return re.sub(r"^eval/rewards/.+$", "eval/rewards/NAME", name)


def test_every_row_defines_a_metric_once():
    names = [row[0] for row in rows()]
    assert len(names) == len(set(names)) > 50
    for row in rows():
        assert len(row) == 5, row
        assert row[1] and row[2] and row[4], f"{row[0]}: a formula, a unit and a purpose are needed"


@pytest.mark.parametrize("file", FILES)
def test_every_name_in_the_source_is_defined(file):
    text = (SOURCE / file).read_text(encoding="utf-8")
    names = set(re.findall(r'"([a-z]+_?[a-z]*/[a-z0-9_]+)"', text))
    assert names <= defined(), f"add to docs/metrics.md: {sorted(names - defined())}"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    names: set[str] = set()
    chat_model = tmp_path_factory.mktemp("model")
    for part in ((ready := tiny("llama")).hf, ready.codec.tokenizer):
        part.save_pretrained(chat_model)
    for recipe in RECIPES:
        out = tmp_path_factory.mktemp("runs") / recipe
        flags = ["--steps", "2", "--eval-problems", "8", "--prompts-per-step", "4", "--threads", "1", "--out", str(out)]
        assert main(["train", recipe, *flags]) == 0
        if recipe == "grpo":  # and once with a curriculum
            mix = out.with_name("mix.toml")
            part = '[[part]]\ntask = "chained_arithmetic"\nname = "{}"\n'
            stages = "[[stage]]\nweights = {a = 1}\nuntil_step = 1\n[[stage]]\nweights = {a = 1, b = 1}\n"
            mix.write_text(part.format("a") + part.format("b") + stages)
            corrected = ["--recipe.correction", "TokenTIS"]
            assert main(["train", recipe, *flags[:-1], str(out) + "-mix", "--task", str(mix), *corrected]) == 0
            for line in Path(f"{out}-mix/metrics.jsonl").read_text(encoding="utf-8").splitlines():
                names |= {general(name) for name in json.loads(line)}
        if recipe == "ppo":  # and once in several turns
            game = Path(__file__).parents[2] / "examples" / "guess_number.py"
            talk = ["--environment", f"{game}:GuessNumber", "--model", str(chat_model), "--max-turns", "2"]
            assert main(["train", recipe, *flags[:-1], str(out) + "-turns", *talk, "--max-new-tokens", "8"]) == 0
            for line in Path(f"{out}-turns/metrics.jsonl").read_text(encoding="utf-8").splitlines():
                names |= {general(name) for name in json.loads(line)}
        if recipe == "grpo":  # and once with each kind of verifier that counts something
            sums = out.with_name("sums.jsonl")
            sums.write_text("".join(f'{{"prompt": "{i}+1=", "answer": "{i + 1}"}}\n' for i in range(40)))
            for kind, task in {"gym": ["chain_sum"], "math": [str(sums), "--verifier", "math"]}.items():
                where = str(out) + kind
                own = ["--model", str(chat_model), "--max-new-tokens", "8", "--task", *task]
                assert main(["train", recipe, *flags[:-1], where, *own]) == 0
                for line in Path(f"{where}/metrics.jsonl").read_text(encoding="utf-8").splitlines():
                    names |= {general(name) for name in json.loads(line)}
        for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            names |= {general(name) for name in json.loads(line)}
    return names


@pytest.mark.slow
def test_every_metric_that_a_run_logs_is_defined(logged):
    assert logged <= defined(), f"add to docs/metrics.md: {sorted(logged - defined())}"


@pytest.mark.slow
def test_every_metric_that_is_defined_is_logged(logged):
    several = {name for name in defined() if name.startswith(("cluster/", "sampling/staleness"))}  # tests/cluster
    missing = defined() - logged - several - {"health/NAME"}  # healthy runs log none (tests/training/test_health.py)
    assert not missing, f"no run logs: {sorted(missing)}"
