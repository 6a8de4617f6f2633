"""The flags of the lab's commands. No torch here: `rung --help` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

MAIN_LINE = "reinforce,reward_to_go,moving_average,leave_one_out,value_baseline,a2c,trpo,ppo,grpo,dr_grpo"


@dataclass(frozen=True)
class Why:
    """The small experiment that shows why a recipe was introduced: parent against child where the parent fails."""

    recipe: Positional[str]
    """name of a recipe, or all"""
    seeds: int | None = None
    """None: what the experiment asks for"""
    out: Path = Path("runs/why")
    """where runs are kept (nothing is trained twice), and why.json and why.png of each experiment"""
    jobs: int = 1
    """processes, of one thread each"""
    json: str | None = None
    """write the table as JSON to this file, or - for standard output"""


@dataclass(frozen=True)
class Ladder:
    """Recipes compared honestly: same seeds, same starting weights, same token budget, learning rates swept beforehand."""

    recipes: str = MAIN_LINE
    """names of recipes, with commas between them"""
    seeds: int = 5
    """of the comparison"""
    tokens: int = 30_000
    """budget of sampled answer tokens of each run"""
    rates: str = "1e-4,3e-4,1e-3,3e-3"
    """learning rates of the sweep"""
    sweep_seeds: int = 2
    model: str = "starter"
    task: str | None = None
    task_path: Path | None = None
    prompts_per_step: int = 8
    samples_per_prompt: int = 8
    max_new_tokens: int | None = None
    eval_problems: int = 256
    eval_every: int = 10
    """steps between evaluations, which make the curves"""
    target: float = 0.7
    """the table says how many tokens it takes to reach this accuracy"""
    gradient_batches: int = 16
    """batches of the gradient's quality at the start; 0: leave it out"""
    out: Path = Path("runs/ladder")
    """where runs are kept (nothing is trained twice), and ladder.json"""
    jobs: int = 1
    """processes, of one thread each"""
    json: str | None = None
    """write the table as JSON to this file, or - for standard output"""


@dataclass(frozen=True)
class Variance:
    """Gradient noise at a frozen policy: variance, signal to noise and direction of one batch's gradient, per recipe."""

    model: Positional[str]
    """a run's directory, starter, smollm2, a model's directory, or a hub id"""
    recipes: str = MAIN_LINE
    """names of recipes, with commas between them"""
    task: str | None = None
    """a task's name or a .jsonl/.csv/.parquet file; a run knows its own"""
    task_path: Path | None = None
    """data of a task that has none of its own (gsm8k)"""
    batches: int = 24
    """independent batches; every recipe sees the same ones"""
    warmup_batches: int = 20
    """further batches that critics and moving averages learn from first"""
    prompts_per_step: int = 8
    samples_per_prompt: int = 8
    max_new_tokens: int | None = None
    learning_rate: float = 4e-4
    """of the critics, each times its own factor"""
    process: bool = False
    """use the rewards of reasoning steps, where the task has them"""
    seed: int = 0
    json: str | None = None
    """write the table as JSON to this file, or - for standard output"""
