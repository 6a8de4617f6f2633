"""Does the health check name what goes wrong, and is it silent where nothing does? Trained for real, on the starter.

    python benchmarks/health.py                 # every fault once, then every recipe with two seeds
    python benchmarks/health.py --seeds         # the faults alone

A fault counts as named if its symptom is found within five steps of its start. A healthy run is `rung train RECIPE` with
its default settings on fewer problems; whatever is found there is a false alarm. Markdown goes to standard output; about
two minutes on one core. Nothing is kept.
"""

from __future__ import annotations

import argparse
import io
import math
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from rung.io.console import Console
from rung.recipe_io import all_recipes
from rung.records import Completion, Group, Task
from rung.rollout.samplers import SAMPLERS, Kind
from rung.rollout.torch_sampler import TorchSampler
from rung.tasks.environments.protocol import Environment, Splits
from rung.tasks.sources import arithmetic
from rung.tasks.sources.dataset import Rows
from rung.tasks.verify.verifiers import Choice
from rung.training.config import TrainConfig
from rung.training.health import Finding
from rung.training.loop import train

WITHIN = 5  # steps from a fault's start in which it must be named
SIZE: Mapping[str, Any] = {
    "prompts_per_step": 8, "samples_per_prompt": 4, "eval_problems": 32, "threads": 1, "save_rollouts": False,
}  # fmt: skip
HEALTHY_STEPS = 12
Pay = Callable[[int, float, Completion], float]  # (step, 1 if right else 0, the answer) -> reward


@dataclass
class Paid:
    """Chained arithmetic, paid by `pay`, which is told what the verifier says."""

    environment: Environment
    pay: Pay
    step: int = 0

    def __len__(self) -> int:
        return len(self.environment)

    def __getitem__(self, index: int) -> Task:
        return self.environment[index]

    def begin_step(self, step: int) -> dict[str, float]:
        self.step = step + 1
        return {}

    def score(self, group: Group) -> list[dict[str, float]]:
        right = [r["correct"] for r in self.environment.score(group)]
        return [{"paid": self.pay(self.step, r, c)} for r, c in zip(right, group.completions, strict=True)]


def paid(pay: Pay, *, held_out: bool = False) -> Callable[[], Splits]:
    """The task with these training rewards; held_out: held-out problems are paid alike, else by the task's verifier."""

    def make() -> Splits:
        true = arithmetic.splits()
        return replace(true, train=Paid(true.train, pay), eval=Paid(true.eval, pay) if held_out else true.eval)

    return make


def letters() -> Splits:
    """The verifier reads option letters; the model answers in digits."""
    true = arithmetic.splits()
    sides = [
        Rows(
            "letters", [Task(t.id, t.prompt, {"answer": "ABCD"[i % 4]}) for i in range(64) for t in (env[i],)], Choice()
        )
        for env in (true.train, true.eval)
    ]
    return Splits("letters", sides[0], sides[1], true.max_new_tokens)


def coin() -> Pay:
    lot = random.Random(0)
    return lambda step, right, answer: float(lot.random() < 0.5)


class HotSampler(TorchSampler):
    """Draws at another temperature than it is told, and reports those log-probabilities."""

    def sample(self, prompts: Any, law: Any, draws: Any) -> Any:
        return super().sample(prompts, replace(law, temperature=1.5 * law.temperature), draws)


def hot() -> AbstractContextManager[Any]:
    kind = Kind(lambda model, at_once, alone: HotSampler(model, max_batch=at_once), SAMPLERS["torch"].at_once)
    return patch.dict(SAMPLERS, torch=kind)


@dataclass(frozen=True)
class Fault:
    """Something that is wrong from step `start` on, and the symptom that must name it."""

    symptom: str
    what: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    splits: Callable[[], Splits | None] = lambda: None
    start: int = 1
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


FAULTS = (
    Fault("reward_constant", "every answer is paid 0.5", {}, paid(lambda step, right, answer: 0.5)),
    Fault("reward_constant", "every answer with a # is paid 1", {}, paid(lambda step, right, answer: float("#" in answer.text))),
    Fault("problems_too_easy", "every answer is right", {}, paid(lambda step, right, answer: 1.0, held_out=True)),
    Fault("problems_too_hard", "no answer is right", {}, paid(lambda step, right, answer: 0.0, held_out=True)),
    Fault("rewards_unscored", "three rewards of four are None from step 3", {},
          paid(lambda step, right, answer: right if step < 3 or len(answer.text) % 4 == 0 else math.nan), start=3),
    Fault("reward_is_noise", "rewards are drawn by lot", {}, lambda: paid(coin())()),
    Fault("reward_is_length", "the reward is the answer's length", {}, paid(lambda step, right, answer: len(answer.tokens) / 16)),
    Fault("length_grows", "length is paid beside the right answer", {"learning_rate": 1e-2, "eval_every": 1, "eval_problems": 128},
          paid(lambda step, right, answer: right + len(answer.tokens) / 8)),
    Fault("held_out_falls", "answers that begin with # are paid", {"learning_rate": 4e-3, "eval_every": 1, "eval_problems": 128},
          paid(lambda step, right, answer: float(answer.text.startswith("#")))),
    Fault("format_not_found", "the verifier reads another form", {}, letters),
    Fault("answers_cut", "two tokens an answer", {"max_new_tokens": 2}),
    Fault("entropy_collapses", "one answer to every problem is paid, learning rate 0.01",
          {"recipe": "dr_grpo", "learning_rate": 1e-2, "prompts_per_step": 16, "samples_per_prompt": 8, "seed": 1},
          paid(lambda step, right, answer: (answer.text.startswith("#") + answer.text.startswith("#1") + right) / 2)),
    Fault("kl_runs_away", "learning rate 0.02", {"learning_rate": 0.02}),
    Fault("reward_falls", "learning rate 0.1", {"recipe": "dr_grpo", "learning_rate": 0.1, "prompts_per_step": 32}),
    Fault("ratios_useless", "16 epochs on each batch, learning rate 0.002",
          {"learning_rate": 2e-3, "overrides": {"update.epochs": 16}}),
    Fault("sampler_disagrees", "the sampler's temperature is 1.5", around=hot),
    Fault("critic_blind", "the critic's learning rate is 0", {"recipe": "ppo", "overrides": {"credit.critic.learning_rate": 0.0}}),
    Fault("not_finite", "rewards of 1e39 from step 3", {"recipe": "dr_grpo"},
          paid(lambda step, right, answer: right * (1e39 if step > 2 else 1)), start=3),
    Fault("gradient_tiny", "rewards of 1e-7", {"recipe": "dr_grpo"}, paid(lambda step, right, answer: 1e-7 * right)),
    Fault("eps_dominates", "rewards of 1e-5", {}, paid(lambda step, right, answer: 1e-5 * right)),
    Fault("signal_lost", "right is 0, wrong is -1, divided by the mean", {"recipe": "maxrl"},
          paid(lambda step, right, answer: right - 1)),
)  # fmt: skip


def run(settings: Mapping[str, Any], splits: Splits | None = None) -> list[Finding]:
    """One small training; what its health check found."""
    with TemporaryDirectory() as place:
        config = TrainConfig(**{"recipe": "grpo", **SIZE, **settings, "out": Path(place) / "run"})
        return train(config, Console(io.StringIO()), splits).health


def named(fault: Fault) -> tuple[int | None, list[Finding]]:
    """(the step in which the fault's symptom was found, if within time; everything that was found)."""
    with fault.around():
        found = run({"steps": fault.start + WITHIN - 1, **fault.settings}, fault.splits())
    steps = [f.first for f in found if f.name == fault.symptom and f.first >= fault.start]
    return (steps[0] if steps else None), found


def healthy(recipe: str, seed: int) -> list[Finding]:
    return run({"recipe": recipe, "seed": seed, "steps": HEALTHY_STEPS})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=[2, 3], help="of the healthy runs, for each recipe")
    args = parser.parse_args()
    print("| fault | begins in step | symptom | named in step | beside it |\n|---|---|---|---|---|")
    count = 0
    for fault in FAULTS:
        step, found = named(fault)
        count += step is not None
        others = ", ".join(f"`{f.name}` ({f.first})" for f in found if f.name != fault.symptom)
        print(f"| {fault.what} | {fault.start} | `{fault.symptom}` | {step or 'not named'} | {others} |", flush=True)
    print(f"\n{count} of {len(FAULTS)} faults named within {WITHIN} steps of their start.\n", flush=True)
    if not args.seeds:
        return
    cells = [(recipe, seed) for seed in args.seeds for recipe in all_recipes()]
    alarms = [(recipe, seed, f) for recipe, seed in cells for f in healthy(recipe, seed)]
    for recipe, seed, f in alarms:
        print(f"- {recipe}, seed {seed}, {f.message()}")
    runs = len({(recipe, seed) for recipe, seed, _ in alarms})
    print(f"{runs} of {len(cells)} healthy runs with a false alarm ({len(all_recipes())} recipes, seeds {args.seeds}).")


if __name__ == "__main__":
    main()
