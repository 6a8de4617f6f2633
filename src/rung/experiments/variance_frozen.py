"""`rung variance`: how noisy each recipe's gradient is on the user's model and task, the policy held still."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rung.errors import InputError
from rung.evaluation.models import resolve
from rung.evaluation.spec import TALK, over, own_settings
from rung.experiments.variance import Quality, baseline_gradients, gradients, optimal_baseline, quality
from rung.io.tables import refuse_target, say_verdict, show, write_json
from rung.io.terminal import say_notes
from rung.kernels.device import choose
from rung.network.model import Model
from rung.parts import Data, GradientSteps
from rung.recipe_io import find
from rung.recipe_rules import refuse_sampling
from rung.recipes import LADDER, Recipe
from rung.records import SamplingLaw
from rung.rollout.collect import Collected, Collector
from rung.rollout.samplers import USUAL, make_sampler
from rung.settings.experiments import Variance
from rung.settings.shared import Problems, Weights, given, settings_of
from rung.statistics import Interval
from rung.tasks.environments.protocol import Environment
from rung.tasks.problems import problems_of
from rung.training.defaults import shortened
from rung.training.learner import Hyper
from rung.training.setup import load_weights, ready

UNBIASED = "leave_one_out"
OPTIMAL = "constant baseline of least variance"


@dataclass(frozen=True)
class Frozen:
    """A policy held still: what batches are drawn from, and how a recipe would learn from them.

    older: an earlier policy that draws them in its place; that of `UNBIASED`, the yardstick, are always drawn afresh.
    """

    model: Model
    env: Environment
    law: SamplingLaw
    prompts: int = 8
    samples: int = 8
    learning_rate: float = 4e-4
    process: bool = False
    sampler: str = USUAL
    older: Model | None = None

    def collect(
        self, n: int, seed: int, first: int = 0, greedy: bool = False, model: Model | None = None
    ) -> list[Collected]:
        """n batches of different problems, drawn from `model`; None: from the policy."""
        model = model or self.model
        collector = Collector(
            self.env, model.codec, make_sampler(model, self.sampler), self.law, Data(), self.prompts, self.samples, seed,
            greedy=greedy, steps=self.process,
        )  # fmt: skip
        state = LADDER["reinforce"].initial_state()
        return [collector.collect(k, state) for k in range(first, first + n)]

    def hyper(self) -> Hyper:
        return Hyper(learning_rate=self.learning_rate, max_new_tokens=self.law.max_new_tokens)

    def gradients(self, recipes: Sequence[Recipe], batches: int, warmup: int, seed: int) -> dict[str, Tensor]:
        """{recipe: one gradient per batch [K, sketch]}, all on the same batches; beside them u and v."""
        greedy = any("greedy" in r.needs for r in recipes)
        first, then = self.collect(warmup, seed, greedy=greedy), self.collect(batches, seed, warmup, greedy)
        past = then if self.older is None else self.collect(batches, seed, warmup, greedy, self.older)
        out: dict[str, Tensor] = {}
        for recipe in recipes:
            torch.manual_seed(seed)
            stale = self.older is not None and recipe.name != UNBIASED
            drawn, plain = past if stale else then, replace(recipe, data=Data())
            out[recipe.name] = gradients(plain, self.model, self.hyper(), first, drawn, stale)
        u, v = baseline_gradients(self.model, self.hyper(), then)
        out["u"], out["v"] = u, v
        return out


def qualities(found: Mapping[str, Tensor]) -> tuple[dict[str, Quality], float]:
    """The quality of every estimator, the constant baseline of least variance among them, and that baseline."""
    b = optimal_baseline(found["u"], found["v"])
    named = {**{k: g for k, g in found.items() if k not in ("u", "v")}, OPTIMAL: found["u"] - b * found["v"]}
    unbiased = found.get(UNBIASED, found["u"])
    return {name: quality(g, unbiased) for name, g in named.items()}, b


SHORT = ("recipe", "trace", "snr", "cosine", "direction")
COLUMNS = (
    "recipe", "trace", "trace low", "trace high", "snr", "snr low", "snr high", "cosine", "cosine low", "cosine high", "direction",
)  # fmt: skip


def table(found: Mapping[str, Quality]) -> list[list[Any]]:
    def three(x: Interval) -> list[float]:
        return [x.mean, x.low, x.high]

    return [
        [name, *three(q.trace), *three(q.snr), *three(q.cosine), None if math.isnan(q.direction) else q.direction]
        for name, q in found.items()
    ]


def run_variance(args: Variance) -> int:
    """Measure and print the table; exit status 0."""
    refuse_target(args.json)
    recipes = chosen(args.recipes)
    choose(args.device)
    directory, stored = resolve(args.model)
    own = own_settings(stored, args.task)
    asked = Problems(**over(own, given(args, Problems), args.model))
    splits = problems_of(asked)
    weights = Weights(**{k: v for k, v in stored.items() if k in settings_of(args, Weights)} | given(args, Weights))
    model = load_weights(directory, weights, args.device, merge=not stored.get("lora_rank"))
    ready(model, weights, asked)
    splits = splits if args.max_new_tokens else shortened(splits, model.codec)
    say_notes(splits.notes)
    turns = {name: own[name] for name in TALK if name in own and name != "max_new_tokens"}
    law = SamplingLaw(max_new_tokens=args.max_new_tokens or splits.max_new_tokens, **turns)
    for recipe in recipes:
        refuse_sampling(
            replace(recipe, update=GradientSteps()),  # the gradient of a whole batch: nothing is updated
            samples_per_prompt=args.samples_per_prompt, rows=args.prompts_per_step * args.samples_per_prompt,
            temperature=law.temperature, is_full=law.is_full, max_new_tokens=law.max_new_tokens,
        )  # fmt: skip
    frozen = Frozen(
        model, splits.train, law, args.prompts_per_step, args.samples_per_prompt, args.learning_rate,
        args.process, stored.get("sampler", USUAL),
    )  # fmt: skip
    found, b = qualities(frozen.gradients(recipes, args.batches, args.warmup_batches, args.seed))
    rows = table(found)
    size = f"{args.prompts_per_step} x {args.samples_per_prompt} answers"
    if args.json is not None:
        write_json(COLUMNS, rows, args.json)
    if args.json != "-":
        brief = [[r[0], *(f"{r[i]:.3g} [{r[i + 1]:.3g}, {r[i + 2]:.3g}]" for i in (1, 4, 7)), r[10]] for r in rows]
        say_verdict(verdict_on(found))
        show(f"gradient noise of {args.model} on {splits.name}: {args.batches} batches of {size}", SHORT, brief)
        sys.stdout.write(
            f"95 % bootstrap intervals over batches. snr = |E g|^2 / trace does not depend on an estimator's scale, trace does.\n"
            f"cosine: one batch against the mean of the others. direction: E g against that of {UNBIASED}, corrected for noise.\n"
            f"The {OPTIMAL} is {b:.3g}.\n"
        )
    return 0


def verdict_on(found: Mapping[str, Quality]) -> str:
    """Whose gradient is clearest, if the intervals show it."""
    ranked = sorted(((q.snr, name) for name, q in found.items() if name != OPTIMAL), key=lambda x: -x[0].mean)
    (best, first), (worst, last) = ranked[0], ranked[-1]
    said = f"{best.mean:.3g} ({best.low:.3g} to {best.high:.3g})"
    if len(ranked) == 1:
        return f"One batch's gradient of {first} has a signal to noise of {said}."
    if best.low > worst.high:
        return f"{first} has the clearest gradient: a signal to noise of {said}, against {worst.mean:.3g} of {last}."
    return f"No recipe's gradient is shown to be clearer than another's: the highest signal to noise is {said}, of {first}."


def chosen(names: str) -> list[Recipe]:
    """Recipes from `a,b,c`; none twice."""
    recipes = [find(name) for name in dict.fromkeys(word.strip() for word in names.split(",")) if name]
    if not recipes:
        raise InputError("--recipes names none. Write names with commas between them, as in reinforce,grpo.")
    return list({r.name: r for r in recipes}.values())
