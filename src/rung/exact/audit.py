"""`rung audit`: is a recipe's gradient, on average over every batch of a small world, the policy gradient? If not, why?

A recipe of your own, with parts of your own, is audited like ours:

    from dataclasses import dataclass, replace
    from rung.exact.audit import audit
    from rung.parts import SequenceSum
    from rung.recipes import RLOO

    @dataclass(frozen=True)
    class SquareRoot(SequenceSum):
        '''w_bt = m_bt / (B sqrt|y_b|).'''
        def __call__(self, mask_BT, group_B, total):
            return super().__call__(mask_BT, group_B, total) / mask_BT.sum(1, keepdim=True).clamp(min=1).sqrt()

    print(audit(replace(RLOO, name="mine", aggregate=SquareRoot())).words)
    # biased, cosine 0.9880, because of aggregate=SquareRoot() (with SequenceSum(): 1)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rung.errors import InputError
from rung.exact.causes import STRAIGHT, Cause, bare, constants, estimate_of, find_causes
from rung.exact.world import LONGEST, Condition, World
from rung.io.tables import refuse_existing, refuse_target, say_verdict, show, write_new
from rung.io.terminal import span
from rung.recipe_io import all_recipes, find
from rung.recipes import Recipe

WORLD = World(vocabulary=3, horizon=2, prompts=2, samples=2, reward="dense", policy="mlp")
ON_POLICY = Condition()
COLUMNS = ("recipe", "condition", "verdict", "cosine", "c", "relative error", "variance")


@dataclass(frozen=True)
class Verdict:
    """What is known exactly about a recipe's gradient under a condition.

    kind: "unbiased", "proportional" (unbiased up to the constant `scale`) or "biased".
    scale: the best c in E[g] = c grad J.  variance: trace of the covariance of one batch's gradient.
    causes: what bends it, each with the cosine once it is swapped.  constant: where `scale` comes from.
    """

    recipe: str
    condition: str
    kind: Literal["unbiased", "proportional", "biased"]
    cosine: float
    scale: float
    relative_error: float
    variance: float
    causes: tuple[Cause, ...] = ()
    constant: str = ""

    @property
    def words(self) -> str:
        if self.kind == "unbiased":
            return "unbiased"
        if self.kind == "proportional":
            return f"unbiased up to the constant c = {self.constant}"
        because = ", ".join(f"{c.what} (with {c.instead}: {_cos(c.cosine)})" for c in self.causes)
        return f"biased, cosine {_cos(self.cosine)}, because of {because or 'something that no swap repairs'}"


def _cos(x: float) -> str:
    """Four digits; 1 is written only for what is 1."""
    return "1" if x > 1 - 1e-12 else f"{min(x, 0.9999):.4f}"


def conditions(old_kl: float = 0.05, temperature: float = 2.0) -> tuple[Condition, ...]:
    """The four that the command looks at."""
    if old_kl <= 0 or temperature <= 0 or temperature == 1:
        raise InputError(
            f"an off-policy KL of {old_kl} and a temperature of {temperature} change nothing, or cannot be. Use a KL above 0 "
            "and a temperature other than 1, such as 0.05 and 2."
        )
    return (
        ON_POLICY,
        Condition("off-policy", old_kl=old_kl),
        Condition("wrong critic", critic="wrong"),
        Condition("wrong temperature", temperature=temperature),
    )


def audit(recipe: Recipe, condition: Condition = ON_POLICY, world: World = WORLD) -> Verdict:
    """Enumerate every batch of the world, and say what the recipe's expected gradient is."""
    plain = bare(recipe)
    e = estimate_of(plain, condition, world)
    numbers = (e.cosine, e.scale, e.relative_error, e.trace)
    if e.relative_error < STRAIGHT:
        return Verdict(recipe.name, condition.name, "unbiased", *numbers)
    if e.bend < STRAIGHT:
        constant = _constant(plain, condition, world, e.scale)
        return Verdict(recipe.name, condition.name, "proportional", *numbers, constant=constant)
    return Verdict(recipe.name, condition.name, "biased", *numbers, causes=find_causes(plain, condition, world))


FORMULAS: dict[str, Callable[[World, Condition], float]] = {
    "(G-1)/G": lambda w, c: (w.samples - 1) / w.samples,
    "1/M": lambda w, c: 1 / w.horizon,
    "(G-1)/(G M)": lambda w, c: (w.samples - 1) / (w.samples * w.horizon),
    "1 - 1/B": lambda w, c: 1 - 1 / (w.samples * w.prompts),
    "T": lambda w, c: c.temperature,
    "T (G-1)/G": lambda w, c: c.temperature * (w.samples - 1) / w.samples,
}


def _formula(here: float, there: float, world: World, condition: Condition) -> str:
    """A constant of G samples, B rows, M = max_new_tokens and T that is right in two worlds; else the number alone."""
    for name, value in FORMULAS.items():
        if abs(value(world, condition) - here) + abs(value(_another(world), condition) - there) < STRAIGHT:
            return f"{name} = {here:.4g}"
    return f"{here:.4g}"


def _another(world: World) -> World:
    """A world in which every count differs, so that a formula cannot fit both by accident."""
    return replace(world, vocabulary=2, horizon=world.horizon + 1, prompts=1, samples=world.samples + 1)


def _constant(recipe: Recipe, condition: Condition, world: World, scale: float) -> str:
    """The constant before the gradient as a formula, and which parts it comes from."""
    there = estimate_of(recipe, condition, _another(world)).scale
    each, other = (constants(recipe, condition, w) for w in (world, _another(world)))
    names = {part: _formula(x, other.get(part, 1.0), world, condition) for part, x in each.items()}
    total = _formula(scale, there, world, condition)
    if len(names) == 1:
        return f"{total}, from {next(iter(names))}"
    return ": ".join([total, *([" and ".join(f"{x} from {part}" for part, x in names.items())] if names else [])])


def relevant(recipe: Recipe, condition: Condition) -> bool:
    """A wrong critic says nothing about a recipe without one."""
    return condition.critic == "exact" or "values" in recipe.needs


def audit_all(
    recipes: Sequence[Recipe], wanted: Sequence[Condition] | None = None, world: World = WORLD
) -> list[Verdict]:
    """A verdict for each recipe under each condition that concerns it."""
    chosen = conditions() if wanted is None else wanted
    return [audit(r, c, world) for r in recipes for c in chosen if relevant(r, c)]


# -- the command ----------------------------------------------------------------------------------------------------------
def run_audit(
    recipes: Sequence[str],
    json_to: str | None = None,
    *,
    markdown: Path | None = None,
    old_kl: float = 0.05,
    temperature: float = 2.0,
    world: World = WORLD,
) -> int:
    """Print the table (all recipes where none is named), and write it as JSON or Markdown where asked to."""
    refuse_target(json_to)
    if world.samples < 2:
        raise InputError("the recipes compare answers to one prompt with each other: use 2 samples or more.")
    if markdown is not None:
        refuse_existing("--markdown", markdown)
    chosen = [find(name) for name in recipes] or list(all_recipes().values())
    wanted = conditions(old_kl, temperature)
    _say_how_long(len(chosen) * len(wanted), world)
    verdicts = audit_all(chosen, wanted, world)
    if markdown is not None:
        write_markdown(verdicts, markdown, world, old_kl, temperature)
    rows = [(v.recipe, v.condition, v.words, v.cosine, v.scale, v.relative_error, v.variance) for v in verdicts]
    say_verdict(verdict_on(verdicts), json_to)
    show("audit: the exact expected gradient against the policy gradient", COLUMNS, rows, json_to)
    return 0


def verdict_on(verdicts: Sequence[Verdict]) -> str:
    """How many recipes follow the policy gradient on-policy, and which do not; of a single one, what is known about it."""
    on = [v for v in verdicts if v.condition == ON_POLICY.name]
    if len(on) == 1:
        return f"{on[0].recipe} on-policy: {on[0].words}."
    bent = [v.recipe for v in on if v.kind == "biased"]
    scaled = sum(v.kind == "proportional" for v in on)
    exact = f"{len(on) - len(bent)} of {len(on)} recipes follow the policy gradient on average"
    exact += f", {scaled} of them up to a constant" if scaled else ""
    return f"On-policy, {exact}; {'biased: ' + ', '.join(bent) if bent else 'none is biased'}."


def _say_how_long(verdicts: int, world: World) -> None:
    """Refuse hours, announce minutes: a verdict compares about two gradients of the slow kind."""
    seconds = 2 * verdicts * world.seconds
    if seconds > 6 * LONGEST:
        raise InputError(
            f"{verdicts} verdicts in a world of {world.batches:,} batches may take {span(seconds)}. Name fewer recipes, "
            "or use a smaller horizon, vocabulary, number of prompts or of samples."
        )
    if seconds > 120:
        print(f"{world.batches:,} batches for each gradient: up to {span(seconds)}", file=sys.stderr)


def write_markdown(verdicts: Sequence[Verdict], path: Path, world: World, old_kl: float, temperature: float) -> None:
    """The table of docs/audit.md: a row per recipe on-policy, then what the other conditions do to it."""
    w, B = world, world.prompts * world.samples
    lines = [
        "# Audit: what each recipe's gradient is on average",
        "",
        "Generated by `rung audit --markdown docs/audit.md`; do not edit. The same for a loss function of your own, written for "
        "any framework: [audit a loss of your own](audit_yours.md).",
        "",
        f"Every batch of a small world is enumerated in float64: vocabulary {w.vocabulary}, at most {w.horizon} tokens "
        f"({w.answers} answers, truncated ones included), {w.prompts} prompts with {w.samples} samples each (B = {B}, "
        f"{w.batches} batches), {w.reward} rewards, a shared-parameter {w.policy} policy. The expectation of each recipe's "
        "gradient, from the functions that train, is compared with the gradient of E[R], or of E[R] - beta KL where the "
        "recipe has a KL to a reference. A `because` names the parts that bend it, in the order in which swapping them "
        "back straightens it most, each with the cosine that this gives. c is the factor before the true gradient; "
        "variance is the trace of the covariance of one batch's gradient. `AnswerKL` is a KL that is exact off-policy too, and "
        "too noisy to train with. Cosines belong to this world; which parts bend, "
        "and the constants, do not.",
        "",
        "| recipe | on-policy verdict | c | variance |",
        "|---|---|---|---|",
    ]
    on = [v for v in verdicts if v.condition == ON_POLICY.name]
    lines += [f"| {v.recipe} | {v.words} | {v.scale:.4g} | {v.variance:.3g} |" for v in on]
    about = {
        "off-policy": f"the batch belongs to an older policy, KL(old \\|\\| new) = {old_kl:g} nats an answer",
        "wrong critic": "V is random; recipes without a critic are not concerned",
        "wrong temperature": f"answers are drawn at temperature {temperature:g}, all log-probabilities are of temperature 1",
    }
    for name, text in about.items():
        some = [v for v in verdicts if v.condition == name]
        if some:
            lines += ["", f"## {name[0].upper()}{name[1:]}", "", f"{text[0].upper()}{text[1:]}.", ""]
            lines += ["| recipe | verdict | c |", "|---|---|---|"]
            lines += [f"| {v.recipe} | {v.words} | {v.scale:.4g} |" for v in some]
    write_new("--markdown", path, "\n".join(lines) + "\n")
