"""The flags of the lab's commands; here and not beside their code, so that the command line starts without torch.

`eval` and `verify` also take --task-options.NAME VALUE, `eval` --template-options.NAME VALUE, which cli.py reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, Suppress

from rung.ranges import Answers, Count, Flags, LearningRate, Natural, Seed, Temperature, TopP, at_least, between

MAIN_LINE = "reinforce,reward_to_go,moving_average,leave_one_out,value_baseline,a2c,trpo,ppo,grpo,dr_grpo"

SPREAD = "an interval needs at least 2 seeds; 5 or more show smaller effects"
Jobs = Annotated[int, between(1, 1024)]


@dataclass(frozen=True)
class Eval(Flags):
    """Accuracy of a model or run on held-out problems: mean@k, pass@k, maj@k with 95 % intervals; two models side by side."""

    model: Positional[str]
    """a run's directory, starter, smollm2, a model's directory, or a hub id"""
    compare: str | None = None
    """a second model or run: the same problems, and the paired difference (first minus second)"""
    spec: Path | None = None
    """a stored .spec.json: evaluate exactly as it says; no other setting may be given"""
    task: str | None = None
    """what `rung train --task` takes; a run knows its own"""
    task_path: Path | None = None
    """data of a task that has none of its own (gsm8k)"""
    task_options: Suppress[dict[str, Any]] = field(default_factory=dict)
    template_options: Suppress[dict[str, Any]] = field(default_factory=dict)
    split: str | None = None
    """eval (default) or train"""
    problems: Count | None = None
    """default: those of a run's own evaluations; else 256, or as many as there are"""
    samples: Answers | None = None
    """answers per problem (default: the run's, else 1)"""
    temperature: Temperature | None = None
    """default: the run's, else 1; 0 is greedy"""
    top_p: TopP | None = None
    top_k: Natural | None = None
    max_new_tokens: Count | None = None
    """default: the run's, else the task's"""
    seed: Seed | None = None
    device: str = "auto"
    """auto (CUDA where there is a GPU for it, else the CPU), cpu, cuda, cuda:1 or mps"""
    out: Path | None = None
    """every answer, to this new .jsonl file (default: RUN/evaluations/eval-N.jsonl); the .spec.json stands beside it"""
    json: str | None = None
    """write the table as JSON to this file, or - for standard output"""


@dataclass(frozen=True)
class Verify(Flags):
    """A task's verifier on gold, corrupted and adversarial answers: false accepts (exit status 1), false rejects, time."""

    task: str
    """what `rung train --task` takes"""
    task_path: Path | None = None
    """data of a task that has none of its own (gsm8k)"""
    reward: str | None = None
    """FILE.py:NAME, reward functions instead of the task's verifier"""
    verifier: str = "auto"
    """for tasks from rows: auto, exact, numeric, choice, math or code"""
    prompt_column: str | None = None
    answer_column: str | None = None
    """for tasks from rows: names of columns, with dots into them; None: found (docs/tasks.md)"""
    task_options: Suppress[dict[str, Any]] = field(default_factory=dict)
    problems: Count = 10
    all: bool = False
    """print every case, not only those with mistakes"""
    json: str | None = None
    """write the table as JSON to this file, or - for standard output"""


@dataclass(frozen=True)
class Why(Flags):
    """The small experiment that shows why a recipe was introduced: parent against child where the parent fails."""

    recipe: Positional[str]
    """name of a recipe, or all"""
    seeds: Annotated[int, at_least(2, SPREAD)] | None = None
    """None: what the experiment asks for"""
    device: str = "auto"
    """auto (CUDA where there is a GPU for it, else the CPU), cpu, cuda, cuda:1 or mps"""
    out: Path = Path("runs/why")
    """where runs are kept (nothing is trained twice), and why.json and why.png of each experiment"""
    jobs: Jobs = 1
    """processes, of one thread each"""
    json: str | None = None
    """write the table as JSON to this file, or - for standard output"""


@dataclass(frozen=True)
class Ladder(Flags):
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
    model: str = "starter"
    task: str | None = None
    task_path: Path | None = None
    prompts_per_step: Count = 8
    samples_per_prompt: Answers = 8
    max_new_tokens: Count | None = None
    eval_problems: Count = 256
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
    """write the table as JSON to this file, or - for standard output"""


@dataclass(frozen=True)
class Variance(Flags):
    """Gradient noise at a frozen policy: variance, signal to noise and direction of one batch's gradient, per recipe."""

    model: Positional[str]
    """a run's directory, starter, smollm2, a model's directory, or a hub id"""
    recipes: str = MAIN_LINE
    """names of recipes, with commas between them"""
    task: str | None = None
    """a task's name or a .jsonl/.csv/.parquet file; a run knows its own"""
    task_path: Path | None = None
    """data of a task that has none of its own (gsm8k)"""
    batches: Annotated[int, at_least(3, "a variance needs at least 3 batches; 24 give intervals of use")] = 24
    """independent batches; every recipe sees the same ones"""
    warmup_batches: Natural = 20
    """further batches that critics and moving averages learn from first"""
    prompts_per_step: Count = 8
    samples_per_prompt: Answers = 8
    max_new_tokens: Count | None = None
    learning_rate: LearningRate = 4e-4
    """of the critics, each times its own factor"""
    process: bool = False
    """use the rewards of reasoning steps, where the task has them"""
    seed: Seed = 0
    device: str = "auto"
    """auto (CUDA where there is a GPU for it, else the CPU), cpu, cuda, cuda:1 or mps"""
    json: str | None = None
    """write the table as JSON to this file, or - for standard output"""
