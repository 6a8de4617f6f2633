"""Does every recipe train in bfloat16 as in float32?

    python benchmarks/precision.py starter                    accuracy after the same short training in both precisions
    python benchmarks/precision.py gradients --model smollm2  one batch's gradient in both, and three steps in bfloat16

starter     the same seed, problems and settings twice; 128 held-out problems before and after. `difference` is bfloat16 less
            float32 after the training, with the 95 % interval of two independent samples of answers.
gradients   2 prompts x 4 answers x 24 tokens, drawn in bfloat16. The reward is a coin that each text tosses (is its length even?),
            since a small model rarely earns another. `cosine` and `norm` compare grad J of that batch, by the functions that
            train, in bfloat16 and in float32; `gap` is |log p of sampler - of trainer| in nats a token; `ratio - 1` the largest
            of pi / pi_old at the first update; then steps on new answers: how many moved the weights, and the share of clipped
            tokens.

Markdown goes to standard output, a row as soon as it is there. One thread.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rung
from rung.errors import InputError
from rung.network import model as models
from rung.recipe_io import all_recipes, find
from rung.records import Group, SamplingLaw, Task
from rung.rollout.collect import Collected, Collector
from rung.rollout.samplers import make_sampler
from rung.tasks.problems import load_problems
from rung.training.learner import Hyper, LocalLearner
from rung.training.needs import collected
from rung.training.setup import locate

BOTH = ("float32", "bfloat16")
SIZE: dict[str, Any] = {
    "model": "starter", "seed": 0, "steps": 16, "prompts_per_step": 8, "samples_per_prompt": 8, "eval_problems": 128,
    "eval_every": 0, "save_rollouts": False, "threads": 1, "quiet": True,
}  # fmt: skip
PROMPTS, SAMPLES, TOKENS, RATE = 2, 4, 24, 1e-5


def table(*head: str) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


# -- the starter ----------------------------------------------------------------------------------------------------
def starter(names: list[str]) -> None:
    table("recipe", "before", "float32", "bfloat16", "difference", "95 % interval")
    apart = []
    for name in names:
        try:
            (before, wide), (_, low) = (accuracies(name, dtype) for dtype in BOTH)
        except InputError as refused:
            row(name, "", "", f"refused: {refused}", "", "")
            continue
        half = 1.96 * math.sqrt((wide * (1 - wide) + low * (1 - low)) / SIZE["eval_problems"])
        apart.append(low - wide)
        row(name, f"{before:.2f}", f"{wide:.2f}", f"{low:.2f}", *between(apart[-1], half))
    mean, spread = torch.tensor(apart).mean(), torch.tensor(apart).std() / math.sqrt(len(apart))
    row("mean", "", "", "", *between(float(mean), 1.96 * float(spread)))


def between(middle: float, half: float) -> tuple[str, str]:
    return f"{middle:+.3f}", f"{middle - half:+.3f} to {middle + half:+.3f}"


def accuracies(name: str, dtype: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as place:
        run = rung.train(name, dtype=dtype, out=Path(place) / "run", **SIZE)
        found = [x["eval/accuracy"] for x in run.metrics if "eval/accuracy" in x]
    return found[0], found[-1]


# -- gradients ------------------------------------------------------------------------------------------------------
@dataclass
class Coin:
    """Problems whose answers earn 1 where their text has an even length."""

    problems: Any

    def __len__(self) -> int:
        return len(self.problems)

    def __getitem__(self, index: int) -> Task:
        return self.problems[index]  # type: ignore[no-any-return]

    def score(self, group: Group) -> list[dict[str, float]]:
        return [{"even": float(len(x.text) % 2 == 0)} for x in group.completions]


@dataclass
class Kept:
    """A sampler that answers the same question once. `load` forgets."""

    sampler: Any

    def __post_init__(self) -> None:
        self.said: dict[Any, Any] = {}
        self.same_numbers = self.sampler.same_numbers

    def load(self, weights: Any, version: int) -> None:
        self.sampler.load(weights, version)

    def sample(self, prompts: Any, law: SamplingLaw, draws: Any) -> Any:
        asked = repr((prompts, law, draws))
        if asked not in self.said:
            self.said[asked] = self.sampler.sample(prompts, law, draws)
        return self.said[asked]


class Side:
    """One precision: a model, its first weights, its sampler."""

    def __init__(self, where: str, dtype: str) -> None:
        self.model = models.load(where, dtype=getattr(torch, dtype))
        self.first = copy.deepcopy(self.model.hf.state_dict())
        self.sampler = Kept(make_sampler(self.model))

    def learner(self, name: str) -> LocalLearner:
        """A fresh one at the first weights."""
        self.model.hf.load_state_dict(self.first)
        self.model.hf.zero_grad()
        return LocalLearner(find(name), self.model, Hyper(learning_rate=RATE, max_new_tokens=TOKENS))

    def collect(self, learner: LocalLearner, env: Coin, sampler: Any, step: int) -> Collected:
        recipe = learner.recipe
        collector = Collector(
            env, self.model.codec, sampler, SamplingLaw(max_new_tokens=TOKENS), recipe.data, PROMPTS, SAMPLES, step,
            **collected(recipe.needs),
        )  # fmt: skip
        return collector.collect(0, learner.state)


def gradient(learner: LocalLearner, batch: Collected) -> tuple[list[Tensor | None], dict[str, float], float]:
    """grad J in float32, by parameter; how far the sampler was from the trainer; the largest |ratio - 1|."""
    work = learner.work(learner.assess(batch))
    with learner.at_work():
        for minibatch in work.cut():
            work.gradient(minibatch)
        grads = [None if p.grad is None else p.grad.float() for p in work.parameters]
    work.forget()
    ratio = max((float((d.exp() - 1).abs()[mask].max()) for d, mask, _ in work.drift.gaps if mask.any()), default=0.0)
    return grads, work.drift.metrics(), ratio


def cosine(a: list[Tensor | None], b: list[Tensor | None]) -> tuple[float, float]:
    """(cosine of two gradients, the first's norm over the second's)."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    dot, aa, bb = (sum(float((x * y).sum()) for x, y in some) for some in (
        pairs, [(x, x) for x, _ in pairs], [(y, y) for _, y in pairs]))  # fmt: skip
    return dot / math.sqrt(aa * bb), math.sqrt(aa / bb)


def gradients(names: list[str], model: str, steps: int) -> None:
    torch.set_num_threads(1)
    wide, low = (Side(locate(model), dtype) for dtype in BOTH)
    env = Coin(load_problems("chained_arithmetic").train)
    table("recipe", "cosine", "norm", "gap", "ratio - 1", "steps", "clipped")
    for name in names:
        try:
            learner = low.learner(name)
        except InputError as refused:
            row(name, f"refused: {refused}", "", "", "", "", "")
            continue
        batch = low.collect(learner, env, low.sampler, 0)
        mine, gap, ratio = gradient(learner, batch)
        theirs, *_ = gradient(wide.learner(name), batch)
        near, norm = cosine(mine, theirs)
        made = [step(low, learner, env, i) for i in range(steps)]
        row(
            name, f"{near:.4f}", f"{norm:.3f}", f"{gap['sampling/logp_gap_mean']:.4f}", f"{ratio:.0e}" if ratio else "0",
            *(said(made) if made else ("", "")),
        )  # fmt: skip


def step(low: Side, learner: LocalLearner, env: Coin, number: int) -> dict[str, float]:
    """A real one: answers of the policy of now. Those of the first weights are known."""
    sampler = low.sampler if number == 0 else low.sampler.sampler
    return learner.step(low.collect(learner, env, sampler, number)).metrics


def said(made: list[dict[str, float]]) -> tuple[str, str]:
    """(how many steps moved weights, and what was not finite; the share of clipped tokens)."""
    bad = sorted({k for x in made for k, v in x.items() if not math.isfinite(v)})
    clipped = sum(x.get(f"clip_ratio/{end}_mean", 0.0) for x in made for end in ("low", "high")) / len(made)
    moved = sum(x["update/changed"] > 0 for x in made)
    return f"{moved} of {len(made)}" + (f", not finite: {', '.join(bad)}" if bad else ""), f"{clipped:.3f}"


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("part", choices=("starter", "gradients"))
    flags.add_argument("--recipes", nargs="+", default=list(all_recipes()))
    flags.add_argument("--model", default="smollm2", help="of the gradients")
    flags.add_argument("--steps", type=int, default=3, help="in bfloat16, behind the gradients")
    args = flags.parse_args()
    if args.part == "starter":
        starter(args.recipes)
    else:
        gradients(args.recipes, args.model, args.steps)


if __name__ == "__main__":
    main()
