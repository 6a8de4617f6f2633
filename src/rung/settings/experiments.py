"""The flags of `rung why`, `rung ladder` and `rung variance`: recipes side by side. They are read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rung.settings.ranges import Answers, Count, Flags, LearningRate, Natural, Positional, Seed, at_least, between
from rung.settings.shared import Problems, Weights

MAIN_LINE = "reinforce,reward_to_go,moving_average,leave_one_out,value_baseline,a2c,trpo,ppo,grpo,dr_grpo"

SPREAD = "an interval needs at least 2 seeds; 5 or more show smaller effects"
Jobs = Annotated[int, between(1, 1024)]


@dataclass(frozen=True)
class Why(Flags):
    """The small experiment that shows why a recipe was introduced: parent against child where the parent fails."""

    recipe: Positional[str]
    """name of a recipe, or all"""
    seeds: Annotated[int, at_least(2, SPREAD)] | None = None
    """of parent and child; None: what the experiment asks for"""
    device: str = "auto"
    """auto (CUDA where there is a GPU for it, else the CPU), cpu, cuda, cuda:1 or mps"""
    out: Path = Path("runs/why")
    """where runs are kept (nothing is trained twice), and why.json and why.png of each experiment"""
    jobs: Jobs = 1
    """processes, of one thread each"""
    json: str | None = None
    """write the table as JSON to this new file, or - for standard output"""


@dataclass(frozen=True)
class Ladder(Weights, Problems, Flags):
    """Recipes compared honestly: same seeds, same starting weights, same token budget, step sizes swept beforehand."""

    recipes: str = MAIN_LINE
    """names of recipes, with commas between them"""
    seeds: Annotated[int, between(2, 1000, f"{SPREAD}; from 1000 on they are the sweep's")] = 5
    """of the comparison"""
    tokens: Count = 30_000
    """budget of sampled answer tokens of each run"""
    rates: str = "1e-4,3e-4,1e-3,3e-3"
    """learning rates of the sweep"""
    bounds: str = "1e-3,3e-3,1e-2,3e-2"
    """KL bounds of the sweep, for recipes whose step is bounded in KL and has no learning rate (trpo)"""
    sweep_seeds: Count = 2
    """of the sweep"""
    model: str = "starter"
    """starter, smollm2, a model's directory, a run, or a hub id"""
    prompts_per_step: Count = 8
    """problems per step"""
    samples_per_prompt: Answers = 8
    """answers per problem"""
    max_new_tokens: Count | None = None
    """limit of an answer; None: the task's"""
    eval_problems: Count = 256
    """held-out problems of the evaluations"""
    eval_every: Natural = 10
    """steps between evaluations, which make the curves"""
    target: float = 0.7
    """the table says how many tokens it takes to reach this accuracy"""
    gradient_batches: Annotated[int, at_least(3, "a variance needs at least 3; 0 leaves it out", or_zero=True)] = 16
    """batches of the gradient's quality at the start; 0: leave it out"""
    device: str = "auto"
    """auto (CUDA where there is a GPU for it, else the CPU), cpu, cuda, cuda:1 or mps"""
    out: Path = Path("runs/ladder")
    """where runs are kept (nothing is trained twice), and ladder.json"""
    jobs: Jobs = 1
    """processes, of one thread each"""
    json: str | None = None
    """write the table as JSON to this new file, or - for standard output"""


@dataclass(frozen=True)
class Variance(Weights, Problems, Flags):
    """Gradient noise at a frozen policy: variance, signal to noise and direction of one batch's gradient, per recipe."""

    model: Positional[str]
    """a run's directory, starter, smollm2, a model's directory, or a hub id"""
    recipes: str = MAIN_LINE
    """names of recipes, with commas between them"""
    batches: Annotated[int, at_least(3, "a variance needs at least 3 batches; 24 give intervals of use")] = 24
    """independent batches; every recipe sees the same ones"""
    warmup_batches: Natural = 20
    """further batches that critics and moving averages learn from first"""
    prompts_per_step: Count = 8
    """problems of a batch"""
    samples_per_prompt: Answers = 8
    """answers per problem"""
    max_new_tokens: Count | None = None
    """limit of an answer; None: the run's, else the task's"""
    learning_rate: LearningRate = 4e-4
    """of the critics, each times its own factor"""
    process: bool = False
    """use the rewards of reasoning steps, where the task has them"""
    seed: Seed = 0
    """of batches and critics"""
    device: str = "auto"
    """auto (CUDA where there is a GPU for it, else the CPU), cpu, cuda, cuda:1 or mps"""
    json: str | None = None
    """write the table as JSON to this new file, or - for standard output"""
